"""What there is to say of a method, and sentences that many of them share. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

DIFFERENTIABLE = "differentiable from logits to input"
LABELS = "labels, for the targets '*_true'"
NEEDS = (DIFFERENTIABLE, LABELS)
SATURATED = "target 'prob_*' or 'loss_*' of a certain model (p = 1): gradients vanish"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method; ``default`` None: it has to be given, or the text says what."""

    name: str
    default: int | float | str | None
    meaning: str


@dataclass(frozen=True)
class MethodInfo:
    """One entry of the catalogue.

    In formulas: x input, f the target scalar, g = ∇f, x' baseline, ⊙ elementwise product,
    n_k ~ N(0, I), E mean over the steps k.
    """

    name: str
    formula: str
    source: str
    cost: int | str | None
    """Model evaluations per image: a number, or a sum of products of numbers and parameters, such
    as 'steps + 2'; None where it depends on the image's size or the model."""
    cost_text: str
    needs: tuple[str, ...]
    completeness: bool
    """Whether the map claims to add up to a difference of scores, so that the gap is reported."""
    completeness_text: str
    degenerates: tuple[str, ...]
    """Models and inputs on which the map says less than it seems to."""
    parameters: tuple[Parameter, ...] = ()
    per_pixel: bool = False
    """Whether maps have one value per pixel (n, 1, H, W), for all channels together."""
    contributions: bool = False
    """Whether a value says how much of the score a coordinate is worth as against a reference (0,
    or the method's baseline), and not how steeply the score changes with it: measured in other
    units, x has the same contributions and other slopes."""

    def evaluations(self, parameters: Mapping[str, object] | None = None) -> int:
        """Model evaluations per image with these parameters, else the defaults.

        Raises ValueError if the parameter that sets the cost is not a number, and if the cost is
        not set by parameters alone.
        """
        if self.cost is None:
            raise ValueError(f"method '{self.name}': the cost is {self.cost_text}")
        if isinstance(self.cost, int):
            return self.cost
        defaults = {parameter.name: parameter.default for parameter in self.parameters}
        given = defaults | dict(parameters or {})
        return sum(
            prod(self._factor(word, given) for word in term.split(" * "))
            for term in self.cost.split(" + ")
        )

    def _factor(self, word: str, given: Mapping[str, object]) -> int:
        value = int(word) if word.isdigit() else given[word]
        if not isinstance(value, int):
            raise ValueError(f"method '{self.name}': {word} is {value!r}, a number expected")
        return value
