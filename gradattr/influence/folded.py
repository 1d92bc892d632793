"""Convolution and batch norm as one layer, and still the gradients of the two.

In eval mode batch norm after a convolution is one convolution with weight ``W' = s W`` and bias
``b' = s (b - m) + β``, s = γ / sqrt(v + eps) per output channel. With G the gradient of W' and h
that of b', the parameters of the unfolded model have the gradients

    dW = s G      db = s h      dβ = h      dγ = (<W, G> + (b - m) h) / sqrt(v + eps)

(the scalar product over all inputs of a channel), so one pass over the smaller model gives all four
exactly. A direction of the four is one direction of (W', b').
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from gradattr.influence.conv_layers import Conv2dLayer
from gradattr.influence.directions import Directions
from gradattr.influence.factors import Factors, against, row_squares
from gradattr.influence.layers import Call, Layer, Prepared


class FoldedLayer(Conv2dLayer):
    """Names: 'weight' and 'bias' of the convolution, 'scale' γ and 'shift' β of the batch norm."""

    def __init__(
        self, fused: nn.Conv2d, conv: nn.Conv2d, norm: nn.BatchNorm2d, names: Mapping[str, str]
    ) -> None:
        super().__init__(fused, names)
        assert norm.running_var is not None and norm.running_mean is not None
        self.inverse = (norm.running_var + norm.eps).rsqrt()
        scale = norm.weight
        self.scale = self.inverse if scale is None else scale.detach() * self.inverse
        bias = 0.0 if conv.bias is None else conv.bias.detach()
        self.offset = bias - norm.running_mean
        self.kernel = conv.weight.detach().contiguous()
        #: W as a matrix (g, o, k)
        self.matrix = self.to_matrix(self.kernel)

    def gradients(self, calls: Sequence[Call]) -> dict[str, Tensor]:
        matrices, sums = self.matrices(calls), self.sums(calls)
        own = {"bias": self.scale * sums, "shift": sums}
        if "scale" in self.names:
            own["scale"] = self._scale_gradient(matrices, sums)
        if "weight" in self.names:
            own["weight"] = self.to_weight(matrices) * self.scale[:, None, None, None]
        return self._renamed(own)

    def prefers_factors(self, calls: Sequence[Call]) -> bool:
        return False

    def kept_factors(self, calls: Sequence[Call]) -> dict[str, Factors]:
        return {}

    def products(
        self, calls: Sequence[Call], prepared: Prepared | None, norms: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        dots, squares = [], []
        for part in self._chunks(calls):
            matrices, sums = self.matrices(part), self.sums(part)
            if prepared is not None:
                along = against(matrices, prepared.values["weight"])
                dots.append(along + against(sums, prepared.values["bias"]))
            if norms:
                squares.append(self._squares(matrices, sums))
        return (torch.cat(dots) if dots else None), (torch.cat(squares) if squares else None)

    def _squares(self, matrices: Tensor, sums: Tensor) -> Tensor:
        total = torch.zeros((), dtype=sums.dtype, device=sums.device)
        if "weight" in self.names:
            total = total + row_squares(matrices).flatten(1) @ self.scale.square()
        if "bias" in self.names:
            total = total + sums.square() @ self.scale.square()
        if "shift" in self.names:
            total = total + row_squares(sums)
        if "scale" in self.names:
            total = total + row_squares(self._scale_gradient(matrices, sums))
        return total

    def raw_gradient(self, calls: Sequence[Call]) -> tuple[Tensor | None, Tensor | None]:
        weight = self._weights(calls) if {"weight", "scale"} & set(self.names) else None
        return weight, self.sums(calls)

    def raised(
        self, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        assert bias is not None
        by_weight, by_bias = None, torch.zeros_like(bias)
        if weight is not None and "weight" in self.names:
            by_weight = weight * self.scale.square().view(-1, 1, 1, 1)
        if "bias" in self.names:
            by_bias = by_bias + self.scale.square() * bias
        if "shift" in self.names:
            by_bias = by_bias + bias
        if weight is not None and "scale" in self.names:
            along = torch.linalg.vecdot(weight.flatten(2), self.kernel.flatten(1))
            stretched = self.inverse.square() * (along + self.offset * bias)
            by_bias = by_bias + self.offset * stretched
            more = stretched[:, :, None, None, None]
            by_weight = (
                self.kernel * more if by_weight is None else by_weight.addcmul_(self.kernel, more)
            )
        return by_weight, by_bias

    def _scale_gradient(self, matrices: Tensor, sums: Tensor) -> Tensor:
        along = torch.linalg.vecdot(matrices, self.matrix).flatten(1)
        return self.inverse * (along + self.offset * sums)

    def prepare(self, directions: Directions) -> Prepared:
        """Directions of the four parameters -> of W' (q, g, o, k) and b' (q, channels)."""
        asked = {short: directions.values[name] for short, name in self.names.items()}
        queries = len(next(iter(asked.values())))
        groups, outputs, _ = self.matrix.shape
        bias = self.scale.new_zeros(queries, groups * outputs)
        matrix = self.matrix.new_zeros(queries, *self.matrix.shape)
        if "weight" in asked:
            matrix = self.to_matrix(asked["weight"]) * self.scale.view(groups, outputs, 1)
        if "bias" in asked:
            bias = bias + self.scale * asked["bias"]
        if "shift" in asked:
            bias = bias + asked["shift"]
        if "scale" in asked:
            stretched = self.inverse * asked["scale"]
            bias = bias + self.offset * stretched
            matrix = matrix + torch.unflatten(stretched, 1, (groups, outputs, 1)) * self.matrix
        return Prepared({"weight": matrix.contiguous(), "bias": bias})


def foldable(model: nn.Module) -> list[tuple[str, str]]:
    """Pairs (convolution, batch norm) by name where the norm is all that uses the convolution.

    Empty for models that cannot be traced: nothing is folded then.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception:  # a user's forward can do anything while it is traced
        return []
    modules = dict(model.named_modules())
    uses: dict[Any, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            uses[modules[node.target]] = uses.get(modules[node.target], 0) + 1
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or len(node.args) != 1:
            continue
        before = node.args[0]
        norm, conv = modules[node.target], None
        if isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1:
            conv = modules[before.target]
        if (
            type(conv) is nn.Conv2d
            and type(norm) is nn.BatchNorm2d
            and norm.running_mean is not None
            and uses[conv] == uses[norm] == 1
        ):
            pairs.append((before.target, node.target))
    return pairs


def fold(
    model: nn.Module, pair: tuple[str, str], names: Mapping[Tensor, str]
) -> tuple[Layer | None, list[Tensor]]:
    """Replace the pair in ``model`` by one convolution and an identity.

    ``names`` has the parameters that are asked for. Returns the layer to watch, None if none of
    its parameters is asked for, and the parameters that are taken care of by it.
    """
    conv, norm = (model.get_submodule(name) for name in pair)
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    shorts = {"weight": conv.weight, "bias": conv.bias, "scale": norm.weight, "shift": norm.bias}
    own = {k: names[p] for k, p in shorts.items() if p is not None and p in names}
    fused = nn.utils.fusion.fuse_conv_bn_eval(conv, norm).requires_grad_(False)
    fused.eval()
    _replace(model, pair[0], fused)
    _replace(model, pair[1], nn.Identity())
    layer = FoldedLayer(fused, conv, norm, own) if own else None
    return layer, [p for p in shorts.values() if p is not None]


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)
