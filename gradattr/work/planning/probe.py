"""How long this machine takes: a batch of an attribution, of a ranking, a few of a training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from gradattr.attribution.passes import attribute
from gradattr.attribution.paths.unlearning import Unlearned
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.sources import OtherModel
from gradattr.manifest.model import AnyModel
from gradattr.metrics.imputation import impute
from gradattr.models import build_model
from gradattr.retraining import train_classifier
from gradattr.work.context import RunContext
from gradattr.work.diffroar.rank import level_bins
from gradattr.work.methods import normalization
from gradattr.work.modules import example_input, micro_batch, prepare_model
from gradattr.work.recipes import recipe_of
from gradattr.work.resources import choose_device

#: A training is timed for about so many seconds an epoch, first on _FEW images only: if they take
#: that long, no further.
_SECONDS, _FEW = 0.3, 8
#: Epochs that are run; the quickest counts, because the first ones also warm up.
_EPOCHS = 4
#: A ranking is timed on at most so many images, of so many values in all.
_RANKED, _RANKED_VALUES = 64, 2**20


@contextmanager
def task_threads(context: RunContext) -> Iterator[None]:
    """As many threads as a task has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(context.manifest.runtime.cpus_per_task)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def clock(device: torch.device) -> Callable[[], float]:
    """A clock in seconds. On one CPU thread it is this process's processor time, so that other
    programs' load is not taken for ours; else the time of day, since threads wait for each other
    and a GPU works unseen."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def groups(requests: Sequence[MethodRequest]) -> list[list[MethodRequest]]:
    """Requests that share their passes."""
    found: dict[object, list[MethodRequest]] = {}
    for request in requests:
        key = (request.source, request.target, request.smooth)
        found.setdefault(key, []).append(request)
    return list(found.values())


def evaluations_per_row(
    requests: Sequence[MethodRequest], classes: int, shape: tuple[int, int, int]
) -> int:
    """Model evaluations per image, of a model of so many classes; shared ones counted once."""
    firsts = [group[0] for group in groups(requests)]
    total = sum(request.evaluations(classes, shape) for request in firsts)
    # A baseline is found once for all methods that start there.
    starts = [getattr(first.source, "baseline", None) for first in firsts if first.smooth is None]
    again = {start: starts.count(start) - 1 for start in starts if isinstance(start, Unlearned)}
    return total - sum(start.evaluations * count for start, count in again.items())


def attribution_seconds(
    context: RunContext, model: nn.Module, spec: AnyModel, requests: Sequence[MethodRequest]
) -> float:
    """Seconds per image of all requests, from one batch of the cheapest."""
    evaluations = evaluations_per_row(requests, context.num_classes, context.shape)
    return evaluation_seconds(context, model, spec, requests) * max(1, evaluations)


def evaluation_seconds(
    context: RunContext, model: nn.Module, spec: AnyModel, requests: Sequence[MethodRequest]
) -> float:
    """Seconds of one of the requests' evaluations, forward and back, from one batch of the
    cheapest."""
    device = choose_device(context.manifest.engine, context.manifest.runtime)
    evaluator, _ = prepare_model(context, model, spec, device)
    batch_size = micro_batch(context, evaluator, device)
    # Time grows with the evaluations, so the cheapest request is timed and scaled.
    own = [request for request in requests if not isinstance(request.source, OtherModel)]
    size = (context.num_classes, context.shape)
    cheapest = min(own or requests, key=lambda request: request.evaluations(*size) or 10**9)
    per_call = max(1, cheapest.evaluations(*size))
    count = max(1, batch_size // per_call)
    x = _images(context, count, device)

    def once() -> None:
        attribute(
            evaluator,
            x,
            [cheapest],
            seeds=[0] * count,
            labels=torch.zeros(count, dtype=torch.int64, device=device),
            normalization=normalization(context.preprocess, context.shape[0]),
            batch_size=batch_size,
        )

    return _seconds(once, device) / (count * per_call)


def forward_seconds(context: RunContext, model: nn.Module, spec: AnyModel) -> float:
    """Seconds of a forward pass of one image, from one batch."""
    device = choose_device(context.manifest.engine, context.manifest.runtime)
    evaluator, _ = prepare_model(context, model, spec, device)
    count = micro_batch(context, evaluator, device)
    x = _images(context, count, device)
    return _seconds(lambda: evaluator.logits(x), device) / count


def imputation_seconds(context: RunContext) -> float:
    """Seconds to fill in half of the pixels of one image from the others, on the CPU."""
    count = max(1, min(_RANKED, _RANKED_VALUES // math.prod(context.shape)))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((count, *context.shape), generator=generator)
    removed = torch.rand((count, *context.shape[1:]), generator=generator) < 0.5
    removed[:, 0, 0] = False
    return _seconds(lambda: impute(images, removed), images.device) / count


def _images(context: RunContext, count: int, device: torch.device) -> Tensor:
    """One made-up image, so many times."""
    one = example_input(context)[:1].to(device)
    return one.expand(count, *context.shape).contiguous()


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The quicker of two, after one that warms up."""
    now = clock(device)

    def once() -> float:
        started = now()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return now() - started

    once()
    return min(once(), once())


def ranking_seconds(context: RunContext) -> float:
    """Seconds to order the coordinates of one image by given scores, on the CPU."""
    manifest, shape = context.diffroar_manifest, context.shape
    bins = level_bins(manifest, shape)
    count = max(1, min(_RANKED, _RANKED_VALUES // math.prod(shape)))
    scores = torch.rand((count, *shape), generator=torch.Generator().manual_seed(0))
    mask = manifest.mask

    def order() -> Tensor:
        return bins.rank(scores, range(count), ties=mask.ties, per_pixel=mask.per_pixel)

    return _seconds(order, scores.device) / count


def epoch_seconds(context: RunContext, spec: AnyModel, rows: int, test_rows: int) -> float:
    """Seconds of an epoch over ``rows`` images, with its evaluation of ``test_rows`` others, by
    the recipe of ``spec``: optimizer, augmentation and adversary included."""
    assert spec.train is not None
    few = min(_FEW, rows)
    first = _train(context, spec, few, 0)
    if first > _SECONDS:
        # A test image takes a forward pass alone, about a third.
        return first / few * (rows + test_rows / 3)
    most = int(_SECONDS / first * few)
    count = min(rows, max(most, spec.train.batch_size))
    return _train(context, spec, count, round(test_rows * count / rows)) / count * rows


def _train(context: RunContext, spec: AnyModel, count: int, test_count: int) -> float:
    """Seconds of an epoch over made-up images."""
    assert spec.train is not None
    recipe = recipe_of(spec.train, context.preprocess, context.shape[0], seed=0)
    model = build_model(spec, shape=context.shape, num_classes=context.num_classes, seed=0)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((count + test_count, *context.shape), generator=generator)
    y = torch.arange(len(x)) % context.num_classes
    device = choose_device(context.manifest.engine, context.manifest.runtime)
    now = clock(device)
    ends: list[float] = []
    train_classifier(
        model,
        x[:count],
        y[:count],
        replace(recipe, epochs=_EPOCHS, stop_below=0.0),
        test=(x[count:], y[count:]) if test_count else None,
        device=device,
        on_epoch=lambda result: ends.append(now()),
    )
    return min(after - before for before, after in pairwise(ends))
