"""The blocks of a transformer: the modules that read the residual stream and write the next one."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from gradattr.errors import ModelError


def hidden_of(output: Any) -> Tensor:
    """The residual stream (n, L, d) in what a block returns."""
    found = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(found, Tensor):
        raise ModelError(f"model: a block returned a {type(found).__name__}, not a tensor")
    return found


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """What the block returned, with another residual stream in it."""
    if isinstance(output, tuple):
        return (hidden, *output[1:])
    return [hidden, *output[1:]] if isinstance(output, list) else hidden


def find_blocks(
    network: nn.Module, x: Tensor, call: Callable[[], Any], pattern: str | None
) -> tuple[nn.Module, ...]:
    """The blocks in the order in which ``call()``, a forward pass on embeddings x, calls them.

    Without ``pattern``: the longest ``ModuleList`` each of whose modules is called once and returns
    a tensor of the shape of x. With it: the modules whose names match ('model.layers.*'; '*' stands
    for a name's own part, without dots).

    Raises ModelError, with the names that could be meant.
    """
    called: list[tuple[nn.Module, bool]] = []

    def note(module: nn.Module, given: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple | list) and output else output
        called.append((module, isinstance(found, Tensor) and found.shape == x.shape))

    handles = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()
    order = [module for module, _ in called]
    fits = {
        module for module, right in called if right and sum(other is module for other in order) == 1
    }
    names = {module: name for name, module in network.named_modules()}
    if pattern is not None:
        return _named(pattern, names, order, fits)
    lists = [
        (name, tuple(module))
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and set(module) <= fits
    ]
    longest = max((len(members) for _, members in lists), default=0)
    best = [(name, members) for name, members in lists if len(members) == longest]
    if len(best) != 1:
        there = f"; there are {', '.join(name for name, _ in best)}" if best else ""
        raise ModelError(
            f"model: the blocks of {type(network).__name__} cannot be told by themselves{there}: "
            "name them in model.blocks, e.g. 'transformer.h.*'"
        )
    return tuple(sorted(best[0][1], key=order.index))


def _named(
    pattern: str, names: dict[nn.Module, str], order: list[nn.Module], fits: set[nn.Module]
) -> tuple[nn.Module, ...]:
    depth = pattern.count(".")
    matching = [
        module
        for module in dict.fromkeys(order)
        if fnmatchcase(names[module], pattern) and names[module].count(".") == depth
    ]
    if not matching:
        could = [names[module] for module in dict.fromkeys(order) if module in fits]
        raise ModelError(
            f"model.blocks: no module that is called matches '{pattern}'; modules that return the "
            f"residual stream: {', '.join(could[:12]) or 'none'}"
        )
    wrong = [names[module] for module in matching if module not in fits]
    if wrong:
        raise ModelError(
            f"model.blocks: '{pattern}' matches {wrong[0]}, which is not called once, or does not "
            "return the residual stream (prompts, positions, width)"
        )
    return tuple(matching)
