"""What a training keeps: the state after an epoch, to resume from if it is interrupted, and the
weights after those epochs that are asked for."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Collection
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gradattr.errors import ModelError

_MAGIC = b"gradattr-checkpoint-1\n"
_HASH_BYTES = 32


class Checkpoints(Protocol):
    """Where checkpoints are kept: one is enough, the newest."""

    def save(self, epoch: int, data: bytes) -> None:
        """Keep the bytes of the state after ``epoch``; older ones are not needed any more."""

    def load(self) -> tuple[int, bytes] | None:
        """The newest epoch and its bytes, or None. Bytes that are damaged do no harm."""


class KeptEpochs(Protocol):
    """Where the weights after chosen epochs go, for what follows a training's course (TracIn)."""

    @property
    def epochs(self) -> Collection[int]:
        """Those that are asked for, counted from 1. A training may end before it reaches them."""

    def resume(self, epoch: int) -> bool:
        """Told before a training begins (``epoch`` 0), or continues after ``epoch``: forget what
        was kept of later epochs. Are the weights of all asked-for epochs up to it there, whole?"""

    def keep(self, epoch: int, state: dict[str, Tensor], lr: float) -> None:
        """Keep the weights after ``epoch``, in which the learning rate was ``lr``. ``state`` is a
        state dict of its own on the CPU, contiguous."""


class EpochsInMemory:
    """Kept epochs for a notebook: ``kept`` is epoch -> (state dict, learning rate)."""

    def __init__(self, epochs: Collection[int]) -> None:
        self.epochs = frozenset(epochs)
        self.kept: dict[int, tuple[dict[str, Tensor], float]] = {}

    def resume(self, epoch: int) -> bool:
        """See KeptEpochs."""
        self.kept = {number: value for number, value in self.kept.items() if number <= epoch}
        return all(number in self.kept for number in self.epochs if number <= epoch)

    def keep(self, epoch: int, state: dict[str, Tensor], lr: float) -> None:
        """See KeptEpochs."""
        self.kept[epoch] = (state, lr)


def portable_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict, copied to the CPU and contiguous, whatever the training's layout.

    Raises ModelError for state that is not a tensor (a module's extra state).
    """
    state = model.state_dict()
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise ModelError(f"model: {strange[0]!r} in its state dict is not a tensor")
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}


def encode_checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, recipe: dict[str, Any], history: list[Any]
) -> bytes:
    """Model, optimiser and history as bytes that carry their own sha256."""
    buffer = io.BytesIO()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "recipe": recipe,
        "history": history,
    }
    torch.save(state, buffer)
    payload = buffer.getvalue()
    return _MAGIC + hashlib.sha256(payload).digest() + payload


def decode_checkpoint(data: bytes, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """The state in ``data``, on the CPU; None if the bytes are damaged or of another recipe.

    Only tensors and plain values are read (``weights_only=True``): nothing in them is executed.
    """
    header = len(_MAGIC) + _HASH_BYTES
    payload = data[header:]
    if data[: len(_MAGIC)] != _MAGIC:
        return None
    if hashlib.sha256(payload).digest() != data[len(_MAGIC) : header]:
        return None
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        return None
    if not isinstance(state, dict) or state.get("recipe") != recipe:
        return None
    return state
