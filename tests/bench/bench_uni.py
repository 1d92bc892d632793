"""UNI against a per-image implementation with model copies, and against 27 bare evaluations.

    python tests/bench/bench_uni.py                       # both models, ten minutes
    python tests/bench/bench_uni.py --model resnet20      # two

The per-image implementation is Algorithm 1 as one writes it down: a copy of the model takes the
step of ascent, the steps towards its answer follow one by one, the path is a batch of its own. The
bare loop is no method at all: as many forward and backward passes, of full batches. Numerics are
against ``attribute`` on the model as it is.
"""

from __future__ import annotations

import argparse
import copy

import torch
from bench_common import Work, interleaved, machine, one_thread, print_table, rows
from bench_methods import Setting, engine, gradient_of, make_setting
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.attribution.evaluator import PlainEvaluator
from gradattr.attribution.requests import method_request
from gradattr.attribution.tuning.tuned import tune

STEPS, ITERATIONS, ETA, EPS, MU = 15, 10, 1.0, 0.25, 0.1


def per_image(setting: Setting) -> Tensor:
    return torch.stack([uni_of(setting.model, image) for image in setting.x])


def uni_of(model: nn.Module, image: Tensor) -> Tensor:
    """The map of one image (c, h, w)."""
    x = image[None]
    with torch.no_grad():
        index = model(x).argmax(1)
    unlearned = copy.deepcopy(model).requires_grad_(True)
    F.cross_entropy(unlearned(x), index).backward()
    with torch.no_grad():
        slopes = [p.grad for p in unlearned.parameters() if p.grad is not None]
        length = torch.sqrt(sum((slope.square().sum() for slope in slopes), torch.zeros(())))
        for p in unlearned.parameters():
            if p.grad is not None:
                p += ETA * p.grad / length
        goal = unlearned(x).log_softmax(1)
    delta = torch.zeros_like(x)
    for _ in range(ITERATIONS):
        leaf = delta.requires_grad_(True)
        found = model(x + leaf).log_softmax(1)
        (slope,) = torch.autograd.grad(
            F.kl_div(found, goal, log_target=True, reduction="sum"), leaf
        )
        delta = delta.detach() - MU * slope
        delta = EPS * delta / delta.norm()
    shares = torch.arange(1, STEPS + 1)[:, None, None, None] / STEPS
    points = (x + delta + shares * -delta).detach().requires_grad_(True)
    p = model(points).softmax(1)[:, index]
    (slopes_on_path,) = torch.autograd.grad(p.sum(), points)
    return (-delta * slopes_on_path.mean(0))[0]


def bare_evaluations(setting: Setting) -> Tensor:
    """27 gradients of every image, batch by batch."""
    index, total = setting.predict(), torch.zeros_like(setting.x)
    parts = zip(setting.x.split(setting.batch), index.split(setting.batch), strict=True)
    for first, (x, c) in enumerate(parts):
        place = slice(first * setting.batch, first * setting.batch + len(x))
        for _ in range(STEPS + ITERATIONS + 2):
            total[place] += gradient_of(setting.model, x, c)
    return total


def bench(model_name: str, rounds: int, images: int | None) -> None:
    setting = make_setting(model_name, images or (8 if model_name == "resnet18" else 64))
    requests = [method_request("uni")]
    tuned = tune(setting.model, setting.x)
    mixed = tune(setting.model, setting.x, precision="mixed")
    contenders: dict[str, Work] = {
        "per image, model copies": lambda: per_image(setting),
        "bare loop, 27 evaluations": lambda: bare_evaluations(setting),
        "gradattr, untuned": engine(
            PlainEvaluator(copy.deepcopy(setting.model)), setting, requests
        ),
        "gradattr, tuned fp32": engine(tuned, setting, requests),
        "gradattr, mixed": engine(mixed, setting, requests),
    }
    setting.model.requires_grad_(False)
    timings = interleaved(contenders, rounds)
    reference = timings["gradattr, untuned"].maps
    same = ("per image, model copies", "gradattr, tuned fp32", "gradattr, mixed")
    label = f"uni, {model_name} at {setting.x.shape[-1]} px, {len(setting.x)} images"
    print_table(rows(label, timings, len(setting.x), dict.fromkeys(same, reference)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["resnet18", "resnet20"], action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, help="default: 8 at 224 px, 64 at 32 px")
    options = parser.parse_args()
    one_thread()
    print(machine())
    for model_name in options.model or ["resnet20", "resnet18"]:
        print(f"\n### uni on {model_name}\n", flush=True)
        bench(model_name, options.rounds, options.images)


if __name__ == "__main__":
    main()
