"""DeepLIFT and guided backprop against Captum 0.9: speed, with the numerics beside it.

    python tests/bench/bench_rules.py                       # all, some minutes
    python tests/bench/bench_rules.py --model resnet20      # one

Captum needs modules that are used once and write nothing in place, so it gets the model rebuilt
that way; ours gets it as it comes, tuned and untuned. ResNet-18 has a max-pooling, where both
DeepLIFTs are complete and differ (hardly from a baseline of one colour, where the candidates of a
window start level); the CIFAR ResNet has none. The baseline is 0 for all images.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial

import captum.attr
import torchvision
from bench_common import Work, fastest, interleaved, machine, one_thread, print_table, rows
from bench_methods import Setting, captum_runs, engine, make_setting
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.attribution.baselines import Constant
from gradattr.attribution.evaluator import PlainEvaluator
from gradattr.attribution.requests import method_request
from gradattr.attribution.tuning.tuned import tune


class SeparateBlock(nn.Module):
    """A block of torchvision's ResNet-18 with a ReLU of its own for every place."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.first, self.second = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        out = block.bn2(block.conv2(self.first(block.bn1(block.conv1(x)))))
        return self.second(out + (x if block.downsample is None else block.downsample(x)))


def for_captum(model: nn.Module) -> nn.Module:
    """The same function without reused and in-place ReLUs."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if isinstance(module, torchvision.models.resnet.BasicBlock):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, SeparateBlock(module))
    return model


def captum_method(setting: Setting, method: captum.attr.Attribution) -> dict[str, Work]:
    def call(x: Tensor, index: Tensor) -> Tensor:
        return method.attribute(x, target=index)

    half, whole = max(1, setting.batch // 2), setting.batch
    return {
        f"Captum ({size} images)": partial(captum_runs, setting, size, call)
        for size in dict.fromkeys((half, whole))
    }


WORKS: dict[str, tuple[Callable[[nn.Module], captum.attr.Attribution], dict[str, object]]] = {
    "deep_lift": (captum.attr.DeepLift, {"baseline": Constant(0.0)}),
    "guided_backprop": (captum.attr.GuidedBackprop, {}),
}


def bench(model_name: str, work: str, rounds: int, images: int | None) -> None:
    setting = make_setting(model_name, images)
    method, parameters = WORKS[work]
    separate = for_captum(setting.model)
    assert F.mse_loss(separate(setting.x), setting.model(setting.x)) < 1e-8
    captum_name, captum_work = fastest(captum_method(setting, method(separate)))
    requests = [method_request(work, **parameters)]
    plain = engine(PlainEvaluator(setting.model), setting, requests)
    timings = interleaved(
        {
            captum_name: captum_work,
            "gradattr, untuned": plain,
            "gradattr, tuned fp32": engine(tune(setting.model, setting.x), setting, requests),
            "gradattr, mixed": engine(
                tune(setting.model, setting.x, precision="mixed"), setting, requests
            ),
        },
        rounds,
    )
    reference = timings["gradattr, untuned"].maps
    label = f"{work}, {model_name} at {setting.x.shape[-1]} px, {len(setting.x)} images"
    references = {name: reference for name in timings if name != "gradattr, untuned"}
    print_table(rows(label, timings, len(setting.x), references))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["resnet18", "resnet20"], action="append")
    parser.add_argument("--work", choices=list(WORKS), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, help="default: 8 at 224 px, 64 at 32 px")
    options = parser.parse_args()
    one_thread()
    print(machine())
    for model_name in options.model or ["resnet18", "resnet20"]:
        for work in options.work or list(WORKS):
            print(f"\n### {work} on {model_name}\n", flush=True)
            images = options.images or (8 if model_name == "resnet18" else 64)
            bench(model_name, work, options.rounds, images)


if __name__ == "__main__":
    main()
