"""Sources: where the gradients of a method come from."""

from __future__ import annotations

from dataclasses import dataclass

from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.procedure import Procedure
from gradattr.attribution.reductions import Reduction
from gradattr.attribution.sampling import AtInput, Sampling


@dataclass(frozen=True)
class RandomScores:
    """No gradient at all: N(0, 1), drawn afresh for each sample."""

    evaluations = 0


@dataclass(frozen=True, eq=False)
class OtherModel:
    """The gradient at x of another model's logit, for the class that the explained model fixes."""

    evaluator: Evaluator
    evaluations = 1


Source = AtInput | Sampling | Procedure | RandomScores | OtherModel

#: The reduction of a procedure is not used: it makes its maps itself.
Recipe = tuple[Source, Reduction]
