"""Walks: paths that depend on the gradients met on the way, so that no step is known before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Self

from torch import Tensor

from gradattr.attribution.block import Block
from gradattr.attribution.path_facts import PathFacts
from gradattr.attribution.target import Objective


class Walked(NamedTuple):
    """Maps (n, ...), the score (n,) at the other end, and facts of the path, if any."""

    maps: Tensor
    baseline_score: Tensor | None
    facts: PathFacts | None = None


class Walk(ABC):
    """A method that finds its own way; comparable, hashable."""

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Forward-and-backward passes per sample, at most."""

    @abstractmethod
    def walk(self, block: Block, index: Tensor, objective: Objective) -> Walked:
        """Attribute the samples of a block; ``index`` (n,) are the classes explained."""

    def among(self, classes: int) -> Self:
        """The same walk on a model of so many classes, where its cost depends on them."""
        return self
