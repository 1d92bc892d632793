"""``kind: tfa`` -- which training images, and which of their pixels, moved a prediction?"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from gradattr.manifest.base import Seed, Spec
from gradattr.manifest.common import ManifestBase
from gradattr.manifest.data import DataSpec, Preprocess
from gradattr.manifest.model import ModelSpec
from gradattr.manifest.operation import Errors
from gradattr.manifest.scores import (
    GradientScore,
    ScoreSpec,
    TracInScore,
    check_unique_scores,
    score_id,
)
from gradattr.manifest.training_maps import MapSpec, StepTest, TfaMap, check_unique_maps

_DATA: TypeAdapter[Any] = TypeAdapter(DataSpec)

Positive = Annotated[int, Field(gt=0)]


class Queries(Spec):
    """The predictions that are to be explained."""

    data: DataSpec
    """Where they come from; pre-processed like the training data."""
    ids: list[str] | None = Field(default=None, min_length=1, max_length=10_000)
    """Just these sample ids, in this order."""
    select: Literal["all", "misclassified", "correct"] = "all"
    """Which of them, by what the model says."""
    classes: list[str | Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """Only of these true classes (names or numbers). Default: any."""
    per_class: Positive | None = None
    """At most so many of each true class."""
    count: Positive = 100
    """At most so many in all: a bound that the plan needs."""
    order: Literal["random", "row", "loss"] = "random"
    """Which come first: seeded by their ids, by row number, or the highest loss."""
    target: Literal["loss_true", "loss_pred", "logit_true", "logit_pred"] = "loss_true"
    """What a helpful training image improves: the loss at the true or at the predicted label, or
    that label's logit."""

    @model_validator(mode="after")
    def _ids_alone(self) -> Queries:
        if self.ids is None:
            return self
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("ids: a sample stands there twice")
        others = {"select", "classes", "per_class", "count", "order"} & self.model_fields_set
        others = {name for name in others if getattr(self, name) != _DEFAULTS[name]}
        if others:
            raise ValueError(f"ids say which queries; leave out {', '.join(sorted(others))}")
        return self

    @property
    def bound(self) -> int:
        """Queries at most."""
        return len(self.ids) if self.ids is not None else self.count


_DEFAULTS = {name: field.default for name, field in Queries.model_fields.items()}


class Index(Spec):
    """A sketch of every training gradient, kept so that later queries are answered without a pass
    over the training set."""

    buckets: Annotated[int, Field(ge=16, le=65_536)] = 4096
    """float16 values per training image."""
    seed: Seed = 0
    """Draws buckets and signs."""
    candidates: Positive = 50
    """Training images of either side that are scored exactly after ranking by sketches."""
    recall_queries: Annotated[int, Field(ge=0)] = 10
    """Queries of this run on which the index's answers are compared with the exact ones."""
    recall_top: Positive = 20
    """Of how many highest (and lowest) scores the share that is found is told."""


def _grad_cos() -> list[ScoreSpec]:
    return [GradientScore(score="grad_cos")]


def _smoothed() -> list[MapSpec]:
    return [TfaMap(map="tfa")]


class TfaManifest(ManifestBase):
    """Training data attribution of a set of queries, and saliency maps of the training images that
    helped and harmed them most."""

    kind: Literal["tfa"]
    data: DataSpec
    """The training examples that are scored: the training set, or a pool of others."""
    queries: Queries
    """The predictions that are to be explained."""
    preprocess: Preprocess | Literal["weights"] = Field(default_factory=Preprocess)
    """From pixels to model input; 'weights': the transforms of torchvision's published weights."""
    model: ModelSpec
    """What is explained. In its 'train' block 'data' may be left out: it is then this manifest's
    'data'."""
    scores: list[ScoreSpec] = Field(default_factory=_grad_cos, min_length=1, max_length=16)
    """How much a training example helps (positive) or harms (negative) a query."""
    parameters: list[str] | None = Field(default=None, min_length=1)
    """Patterns of parameter names ('fc.*'): gradients in these alone. Default: in all."""
    keep: Annotated[
        str, Field(pattern=r"^(full|none|top:[1-9][0-9]{0,5}|above:[0-9]*\.?[0-9]+(e-?[0-9]+)?)$")
    ] = "top:100"
    """Which scores stand in the table 'tda_scores': all ('full'), the k highest and lowest of each
    query ('top:<k>'), those of at least this magnitude ('above:<score>'), or 'none'."""
    top: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Most helpful, and most harmful, training images of each query that become pairs."""
    maps: list[MapSpec] = Field(default_factory=_smoothed, max_length=16)
    """Maps of each pair's training image. The others are compared with the first. Empty: none."""
    localisation_level: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of training data with masks: the share of the highest-ranked pixels that is looked up in
    the marked region."""
    insertion: StepTest | None = None
    """Insertion and deletion tests of the maps. Default: none."""
    index: Index | None = None
    """Build an index for later queries. Default: none."""
    index_of: Annotated[str, Field(pattern=r"^run:[A-Za-z0-9._-]+$")] | None = None
    """'run:<run id>': rank through the index of that run; only the best candidates are read and
    scored."""
    shard_rows: Annotated[int, Field(gt=0, le=100_000)] = 512
    """Training examples per task of the scoring stage."""
    query_block: Annotated[int, Field(gt=0, le=10_000)] = 256
    """Queries per task of the scoring stage. Every block is a pass over the training data."""
    map_queries: Annotated[int, Field(gt=0, le=10_000)] = 8
    """Queries per task of the mapping stage."""
    errors: Errors = Field(default_factory=Errors)

    @model_validator(mode="before")
    @classmethod
    def _training_data(cls, value: Any) -> Any:
        """Fill in ``data`` of the model's training."""
        if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
            return value
        model = value["model"]
        if not isinstance(model.get("train"), dict):
            return value
        # Not the queries as test data: other queries would make it another training.
        own = {"data": _sound(value.get("data"))}
        return {**value, "model": {**model, "train": {**own, **model["train"]}}}

    @model_validator(mode="after")
    def _consistent(self) -> TfaManifest:
        check_unique_scores(self.scores)
        check_unique_maps(self.maps)
        self._check_checkpoints()
        self._check_index()
        if self.model.train is not None and self.model.train.permute_labels is not None:
            raise ValueError(
                "model.train.permute_labels: the model would learn other labels than its training "
                "examples have, and their gradients would not be what it learned from; leave it out"
            )
        if self.preprocess == "weights" and not (self.model.weights or "").startswith(
            "torchvision:"
        ):
            raise ValueError(
                "preprocess: 'weights' needs a model whose weights are 'torchvision:...'"
            )
        if self.insertion is not None:
            if not self.maps:
                raise ValueError("insertion: there are no maps to test; state some under 'maps'")
            known = self.preprocess == "weights" or self.preprocess.mean is not None
            if self.insertion.fill is None and not known:
                raise ValueError(
                    "insertion: removed pixels become the data's mean, which nothing tells: state "
                    "preprocess.mean and std, or insertion.fill"
                )
        return self

    def _check_checkpoints(self) -> None:
        if (self.model.weights or "").startswith("run:"):
            return  # that run says what it has kept
        kept = [] if self.model.train is None else self.model.train.keep_epochs
        for score in self.scores:
            if not isinstance(score, TracInScore) or score.checkpoints is not None:
                continue
            missing = sorted(set(score.epochs or ()) - set(kept))
            if not kept or missing:
                named = f" {', '.join(map(str, missing))}" if missing else ""
                raise ValueError(
                    f"scores: '{score_id(score)}' needs the weights after epochs{named}: state "
                    "them in model.train.keep_epochs, or give files under 'checkpoints'"
                )

    def _check_index(self) -> None:
        if self.index is not None and self.index_of is not None:
            raise ValueError("give either index (build one) or index_of (use one), not both")
        if self.index is None and self.index_of is None:
            return
        key = "index" if self.index is not None else "index_of"
        if not any(isinstance(score, GradientScore) for score in self.scores):
            raise ValueError(f"{key}: sketches estimate grad_cos and grad_dot; score one of them")
        if self.index_of is None:
            return
        for score in self.scores:
            if not isinstance(score, GradientScore):
                raise ValueError(
                    f"scores: '{score_id(score)}' is not in an index; only grad_cos and grad_dot"
                )
        if not (self.keep == "none" or self.keep.startswith("top:")):
            raise ValueError("keep: an index finds the highest and lowest scores; use top:<k>")


def _sound(data: Any) -> Any:
    """``data``, or any data set in its place if it is faulty or missing: that is told once, not
    again for the model."""
    try:
        _DATA.validate_python(data)
    except ValidationError:
        return {"format": "digits"}
    return data
