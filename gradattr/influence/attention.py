"""Self-attention made of layers that have rules.

``nn.MultiheadAttention`` uses its weights in a function of its own, so no hook sees what goes into
them. Written as two linear layers around the attention product, it is covered like anything else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainAttention(nn.Module):
    """The same function as a ``nn.MultiheadAttention`` in eval mode, on the same parameters.

    For self-attention without masks, batch first: what vision transformers use. Anything else
    raises NotImplementedError, and the caller keeps the module as it was. Attention weights are
    not returned.
    """

    def __init__(self, module: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = module.num_heads
        width = module.embed_dim
        self.project = nn.Linear(width, 3 * width, device="meta")
        self.out = nn.Linear(width, width, device="meta")
        self.project.weight = module.in_proj_weight
        self.project.bias = module.in_proj_bias
        self.out.weight = module.out_proj.weight
        self.out.bias = module.out_proj.bias

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether the module is one that this class stands for."""
        return (
            type(module) is nn.MultiheadAttention
            and module.batch_first
            and module.in_proj_weight is not None
            and module.bias_k is None
            and not module.add_zero_attn
        )

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
        masks = ("key_padding_mask", "attn_mask")
        if query is not key or query is not value or query.dim() != 3:
            raise NotImplementedError("attention of one batch to another")
        if any(options.get(mask) is not None for mask in masks) or options.get("is_causal"):
            raise NotImplementedError("attention with a mask")
        parts = torch.unflatten(self.project(query), 2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return self.out(mixed.transpose(1, 2).flatten(2)), None


def unroll_attention(model: nn.Module) -> int:
    """Replace every fitting attention of ``model``, which is changed; how many there were."""
    found = [(name, m) for name, m in model.named_modules() if PlainAttention.fits(m)]
    for name, module in found:
        assert isinstance(module, nn.MultiheadAttention)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, PlainAttention(module))
    return len(found)
