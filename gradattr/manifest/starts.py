"""``baselines:`` of kind patching -- what a prompt's run is patched into."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gradattr.manifest.base import Label, Spec

Above = Annotated[float, Field(gt=0)]


class StartBase(Spec):
    """Fields that every baseline shares."""

    id: Label | None = None
    """Name in the tables. Default: the baseline's own name."""


class UniStart(StartBase):
    """UNI: the point nearby in embedding space where the model answers as if it had unlearned the
    answer."""

    baseline: Literal["uni"]
    eta: Above = 1.0
    """Length of the unlearning step, over all parameters."""
    iterations: Annotated[int, Field(ge=1, le=1000)] = 10
    """Steps towards the unlearned answer."""
    eps: Above = 0.25
    """Distance from the prompt, over all its tokens: Euclidean, in embedding space."""
    mu: Above = 0.1
    """Size of a step."""


class ZeroStart(StartBase):
    """Every embedding 0."""

    baseline: Literal["zero"]


class RandomStart(StartBase):
    """A random prompt in embedding space: a function of the manifest's seed, this baseline's id
    and the sample's, so that another id is another draw."""

    baseline: Literal["random"]
    at: Literal["norm", "sphere"] = "norm"
    """'norm': every token's embedding becomes a Gaussian vector of the same norm; 'sphere': the
    prompt plus a random vector of norm eps, as far away as UNI's baseline."""
    eps: Above = 0.25
    """Radius of the sphere."""


class NoiseStart(StartBase):
    """The prompt plus Gaussian noise at every token (causal tracing, Meng et al. 2022)."""

    baseline: Literal["noise"]
    sigma: Above = 3.0
    """In standard deviations of all tokens' embeddings."""


class MeanStart(StartBase):
    """Every token's embedding becomes the mean over the vocabulary."""

    baseline: Literal["mean"]


class CorruptedStart(StartBase):
    """Another prompt of as many tokens, in the data's column 'corrupted'."""

    baseline: Literal["corrupted"]


AnyStart = Annotated[
    UniStart | ZeroStart | RandomStart | NoiseStart | MeanStart | CorruptedStart,
    Field(discriminator="baseline"),
]


def _expand_start(value: Any) -> Any:
    """``uni`` is short for ``{baseline: uni}``."""
    return {"baseline": value} if isinstance(value, str) else value


StartSpec = Annotated[AnyStart, BeforeValidator(_expand_start)]


def start_id(start: AnyStart) -> str:
    """The value of the 'baseline' column."""
    return start.id or start.baseline


def check_unique_starts(starts: list[AnyStart]) -> None:
    """ValueError if two baselines would have the same name in the tables."""
    names = [start_id(start) for start in starts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"baselines: '{twice}' stands there twice; give one of them an 'id'")
