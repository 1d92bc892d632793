"""torchvision's published weights: which there are, their files, classes and transforms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from gradattr.canonical import digest_bytes, digest_json
from gradattr.errors import ModelError
from gradattr.manifest.data import Preprocess
from gradattr.manifest.model import AnyModel, ResNetModel, TorchvisionModel
from gradattr.models.files import State
from gradattr.models.torchvision_models import check_name, zoo

PREFIX = "torchvision:"

#: The file's name ends with the first digits of its sha256: resnet18-f37072fd.pth.
_HASH = re.compile(r"-([0-9a-f]{8,})\.")

#: Older DenseNet files have a dot where module names cannot have one any more.
_DENSE = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")

#: Heads that only training from scratch uses.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def is_published(spec: AnyModel) -> bool:
    """Do the weights come from torchvision?"""
    return (spec.weights or "").startswith(PREFIX)


def published_classes(spec: AnyModel) -> int | None:
    """Outputs of the published weights; None where the weights are not torchvision's."""
    if not is_published(spec):
        return None
    return len(find_published(spec).meta["categories"])


def weights_preprocess(spec: AnyModel) -> Preprocess:
    """The transforms that the published weights were evaluated with, as a ``preprocess:`` block.

    Raises ModelError if the weights are not torchvision's, or their transforms are something else
    than resize, centre crop and normalise.
    """
    if not is_published(spec):
        raise ModelError(
            "preprocess: 'weights' needs weights 'torchvision:<name>', "
            f"the model has {spec.weights!r}"
        )
    weights = find_published(spec)
    transforms = weights.transforms()
    # Here: it brings all of torchvision, which most runs do without.
    from torchvision.transforms._presets import ImageClassification

    if not isinstance(transforms, ImageClassification) or not transforms.antialias:
        raise ModelError(
            f"preprocess: the transforms of {weights} are not resize, centre crop and normalise; "
            "state resize, crop, mean and std yourself"
        )
    return Preprocess(
        color="rgb",
        resize=_size(transforms.resize_size),
        interpolation=transforms.interpolation.value,
        crop=_size(transforms.crop_size),
        mean=list(transforms.mean),
        std=list(transforms.std),
    )


def find_published(spec: AnyModel) -> Any:
    """The member of torchvision's weights enumeration that the spec names (anything with url,
    meta and transforms). Raises ModelError, with the names there are."""
    if isinstance(spec, TorchvisionModel):
        name = spec.name
    elif isinstance(spec, ResNetModel) and spec.stem == "imagenet":
        name = spec.arch
    else:
        stem = " with stem 'cifar'" if isinstance(spec, ResNetModel) else ""
        raise ModelError(
            f"model.weights: torchvision publishes no weights for arch {spec.arch!r}{stem}; use "
            "arch torchvision, resnet18 or resnet50 (stem imagenet), or a weights file"
        )
    check_name(name)
    enum = zoo().get_model_weights(name)
    wanted = (spec.weights or "").removeprefix(PREFIX).removeprefix(f"{enum.__name__}.")
    if wanted not in enum.__members__:
        names = ", ".join(enum.__members__) or "none"
        raise ModelError(
            f"model.weights: torchvision has no weights {wanted!r} for {name!r}; there are: {names}"
        )
    weights = enum[wanted]
    if weights.meta.get("categories") is None:
        raise ModelError(f"model.weights: {weights} are of a feature extractor without classes")
    return weights


def published_digest(spec: AnyModel) -> str:
    """Identity of published weights without downloading them: their name and file name, which
    ends with the first digits of the file's sha256."""
    weights = find_published(spec)
    return digest_json({"torchvision": str(weights), "file": _file_name(weights.url)})


def fetch_published(spec: AnyModel) -> tuple[bytes, str]:
    """(bytes, file name) of the published weights, from torch's cache or downloaded into it.

    Raises ModelError if the download fails or the file is not the one that was published.
    """
    weights = find_published(spec)
    name = _file_name(weights.url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(path), progress=False)
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"model.weights: cannot download {weights.url} ({error}); where there is no "
                f"network, put the file at {path}, or give a copy's URL as model.weights"
            ) from error
    data = path.read_bytes()
    match = _HASH.search(name)
    digest = digest_bytes(data)
    if match and not digest.startswith(match.group(1)):
        raise ModelError(
            f"{path}: its sha256 begins with {digest[:8]}, that of the published file with "
            f"{match.group(1)}; delete it and run again"
        )
    return data, name


def adapt_published(state: State) -> State:
    """Published files as the present code of their models has it: old DenseNet names, and no
    auxiliary heads."""
    adapted = type(state)(
        (_DENSE.sub(r"\1\2", key), value)
        for key, value in state.items()
        if not key.startswith(_AUXILIARY)
    )
    if hasattr(state, "_metadata"):
        adapted.__dict__["_metadata"] = state._metadata
    return adapted


def _file_name(url: str) -> str:
    return Path(urlparse(url).path).name


def _size(size: list[int]) -> int | list[int]:
    return size[0] if len(size) == 1 else list(size)
