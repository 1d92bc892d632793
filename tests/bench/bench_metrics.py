"""Deletion, insertion and MuFidelity against loops: speed, with the numerics beside it.

    python tests/bench/bench_metrics.py                                  # all, ten minutes
    python tests/bench/bench_metrics.py --model resnet20 --work curves   # one

One method's maps of the same images for all. Contenders: the loop over steps, or subsets, with one
changed image at a time, and with as many as a user would batch; the forward passes of the same
number of images and nothing else (the floor of any implementation on the model as it is); ours on
the model as it is, on the tuned model, and there under ``torch.autocast`` to bfloat16. Numerics
are the largest difference of an image's value from ours on the model as it is.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from bench_common import Timing, Work, interleaved, machine, one_thread
from bench_methods import Setting, make_setting
from torch import Tensor

from gradattr.attribution.baselines import Blur, Normalization
from gradattr.attribution.evaluator import Evaluator, PlainEvaluator
from gradattr.attribution.tuning.tuned import tune
from gradattr.metrics.deletion_insertion import deletion, insertion
from gradattr.metrics.masked_forwards import image_scores
from gradattr.metrics.mu_fidelity import Cells, mu_fidelity

STEPS, SUBSETS, SHARE, GRID = 10, 200, 0.25, 9
IMAGES = {("resnet20", "curves"): 64, ("resnet20", "mu_fidelity"): 8}
IMAGES |= {("resnet18", "curves"): 4, ("resnet18", "mu_fidelity"): 1}


def probabilities(setting: Setting, images: Tensor, index: Tensor, at_once: int) -> Tensor:
    """(b,) of the class explained."""
    parts = []
    for part, c in zip(images.split(at_once), index.split(at_once), strict=True):
        with torch.no_grad():
            parts.append(setting.model(part).softmax(1).gather(1, c[:, None])[:, 0])
    return torch.cat(parts)


# --- the loops that a user would write ------------------------------------------------------


def loop_curves(setting: Setting, given: Tensor, at_once: int) -> Tensor:
    """Deletion and insertion AUC (n, 2), step by step."""
    index = setting.predict()
    pixels = given.sum(1).flatten(1)
    order = pixels.argsort(1, descending=True)
    blurred = Blur().draw(setting.x, range(len(setting.x)), 0, Normalization())
    areas = []
    for before, after in ((setting.x, torch.zeros_like(setting.x)), (blurred, setting.x)):
        values = []
        for step in range(STEPS + 1):
            mask = torch.zeros_like(pixels, dtype=torch.bool)
            mask.scatter_(1, order[:, : round(step * pixels.shape[1] / STEPS)], True)
            changed = torch.where(mask.view_as(given[:, :1]), after, before)
            values.append(probabilities(setting, changed, index, at_once))
        areas.append(torch.trapezoid(torch.stack(values, 1).double(), dx=1 / STEPS, dim=1))
    return torch.stack(areas, 1)


def loop_mu_fidelity(setting: Setting, given: Tensor, at_once: int) -> Tensor:
    """Pearson's correlations (n, 1), image by image."""
    index = setting.predict()
    cells = Cells(setting.x.shape[2], setting.x.shape[3], GRID)
    of_pixels = cells.of_pixels()
    found = []
    for number, (image, attribution, c) in enumerate(zip(setting.x, given, index, strict=True)):
        subsets = cells.subsets([number], SUBSETS, SHARE)[0]
        whole = probabilities(setting, image[None], c[None], 1)
        sums, drops = [], []
        for part in subsets.split(at_once):
            masks = part[:, of_pixels].view(len(part), 1, *image.shape[1:])
            sums.append((masks * attribution).flatten(1).sum(1))
            changed = torch.where(masks, 0, image)
            drops.append(whole - probabilities(setting, changed, c.expand(len(part)), at_once))
        pair = torch.stack([torch.cat(sums), torch.cat(drops)]).double()
        found.append(torch.corrcoef(pair)[0, 1])
    return torch.stack(found)[:, None]


def bare(setting: Setting, count: int) -> Tensor:
    """The forward passes of ``count`` images, ``batch`` at a time; no images are made."""
    images = setting.x[torch.arange(setting.batch) % len(setting.x)]
    total = torch.zeros(len(setting.x), 1)
    for first in range(0, count, setting.batch):
        with torch.no_grad():
            total += setting.model(images[: min(setting.batch, count - first)]).sum()
    return total


# --- ours -------------------------------------------------------------------------------------


def curves(evaluator: Evaluator, setting: Setting, given: Tensor) -> Tensor:
    x, index, seeds = setting.x, setting.predict(), range(len(setting.x))
    unchanged = image_scores(evaluator, x, index, batch_size=setting.batch)
    asked = {"seeds": seeds, "batch_size": setting.batch, "unchanged": unchanged, "steps": STEPS}
    (gone,) = deletion(evaluator, x, [given], index, **asked)  # type: ignore[arg-type]
    (back,) = insertion(evaluator, x, [given], index, **asked)  # type: ignore[arg-type]
    return torch.stack([gone.auc, back.auc], 1)


def fidelity(evaluator: Evaluator, setting: Setting, given: Tensor) -> Tensor:
    (found,) = mu_fidelity(
        evaluator,
        setting.x,
        [given],
        setting.predict(),
        seeds=range(len(setting.x)),
        subsets=SUBSETS,
        share=SHARE,
        grid=GRID,
        batch_size=setting.batch,
    )
    return found.pearson[:, None]


def in_bfloat16(work: Work) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return work()


def contenders(setting: Setting, work: str) -> dict[str, Work]:
    given = torch.randn(setting.x.shape, generator=torch.Generator().manual_seed(1))
    loop: Callable[[Setting, Tensor, int], Tensor]
    if work == "curves":
        loop, ours, count = loop_curves, curves, 2 * (STEPS + 1) * len(setting.x)
    else:
        loop, ours, count = loop_mu_fidelity, fidelity, (SUBSETS + 1) * len(setting.x)
    plain = PlainEvaluator(copy.deepcopy(setting.model))
    tuned = partial(ours, tune(setting.model, setting.x), setting, given)
    return {
        "loop, one image at a time": partial(loop, setting, given, 1),
        f"loop, {setting.batch} images at a time": partial(loop, setting, given, setting.batch),
        f"bare forward, {count} images": partial(bare, setting, count),
        "gradattr, untuned": partial(ours, plain, setting, given),
        "gradattr, tuned fp32": tuned,
        "gradattr, tuned, bf16 autocast": partial(in_bfloat16, tuned),
    }


HEADER = (
    "| work | contender | CPU ms per image | spread | x | largest change |\n"
    "|---|---|---|---|---|---|"
)


def lines(label: str, timings: dict[str, Timing], images: int) -> Iterator[str]:
    first = next(iter(timings.values())).median
    reference = timings["gradattr, untuned"].maps
    for name, timing in timings.items():
        each = [1e3 * second / images for second in timing.seconds]
        compared = not name.startswith("bare") and name != "gradattr, untuned"
        change = f"{float((timing.maps - reference).abs().max()):.1e}" if compared else "-"
        yield (
            f"| {label} | {name} | {1e3 * timing.median / images:.4g} | "
            f"{min(each):.4g} to {max(each):.4g} | {first / timing.median:.2f} | {change} |"
        )


def bench(model_name: str, work: str, rounds: int, images: int | None) -> None:
    setting = make_setting(model_name, images or IMAGES[model_name, work])
    timings = interleaved(contenders(setting, work), rounds)
    label = f"{work}, {model_name} at {setting.x.shape[-1]} px, {len(setting.x)} images"
    print("\n".join([HEADER, *lines(label, timings, len(setting.x))]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["resnet18", "resnet20"], action="append")
    parser.add_argument("--work", choices=["curves", "mu_fidelity"], action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, help="default: 64 and 8 at 32 px, 4 and 1 at 224 px")
    options = parser.parse_args()
    one_thread()
    print(machine())
    for model_name in options.model or ["resnet20", "resnet18"]:
        for work in options.work or ["curves", "mu_fidelity"]:
            print(f"\n### {work} on {model_name}\n", flush=True)
            bench(model_name, work, options.rounds, options.images)


if __name__ == "__main__":
    main()
