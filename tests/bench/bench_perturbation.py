"""Occlusion against Captum 0.9, RISE against a loop over masks: speed, with the numerics beside it.

    python tests/bench/bench_perturbation.py                                  # all, ten minutes
    python tests/bench/bench_perturbation.py --model resnet20 --work rise     # one

The same windows, or masks, on the same images for all. Captum runs with the quickest of several
``perturbations_per_eval``; the loops over masks evaluate one masked image at a time, and as many
as the published code's ``gpu_batch`` would (``batch`` of the setting). Numerics are against the
engine on the model as it is.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial

import captum.attr
import torch
from bench_common import Work, fastest, interleaved, machine, one_thread, print_table, rows
from bench_methods import Setting, engine, make_setting
from torch import Tensor

from gradattr.attribution.baselines import Constant
from gradattr.attribution.evaluator import PlainEvaluator
from gradattr.attribution.perturbation.smooth_masks import SmoothMasks
from gradattr.attribution.requests import MethodRequest, method_request
from gradattr.attribution.tuning.tuned import tune

KEEP, CELLS = 0.5, 7
MASKS = {"resnet18": 64, "resnet20": 256}
IMAGES = {"resnet18": 1, "resnet20": 8}


def captum_occlusion(setting: Setting, window: int, stride: int, at_once: int) -> Tensor:
    method = captum.attr.Occlusion(setting.model)
    found = method.attribute(
        setting.x,
        (3, window, window),
        (3, stride, stride),
        0.0,
        setting.predict(),
        perturbations_per_eval=at_once,
    )
    return found[:, :1]


def loop_over_masks(setting: Setting, samples: int, at_once: int) -> Tensor:
    """The published code on each image: ``at_once`` masked images at a time."""
    index, masks = setting.predict(), SmoothMasks(samples, CELLS, KEEP, setting.x)(range(samples))
    maps = []
    for image, c in zip(setting.x, index, strict=True):
        total = torch.zeros(image.shape[1:])
        for part in masks.split(at_once):
            with torch.no_grad():
                scores = setting.model(image * part[:, None])[:, c]
            total += torch.einsum("k,khw->hw", scores, part)
        maps.append(total[None] / (samples * KEEP))
    return torch.stack(maps)


def contenders(
    setting: Setting, work: str, samples: int
) -> tuple[dict[str, Work], dict[str, Work], MethodRequest]:
    """(settings of which the quickest counts, others, our request)."""
    start = Constant(0.0)
    if work == "occlusion":
        window = setting.x.shape[-1] // 8
        stride = window // 2
        sizes = sorted({1, 2, 4, max(1, setting.batch // len(setting.x))})
        theirs: dict[str, Work] = {
            f"Captum (perturbations_per_eval={size})": partial(
                captum_occlusion, setting, window, stride, size
            )
            for size in sizes
        }
        request = method_request("occlusion", window=window, stride=stride, baseline=start)
        return theirs, {}, request
    loop: dict[str, Work] = {
        "loop, one mask at a time": partial(loop_over_masks, setting, samples, 1)
    }
    batched: dict[str, Work] = {
        f"loop, {setting.batch} masks at a time": partial(
            loop_over_masks, setting, samples, setting.batch
        )
    }
    request = method_request("rise", samples=samples, cells=CELLS, keep=KEEP, baseline=start)
    return loop, batched, request


def bench(model_name: str, work: str, rounds: int, images: int | None, samples: int | None) -> None:
    setting = make_setting(model_name, images or IMAGES[model_name])
    first, others, request = contenders(setting, work, samples or MASKS[model_name])
    name, quickest = fastest(first) if len(first) > 1 else next(iter(first.items()))
    plain = engine(PlainEvaluator(copy.deepcopy(setting.model)), setting, [request])
    tuned = engine(tune(setting.model, setting.x), setting, [request])
    timings = interleaved(
        {name: quickest, **others, "gradattr, untuned": plain, "gradattr, tuned fp32": tuned},
        rounds,
    )
    reference = timings["gradattr, untuned"].maps
    references = {key: reference for key in timings if key != "gradattr, untuned"}
    label = f"{work}, {model_name} at {setting.x.shape[-1]} px, {len(setting.x)} images"
    print_table(rows(label, timings, len(setting.x), references))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["resnet18", "resnet20"], action="append")
    parser.add_argument("--work", choices=["occlusion", "rise"], action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, help="default: 1 at 224 px, 8 at 32 px")
    parser.add_argument("--samples", type=int, help="masks; default 64 at 224 px, 256 at 32 px")
    options = parser.parse_args()
    one_thread()
    print(machine())
    for model_name in options.model or ["resnet20", "resnet18"]:
        for work in options.work or ["occlusion", "rise"]:
            print(f"\n### {work} on {model_name}\n", flush=True)
            bench(model_name, work, options.rounds, options.images, options.samples)


if __name__ == "__main__":
    main()
