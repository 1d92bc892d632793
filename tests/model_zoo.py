"""Every method on the field's six usual classifiers: it runs, or says why it does not fit.

``python -m tests.model_zoo`` writes docs/model_zoo.md anew; a test holds it to what is so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from gradattr.attribution import PlainEvaluator, Uniform, attribute, method_request
from gradattr.attribution.catalogue import catalogue

PAGE = Path(__file__).parent.parent / "docs" / "model_zoo.md"
SIZE, CLASSES = 64, 10

MODELS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18": lambda: torchvision.models.resnet18(num_classes=CLASSES),
    "EfficientNetV2-S": lambda: torchvision.models.efficientnet_v2_s(num_classes=CLASSES),
    "ConvNeXt-T": lambda: torchvision.models.convnext_tiny(num_classes=CLASSES),
    "VGG16-bn": lambda: torchvision.models.vgg16_bn(num_classes=CLASSES, init_weights=False),
    "ViT-B/16": lambda: torchvision.models.vit_b_16(num_classes=CLASSES, image_size=SIZE),
    "Swin-T": lambda: torchvision.models.swin_t(num_classes=CLASSES),
}

#: As few model evaluations as a method can do with.
_TWO: dict[str, Any] = {"samples": 2}
_STEPS: dict[str, Any] = {"steps": 2}
_DRAWS: dict[str, Any] = {"samples": 1, "baseline": Uniform()}
_SEGMENTS: dict[str, Any] = {"samples": 8, "count": 9}
FEW: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("smoothgrad", "smoothgrad_x_input", "squaregrad", "vargrad"), _TWO),
    **dict.fromkeys(("integrated_gradients", "blur_ig", "guided_ig"), _STEPS),
    **dict.fromkeys(("layer_integrated_gradients", "layer_conductance"), _STEPS),
    **dict.fromkeys(("expected_gradients", "gradient_shap", "deep_shap"), _DRAWS),
    **dict.fromkeys(("lime", "kernel_shap"), _SEGMENTS),
    "uni": {"steps": 1, "iterations": 1},
    "agi": {"iterations": 1, "classes": 1},
    "occlusion": {"window": 32, "stride": 32},
    "rise": {"samples": 4},
}
METHODS = [info.name for info in catalogue() if info.name not in ("random", "linear")]


def model(name: str) -> nn.Module:
    """With random weights, none of them 0: torchvision's ViT begins with a head of zeros."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = MODELS[name]().eval()
        if name == "ViT-B/16":
            nn.init.normal_(made.heads.head.weight, std=0.05)
    return made


def image() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, SIZE, SIZE, generator=generator)


def answers(network: nn.Module) -> Iterator[tuple[str, str | None]]:
    """Method and why it does not fit, or None once it has run and made a map."""
    x, fitting = image(), []
    for name in METHODS:
        request = method_request(name, **FEW.get(name, {}))
        obstacle = request.obstacle(network, x)
        if obstacle is None:
            fitting.append(request)
        yield name, obstacle
    for result in attribute(PlainEvaluator(network), x, fitting, seeds=[0], batch_size=8):
        assert result.status[0] in ("ok", "degenerate"), result.method
        assert bool(torch.isfinite(result.maps).all()), result.method
        assert result.maps.shape[-2:] == (SIZE, SIZE), result.method


def page(found: dict[str, dict[str, str | None]]) -> str:
    """The table: methods below one another, models side by side; reasons as notes."""
    notes: dict[str, int] = {}
    lines = [
        "# Which method fits which model",
        "",
        f"Every method on six classifiers of torchvision, at {SIZE} pixels, with random weights: ",
        "**yes** where it ran and made a map, else the number of the reason below, in the words ",
        "that `gradattr validate` uses. A test makes this table and holds the page to it.",
        "",
        f"| method | {' | '.join(found)} |",
        f"|---|{'---|' * len(found)}",
    ]
    for method in METHODS:
        cells = []
        for reasons in found.values():
            why = reasons[method]
            cells.append("yes" if why is None else f"[{notes.setdefault(why, len(notes) + 1)}]")
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    lines += ["", "`random` and `linear` ask nothing of the model.", ""]
    lines += [f"{number}. {why}" for why, number in notes.items()]
    return "\n".join(line.rstrip() for line in lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page({name: dict(answers(model(name))) for name in MODELS}), encoding="utf-8")
