"""Deletion, insertion and MuFidelity against loops and Quantus: speed, with numerics beside it.

    python tests/bench/bench_metrics.py                                  # all, a quarter of an hour
    python tests/bench/bench_metrics.py --model resnet20 --work curves   # one

One method's maps of the same images for all. Contenders: the loop over steps, or subsets, with one
changed image at a time, and with as many as a user would batch; the forward passes of the same
number of images and nothing else (the floor of any implementation on the model as it is); ours on
the model as it is, on the tuned model, and there with forward passes in bfloat16. Quantus, where it
is installed, with the quickest of several batch sizes: PixelFlipping (works 'flipping': the same
deletion, coordinate by coordinate) and FaithfulnessCorrelation (work 'subsets': as many random
subsets of as many pixels; its pixels are single ones, ours are cells of a grid). Numerics are the
largest and the mean difference of an image's value from ours on the model as it is.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from bench_common import Timing, Work, fastest, interleaved, machine, one_thread
from bench_methods import Setting, make_setting
from torch import Tensor

from gradattr.attribution.baselines import Blur, Normalization
from gradattr.attribution.evaluator import Evaluator, PlainEvaluator
from gradattr.attribution.microbatch import choose_forward_batch
from gradattr.attribution.tuning.tuned import tune
from gradattr.metrics.deletion_insertion import deletion, insertion
from gradattr.metrics.forward_precision import Bfloat16Forwards
from gradattr.metrics.masked_forwards import image_scores
from gradattr.metrics.mu_fidelity import Cells, mu_fidelity

try:
    import quantus
except ImportError:
    quantus = None

STEPS, SUBSETS, SHARE, GRID = 10, 200, 0.25, 9
#: Deletion as Quantus does it needs a number of steps that divides the coordinates.
FLIPS = 12
WORKS = ("curves", "mu_fidelity", "flipping", "subsets")
IMAGES = {"resnet20": {"curves": 64, "flipping": 64}, "resnet18": {"curves": 4, "flipping": 4}}
OF_SUBSETS = {"resnet20": 8, "resnet18": 1}


@cache
def predicted(setting: Setting) -> Tensor:
    """(n,) the classes that are explained; every contender is given them."""
    return setting.predict()


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
    index = predicted(setting)
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
    index = predicted(setting)
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


# --- Quantus --------------------------------------------------------------------------------


def quantus_call(
    setting: Setting, given: Tensor, metric: Callable[..., Any], at_once: int
) -> Tensor:
    found = metric()(
        model=setting.model,
        x_batch=setting.x.numpy(),
        y_batch=predicted(setting).numpy(),
        a_batch=given.numpy(),
        device="cpu",
        batch_size=at_once,
    )
    return torch.from_numpy(np.array(found, dtype=np.float64)).view(len(setting.x), -1)


def pixel_flipping(setting: Setting) -> Callable[..., Any]:
    size = setting.x[0].numel() // FLIPS
    given = {"perturb_baseline": 0.0, "normalise": False, "disable_warnings": True}
    return partial(quantus.PixelFlipping, features_in_step=size, **given)


def faithfulness_correlation(setting: Setting) -> Callable[..., Any]:
    return partial(
        quantus.FaithfulnessCorrelation,
        nr_runs=SUBSETS,
        subset_size=round(SHARE * setting.x[0].numel()),
        perturb_baseline=0.0,
        normalise=False,
        return_aggregate=False,
        disable_warnings=True,
    )


# --- ours -------------------------------------------------------------------------------------

Ours = Callable[[Evaluator, Setting, Tensor, int], Tensor]


def curves(evaluator: Evaluator, setting: Setting, given: Tensor, at_once: int) -> Tensor:
    x, index, seeds = setting.x, predicted(setting), range(len(setting.x))
    unchanged = image_scores(evaluator, x, index, batch_size=at_once)
    asked: dict[str, Any] = {"seeds": seeds, "batch_size": at_once, "unchanged": unchanged}
    (gone,) = deletion(evaluator, x, [given], index, steps=STEPS, **asked)
    (back,) = insertion(evaluator, x, [given], index, steps=STEPS, **asked)
    return torch.stack([gone.auc, back.auc], 1)


def flipping(evaluator: Evaluator, setting: Setting, given: Tensor, at_once: int) -> Tensor:
    (gone,) = deletion(
        evaluator,
        setting.x,
        [given],
        predicted(setting),
        seeds=range(len(setting.x)),
        steps=FLIPS,
        per_pixel=False,
        batch_size=at_once,
    )
    return gone.values[:, 1:]


def fidelity(evaluator: Evaluator, setting: Setting, given: Tensor, at_once: int) -> Tensor:
    (found,) = mu_fidelity(
        evaluator,
        setting.x,
        [given],
        predicted(setting),
        seeds=range(len(setting.x)),
        subsets=SUBSETS,
        share=SHARE,
        grid=GRID,
        batch_size=at_once,
    )
    return found.pearson[:, None]


def contenders(setting: Setting, work: str) -> dict[str, Work]:
    given = torch.randn(setting.x.shape, generator=torch.Generator().manual_seed(1))
    batch = setting.batch
    others: dict[str, Work]
    if work in ("flipping", "subsets"):
        metric = (pixel_flipping if work == "flipping" else faithfulness_correlation)(setting)
        tried = {
            f"Quantus {quantus.__version__}, batch_size={size}": partial(
                quantus_call, setting, given, metric, size
            )
            for size in sorted({max(1, batch // 8), batch // 2, batch})
        }
        others = dict([fastest(tried)])
    else:
        loop = loop_curves if work == "curves" else loop_mu_fidelity
        each = 2 * (STEPS + 1) if work == "curves" else SUBSETS + 1
        count = each * len(setting.x)
        others = {
            "loop, one image at a time": partial(loop, setting, given, 1),
            f"loop, {batch} images at a time": partial(loop, setting, given, batch),
            f"bare forward, {count} images": partial(bare, setting, count),
        }
    ours: Ours = {"curves": curves, "flipping": flipping}.get(work, fidelity)
    plain, tuned = PlainEvaluator(copy.deepcopy(setting.model)), tune(setting.model, setting.x)
    points = choose_forward_batch(tuned, setting.x)
    return others | {
        "gradattr, untuned": partial(ours, plain, setting, given, points),
        "gradattr, tuned fp32": partial(ours, tuned, setting, given, points),
        "gradattr, tuned bf16": partial(ours, Bfloat16Forwards(tuned), setting, given, points),
    }


HEADER = (
    "| work | contender | CPU ms per image | spread | x | largest change | mean |\n"
    "|---|---|---|---|---|---|---|"
)


def lines(label: str, timings: dict[str, Timing], images: int) -> Iterator[str]:
    first = next(iter(timings.values())).median
    reference = timings["gradattr, untuned"].maps
    for name, timing in timings.items():
        each = [1e3 * second / images for second in timing.seconds]
        change = "- | -"
        # Quantus draws other subsets.
        incomparable = name.startswith("Quantus") and label.startswith("subsets")
        if not incomparable and not name.startswith("bare") and name != "gradattr, untuned":
            away = (timing.maps - reference).abs()
            change = f"{float(away.max()):.1e} | {float(away.mean()):.1e}"
        yield (
            f"| {label} | {name} | {1e3 * timing.median / images:.4g} | "
            f"{min(each):.4g} to {max(each):.4g} | {first / timing.median:.2f} | {change} |"
        )


def bench(model_name: str, work: str, rounds: int, images: int | None) -> None:
    setting = make_setting(
        model_name, images or IMAGES[model_name].get(work, OF_SUBSETS[model_name])
    )
    timings = interleaved(contenders(setting, work), rounds)
    label = f"{work}, {model_name} at {setting.x.shape[-1]} px, {len(setting.x)} images"
    print("\n".join([HEADER, *lines(label, timings, len(setting.x))]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["resnet18", "resnet20"], action="append")
    parser.add_argument("--work", choices=WORKS, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, help="default: 64 and 8 at 32 px, 4 and 1 at 224 px")
    options = parser.parse_args()
    one_thread()
    warnings.filterwarnings("ignore")
    print(machine())
    if quantus is None:
        print("Quantus is not installed: its contenders are left out.")
    works = [work for work in WORKS if quantus is not None or work in ("curves", "mu_fidelity")]
    for model_name in options.model or ["resnet20", "resnet18"]:
        for work in options.work or works:
            print(f"\n### {work} on {model_name}\n", flush=True)
            bench(model_name, work, options.rounds, options.images)


if __name__ == "__main__":
    main()
