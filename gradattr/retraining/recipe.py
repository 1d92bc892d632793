"""How to train: the numbers, and the learning rate that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gradattr.errors import UsageError
from gradattr.retraining.adversary import Adversary


@dataclass(frozen=True)
class Augmentation:
    """Drawn anew for every image in every epoch."""

    crop_padding: int = 4
    """Pixels of zero padding before a random crop of the original size (0: no crop)."""
    flip: bool = True
    """Mirror left-right with probability 1/2."""

    def __post_init__(self) -> None:
        _require(self.crop_padding >= 0, "crop_padding", self.crop_padding, "0 or more pixels")


@dataclass(frozen=True)
class Recipe:
    """Supervised training with cross-entropy. The defaults are those of DiffROAR (Shah et al.
    2021): SGD, momentum 0.9, batch 256, weight decay 5e-4, the rate 0.1 times 0.75 every 20
    epochs, at most 500 epochs, stop when the training cross-entropy is below 0.001 nats."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    lr_decay: float = 0.75
    lr_decay_every: int = 20
    """Epochs."""
    momentum: float = 0.9
    """SGD only."""
    weight_decay: float = 5e-4
    batch_size: int = 256
    """Images per step."""
    epochs: int = 500
    stop_below: float = 0.001
    """Mean cross-entropy (nats) over an epoch's batches; 0 never stops early."""
    augment: Augmentation | None = None
    adversary: Adversary | None = None
    """Perturbs every batch before it is learned from (adversarial training)."""
    seed: int = 0
    """Fixes the order of batches, augmentation, dropout and random attacks; not the initial
    weights."""
    checkpoint_every: int = 10
    """Epochs between checkpoints; no influence on the result."""

    def __post_init__(self) -> None:
        _require(self.optimizer in ("sgd", "adam"), "optimizer", self.optimizer, "sgd or adam")
        _require(self.lr > 0, "lr", self.lr, "a number above 0")
        _require(0 < self.lr_decay <= 1, "lr_decay", self.lr_decay, "a number in (0, 1]")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "a number in [0, 1)")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _require(self.stop_below >= 0, "stop_below", self.stop_below, "0 or more nats")
        for name in ("lr_decay_every", "batch_size", "epochs", "checkpoint_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """The rate of an epoch (counted from 1): ``lr * lr_decay ** ((epoch - 1) // lr_decay_every)``.

    Multiplied step by step, so that it is the very float that torch's StepLR arrives at.
    """
    rate = recipe.lr
    for _ in range((epoch - 1) // recipe.lr_decay_every):
        rate *= recipe.lr_decay
    return rate


def _require(holds: bool, name: str, given: object, expected: str) -> None:
    if not holds:
        raise UsageError(f"training recipe: {name} is {given!r}, expected {expected}")
