"""From a ``model:`` block to an nn.Module with freshly initialised weights."""

from __future__ import annotations

import torch
from torch import nn

from gradattr.errors import ModelError
from gradattr.manifest.model import (
    AnyModel,
    CifarResNetModel,
    CnnModel,
    LinearModel,
    MlpModel,
    PythonModel,
    ResNetModel,
    VitModel,
)
from gradattr.models import simple
from gradattr.models.cifar_resnet import BLOCKS, CifarResNet
from gradattr.models.python_factory import call_factory
from gradattr.models.torchvision_models import resnet, torchvision_classifier, vision_transformer
from gradattr.retraining.random_state import isolated_random

Shape = tuple[int, int, int]


def build_model(spec: AnyModel, *, shape: Shape, num_classes: int, seed: int) -> nn.Module:
    """A model for images of ``shape`` (channels, height, width), float32, on the CPU, in eval mode.

    Its weights are initialised at random as a function of ``seed``; no global random generator is
    disturbed. The model maps (n, *shape) to logits (n, num_classes): one image of zeros is sent
    through it to make sure.

    Raises ModelError if the architecture does not exist, does not fit the images, or has another
    number of outputs.
    """
    if spec.num_classes is not None and spec.num_classes != num_classes:
        raise ModelError(
            f"model.num_classes is {spec.num_classes}, but {num_classes} classes are asked for"
        )
    with isolated_random(seed), torch.device("cpu"):
        model = _construct(spec, shape, num_classes).to("cpu", torch.float32).eval()
        check_outputs(model, describe(spec), shape, num_classes)
    return model


def describe(spec: AnyModel) -> str:
    """What the user calls the model, for messages."""
    if isinstance(spec, PythonModel):
        return spec.factory
    return getattr(spec, "name", spec.arch)


def check_outputs(model: nn.Module, name: str, shape: Shape, num_classes: int) -> None:
    """Raise ModelError unless the model maps (1, *shape) to (1, num_classes) real logits."""
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *shape))
    except Exception as error:
        raise ModelError(
            f"model: {name} cannot take images of {shape[0]} x {shape[1]} x {shape[2]} "
            f"(channels, height, width): {type(error).__name__}: {error}"
        ) from error
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        raise ModelError(
            f"model: {name} returns {type(logits).__name__}, expected one tensor of real logits"
        )
    if tuple(logits.shape) != (1, num_classes):
        raise ModelError(
            f"model: {name} maps one image to {tuple(logits.shape)}, expected (1, {num_classes}): "
            f"one logit for each of the {num_classes} classes"
        )


def _construct(spec: AnyModel, shape: Shape, num_classes: int) -> nn.Module:
    if isinstance(spec, LinearModel):
        return simple.linear(shape, num_classes, spec.output)
    if isinstance(spec, MlpModel):
        return simple.mlp(shape, num_classes, spec.hidden, spec.output)
    if isinstance(spec, CnnModel):
        return simple.cnn(shape, num_classes, spec.width)
    if isinstance(spec, ResNetModel):
        return resnet(spec.arch, shape, num_classes, spec.stem)
    if isinstance(spec, CifarResNetModel):
        return CifarResNet(BLOCKS[spec.arch], shape[0], num_classes)
    if isinstance(spec, VitModel):
        return vision_transformer(
            shape,
            num_classes,
            patch=spec.patch,
            depth=spec.depth,
            heads=spec.heads,
            width=spec.width,
        )
    if isinstance(spec, PythonModel):
        return call_factory(spec)
    return torchvision_classifier(spec.name, shape, num_classes)
