"""The affine part at the front of a model, split off: ``x -> stem -> h -> rest -> logits``.

A stem may hold convolutions, linear layers, batch norm with running statistics, average pooling,
normalisation with constants, and changes of shape. It ends where the first other operation begins,
at a point that everything behind it goes through.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from gradattr.attribution.tuning.tracing import input_of, module_of

_AFFINE_MODULES: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Linear,
    nn.Flatten,
    nn.Unflatten,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.ZeroPad2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
)

_SHAPE_ONLY = frozenset({"reshape", "flatten", "permute", "transpose", "unsqueeze", "contiguous"})

_AFFINE_FUNCTIONS = frozenset({torch.flatten, torch.reshape, torch.permute, torch.transpose})

_CONSTANT_WEIGHTS = frozenset(
    {functional.conv1d, functional.conv2d, functional.conv3d, functional.linear}
)

_SUMS = frozenset({operator.add, operator.sub, torch.add, torch.sub})
_PRODUCTS = frozenset({operator.mul, torch.mul})
_QUOTIENTS = frozenset({operator.truediv, torch.div})


class Stem(nn.Module):
    """The affine map x (n, ...) -> h (n, h), and its transpose."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.graph(x)
        return h

    def pullback(self, grad_h: Tensor, x_shape: torch.Size) -> Tensor:
        """J^T grad_h, shape ``x_shape``."""
        only = self._only_layer()
        if isinstance(only, nn.Linear):
            return (grad_h @ only.weight).reshape(x_shape)
        if isinstance(only, nn.Conv2d) and suits_blocks(only):
            return transposed_in_blocks(only, grad_h, x_shape)
        # J does not depend on x, so autograd may differentiate at 0.
        leaf = grad_h.new_zeros(x_shape).requires_grad_(True)
        with torch.enable_grad():
            h = self(leaf)
            (grad,) = torch.autograd.grad(h, leaf, grad_h.reshape(h.shape))
        return grad

    def _only_layer(self) -> nn.Module | None:
        """The layer, if the stem is a convolution, or a linear layer on the flattened input."""
        calls = [n for n in self.graph.graph.nodes if n.op not in ("placeholder", "output")]
        layer = module_of(self.graph, calls[-1])
        if len(calls) == 1 and isinstance(layer, nn.Conv2d):
            return layer
        if len(calls) == 2 and isinstance(layer, nn.Linear) and _flattens(self.graph, calls[0]):
            return layer
        return None


def suits_blocks(conv: nn.Conv2d) -> bool:
    """Whether ``transposed_in_blocks`` is defined for this layer, and worth while: few channels."""
    return (
        conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.in_channels <= 4
        and conv.groups == 1
        and tuple(conv.dilation) == (1, 1)
        and all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))
        and int(conv.padding[0]) < conv.kernel_size[0]
    )


def transposed_in_blocks(conv: nn.Conv2d, grad: Tensor, x_shape: torch.Size) -> Tensor:
    r"""The transposed convolution for inputs of few channels, as a convolution of many.

    Input position :math:`i = r q + a` (block q, place a < r, r a multiple of the stride s) takes
    :math:`\sum_t g_{(r/s) q + t} \, w_{a + p - t s}`: a convolution of g with stride r/s whose
    output channels are the r * r places of a block. oneDNN's own transposed convolution takes three
    times as long on three channels.
    """
    k, s, p = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    r = s if s > 1 else 2
    first, last = -((k - 1 - p) // s), (r - 1 + p) // s
    weight = _block_weight(conv.weight, s, p, r, first, last)
    blocks = [-(-side // r) for side in x_shape[2:]]
    stride = r // s
    short = max(
        stride * (b - 1) + last + 1 - side for b, side in zip(blocks, grad.shape[2:], strict=True)
    )
    # One padding for both ends, larger than needed at the front by whole steps: those are cut off.
    skip = max(0, -(-(short + first) // stride))
    places = functional.conv2d(grad, weight, stride=stride, padding=stride * skip - first)
    places = places[:, :, skip : skip + blocks[0], skip : skip + blocks[1]]
    return functional.pixel_shuffle(places, r)[:, :, : x_shape[2], : x_shape[3]]


def _block_weight(weight: Tensor, s: int, p: int, r: int, first: int, last: int) -> Tensor:
    """(c * r * r, out channels, T, T) with T = last - first + 1, zero where w has no such tap."""
    k, taps = weight.shape[-1], torch.arange(first, last + 1)
    u = torch.arange(r)[:, None] + p - taps[None, :] * s
    inside = ((u >= 0) & (u < k)).to(weight)
    u = u.clamp(0, k - 1).to(weight.device)
    spread = weight.detach()[:, :, u][..., u] * inside[:, :, None, None] * inside
    # (o, c, a, t, a', t') -> (c, a, a', o, t, t')
    blocks = spread.permute(1, 2, 4, 0, 3, 5).reshape(-1, weight.shape[0], len(taps), len(taps))
    return blocks.contiguous(memory_format=torch.channels_last)


def _flattens(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` flattens all but the first axis."""
    module = module_of(graph, node)
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1 and module.end_dim == -1
    return node.target is torch.flatten and node.args[1:] == (1,) and not node.kwargs


def split_stem(traced: fx.GraphModule) -> tuple[Stem, fx.GraphModule] | None:
    """Split at the end of the affine front; None if there is none with weights in it.

    The two parts share the modules of ``traced``, which is left as it is.
    """
    kinds = _classify(traced)
    nodes = list(traced.graph.nodes)
    cut = None
    for node in nodes:
        if kinds.get(node) == "affine" and node.op != "placeholder":
            before = _ancestors(node, kinds)
            if _only_way_through(node, before) and any(_has_weight(traced, n) for n in before):
                cut = node
    if cut is None:
        return None
    return Stem(_front(traced, cut, kinds)), _back(traced, cut, kinds)


def _classify(traced: fx.GraphModule) -> Mapping[fx.Node, str]:
    """Each node as 'constant', 'shape' (numbers read off shapes), 'affine' in x, or absent."""
    kinds: dict[fx.Node, str] = {}
    for node in traced.graph.nodes:
        sources = [kinds.get(source, "other") for source in node.all_input_nodes]
        if node.op == "placeholder":
            kinds[node] = "affine"
        elif node.op == "get_attr":
            kinds[node] = "constant"
        elif node.op == "output" or "other" in sources:
            continue
        elif _reads_shape(node, kinds):
            kinds[node] = "shape"
        elif "affine" in sources and _is_affine(traced, node, kinds):
            kinds[node] = "affine"
        elif sources and set(sources) == {"constant"} and node.op == "call_method":
            kinds[node] = "constant"
    return kinds


def _reads_shape(node: fx.Node, kinds: Mapping[fx.Node, str]) -> bool:
    if node.op == "call_method":
        return node.target in ("size", "dim")
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    arithmetic = (operator.getitem, operator.mul, operator.floordiv, operator.add, operator.sub)
    inputs = node.all_input_nodes
    return node.target in arithmetic and all(kinds.get(source) == "shape" for source in inputs)


def _is_affine(traced: fx.GraphModule, node: fx.Node, kinds: Mapping[fx.Node, str]) -> bool:
    """Whether ``node`` is affine in its one affine input, the rest of its inputs being constant."""
    affine = [source for source in node.all_input_nodes if kinds[source] == "affine"]
    if len(affine) != 1:
        return False
    module = module_of(traced, node)
    if module is not None:
        return _is_affine_module(module)
    first = input_of(node)
    if node.op == "call_method":
        return node.target in _SHAPE_ONLY and first is affine[0]
    if node.target in _AFFINE_FUNCTIONS:
        return first is affine[0]
    if node.target in _CONSTANT_WEIGHTS:
        return first is affine[0]
    return _is_affine_arithmetic(node, affine[0], kinds)


def _is_affine_module(module: nn.Module) -> bool:
    if type(module) not in _AFFINE_MODULES or module._forward_hooks or module._forward_pre_hooks:
        return False
    if isinstance(module, _BatchNorm):
        return not module.training and module.running_mean is not None
    return True


def _is_affine_arithmetic(node: fx.Node, affine: fx.Node, kinds: Mapping[fx.Node, str]) -> bool:
    """x + c, c - x, x * c, x / c for a number or a constant tensor c."""
    if node.op != "call_function" or len(node.args) != 2 or node.kwargs:
        return False
    left, right = node.args
    other = right if left is affine else left
    if not _is_constant(other, kinds) or left is right:
        return False
    if node.target in _SUMS or node.target in _PRODUCTS:
        return True
    return node.target in _QUOTIENTS and left is affine


def _is_constant(value: Any, kinds: Mapping[fx.Node, str]) -> bool:
    if isinstance(value, fx.Node):
        return kinds.get(value) == "constant"
    return isinstance(value, int | float | Tensor)


def _has_weight(traced: fx.GraphModule, node: fx.Node) -> bool:
    module = module_of(traced, node)
    if module is not None:
        return any(True for _ in module.parameters())
    return node.op == "call_function" and node.target in _CONSTANT_WEIGHTS


def _ancestors(node: fx.Node, kinds: Mapping[fx.Node, str]) -> set[fx.Node]:
    """``node`` and everything before it that depends on x."""
    found: set[fx.Node] = set()
    open_ends = [node]
    while open_ends:
        current = open_ends.pop()
        if current not in found and kinds[current] != "constant":
            found.add(current)
            open_ends += current.all_input_nodes
    return found


def _only_way_through(cut: fx.Node, before: set[fx.Node]) -> bool:
    """Whether nothing behind the cut reads anything before it."""
    return all(set(node.users) <= before for node in before if node is not cut)


def _front(traced: fx.GraphModule, cut: fx.Node, kinds: Mapping[fx.Node, str]) -> fx.GraphModule:
    needed = _with_constants(_ancestors(cut, kinds))
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in traced.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[cut])
    return _part(traced, graph)


def _back(traced: fx.GraphModule, cut: fx.Node, kinds: Mapping[fx.Node, str]) -> fx.GraphModule:
    before = _ancestors(cut, kinds)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {cut: graph.placeholder("h")}
    for node in traced.graph.nodes:
        if node not in before:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return _part(traced, graph)


def _with_constants(nodes: set[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    open_ends = list(nodes)
    while open_ends:
        current = open_ends.pop()
        if current not in found:
            found.add(current)
            open_ends += current.all_input_nodes
    return found


def _part(traced: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    part = fx.GraphModule(traced, graph)
    part.eval()
    part.graph.lint()
    return part
