"""``scores:`` of ``kind: tfa`` -- how much each training example helps or harms a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gradattr.manifest.base import Label, Seed, Sha256, Spec

Positive = Annotated[int, Field(gt=0)]
Damping = Annotated[float, Field(gt=0)]


class ScoreBase(Spec):
    """Fields that every score shares."""

    id: Label | None = None
    """Value of the column 'method'. Default: the score's name."""


class GradientScore(ScoreBase):
    """grad-cos: the cosine of the two gradients of the loss; grad-dot: their product."""

    score: Literal["grad_cos", "grad_dot"]


class CheckpointSpec(Spec):
    """Weights of the model at one moment of its training."""

    weights: str
    """URL of a .safetensors or state-dict file."""
    sha256: Sha256 | None = None
    """Expected digest of the file; refused if it differs."""
    lr: Annotated[float, Field(gt=0)]
    """Learning rate of the steps around it."""


class TracInScore(ScoreBase):
    """TracIn (Pruthi et al. 2020): grad-dot summed over checkpoints, times their learning rates."""

    score: Literal["tracin"]
    epochs: list[Positive] | None = Field(default=None, min_length=1)
    """Epochs of the model's own training, among its train.keep_epochs. Default: all of these."""
    checkpoints: list[CheckpointSpec] | None = Field(default=None, min_length=1)
    """In their place: files of weights."""

    @model_validator(mode="after")
    def _one_source(self) -> TracInScore:
        if self.epochs is not None and self.checkpoints is not None:
            raise ValueError("give either epochs or checkpoints, not both")
        return self


class InfluenceScore(ScoreBase):
    """influence: u^T (C + damping I)^-1 g, positive = helpful (Koh & Liang 2017 with the opposite
    sign); relatif: the same over ||(C + damping I)^-1 g|| (Barshan et al. 2020)."""

    score: Literal["influence", "relatif"]
    damping: Damping = 0.01
    """Added to the curvature's diagonal."""
    inverse: Literal["ekfac", "cg"] = "ekfac"
    """'ekfac': Kronecker-factored eigenbasis with corrected eigenvalues (George et al. 2018), an
    approximation; 'cg': conjugate gradients, to the tolerance; of 'relatif' an inverse for every
    training example: for small models."""
    matrix: Literal["gauss_newton", "hessian"] = "gauss_newton"
    """Curvature of 'cg'. 'ekfac' is an approximation of gauss_newton."""
    examples: Positive | None = 2000
    """Training examples, drawn at random, that the curvature is estimated from. null: all."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """'cg': residual relative to the gradient at which it stops."""
    max_steps: Positive = 100
    """'cg': steps at most."""

    @model_validator(mode="after")
    def _matrix_of_ekfac(self) -> InfluenceScore:
        if self.inverse == "ekfac" and self.matrix != "gauss_newton":
            raise ValueError("inverse 'ekfac' approximates matrix 'gauss_newton'; use inverse: cg")
        return self


class RandomScore(ScoreBase):
    """Uniform numbers in [-1, 1), a function of the two sample ids: the control."""

    score: Literal["random"]
    seed: Seed = 0


AnyScore = Annotated[
    GradientScore | TracInScore | InfluenceScore | RandomScore, Field(discriminator="score")
]


def _expand_score(value: Any) -> Any:
    return {"score": value} if isinstance(value, str) else value


ScoreSpec = Annotated[AnyScore, BeforeValidator(_expand_score)]


def score_id(score: AnyScore) -> str:
    """The value of the column 'method'."""
    return score.id or score.score


def check_unique_scores(scores: Sequence[AnyScore]) -> None:
    """Raise ValueError if two scores would have the same value in the column 'method'."""
    ids = [score_id(score) for score in scores]
    twice = sorted({label for label in ids if ids.count(label) > 1})
    if twice:
        raise ValueError(
            f"scores: {', '.join(twice)} stands there more than once; give each an 'id' of its own"
        )
