"""One of several processes that train together: ``python together.py <rank> <size> <folder>``.

Runs every scenario of ``test_team.py`` and leaves what it found in ``<folder>/rank<rank>.pt``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradattr.errors import GradattrError
from gradattr.retraining import (
    Adversary,
    Augmentation,
    EpochsInMemory,
    LevelBins,
    Masking,
    Recipe,
    train_classifier,
)

PLAIN = Recipe(lr=0.05, batch_size=20, epochs=3, stop_below=0.0, checkpoint_every=100)
RECIPES = {
    "plain": PLAIN,
    "adam": replace(PLAIN, optimizer="adam", lr=0.01),
    "augmented": replace(PLAIN, augment=Augmentation(1)),
    "attacked": replace(PLAIN, adversary=Adversary("l2", 0.5, steps=2, start="random")),
    "few images for so many": replace(PLAIN, batch_size=2, epochs=1),
}


def data() -> tuple[Tensor, Tensor, Masking]:
    """61 images of noise with a class-dependent mean; the bins of their values."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (61,), generator=generator)
    x = torch.randn(61, 1, 6, 6, generator=generator)
    x[:, 0, 0, 0] += y
    bins = LevelBins((0.5,), 36)
    return x, y, Masking(bins.rank(x, range(61)), bins.top(0.5))


def net(batch_norm: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4) if batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5) if batch_norm else nn.Identity(),
            nn.Linear(64, 3),
        )


def train(recipe: Recipe, distributed: bool, batch_norm: bool = False, **options: Any) -> Any:
    """(weights and buffers, result)"""
    x, y, masking = data()
    model = net(batch_norm)
    result = train_classifier(
        model,
        x,
        y,
        recipe,
        test=(x, y),
        masking=masking,
        test_masking=masking,
        distributed=distributed,
        **options,
    )
    return dict(model.state_dict()), [epoch.to_json() for epoch in result.history]


class Kept:
    """Checkpoints in memory."""

    def __init__(self) -> None:
        self.data: list[tuple[int, bytes]] = []

    def save(self, epoch: int, data: bytes) -> None:
        self.data.append((epoch, data))

    def load(self) -> tuple[int, bytes] | None:
        return self.data[-1] if self.data else None


def interrupted(rank: int) -> Any:
    """Rank 1 alone is told to stop, when the first epoch is over; then all begin again."""
    kept, reported, asked = Kept(), [], []

    def cancelled() -> bool:
        asked.append(1)
        return rank == 1 and len(asked) == 2

    try:
        train(RECIPES["attacked"], True, checkpoints=kept, cancelled=cancelled)
        message = "not stopped"
    except GradattrError as error:
        message = f"{type(error).__name__}: {error}"
    resumed = train(
        RECIPES["attacked"],
        True,
        checkpoints=kept,
        on_epoch=lambda epoch: reported.append(epoch.epoch),
    )
    return message, [epoch for epoch, _ in kept.data], reported, resumed


def kept_epochs() -> Any:
    """Epochs 1 and 3 are kept; in a second training rank 0 has lost one, and all begin again."""
    checkpoints, keep, reported = Kept(), EpochsInMemory([1, 3]), []
    options = {"checkpoints": checkpoints, "keep": keep}
    train(PLAIN, True, batch_norm=True, **options)
    first = dict(keep.kept)
    keep.kept.pop(1, None)
    trained, _ = train(
        PLAIN,
        True,
        batch_norm=True,
        **options,
        on_epoch=lambda epoch: reported.append(epoch.epoch),
    )
    return first, keep.kept, reported, trained


class Idle(nn.Module):
    """Has a layer that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(36, 3), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x.flatten(1))


def idle_layer() -> str:
    x, y, _ = data()
    try:
        train_classifier(Idle(), x, y, PLAIN, distributed=True)
    except GradattrError as error:
        return f"{type(error).__name__}: {error}"
    return "trained"


def main() -> None:
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=size)
    found = {name: train(recipe, True) for name, recipe in RECIPES.items()}
    found["batch norm"] = train(RECIPES["attacked"], True, batch_norm=True)
    found["interrupted"] = interrupted(rank)
    found["kept epochs"] = kept_epochs()
    found["idle layer"] = idle_layer()
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
