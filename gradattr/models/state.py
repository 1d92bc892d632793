"""Putting a state dict into a model, and saying what does not fit."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from gradattr.errors import ModelError
from gradattr.models.files import State

_SHOWN = 5

#: Batch-norm's count of batches: absent from old files, without influence on outputs.
_COUNTER = ".num_batches_tracked"

#: What wrappers put in front of every key, and how to get rid of it.
_WRAPPERS = {
    "module.": "saved from (Distributed)DataParallel, did you mean to save "
    "model.module.state_dict()?",
    "_orig_mod.": "saved from a compiled model, did you mean to save model._orig_mod.state_dict()?",
}


def load_state(model: nn.Module, state: State, name: str) -> None:
    """Copy ``state`` into ``model`` (shapes and names must fit exactly) and check it.

    ``name`` is the file's. Raises ModelError listing missing and unknown keys with their nearest
    names, keys of other shapes, another number of classes, NaN and infinities. A renamed key or
    the prefix of a wrapper is pointed out, never guessed.
    """
    _check_shapes(model, state, name)
    versioned = OrderedDict(state)
    metadata = getattr(state, "_metadata", None) or getattr(model.state_dict(), "_metadata", None)
    # Some modules read older files according to this; safetensors files do not carry it.
    versioned.__dict__["_metadata"] = metadata
    keys = model.load_state_dict(versioned, strict=False)
    missing = [k for k in keys.missing_keys if not k.endswith(_COUNTER)]
    unknown = list(keys.unexpected_keys)
    if missing or unknown:
        raise ModelError(_misfit(missing, unknown, name))
    check_finite(model, name)


def check_finite(model: nn.Module, name: str = "model") -> None:
    """Raise ModelError naming the parameters and buffers that hold NaN or infinities."""
    check_finite_state(model.state_dict(), name)


def check_finite_state(state: Mapping[str, Any], name: str) -> None:
    """The same for a state dict."""
    bad: list[str] = []
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            nans = int(value.isnan().sum())
            infinities = int(value.isinf().sum())
            if nans or infinities:
                bad.append(f"{key} ({nans} NaN, {infinities} infinite of {value.numel()} values)")
    if bad:
        raise ModelError(f"{name}: weights are not finite: {_some(bad)}")


def _check_shapes(model: nn.Module, state: State, name: str) -> None:
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items() if hasattr(v, "shape")}
    wrong = {
        key: (tuple(value.shape), expected[key])
        for key, value in state.items()
        if key in expected and tuple(value.shape) != expected[key]
    }
    if not wrong:
        return
    listed = _some(f"{k} is {given}, the model has {want}" for k, (given, want) in wrong.items())
    raise ModelError(f"{name}: other shapes: {listed}{_class_hint(wrong, list(expected))}")


def _class_hint(wrong: dict[str, tuple[tuple[int, ...], tuple[int, ...]]], keys: list[str]) -> str:
    """Where nothing but the number of outputs of the last layer differs, say that."""
    last = keys[-1].rpartition(".")[0]
    outputs = {(given[:1], want[:1]) for given, want in wrong.values()}
    same_inputs = all(given[1:] == want[1:] for given, want in wrong.values())
    if len(outputs) != 1 or not same_inputs or any(k.rpartition(".")[0] != last for k in wrong):
        return ""
    ((given, want),) = outputs
    if not given or not want:
        return ""
    return (
        f"; the weights are of a model with {given[0]} classes, {want[0]} are expected: "
        f"set model.num_classes: {given[0]}, or take other weights"
    )


def _misfit(missing: list[str], unknown: list[str], name: str) -> str:
    wrapped = _common_prefix(missing, [key for key in unknown if not key.endswith(_COUNTER)])
    if wrapped:
        return f"{name}: does not fit the model: {wrapped}"
    parts = []
    if missing:
        parts.append(f"keys are missing: {_some(missing)}")
    if unknown:
        parts.append(f"keys are unknown: {_some(key + _nearest(key, missing) for key in unknown)}")
    return f"{name}: does not fit the model: {'; '.join(parts)}"


def _common_prefix(missing: list[str], unknown: list[str]) -> str | None:
    """Are the unknown keys the missing ones behind a prefix, or the other way round?"""
    if prefix := _prefix(unknown, missing):
        advice = _WRAPPERS.get(prefix, "rename its keys without it")
        return f"its keys begin with {prefix!r}: {advice}"
    if prefix := _prefix(missing, unknown):
        return f"the model's keys begin with {prefix!r}: rename the file's keys with it"
    return None


def _prefix(longer: list[str], shorter: list[str]) -> str | None:
    """What stands before each of the ``shorter`` keys to make the ``longer`` ones."""
    if not shorter:
        return None
    ends = [key for key in longer if key.endswith(f".{shorter[0]}")]
    prefixes = [key.removesuffix(shorter[0]) for key in ends]
    return next((p for p in prefixes if {p + key for key in shorter} <= set(longer)), None)


def _nearest(key: str, missing: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(missing), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _some(items: Iterable[str]) -> str:
    listed = list(items)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
