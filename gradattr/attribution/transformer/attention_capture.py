"""Attention weights as tensors of the network's own graph, without a change to the network.

Modules hand out their weights seldom (``need_weights=False``), and fused kernels never have them.
A mode of torch sees every call of ``multi_head_attention_forward``, whoever makes it, and computes
it with the weights written out. While a mode is active torch's fast paths of
``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer`` are off.

Shapes: n images, t tokens, h heads, e channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gradattr.errors import MethodError

_SIGNATURE = signature(F.multi_head_attention_forward)


@dataclass(frozen=True)
class Attended:
    """One call of an attention module."""

    number: int
    """In call order, from 0."""
    name: str
    """For messages: "attention 3 ('encoder.3.self_attention')"."""
    weights: Tensor | None
    """A (n, h, t, t), row i: how much query i takes from each token. Rows add up to 1. None where
    no such thing exists; ``why`` then says why."""
    why: str = ""
    front_varies: bool = False
    """Whether the first token of the first call is not the same for all images: no class token."""

    def whole(self) -> Tensor:
        """The weights; MethodError where there are none."""
        if self.weights is None:
            raise MethodError(f"{self.name} {self.why}")
        return self.weights


#: Is told of every call.
Listener = Callable[[Attended], None]


def watch_attention(network: nn.Module, x: Tensor, listener: Listener) -> Tensor:
    """Logits (n, classes) at x (n, ...), the same as without watching, up to rounding.

    With a graph if gradients are enabled; the weights are part of it. Raises MethodError, which
    names the module and says why, at attention whose weights do not say how much one token of the
    image takes from another, and if there is no attention.
    """
    watch = _Watch(_names(network), len(x), listener)
    with _windows(network, watch), watch:
        logits: Tensor = network(x.clone())
    if watch.called == 0:
        raise MethodError("it has no attention (nn.MultiheadAttention)")
    return logits


class _Watch(TorchFunctionMode):
    """Computes attention with its weights written out, and tells of them."""

    def __init__(self, names: dict[int, str], images: int, listener: Listener) -> None:
        super().__init__()
        self.names, self.images, self.listener = names, images, listener
        self.called = 0
        self.window: str | None = None
        """The module whose softmax is awaited: one window over the whole image."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._attend(_SIGNATURE.bind(*args, **kwargs))
        if func is F.scaled_dot_product_attention:
            self.tell("", None, "is scaled_dot_product_attention without nn.MultiheadAttention")
        result = func(*args, **kwargs)
        if func is F.softmax and self.window is not None:
            name, self.window = self.window, None
            self.tell(name, result)
        return result

    def tell(
        self, name: str, weights: Tensor | None, why: str = "", front_varies: bool = False
    ) -> None:
        """Of a call of the module called ``name``."""
        number, self.called = self.called, self.called + 1
        self.listener(Attended(number, _label(number, name), weights, why, front_varies))

    def _attend(self, bound: Any) -> tuple[Tensor, Tensor | None]:
        """What ``multi_head_attention_forward`` computes."""
        bound.apply_defaults()
        a = bound.arguments
        name = self.names.get(id(a["out_proj_weight"]), "")
        if why := self._misfit(a):
            raise MethodError(f"{_label(self.called, name)} {why}")
        bias = a["in_proj_bias"]
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        sides = zip(
            (a["query"], a["key"], a["value"]), a["in_proj_weight"].chunk(3), biases, strict=True
        )
        # (t, n, e) -> (n, h, t, e / h)
        q, k, v = (
            torch.unflatten(F.linear(x, w, b), 2, (a["num_heads"], -1)).permute(1, 2, 0, 3)
            for x, w, b in sides
        )
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
        weights = torch.softmax(_masked(scores, a["attn_mask"], a["key_padding_mask"]), dim=-1)
        self.tell(name, weights, front_varies=self.called == 0 and _varies(a["query"][0].detach()))
        mixed = (weights @ v).permute(2, 0, 1, 3).flatten(2)
        out = F.linear(mixed, a["out_proj_weight"], a["out_proj_bias"])
        if not a["need_weights"]:
            return out, None
        return out, weights.mean(1) if a["average_attn_weights"] else weights

    def _misfit(self, a: dict[str, Any]) -> str | None:
        """Why the weights of a call cannot be read, the end of a sentence."""
        query, key = a["query"], a["key"]
        if a["use_separate_proj_weight"]:
            return "has keys or values of another width than its queries (kdim, vdim)"
        if a["bias_k"] is not None or a["bias_v"] is not None:
            return "has a key that is no token (add_bias_kv)"
        if a["add_zero_attn"]:
            return "has a key that is no token (add_zero_attn)"
        if a["static_k"] is not None or a["static_v"] is not None:
            return "is given keys or values that are no tokens (static_k, static_v)"
        if a["training"] and a["dropout_p"] > 0:
            return "drops weights at random (training mode)"
        if query.dim() != 3 or query.shape[1] != self.images:
            return (
                f"is given {tuple(query.shape)} (tokens, batch, channels): not one sequence of "
                "tokens for each image"
            )
        if not _same(query, key):
            return "attends to other tokens than its queries (cross-attention)"
        return None


def _same(one: Tensor, other: Tensor) -> bool:
    """The very same numbers; modules with ``batch_first`` hand on views."""
    if one is other:
        return True
    where = (one.data_ptr(), one.shape, one.stride())
    return where == (other.data_ptr(), other.shape, other.stride())


def _varies(front: Tensor) -> bool:
    """Whether a token (n, e) differs between images, by more than rounding."""
    return bool((front - front[:1]).abs().max() > 1e-4 * front.abs().max())


def _label(number: int, name: str) -> str:
    return f"attention {number}" + (f" ('{name}')" if name else "")


def _masked(scores: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor:
    """Scores (n, h, t, t) where a mask ((t, t) or (n h, t, t)) and a padding mask (n, t) of keys
    allow; true is forbidden, numbers are added."""
    if mask is not None:
        whole = torch.unflatten(mask, 0, scores.shape[:2]) if mask.dim() == 3 else mask
        scores = _with(scores, whole)
    return scores if padding is None else _with(scores, padding[:, None, None, :])


def _with(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def _names(network: nn.Module) -> dict[int, str]:
    """Of attention modules, by the identity of their last weight."""
    return {
        id(module.out_proj.weight): name
        for name, module in network.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }


@contextmanager
def _windows(network: nn.Module, watch: _Watch) -> Iterator[None]:
    """Note where torchvision's shifted windows attend: where one window is the whole image, its
    softmax is watched; anywhere else no token sees the image."""
    from torchvision.models import swin_transformer as swin

    kinds = (swin.ShiftedWindowAttention, swin.ShiftedWindowAttentionV2)

    def enters(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            assert isinstance(module, swin.ShiftedWindowAttention)
            size, window = tuple(args[0].shape[1:3]), tuple(module.window_size)
            if size == window:
                watch.window = name
            else:
                watch.tell(name, None, _partly(size, window))

        return note

    hooks = [
        module.register_forward_pre_hook(enters(name))
        for name, module in network.named_modules()
        if type(module) in kinds
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _partly(size: tuple[int, ...], window: tuple[int, ...]) -> str:
    inside = f"attends inside windows of {window[0]} x {window[1]} tokens"
    if all(have <= wide for have, wide in zip(size, window, strict=True)):
        return f"{inside} where the image has {size[0]} x {size[1]}: to padding"
    return f"{inside} of the image's {size[0]} x {size[1]}: no token sees the whole image"
