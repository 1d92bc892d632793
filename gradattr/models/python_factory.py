"""The user's own model: ``python: package.module:function``."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from gradattr.errors import ModelError
from gradattr.manifest.model import PythonModel


def call_factory(spec: PythonModel) -> nn.Module:
    """Import the factory and call it with the spec's keyword arguments.

    Raises ModelError if it cannot be imported, is not there, does not take the arguments, fails,
    or returns something else than an nn.Module.
    """
    factory = _find(spec)
    try:
        inspect.signature(factory).bind(**spec.kwargs)
    except TypeError as error:
        raise ModelError(
            f"model.kwargs: {spec.factory} takes {inspect.signature(factory)}: {error}"
        ) from error
    except ValueError:
        pass  # A builtin without a signature: the call itself will tell.
    try:
        model = factory(**spec.kwargs)
    except Exception as error:
        raise ModelError(
            f"model.factory: {spec.factory} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model.factory: {spec.factory} returned {type(model).__name__}, "
            "expected a torch.nn.Module that maps (n, channels, height, width) to logits"
        )
    return model


def factory_digest(spec: PythonModel) -> str:
    """sha256 of the source file that the factory's module stands in.

    Files that it imports are not followed: put what defines the model into one module, or change
    its ``kwargs`` when they change.
    """
    module = _import(spec)
    path = getattr(module, "__file__", None)
    if path is None:
        raise ModelError(f"model.factory: {module.__name__} has no source file; use a .py module")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _find(spec: PythonModel) -> Callable[..., Any]:
    module = _import(spec)
    name = spec.factory.partition(":")[2]
    factory = getattr(module, name, None)
    if factory is None:
        near = difflib.get_close_matches(name, dir(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ModelError(f"model.factory: {module.__name__} has no {name!r}{hint}")
    if not callable(factory):
        raise ModelError(f"model.factory: {spec.factory} is not a function")
    return factory


def _import(spec: PythonModel) -> ModuleType:
    name = spec.factory.partition(":")[0]
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ModelError(
            f"model.factory: cannot import {name!r} ({type(error).__name__}: {error}); it must be "
            "importable where tasks run: install it there, or put its folder on PYTHONPATH"
        ) from error
