"""A model as a graph of operations: traced with torch.fx, then made safe to rearrange.

A graph that is returned here computes, out of place and without what is idle in eval mode, what
the model's ``forward`` computes. Whatever cannot be traced (control flow that looks at values)
raises ``Untraceable``; the caller then leaves the model as it is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

_IDLE_MODULES = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)

_IDLE_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, torch.dropout)

#: In-place functions and methods, and what computes the same out of place.
_OUT_OF_PLACE: dict[object, Callable[..., Any]] = {
    F.relu_: F.relu,
    torch.relu_: torch.relu,
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


class Untraceable(Exception):
    """The model's forward cannot be written down as one graph; the text says why."""


class _OneInput(nn.Module):
    """Calls the model with its input alone, so that other arguments keep their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> Any:
        return self.model(x)


def trace(model: nn.Module) -> fx.GraphModule:
    """The graph of ``model`` (eval mode): input in, output out.

    It shares the modules of ``model``, whose in-place activations it makes ordinary ones: trace a
    copy.

    Raises Untraceable if there is no such graph, or if it changes tensors in place in a way that
    cannot be rewritten.
    """
    if any(module.training for module in model.modules()):
        raise Untraceable("a part of the model stays in training mode")
    root = _OneInput(model)
    try:
        graph = fx.Tracer().trace(root)
        traced = fx.GraphModule(root, graph)
    except Exception as error:  # user code under a tracer can raise anything
        raise Untraceable(f"{type(error).__name__}: {_first_line(error)}") from error
    traced.eval()
    remove_idle(traced)
    make_out_of_place(traced)
    traced.graph.lint()
    traced.recompile()
    return traced


def module_of(traced: fx.GraphModule, node: object) -> nn.Module | None:
    """The module that ``node`` calls, or None if it does something else."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return traced.get_submodule(str(node.target))
    return None


def input_of(node: fx.Node) -> fx.Node | None:
    """The one tensor that a module-like node works on, however it was passed."""
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) else None


def remove_idle(traced: fx.GraphModule) -> None:
    """Take out what returns its input in eval mode: Dropout, Identity, stochastic depth."""
    for node in list(traced.graph.nodes):
        source = input_of(node)
        if source is not None and _is_idle(traced, node):
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)


def make_out_of_place(traced: fx.GraphModule) -> None:
    """Give every in-place operation a result of its own, and ``view`` a ``reshape``.

    Later readers of the changed tensor are pointed at the result. Raises Untraceable for in-place
    operations that are not known, because a graph that hides them must not be rearranged.
    """
    nodes = list(traced.graph.nodes)
    # All are looked at before any is rewritten: nodes can share one in-place module.
    writes = [_writes_in_place(traced, node) for node in nodes]
    for node, in_place in zip(nodes, writes, strict=True):
        if not in_place:
            if node.op == "call_method" and node.target == "view" and _is_shape(node.args[1:]):
                node.target = "reshape"
            continue
        source = input_of(node)
        if source is None or not _rewrite(traced, node):
            raise Untraceable(f"in-place operation '{node.target}' at {node.name}")
        _redirect_later_users(source, node)


def _is_idle(traced: fx.GraphModule, node: fx.Node) -> bool:
    module = module_of(traced, node)
    if module is not None:
        return type(module) in _IDLE_MODULES and not module._forward_hooks
    if node.op != "call_function":
        return False
    if node.target in _IDLE_FUNCTIONS:
        where = 2 if len(node.args) > 2 else None
        training = node.args[where] if where else node.kwargs.get("training", True)
        return training is False
    if getattr(node.target, "__name__", "") == "stochastic_depth":
        training = node.args[3] if len(node.args) > 3 else node.kwargs.get("training", True)
        return training is False
    return False


def _writes_in_place(traced: fx.GraphModule, node: fx.Node) -> bool:
    module = module_of(traced, node)
    if module is not None:
        return bool(getattr(module, "inplace", False))
    if node.op == "call_method":
        name = str(node.target)
        return name.endswith("_") and not name.endswith("__")
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        return (
            node.target in _OUT_OF_PLACE
            or bool(node.kwargs.get("inplace", False))
            or node.kwargs.get("out") is not None
            or node.target is operator.setitem
            or (name.endswith("_") and not name.endswith("__"))
            or (_takes_inplace_by_position(node))
        )
    return False


def _takes_inplace_by_position(node: fx.Node) -> bool:
    """``F.relu(x, True)`` and its like: the second argument is the flag itself."""
    return any(argument is True for argument in node.args[1:]) and node.target in (
        F.relu,
        F.relu6,
        F.silu,
        F.hardswish,
        F.hardsigmoid,
        F.mish,
        F.selu,
    )


def _rewrite(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Make ``node`` out of place; False if there is no known way."""
    module = module_of(traced, node)
    if module is not None:
        module.__dict__["inplace"] = False
        return True
    if node.op == "call_method":
        name = str(node.target).rstrip("_")
        if name not in (
            "relu",
            "add",
            "sub",
            "mul",
            "div",
            "clamp",
            "sigmoid",
            "tanh",
            "clamp_min",
        ):
            return False
        node.target = name
        return True
    if node.target in _OUT_OF_PLACE:
        node.target = _OUT_OF_PLACE[node.target]
        return True
    if node.kwargs.get("inplace") is True:
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "inplace"}
        return True
    if _takes_inplace_by_position(node):
        node.args = (
            node.args[0],
            *(False if argument is True else argument for argument in node.args[1:]),
        )
        return True
    return False


def _redirect_later_users(source: fx.Node, node: fx.Node) -> None:
    """Whoever reads ``source`` after ``node`` changed it means the changed values."""
    later = node.next
    while later.op != "root":
        later.replace_input_with(source, node)
        later = later.next


def _is_shape(arguments: tuple[Any, ...]) -> bool:
    return bool(arguments) and not isinstance(arguments[0], torch.dtype)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
