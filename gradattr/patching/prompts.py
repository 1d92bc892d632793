"""Prompts in embedding space, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradattr.patching.language_model import LanguageModel


@dataclass(frozen=True)
class PromptBatch:
    """n prompts x (n, L, d) of ``lengths`` (n,) tokens; zeros after a prompt's end."""

    x: Tensor
    lengths: Tensor
    """(n,) int64, at least 1 each."""
    answer: Tensor
    """(n,) the token whose score is explained."""
    seeds: tuple[int, ...]
    """One for each prompt: all that random baselines depend on."""
    foil: Tensor | None = None
    """(n,) the token that 'logit_difference' subtracts."""
    corrupted: Tensor | None = None
    """(n, L, d) other prompts of the same lengths, where there are."""

    def __post_init__(self) -> None:
        n, longest = self.x.shape[:2]
        if not len(self.seeds) == len(self.lengths) == len(self.answer) == n:
            raise ValueError(f"{n} prompts, but other numbers of lengths, answers or seeds")
        if n and not 1 <= int(self.lengths.min()) <= int(self.lengths.max()) <= longest:
            raise ValueError(f"lengths: expected 1 to {longest}, as many positions as x has")
        if self.corrupted is not None and self.corrupted.shape != self.x.shape:
            raise ValueError("corrupted: expected a prompt of equal length for every prompt")

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        tokens: Sequence[Sequence[int]],
        answer: Sequence[int],
        seeds: Sequence[int],
        *,
        foil: Sequence[int] | None = None,
        corrupted: Sequence[Sequence[int]] | None = None,
    ) -> PromptBatch:
        """From tokens; ``corrupted`` has as many tokens as ``tokens``, prompt by prompt."""
        other = None
        if corrupted is not None:
            if [len(row) for row in corrupted] != [len(row) for row in tokens]:
                raise ValueError("corrupted: expected a prompt of equal length for every prompt")
            other = _embedded(model, corrupted)
        device = model.device
        return cls(
            _embedded(model, tokens),
            torch.tensor([len(row) for row in tokens], device=device),
            torch.tensor(answer, device=device),
            tuple(seeds),
            None if foil is None else torch.tensor(foil, device=device),
            other,
        )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def last(self) -> Tensor:
        """(n,) the position that answers."""
        return self.lengths - 1

    @property
    def real(self) -> Tensor:
        """(n, L) bool: positions that are no padding."""
        places = torch.arange(self.x.shape[1], device=self.x.device)
        return places[None] < self.lengths[:, None]

    def part(self, start: int, stop: int) -> PromptBatch:
        """Prompts ``start`` to ``stop`` - 1, as long as the longest of them."""
        lengths = self.lengths[start:stop]
        longest = int(lengths.max())
        return PromptBatch(
            self.x[start:stop, :longest],
            lengths,
            self.answer[start:stop],
            self.seeds[start:stop],
            None if self.foil is None else self.foil[start:stop],
            None if self.corrupted is None else self.corrupted[start:stop, :longest],
        )


def _embedded(model: LanguageModel, tokens: Sequence[Sequence[int]]) -> Tensor:
    longest = max(len(row) for row in tokens)
    ids = torch.zeros(len(tokens), longest, dtype=torch.long, device=model.device)
    for row, own in zip(ids, tokens, strict=True):
        row[: len(own)] = torch.tensor(own)
    lengths = torch.tensor([len(row) for row in tokens], device=model.device)
    real = torch.arange(longest, device=model.device)[None] < lengths[:, None]
    with torch.no_grad():
        return model.embed(ids).detach() * real[:, :, None]
