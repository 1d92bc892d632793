"""``kind: diffroar`` -- remove and retrain: can an attribution be trusted on this data?"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from gradattr.manifest.base import Label, Spec
from gradattr.manifest.common import ManifestBase
from gradattr.manifest.data import DataSpec, Preprocess
from gradattr.manifest.method_base import Target
from gradattr.manifest.methods import GradientMethod, MethodSpec, check_unique_ids
from gradattr.manifest.model import ModelSpec, TrainingRecipe

_DATA: TypeAdapter[Any] = TypeAdapter(DataSpec)

Baseline = Literal["random", "linear", "signal_first", "null_first"]

_BASELINES = get_args(Baseline)

Level = Annotated[float, Field(gt=0, le=1)]


def _both_baselines() -> list[Baseline]:
    return ["random", "linear"]


def _saliency() -> list[MethodSpec]:
    return [GradientMethod(name="saliency")]


class Mask(Spec):
    """Which coordinates of an image are kept at a level, and what the others become."""

    value: float | Annotated[list[float], Field(min_length=1)] = 0.0
    """What a removed coordinate becomes: one number, or one per channel."""
    space: Literal["normalized", "pixels"] = "normalized"
    """Units of 'value': the model's input (0 is the per-channel mean), or pixels in [0, 1]."""
    ties: Literal["random", "index"] = "random"
    """Order of coordinates with equal scores: a permutation drawn for each image, or the first
    comes first (which favours one corner of the image)."""
    per_pixel: bool = False
    """Rank pixels by the sum of |score| over channels. Default: each (channel, row, column)
    coordinate is ranked and removed on its own."""


class DiffRoarManifest(ManifestBase):
    """DiffROAR (Shah et al. 2021): models retrained on the top-k and on the bottom-k coordinates
    of each image, for every base model, method and level; and how far their accuracies differ."""

    kind: Literal["diffroar"]
    data: DataSpec
    """The training set: of the base models, and of every retraining."""
    test: DataSpec
    """The test set: what accuracies are measured on."""
    preprocess: Preprocess | Literal["weights"] = Field(default_factory=Preprocess)
    """From pixels to model input; 'weights': the transforms of torchvision's published weights
    of the only base model."""
    models: dict[Label, ModelSpec] = Field(min_length=1, max_length=16)
    """Base models by name: they supply the maps. In their 'train' blocks 'data' and 'test' may be
    left out: they are the audit's. A retrained model has its base model's architecture."""
    methods: list[MethodSpec] = Field(default_factory=_saliency, min_length=1, max_length=64)
    """What orders the coordinates: by |score|, descending. Applied to every base model."""
    target: Target = "logit_pred"
    """The scalar that is differentiated."""
    baselines: list[Baseline] = Field(default_factory=_both_baselines)
    """Orders that no base model supplies: random for each image; the gradient of a linear model
    trained on the same data; and, of data with masks, the marked region last (signal_first) or
    first (null_first): where it is without signal, the best and the worst possible order."""
    levels: list[Level] = Field(
        default=[0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        min_length=1,
        max_length=100,
    )
    """Shares of the coordinates that are kept. At 1.0 both arms are the same data: the
    noise floor."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 5
    """Retrainings per cell: seeds 0, 1, ..."""
    retrain: TrainingRecipe | Literal[False] | None = None
    """How models are retrained. Default: by their base model's recipe, without its adversary.
    false: no retraining; the base models are evaluated on the masked test set."""
    paired: Literal["weights", "all", "none"] = "weights"
    """What the two arms of a pair have in common besides the seed's number: the initial weights;
    order of batches and augmentation too (the noise floor is then 0 on a CPU); nothing."""
    mask: Mask = Field(default_factory=Mask)
    mask_only: bool = True
    """The control: train on the masks alone (1 where kept, 0 elsewhere), because the shape of a
    mask can carry the class by itself."""
    roar: bool = False
    """ROAR (Hooker et al. 2019) besides: retrain with the top-k coordinates removed."""
    shard_rows: Annotated[int, Field(gt=0, le=100_000)] = 512
    """Rows per task of the ranking stage."""

    @model_validator(mode="before")
    @classmethod
    def _audit_data(cls, value: Any) -> Any:
        """Fill in ``data`` and ``test`` of the base models' training."""
        if not isinstance(value, dict) or not isinstance(value.get("models"), dict):
            return value
        own = {key: _sound(value.get(key)) for key in ("data", "test")}

        def filled(model: Any) -> Any:
            if not isinstance(model, dict) or not isinstance(model.get("train"), dict):
                return model
            return {**model, "train": {**own, **model["train"]}}

        return {**value, "models": {name: filled(m) for name, m in value["models"].items()}}

    @model_validator(mode="after")
    def _consistent(self) -> DiffRoarManifest:
        check_unique_ids(self.methods)
        for method in self.methods:
            if method.name in _BASELINES:
                raise ValueError(
                    f"methods: '{method.name}' needs no base model; it stands under 'baselines'"
                )
        for name in ("levels", "baselines"):
            given = getattr(self, name)
            if len(set(given)) != len(given):
                raise ValueError(f"{name}: a value stands there twice")
        if self.levels != sorted(self.levels):
            raise ValueError("levels: give them in ascending order")
        for name in self.models:
            if name in _BASELINES:
                raise ValueError(f"models: '{name}' is the name of a baseline; use another")
        if not (self.data.has_masks and self.test.has_masks):
            for name in self.baselines:
                if name in ("signal_first", "null_first"):
                    raise ValueError(f"baselines: '{name}' needs data and test with masks")
        for name, model in self.models.items():
            if model.train is None and self.retrain is None:
                raise ValueError(
                    f"models: '{name}' has no 'train' block to take the recipe from; "
                    "say under 'retrain' how to retrain (or false)"
                )
        if self.preprocess == "weights":
            weights = [model.weights or "" for model in self.models.values()]
            if len(weights) != 1 or not weights[0].startswith("torchvision:"):
                raise ValueError(
                    "preprocess: 'weights' needs exactly one base model, with weights "
                    "'torchvision:...'"
                )
        return self


def _sound(data: Any) -> Any:
    """``data``, or any data set in its place if it is faulty or missing: that is told once, not
    again for every model."""
    try:
        _DATA.validate_python(data)
    except ValidationError:
        return {"format": "digits"}
    return data
