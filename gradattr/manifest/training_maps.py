"""``maps:`` of ``kind: tfa`` -- maps of training images, and how they are judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gradattr.manifest.base import Label, Spec
from gradattr.manifest.baselines import SampleBaseline
from gradattr.manifest.method_base import Target
from gradattr.manifest.methods import LinearMethod, MethodSpec

Positive = Annotated[int, Field(gt=0)]

Side = Literal["helpful", "harmful"]

StepTestName = Literal["insertion", "deletion"]


class MapBase(Spec):
    """Fields that every map shares."""

    id: Label | None = None
    """Value of the column 'map_method'. Default: the map's name."""


class TfaMap(MapBase):
    """Training feature attribution: the gradient of the score in the pixels of the training image,
    averaged over noisy copies of it."""

    map: Literal["tfa"]
    samples: Positive = 50
    """Noisy copies (SmoothGrad). 1 with sigma 0: the plain gradient."""
    sigma: Annotated[float, Field(ge=0)] = 0.1
    """Standard deviation of the noise as a share of the range of the model's input."""
    of: Literal["score", "grad_cos", "grad_dot"] = "score"
    """What is differentiated: the score that has chosen the pair (of 'random' and 'relatif':
    grad_cos), or one of these. The cosine is flat where two gradients agree, so its map is blank on
    what the images share; that of the product is not."""
    times_input: bool = False
    """Input x map."""
    layer: str | None = Field(default=None, min_length=1)
    """Name of a module: a map of its output in place of the pixels, averaged over channels and
    upsampled."""
    reading: Literal["gradient", "agreement"] = "gradient"
    """Of a layer: the gradient of the score in its output; or at each location the cosine of the
    two losses' gradients in it (without noise)."""

    @model_validator(mode="after")
    def _layer_alone(self) -> TfaMap:
        if self.layer is None and self.reading != "gradient":
            raise ValueError("reading: 'agreement' is of a layer; name it under 'layer'")
        if self.layer is not None and self.times_input:
            raise ValueError("times_input: a layer's map has no input to be multiplied with")
        return self


class TwoStepMap(MapBase):
    """The baseline: the score chooses the training image, an ordinary attribution of the model's
    output there explains it, whatever the query."""

    map: Literal["two_step"]
    method: MethodSpec
    """Any method without a pool of baseline images."""
    target: Target = "loss_true"
    """What is differentiated at the training image."""

    @model_validator(mode="after")
    def _self_contained(self) -> TwoStepMap:
        pooled = isinstance(getattr(self.method, "baseline", None), SampleBaseline)
        if pooled or isinstance(self.method, LinearMethod):
            raise ValueError(
                f"method '{self.method.name}' needs a model or a pool of its own; a two-step map "
                "takes methods without (give it another baseline)"
            )
        return self


AnyMap = Annotated[TfaMap | TwoStepMap, Field(discriminator="map")]


def _expand_map(value: Any) -> Any:
    return {"map": value} if isinstance(value, str) else value


MapSpec = Annotated[AnyMap, BeforeValidator(_expand_map)]


def map_id(spec: AnyMap) -> str:
    """The value of the column 'map_method'."""
    return spec.id or spec.map


def check_unique_maps(maps: Sequence[AnyMap]) -> None:
    """Raise ValueError if two maps would have the same value in the column 'map_method'."""
    ids = [map_id(spec) for spec in maps]
    twice = sorted({label for label in ids if ids.count(label) > 1})
    if twice:
        raise ValueError(
            f"maps: {', '.join(twice)} stands there more than once; give each an 'id' of its own"
        )


def _insertion() -> list[StepTestName]:
    return ["insertion"]


def _helpful() -> list[Side]:
    return ["helpful"]


def _tenths() -> list[float]:
    return [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


class StepTest(Spec):
    """Insertion and deletion: a step of SGD on the training image with only its highest-ranked
    pixels kept (or with them removed) moves the query's loss; so does one with as many pixels at
    random. Of helpful images the map ranks, of harmful ones minus the map; of two-step maps, which
    have no such sign, the magnitude. What a kept pixel does is, to first order, its value over the
    fill times the map: with the default fill, maps with times_input rank best."""

    tests: list[StepTestName] = Field(default_factory=_insertion, min_length=1)
    levels: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=_tenths, min_length=1, max_length=100
    )
    """Shares of the pixels that are kept (insertion) or removed (deletion)."""
    steps: list[Positive] = Field(default_factory=lambda: [1], min_length=1)
    """Steps of plain SGD on the one image, each number a test of its own."""
    lr: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate of a step."""
    sides: list[Side] = Field(default_factory=_helpful, min_length=1)
    fill: float | Annotated[list[float], Field(min_length=1)] | None = None
    """What a removed pixel becomes, in units of the model's input; one number, or one per channel.
    Default: the data set's mean, which is 0 after preprocess.mean (so that must be stated)."""

    @model_validator(mode="after")
    def _ordered(self) -> StepTest:
        for name in ("tests", "levels", "steps", "sides"):
            given = getattr(self, name)
            if len(set(given)) != len(given):
                raise ValueError(f"{name}: a value stands there twice")
        if self.levels != sorted(self.levels):
            raise ValueError("levels: give them in ascending order")
        return self
