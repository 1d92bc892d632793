"""The local front of a network: stages whose outputs depend on a small part of their inputs.

Convolutions, pooling and elementwise operations only look around them. Where one region of an image
changes, only a region of their outputs does; here stands how large it is, stage by stage.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from gradattr.attribution.tuning.mixed import FrozenConv2d
from gradattr.attribution.tuning.tracing import module_of

_ELEMENTWISE_MODULES = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
)
_ELEMENTWISE_FUNCTIONS = (F.relu, torch.relu, F.silu, F.gelu, torch.sigmoid, torch.tanh)
_BINARY = (operator.add, torch.add, operator.sub, torch.sub, operator.mul, torch.mul)


class Reach(NamedTuple):
    """Along one axis: output o depends on inputs from o * stride - before to o * stride + after."""

    stride: int = 1
    before: int = 0
    after: int = 0

    def then(self, later: Reach) -> Reach:
        """Of an operation followed by a later one."""
        return Reach(
            self.stride * later.stride,
            self.before + self.stride * later.before,
            self.after + self.stride * later.after,
        )

    def beside(self, other: Reach) -> Reach:
        """Of two that end in one elementwise operation; their strides are equal."""
        return Reach(self.stride, max(self.before, other.before), max(self.after, other.after))


Reaches = tuple[Reach, Reach]
"""Of rows and of columns."""


@dataclass(frozen=True)
class Stage:
    """Operations of a graph between two of its nodes that everything goes through."""

    graph: fx.GraphModule
    start: fx.Node
    nodes: tuple[fx.Node, ...]
    reaches: Reaches

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return run_nodes(self.graph, {self.start: x}, self.nodes)


def run_nodes(graph: fx.GraphModule, known: dict[fx.Node, Any], nodes: Sequence[fx.Node]) -> Any:
    """The value of the last of the nodes, computed one after the other from what is known.

    Without gradients nobody reads the output of a convolution again once it was rectified or added
    to: these work in place then, which saves a pass over memory each.
    """
    interpreter = fx.Interpreter(graph, garbage_collect_values=False)
    env = interpreter.env = dict(known)
    own: set[fx.Node] = set()
    value: Any = None
    for node in nodes:
        source, other = (*node.args, None, None)[:2]
        spent = isinstance(source, fx.Node) and source in own and len(source.users) == 1
        first = env[source] if spent and isinstance(source, fx.Node) else None
        second = env[other] if isinstance(other, fx.Node) else None
        if first is not None and _rectifies(graph, node):
            value = torch.relu_(first)
        elif first is not None and _adds(node) and other is not source and _alike(first, second):
            value = first.add_(second)
        else:
            value = interpreter.run_node(node)
        env[node] = value
        if spent or isinstance(module_of(graph, node), nn.Conv2d | FrozenConv2d):
            own.add(node)
    return value


def _rectifies(graph: fx.GraphModule, node: fx.Node) -> bool:
    return type(module_of(graph, node)) is nn.ReLU or node.target in (F.relu, torch.relu, "relu")


def _adds(node: fx.Node) -> bool:
    return node.target in (operator.add, torch.add) and len(node.args) == 2 and not node.kwargs


def _alike(one: Any, other: Any) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return both and (one.shape, one.dtype) == (other.shape, other.dtype)


def local_stages(graph: fx.GraphModule) -> tuple[list[Stage], fx.Node]:
    """The stages at the front of a traced graph, in order, and the node that they end at.

    Each begins with an operation that looks around it. What is behind the last is not local, or
    does not go through one node.
    """
    nodes = list(graph.graph.nodes)
    position = {node: place for place, node in enumerate(nodes)}
    start = nodes[0]
    stages: list[Stage] = []
    inside: list[fx.Node] = []
    reaches = {start: (Reach(), Reach())}
    furthest = 0
    for place, node in enumerate(nodes):
        if place == 0:
            continue
        found = _reaches(graph, node, reaches)
        if found is None:
            break
        reaches[node] = found
        inside.append(node)
        if furthest <= place and _looks_around(found) and _stage_ends(graph, node):
            stages.append(Stage(graph, start, tuple(inside), found))
            start, inside, reaches = node, [], {node: (Reach(), Reach())}
        furthest = max(furthest, *(position[user] for user in node.users))
    return stages, start


def nodes_behind(graph: fx.GraphModule, start: fx.Node) -> Iterator[fx.Node]:
    """Everything after ``start``, and the constants before it."""
    behind = False
    for node in graph.graph.nodes:
        if behind or node.op == "get_attr":
            yield node
        behind = behind or node is start


def _looks_around(reaches: Reaches) -> bool:
    return any(reach != Reach() for reach in reaches)


def _stage_ends(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether some operation that reads ``node`` is not elementwise: else it goes on a little."""
    alone = {node: (Reach(), Reach())}
    found = [_reaches(graph, user, alone) for user in node.users]
    return any(reaches is None or _looks_around(reaches) for reaches in found)


def _reaches(graph: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Reaches]) -> Reaches | None:
    """From the start of the stage to ``node``; None if it is not local."""
    sources = node.all_input_nodes
    if not sources or node.op not in ("call_module", "call_function", "call_method"):
        return None
    if any(source not in known for source in sources):
        return None
    own = _own_reaches(graph, node)
    if own is None:
        return None
    rows, columns = known[sources[0]]
    for source in sources[1:]:
        others = known[source]
        if (others[0].stride, others[1].stride) != (rows.stride, columns.stride):
            return None
        rows, columns = rows.beside(others[0]), columns.beside(others[1])
    return rows.then(own[0]), columns.then(own[1])


def _own_reaches(graph: fx.GraphModule, node: fx.Node) -> Reaches | None:
    module = module_of(graph, node)
    if module is not None:
        return _module_reaches(module)
    here = (Reach(), Reach())
    if node.op == "call_function":
        if node.target in _ELEMENTWISE_FUNCTIONS:
            return here
        if node.target in _BINARY:
            plain = all(isinstance(value, fx.Node | int | float) for value in node.args)
            return here if plain and not node.kwargs else None
        if node.target is torch.cat:
            return here if node.args[1:] == (1,) or node.kwargs == {"dim": 1} else None
    if node.op == "call_method" and node.target == "relu":
        return here
    return None


def _module_reaches(module: nn.Module) -> Reaches | None:
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    if isinstance(module, FrozenConv2d):
        return _module_reaches(module.conv)
    kind = type(module)
    if kind in _ELEMENTWISE_MODULES:
        return Reach(), Reach()
    if isinstance(module, nn.BatchNorm2d):
        fixed = kind is nn.BatchNorm2d and not module.training and module.running_mean is not None
        return (Reach(), Reach()) if fixed else None
    if isinstance(module, nn.Conv2d):
        zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return _windows(module) if zeros and kind is nn.Conv2d else None
    if kind is nn.MaxPool2d:
        return None if module.ceil_mode or module.return_indices else _windows(module)
    if kind is nn.AvgPool2d:
        return None if module.ceil_mode else _windows(module)
    return None


def _windows(module: nn.Module) -> Reaches:
    """Of what slides a kernel."""
    kernel, stride, padding, dilation = (
        value if isinstance(value, tuple) else (value, value)
        for value in (
            getattr(module, name, 1) for name in ("kernel_size", "stride", "padding", "dilation")
        )
    )
    rows, columns = (
        Reach(stride[a], padding[a], dilation[a] * (kernel[a] - 1) - padding[a]) for a in (0, 1)
    )
    return rows, columns
