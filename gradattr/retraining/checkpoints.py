"""What an interrupted training resumes from: the state of model and optimiser after an epoch."""

from __future__ import annotations

import hashlib
import io
import pickle
from typing import Any, Protocol

import torch
from torch import nn

_MAGIC = b"gradattr-checkpoint-1\n"
_HASH_BYTES = 32


class Checkpoints(Protocol):
    """Where checkpoints are kept: one is enough, the newest."""

    def save(self, epoch: int, data: bytes) -> None:
        """Keep the bytes of the state after ``epoch``; older ones are not needed any more."""

    def load(self) -> tuple[int, bytes] | None:
        """The newest epoch and its bytes, or None. Bytes that are damaged do no harm."""


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
