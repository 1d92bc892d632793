"""Forward passes that hand out what a layer returns, or put something else in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradattr.errors import MethodError


class Captured(NamedTuple):
    """A layer's output (n, ...) as a leaf of the graph, and the logits (n, classes) behind it."""

    activation: Tensor
    logits: Tensor


def capture(network: nn.Module, layer: str, x: Tensor) -> Captured:
    """A forward pass of x (n, ...): what the layer returned, and the logits as a function of it.

    Nothing in front of the layer is differentiated. What is done in place to the layer's output
    does not show in ``activation``.

    Raises MethodError if the layer is not called exactly once, or does not return one tensor.
    """
    kept: list[Tensor] = []

    def hold(output: Tensor) -> Tensor:
        kept.append(output.detach().clone().requires_grad_(True))
        return kept[-1].clone()

    with torch.enable_grad(), _replacing(network, layer, hold):
        logits = network(x.clone())
    return Captured(kept[0], logits)


def activation_of(network: nn.Module, layer: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the layer returns for x (n, ...), and the logits, without a graph."""
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(output.clone())
        return output

    with torch.no_grad(), _replacing(network, layer, keep):
        logits = network(x.clone())
    return kept[0], logits


def with_activation(network: nn.Module, layer: str, x: Tensor, activation: Tensor) -> Tensor:
    """Logits of x (n, ...) where the layer returns ``activation`` (n, ...) instead of its own.

    With a graph from ``activation`` on, if it takes a gradient and gradients are enabled.
    """
    with _replacing(network, layer, lambda _output: activation.clone()):
        logits: Tensor = network(x.clone())
    return logits


@contextmanager
def _replacing(
    network: nn.Module, layer: str, replace: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """While it is entered, the layer returns ``replace(output)``; it has to be called once."""
    calls = 0

    def hook(_module: nn.Module, _args: object, output: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise MethodError(f"'{layer}' is called more than once in a forward pass")
        if not isinstance(output, Tensor):
            raise MethodError(f"'{layer}' returns {type(output).__name__}, not one tensor")
        return replace(output)

    handle = network.get_submodule(layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if calls == 0:
        raise MethodError(f"'{layer}' is not called in a forward pass")
