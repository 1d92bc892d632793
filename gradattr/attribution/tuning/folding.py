r"""Batch norm folded into the convolution or linear layer before it.

In eval mode both are affine: with :math:`s = \gamma / \sqrt{\sigma^2 + \epsilon}`,
:math:`s (W x + b - \mu) + \beta = (s W) x + s (b - \mu) + \beta`. The new weights are computed in
float64 and rounded once. Only what is certain is folded: a layer whose output goes to that batch
norm alone, a batch norm that uses its running statistics.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradattr.attribution.tuning.tracing import input_of, module_of

#: Which batch norm follows which layer on the same axis.
_PAIRS: dict[type[nn.Module], type[_BatchNorm]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


def can_fold(layer: nn.Module | None, norm: nn.Module | None) -> bool:
    """Whether the two modules, called one after the other, are one affine layer in eval mode."""
    return (
        layer is not None
        and norm is not None
        and _PAIRS.get(type(layer)) is type(norm)
        and isinstance(norm, _BatchNorm)
        and not norm.training
        and norm.running_mean is not None
        and norm.running_var is not None
        and _without_hooks(layer)
        and _without_hooks(norm)
    )


@torch.no_grad()
def folded(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """A new layer equal to ``norm(layer(x))``. Both are left as they are."""
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double()
    if layer.bias is not None:
        shift = shift + layer.bias.double()
    bias = shift * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    result = copy.deepcopy(layer)
    weight = layer.weight.double() * scale.reshape(-1, *(1 for _ in layer.weight.shape[1:]))
    result.weight = _frozen(weight, layer.weight)
    result.bias = _frozen(bias, layer.weight)
    return result


def fold_graph(traced: fx.GraphModule) -> int:
    """Fold every pair in the graph; returns how many.

    Each pair gets a layer of its own, so a layer that is called twice, before two batch norms, is
    folded twice and kept for whoever else calls it.
    """
    count = 0
    for node in list(traced.graph.nodes):
        norm = module_of(traced, node)
        source = input_of(node)
        if source is None or not isinstance(norm, _BatchNorm):
            continue
        layer = module_of(traced, source)
        if layer is None or not can_fold(layer, norm) or set(source.users) != {node}:
            continue
        name = f"folded_{count}"
        traced.add_submodule(name, folded(layer, norm))
        source.target = name
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
        count += 1
    traced.delete_all_unused_submodules()
    traced.recompile()
    return count


def fold_sequentials(model: nn.Module) -> int:
    """Fold neighbours inside ``nn.Sequential``, for models without a graph; returns how many.

    A module that stands in more than one place is left alone: another caller may mean it unfolded.
    """
    places: dict[nn.Module, int] = {}
    for parent in model.modules():
        for child in parent._modules.values():
            if child is not None:
                places[child] = places.get(child, 0) + 1
    count = 0
    for sequence in list(model.modules()):
        if not isinstance(sequence, nn.Sequential):
            continue
        if type(sequence).forward is not nn.Sequential.forward or not _without_hooks(sequence):
            continue
        for (name, layer), (next_name, norm) in pairwise(list(sequence._modules.items())):
            if layer is None or norm is None or not can_fold(layer, norm):
                continue
            if places[layer] == places[norm] == 1:
                setattr(sequence, name, folded(layer, norm))
                setattr(sequence, next_name, nn.Identity())
                count += 1
    return count


def _without_hooks(module: nn.Module) -> bool:
    """Whether nobody listens at this module (they would see other values, or change them)."""
    return not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _frozen(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype), requires_grad=False)
