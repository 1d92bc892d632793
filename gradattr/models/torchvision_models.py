"""torchvision's classifiers: built without weights, for any number of classes."""

from __future__ import annotations

import difflib
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from gradattr.errors import ModelError

Shape = tuple[int, int, int]


def zoo() -> ModuleType:
    """torchvision.models, imported when a model of it is first asked for: it takes seconds, which
    a run without one need not wait."""
    return import_module("torchvision.models")


#: Built with auxiliary heads unless told otherwise; those are of use in training from scratch only.
_AUXILIARY = ("googlenet", "inception_v3")


def classifier_names() -> list[str]:
    """Every classifier of torchvision.models, sorted."""
    return list(zoo().list_models(module=zoo()))


def check_name(name: str) -> None:
    """Raise ModelError, with the nearest names, if torchvision has no such classifier."""
    names = classifier_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ModelError(
            f"model.name: torchvision has no classifier {name!r}{hint} "
            "(torchvision.models.list_models(module=torchvision.models) lists them)"
        )


def torchvision_classifier(name: str, shape: Shape, num_classes: int) -> nn.Module:
    """The architecture ``name`` with ``num_classes`` outputs, initialised at random.

    Raises ModelError for an unknown name and for images of other than three channels.
    """
    check_name(name)
    channels, height, width = shape
    if channels != 3:
        raise ModelError(
            f"model.name: torchvision's {name!r} takes images of 3 channels, the data has "
            f"{channels}; set 'preprocess.color: rgb', or use arch resnet18, resnet50 or cnn, "
            "which take any number"
        )
    options: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if name in _AUXILIARY:
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_") and height == width:
        options["image_size"] = height
    try:
        model: nn.Module = zoo().get_model(name, **options)
        return model
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(
            f"model.name: torchvision cannot build {name!r} for {height}x{width} pixels: {error}"
        ) from error


def resnet(name: str, shape: Shape, num_classes: int, stem: str) -> nn.Module:
    """torchvision's ResNet-18 or -50 for any number of channels; ``stem`` 'cifar': a 3x3 stride-1
    first convolution and no max-pool.

    The ReLU modules do not work in place, so that outputs captured by a hook stay what they were.
    """
    model: nn.Module = zoo().get_model(name, weights=None, num_classes=num_classes)
    if stem == "cifar":
        model.conv1 = _stem(shape[0], kernel=3, stride=1)
        model.maxpool = nn.Identity()
    elif shape[0] != 3:
        model.conv1 = _stem(shape[0], kernel=7, stride=2)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def _stem(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, 64, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def vision_transformer(
    shape: Shape, num_classes: int, *, patch: int, depth: int, heads: int, width: int
) -> nn.Module:
    """torchvision's VisionTransformer for square images of any number of channels.

    Raises ModelError where patches, heads and sizes do not go into each other.
    """
    channels, height, image_width = shape
    if height != image_width or height % patch:
        raise ModelError(
            f"model.patch: patches of {patch} pixels do not tile images of "
            f"{height}x{image_width}; set preprocess.resize to a square of a multiple of {patch}"
        )
    if width % heads:
        raise ModelError(f"model.width: {width} numbers cannot be shared among {heads} heads")
    model: nn.Module = zoo().VisionTransformer(
        image_size=height,
        patch_size=patch,
        num_layers=depth,
        num_heads=heads,
        hidden_dim=width,
        mlp_dim=2 * width,
        num_classes=num_classes,
    )
    if channels != 3:
        projection = nn.Conv2d(channels, width, patch, patch)
        nn.init.trunc_normal_(projection.weight, std=(channels * patch * patch) ** -0.5)
        assert projection.bias is not None
        nn.init.zeros_(projection.bias)
        model.conv_proj = projection
    # torchvision starts with a head of zeros, at which nothing has a gradient.
    head = model.get_submodule("heads.head")
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight, std=width**-0.5)
    return model
