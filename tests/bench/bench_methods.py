"""Methods against Captum 0.9 and the bare torch loop: speed, with the numerics beside it.

    python tests/bench/bench_methods.py                                    # all, half an hour
    python tests/bench/bench_methods.py --model resnet20 --work ig         # one, a minute or two

Contenders: Captum with the quickest of several batchings; the loop that a user would write with
the same number of model evaluations; ``attribute`` on the model as it is (no tuning: what the
engine itself costs), on the tuned model, and in mixed precision. Numerics are against the engine
on the model as it is, which draws the same noise; Captum's own draws differ, so its random
methods have none.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import captum.attr
import torch
import torchvision
from bench_common import (
    Work,
    fastest,
    interleaved,
    machine,
    one_thread,
    print_table,
    rows,
)
from torch import Tensor, nn

from gradattr.attribution.baselines import Constant, Sample
from gradattr.attribution.evaluator import Evaluator, PlainEvaluator
from gradattr.attribution.microbatch import choose_micro_batch
from gradattr.attribution.passes import attribute
from gradattr.attribution.quadrature import quadrature
from gradattr.attribution.requests import MethodRequest, method_request
from gradattr.attribution.tuning.tuned import tune
from gradattr.models.cifar_resnet import CifarResNet

SIGMA = 0.1


@dataclass(frozen=True)
class Setting:
    """A model, its images, and how many evaluations a user's loop makes at once."""

    model: nn.Module
    x: Tensor
    batch: int

    def predict(self) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.model(part).argmax(1) for part in self.x.split(self.batch)])


def make_setting(name: str, images: int | None) -> Setting:
    torch.manual_seed(0)
    if name == "resnet18":
        model, side, count, batch = torchvision.models.resnet18(), 224, 2, 8
    else:
        model, side, count, batch = CifarResNet(3, 3, 10), 32, 32, 64
    x = torch.randn(images or count, 3, side, side)
    model.train()
    with torch.no_grad():
        for _ in range(5):  # batch-norm statistics like a trained network's, not 0 and 1
            model(torch.randn(8, 3, side, side))
    return Setting(model.eval(), x, batch)


# --- the loops that a user would write ------------------------------------------------------


def gradient_of(model: nn.Module, points: Tensor, index: Tensor) -> Tensor:
    leaf = points.detach().requires_grad_(True)
    (grad,) = torch.autograd.grad(model(leaf).gather(1, index[:, None]).sum(), leaf)
    return grad


def bare_sum(
    setting: Setting, count: int, points: Callable[[Tensor, int], Tensor], weights: Sequence[float]
) -> Tensor:
    """sum_k weights[k] * gradient at points(x, k), ``batch`` points at a time."""
    index = setting.predict()
    total = torch.zeros_like(setting.x)
    pairs = [(row, step) for step in range(count) for row in range(len(setting.x))]
    for first in range(0, len(pairs), setting.batch):
        part = pairs[first : first + setting.batch]
        rows_of, steps = zip(*part, strict=True)
        batch = torch.cat([points(setting.x[row : row + 1], step) for row, step in part])
        grads = gradient_of(setting.model, batch, index[list(rows_of)])
        scale = torch.tensor([weights[step] for step in steps])[:, None, None, None]
        total.index_add_(0, torch.tensor(rows_of), grads * scale)
    return total


def bare_smoothgrad(setting: Setting, count: int) -> Tensor:
    def noisy(x: Tensor, step: int) -> Tensor:
        return x + SIGMA * (x.max() - x.min()) * torch.randn_like(x)

    return bare_sum(setting, count, noisy, [1 / count] * count)


def bare_ig(setting: Setting, count: int) -> Tensor:
    rule = quadrature("gauss_legendre", count)
    alphas = [float(alpha) for alpha in rule.alphas]
    weights = [float(weight) for weight in rule.weights]
    return setting.x * bare_sum(setting, count, lambda x, step: alphas[step] * x, weights)


def bare_shap(setting: Setting, count: int, pool: Tensor) -> Tensor:
    index = setting.predict()
    total = torch.zeros_like(setting.x)
    pairs = [row for _ in range(count) for row in range(len(setting.x))]
    for first in range(0, len(pairs), setting.batch):
        part = pairs[first : first + setting.batch]
        x = setting.x[part]
        start = pool[torch.randint(len(pool), (len(part),))]
        points = start + torch.rand(len(part), 1, 1, 1) * (x - start)
        grads = gradient_of(setting.model, points, index[part]) * (x - start)
        total.index_add_(0, torch.tensor(part), grads / count)
    return total


def bare_three(setting: Setting) -> Tensor:
    """Saliency, input x gradient and gradient as three runs."""
    runs = []
    for _ in range(3):
        index = setting.predict()
        parts = zip(setting.x.split(setting.batch), index.split(setting.batch), strict=True)
        runs.append(torch.cat([gradient_of(setting.model, x, i) for x, i in parts]))
    return torch.cat([runs[0].abs(), setting.x * runs[1], runs[2]], dim=1)


# --- Captum -----------------------------------------------------------------------------------


def captum_runs(setting: Setting, at_once: int, call: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``call(x, index)`` on ``at_once`` images at a time."""
    index = setting.predict()
    parts = zip(setting.x.split(at_once), index.split(at_once), strict=True)
    return torch.cat([call(x, i).detach() for x, i in parts])


def captum_smoothgrad(setting: Setting, count: int) -> dict[str, Work]:
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(setting.model))
    spread = float(SIGMA * (setting.x.max() - setting.x.min()))

    def call(x: Tensor, index: Tensor, samples_at_once: int | None) -> Tensor:
        return tunnel.attribute(
            x, nt_type="smoothgrad", nt_samples=count, nt_samples_batch_size=samples_at_once,
            stdevs=spread, target=index, abs=False,
        )  # fmt: skip

    settings = [(1, None), (1, setting.batch), (len(setting.x), max(1, setting.batch // 2))]
    if setting.batch > 8:
        settings += [(len(setting.x), 1), (len(setting.x), 2), (4, None)]
    return {
        f"Captum ({images} images, nt_samples_batch_size={samples})": partial(
            captum_runs, setting, images, partial(call, samples_at_once=samples)
        )
        for images, samples in settings
    }


def captum_ig(setting: Setting, count: int) -> dict[str, Work]:
    method = captum.attr.IntegratedGradients(setting.model)

    def call(x: Tensor, index: Tensor, at_once: int | None) -> Tensor:
        return method.attribute(x, 0.0, index, n_steps=count, internal_batch_size=at_once)

    settings = [(1, None), (len(setting.x), setting.batch), (len(setting.x), setting.batch // 2)]
    if setting.batch > 8:
        settings += [(4, None), (len(setting.x), 2 * setting.batch)]
    return {
        f"Captum ({images} images, internal_batch_size={steps})": partial(
            captum_runs, setting, images, partial(call, at_once=steps)
        )
        for images, steps in settings
    }


def captum_shap(setting: Setting, count: int, pool: Tensor) -> dict[str, Work]:
    method = captum.attr.GradientShap(setting.model)

    def call(x: Tensor, index: Tensor) -> Tensor:
        return method.attribute(x, pool, n_samples=count, stdevs=0.0, target=index)

    sizes = [1, 2] if setting.batch <= 8 else [1, 2, 4, 8]
    return {
        f"Captum ({images} images)": partial(captum_runs, setting, images, call) for images in sizes
    }


def captum_three(setting: Setting) -> dict[str, Work]:
    saliency = captum.attr.Saliency(setting.model)
    product = captum.attr.InputXGradient(setting.model)

    def calls(at_once: int) -> Tensor:
        return torch.cat(
            [
                captum_runs(setting, at_once, lambda x, i: saliency.attribute(x, i)),
                captum_runs(setting, at_once, lambda x, i: product.attribute(x, i)),
                captum_runs(setting, at_once, lambda x, i: saliency.attribute(x, i, abs=False)),
            ],
            dim=1,
        )

    sizes = [setting.batch // 2, setting.batch]
    return {f"Captum ({size} images)": partial(calls, size) for size in sizes}


# --- ours -------------------------------------------------------------------------------------


def engine(evaluator: Evaluator, setting: Setting, requests: Sequence[MethodRequest]) -> Work:
    batch = choose_micro_batch(evaluator, setting.x)

    def work() -> Tensor:
        seeds = range(len(setting.x))
        found = attribute(evaluator, setting.x, requests, seeds=seeds, batch_size=batch)
        return torch.cat([attribution.maps for attribution in found], dim=1)

    return work


def contenders(
    setting: Setting, work: str, samples: int | None
) -> tuple[dict[str, Work], dict[str, Work], list[MethodRequest]]:
    """(Captum's settings, the bare loop, our requests)."""
    # A small pool: the engine evaluates it once per call (for the completeness gap), which a data
    # set of any size hides and two images would not.
    pool = torch.randn(4, *setting.x.shape[1:])
    if work == "smoothgrad":
        count = samples or 50
        request = method_request("smoothgrad", samples=count, sigma=SIGMA)
        bare: Work = partial(bare_smoothgrad, setting, count)
        return captum_smoothgrad(setting, count), {"bare loop": bare}, [request]
    if work == "ig":
        count = samples or 50
        request = method_request("integrated_gradients", steps=count, baseline=Constant(0.0))
        bare = partial(bare_ig, setting, count)
        return captum_ig(setting, count), {"bare loop": bare}, [request]
    if work == "shap":
        count = samples or 25
        request = method_request("gradient_shap", samples=count, baseline=Sample(pool))
        bare = partial(bare_shap, setting, count, pool)
        return captum_shap(setting, count, pool), {"bare loop": bare}, [request]
    requests = [method_request(name) for name in ("saliency", "input_x_gradient", "gradient")]
    return captum_three(setting), {"bare loop": partial(bare_three, setting)}, requests


DETERMINISTIC = ("ig", "three")


def bench(model_name: str, work: str, rounds: int, images: int | None, samples: int | None) -> None:
    if work == "three" and images is None:
        images = 16 if model_name == "resnet18" else 256
    setting = make_setting(model_name, images)
    captums, bare, requests = contenders(setting, work, samples)
    captum_name, captum_work = fastest(captums)
    plain = engine(PlainEvaluator(copy.deepcopy(setting.model)), setting, requests)
    tuned = tune(setting.model, setting.x)
    mixed = tune(setting.model, setting.x, precision="mixed")
    print(f"tuned: {tuned.report['layers']}; mixed: {mixed.report['precision_used']}\n")
    timings = interleaved(
        {
            captum_name: captum_work,
            **bare,
            "gradattr, untuned": plain,
            "gradattr, tuned fp32": engine(tuned, setting, requests),
            "gradattr, mixed": engine(mixed, setting, requests),
        },
        rounds,
    )
    same_draws = [name for name in timings if name.startswith("gradattr") or work in DETERMINISTIC]
    reference = timings["gradattr, untuned"].maps
    label = f"{work}, {model_name} at {setting.x.shape[-1]} px, {len(setting.x)} images"
    references = {name: reference for name in same_draws if name != "gradattr, untuned"}
    print_table(rows(label, timings, len(setting.x), references))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["resnet18", "resnet20"], action="append")
    parser.add_argument("--work", choices=["smoothgrad", "ig", "shap", "three"], action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, help="default: 2 at 224 px, 32 at 32 px")
    parser.add_argument("--samples", type=int, help="evaluations per image; default 50, SHAP 25")
    options = parser.parse_args()
    one_thread()
    print(machine())
    for model_name in options.model or ["resnet18", "resnet20"]:
        for work in options.work or ["smoothgrad", "ig", "shap", "three"]:
            print(f"\n### {work} on {model_name}\n", flush=True)
            bench(model_name, work, options.rounds, options.images, options.samples)


if __name__ == "__main__":
    main()
