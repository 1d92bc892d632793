"""Weights as bytes: safetensors, or a state dict without any other object in it."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from gradattr.errors import ModelError

State = dict[str, Tensor]

#: What a pickle wanted to import, in torch's refusal. The rest of that message says how to trust
#: the file, which is no advice to pass on.
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")

#: Keys under which training scripts put the state dict in a larger checkpoint.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "net")


def save_weights(model: nn.Module) -> bytes:
    """The model's parameters and buffers as safetensors, on the CPU.

    Raises ModelError for state that is not a tensor (a module's extra state).
    """
    return save_state(model.state_dict())


def save_state(state: Mapping[str, Any]) -> bytes:
    """The same for a state dict."""
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise ModelError(f"model: {strange[0]!r} in its state dict is not a tensor")
    # A copy each: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def weights_from_bytes(data: bytes, name: str) -> State:
    """The state dict in ``data``: safetensors, or what ``torch.save(model.state_dict())`` writes.

    Pickled files are read with ``weights_only=True``, so nothing in them is executed. ``name`` is
    the file's, for messages. Raises ModelError for anything else.
    """
    if not data:
        raise ModelError(f"{name}: the file is empty, expected weights")
    if _looks_like_safetensors(data):
        try:
            return dict(safetensors.torch.load(data))
        except Exception as error:
            raise ModelError(f"{name}: damaged safetensors file: {error}") from error
    return _checked(_unpickle(data, name), name)


def _looks_like_safetensors(data: bytes) -> bool:
    """8 bytes of header length, then the header: a JSON object."""
    return data[8:9] == b"{" and data[:2] != b"PK" and data[:1] != b"\x80"


def _unpickle(data: bytes, name: str) -> Any:
    buffer = io.BytesIO(data)
    if not zipfile.is_zipfile(buffer) and data[:1] != b"\x80":
        raise ModelError(
            f"{name}: neither safetensors nor a torch state dict (or the file is cut short)"
        )
    buffer.seek(0)
    try:
        return torch.load(buffer, map_location="cpu", weights_only=True)
    except Exception as error:
        wanted = _REFUSED.search(str(error))
        reason = f"it wants to import {wanted.group(1)}" if wanted else type(error).__name__
        raise ModelError(
            f"{name}: refused: it is damaged, or holds something else than tensors ({reason}). "
            "Only safetensors and plain state dicts are read, and there is no switch to trust a "
            "file: save it with safetensors.torch.save_file(model.state_dict(), path)"
        ) from error


def _checked(state: Any, name: str) -> State:
    if not isinstance(state, dict):
        raise ModelError(
            f"{name}: holds a {type(state).__name__}, expected a state dict "
            "(names of parameters -> tensors)"
        )
    strange = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        inner = next((key for key in _CONTAINERS if isinstance(state.get(key), dict)), None)
        hint = f"; did you mean to save its {inner!r} alone?" if inner else ""
        keys = ", ".join(map(str, list(state)[:5]))
        raise ModelError(
            f"{name}: {strange[0]!r} is not a tensor, expected a plain state dict, found a "
            f"checkpoint of {keys}{hint}"
        )
    if not state:
        raise ModelError(f"{name}: the state dict is empty")
    return state
