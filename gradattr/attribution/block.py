"""A block: the few samples that are worked on at a time, and what their passes have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gradattr.attribution.baselines import Normalization, Sample
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.paths.unlearning import Start, Unlearned
from gradattr.attribution.target import Objective


class Origin(NamedTuple):
    """Where paths start: x' (n, ...), its stem output (n, h), its logits (n, classes)."""

    x: Tensor
    h: Tensor
    logits: Tensor


@dataclass
class Shared:
    """What is the same for every sample of a call, and outlives a block."""

    origins: dict[Start, Origin] = field(default_factory=dict)
    """Of baselines that are the same for all; n = 1."""
    pools: dict[Sample, Tensor] = field(default_factory=dict)
    """Logits (p, classes) of pools."""
    zero: Tensor | None = None
    """Logits (1, classes) of the input 0."""


@dataclass
class Known:
    """What has been found out about the samples of a block."""

    origins: dict[Start, Origin] = field(default_factory=dict)
    unlearned: dict[Unlearned, Tensor] = field(default_factory=dict)


@dataclass
class Block:
    """At most ``batch_size`` samples x (n, ...), with what is computed for them only once."""

    evaluator: Evaluator
    x: Tensor
    seeds: Sequence[int]
    normalization: Normalization
    batch_size: int
    shared: Shared
    logits: Tensor | None = None
    """(n, classes) at the samples, where they are known already."""
    known: Known = field(default_factory=Known)

    @cached_property
    def h(self) -> Tensor:
        """Stem outputs of the samples, (n, h)."""
        return self.evaluator.stem(self.x)

    @cached_property
    def predicted(self) -> Tensor:
        """(n,) the predicted classes."""
        return self.own_logits.argmax(1)

    @cached_property
    def own_logits(self) -> Tensor:
        """(n, classes) at the samples."""
        if self.logits is not None:
            return self.logits
        return self.evaluator.logits_and_gradients(self.h, ())[0]

    def draw(self, baseline: Start, copy: int) -> Tensor:
        """Draw number ``copy`` of x', (n, ...)."""
        if isinstance(baseline, Unlearned):
            if baseline not in self.known.unlearned:
                self.known.unlearned[baseline] = baseline.find(
                    self.evaluator, self.x, self.predicted
                )
            return self.known.unlearned[baseline]
        return baseline.draw(self.x, self.seeds, copy, self.normalization)

    def start(self, baseline: Start) -> Tensor:
        """Where a path from ``baseline`` starts, (n, ...): its first draw, of a pool the first one
        that is another image."""
        if isinstance(baseline, Sample):
            return baseline.draw_other(self.x, self.seeds, self.normalization)
        return self.draw(baseline, 0)

    def origin(self, baseline: Start) -> Origin:
        """The start of ``baseline``, evaluated once however many methods start there."""
        if baseline not in self.known.origins:
            x = self.start(baseline)
            if baseline.same_for_all:
                if baseline not in self.shared.origins:
                    self.shared.origins[baseline] = self.evaluated(x[:1])
                one = self.shared.origins[baseline]
                origin = Origin(x, one.h.expand_as(self.h), one.logits.expand(len(x), -1))
            else:
                origin = self.evaluated(x)
            self.known.origins[baseline] = origin
        return self.known.origins[baseline]

    def mean_score(
        self, baseline: Start, draws: int, index: Tensor, objective: Objective
    ) -> Tensor:
        """(n,) mean of the target scalar over the pool, or over the first ``draws`` draws."""
        if not baseline.varies:
            return objective(self.origin(baseline).logits, index)
        if isinstance(baseline, Sample):
            logits = self._pool_logits(baseline)
            means = {
                c: objective(logits, torch.full_like(logits[:, 0], c, dtype=torch.long)).mean()
                for c in set(index.tolist())
            }
            return torch.stack([means[c] for c in index.tolist()])
        total = torch.zeros_like(index, dtype=self.x.dtype)
        for copy in range(draws):
            logits = self.evaluator.logits(self.draw(baseline, copy))
            total += objective(logits, index) / draws
        return total

    def zero_logits(self) -> Tensor:
        """(n, classes) logits of the input 0."""
        if self.shared.zero is None:
            self.shared.zero = self.evaluator.logits(torch.zeros_like(self.x[:1]))
        return self.shared.zero.expand(len(self.x), -1)

    def evaluated(self, x: Tensor) -> Origin:
        """Where the path of these points (n, ...) starts, with a forward pass there."""
        h = self.evaluator.stem(x)
        logits, _ = self.evaluator.logits_and_gradients(h, ())
        return Origin(x, h, logits)

    def _pool_logits(self, baseline: Sample) -> Tensor:
        if baseline not in self.shared.pools:
            parts = torch.split(baseline.pool, self.batch_size)
            self.shared.pools[baseline] = torch.cat(
                [self.evaluator.logits(part.to(self.x)) for part in parts]
            )
        return self.shared.pools[baseline]
