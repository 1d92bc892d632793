"""Procedures: methods that are not a sum of gradients at points known beforehand.

Some find their own path, some change how the network differentiates, some look inside it, some only
ask for its answers. All get a block of samples and the scalar that is explained, and return maps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from gradattr.attribution.block import Block
from gradattr.attribution.paths.path_facts import PathFacts
from gradattr.attribution.target import Objective


class Made(NamedTuple):
    """What a method has made of n samples."""

    maps: Tensor
    """(n, ...) like the samples, or (n, 1, H, W) where the method knows no channels."""
    baseline_score: Tensor | None = None
    """(n,) the score that the maps are complete against, of methods that claim completeness."""
    facts: PathFacts | None = None
    """Of a path, if there is one."""
    degenerate: Tensor | None = None
    """(n,) bool: samples at which the method has nothing to go by; their maps are not kept."""


class Procedure(ABC):
    """A method that makes its maps itself; a frozen value: comparable, hashable, without tensors
    of its own."""

    @abstractmethod
    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        """Model evaluations per sample, at most, for a model of so many classes and samples of
        this shape: an evaluation is a forward pass, with a backward pass where it needs one."""

    @abstractmethod
    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        """Attribute the samples of a block; ``index`` (n,) are the classes explained.

        At most ``block.batch_size`` points are evaluated at a time. No row of the result depends
        on the other rows, or on how many there are. The network is left as it was: its modes, its
        parameters, their gradients, its hooks.
        """

    def obstacle(self, network: nn.Module, x: Tensor) -> str | None:
        """Why the method would say something misleading about this network, or nothing at all:
        the end of the sentence "method 'm' does not fit the model: ...". None if it fits.

        ``network`` is in eval mode and left as it was; ``x`` (n, ...) are a few inputs to try.
        """
        return None

    def chosen(self, network: nn.Module, x: Tensor) -> str | None:
        """What the method has chosen by itself on a network that it fits, for people and for the
        run's record: "layer 'features.3'". None if there was nothing to choose."""
        return None
