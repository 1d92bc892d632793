"""What a training pass learns from: batches of masked, augmented images on the device.

Everything random in an epoch is a function of (recipe.seed, epoch), for the whole batch, whichever
process computes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradattr.errors import DataError
from gradattr.retraining import augmentation
from gradattr.retraining.adversary import random_start
from gradattr.retraining.masking import Masking
from gradattr.retraining.recipe import Recipe
from gradattr.retraining.team import Team
from gradattr.seeds import derive_seed

#: Share of a GPU's free memory that a data set may take; above it, batches are copied one by one.
_RESIDENT_SHARE = 0.5

#: Bytes of a data set on the CPU that is masked as a whole, a copy; a larger one is masked batch by
#: batch, which costs a small network on small images up to a sixth of an epoch.
MASKED_BYTES = 2**30


@dataclass(frozen=True)
class TrainingBatch:
    """A batch, or a process' share of it."""

    x: Tensor
    """(b, c, h, w): ready for the model."""
    y: Tensor
    weight: float
    """Of the sum of the images' losses, where several processes share a batch; 0: they are
    another's."""
    start: Tensor | None
    """(b, c, h, w): where the adversary's search begins, if at random."""


@dataclass(frozen=True)
class TrainingData:
    """Images x (n, c, h, w), labels y (n,) and their masks, where there is room for them."""

    x: Tensor
    y: Tensor
    masking: Masking | None
    device: torch.device

    @classmethod
    def on(
        cls, device: torch.device, x: Tensor, y: Tensor, masking: Masking | None
    ) -> TrainingData:
        """The data set on the device if there is room for it, else where it is."""
        x = resident(x, device)
        if masking is not None and x.device == device:
            masking = masking.to(device)
            # Where a data set is on a GPU, there is room for a copy too.
            if device.type != "cpu" or x.nbytes <= MASKED_BYTES:
                x, masking = masking.masked_copy(x), None
        return cls(x, y.to(device), masking, device)

    def batches(
        self, recipe: Recipe, epoch: int, team: Team, layout: torch.memory_format
    ) -> Iterator[TrainingBatch]:
        """This process' share of every batch of an epoch."""
        count = len(self.y)
        generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "order", epoch))
        order = torch.randperm(count, generator=generator)
        augment = recipe.augment
        draws = None if augment is None else augmentation.draw(augment, count, recipe.seed, epoch)
        for begin, end in batch_bounds(count, recipe.batch_size):
            part, weight = team.share(end - begin)
            rows = order[begin:end][part]
            x = self._images(rows)
            if augment is not None and draws is not None:
                x = augmentation.apply(augment, x, draws.select(rows))
            if x.dim() == 4:
                x = x.contiguous(memory_format=layout)
            start = self._attack_start(recipe, epoch, begin, end)
            yield TrainingBatch(
                x,
                self.y.index_select(0, rows.to(self.device)),
                weight,
                None if start is None else start[part],
            )

    def _attack_start(self, recipe: Recipe, epoch: int, begin: int, end: int) -> Tensor | None:
        if recipe.adversary is None:
            return None
        seed = derive_seed(recipe.seed, "adversary", epoch, begin)
        return random_start(recipe.adversary, (end - begin, *self.x.shape[1:]), seed)

    def _images(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.x.device)
        x = self.x.index_select(0, rows)
        if self.masking is not None:
            x = self.masking.apply(x, self.masking.bins.index_select(0, rows))
        return x.to(self.device)


def batch_bounds(count: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Where batches begin and end. A last batch of one image joins the one before it: batch-norm
    cannot normalise a single value, and its gradient would be as noisy as it is rare."""
    start = 0
    while start < count:
        end = min(start + batch_size, count)
        if batch_size > 1 and count - end == 1:
            end = count
        yield start, end
        start = end


def resident(x: Tensor, device: torch.device) -> Tensor:
    """The images on the device if there is room for them, else where they are."""
    if device.type != "cuda" or x.device == device:
        return x
    free, _ = torch.cuda.mem_get_info(device)
    return x.to(device) if x.nbytes <= _RESIDENT_SHARE * free else x


def check_data(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    masking: Masking | None,
    which: str,
    device: torch.device,
) -> None:
    """Refuse what would fail later with an obscure message, or not fail at all (a label of -100
    is ignored by torch's cross-entropy)."""
    if not len(x):
        raise DataError(f"the {which} data is empty")
    if x.shape[0] != y.shape[0] or y.dim() != 1 or y.dtype != torch.int64:
        raise DataError(
            f"{which} data: images {tuple(x.shape)}, labels {tuple(y.shape)} of {y.dtype}; "
            "expected one int64 label per image"
        )
    if masking is not None:
        masking.check(x, which)
    was_training = model.training
    try:
        with torch.no_grad():
            classes = model.eval()(x[:1].to(device)).shape[-1]
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"{which} data: the model cannot take images of shape {tuple(x.shape[1:])}: {error}"
        ) from error
    finally:
        model.train(was_training)
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        bad = int(((y < 0) | (y >= classes)).sum())
        raise DataError(
            f"{which} data: {bad} of {len(y)} labels are outside 0..{classes - 1} "
            f"(they go from {low} to {high}, where -1 stands for none)"
        )
