"""Small transformers in float64 with random weights, for images (3, 32, 32) and 6 classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 6


@cache
def vit() -> nn.Module:
    """torchvision's: two blocks of two heads, a class token and 4 x 4 patches."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = torchvision.models.VisionTransformer(
            image_size=32,
            patch_size=8,
            num_layers=2,
            num_heads=2,
            hidden_dim=16,
            mlp_dim=32,
            num_classes=CLASSES,
        )
        return _shaken(model)


@cache
def swin(version: int = 1) -> nn.Module:
    """torchvision's: windows of 4 x 4 in 8 x 8 tokens, then in 4 x 4."""
    from torchvision.models import swin_transformer as parts

    blocks = (parts.SwinTransformerBlock, parts.SwinTransformerBlockV2)
    merging = (parts.PatchMerging, parts.PatchMergingV2)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = parts.SwinTransformer(
            patch_size=[4, 4],
            embed_dim=8,
            depths=[2, 2],
            num_heads=[2, 2],
            window_size=[4, 4],
            num_classes=CLASSES,
            block=blocks[version - 1],
            downsample_layer=merging[version - 1],
        )
        return _shaken(model)


def _shaken(model: nn.Module) -> nn.Module:
    """Weights that make attention uneven and logits depend on everything (a ViT's head is 0)."""
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.double().eval()


class Patches(nn.Module):
    """Patches of 8 pixels, blocks that take (n, t, 16) tokens, and a linear head.

    The class token (index 0, if there is one) or the mean token is classified.
    """

    def __init__(self, blocks: Sequence[nn.Module], class_token: bool, seed: int = 5) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.cut = nn.Conv2d(3, 16, 8, 8)
            self.token = nn.Parameter(torch.randn(1, 1, 16)) if class_token else None
            self.blocks = nn.ModuleList(blocks)
            self.head = nn.Linear(16, CLASSES)
            _shaken(self)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.cut(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1) if self.token is None else tokens[:, 0])


class Attending(nn.Module):
    """x + attention(x), by an ``nn.MultiheadAttention`` that is called with ``options``."""

    def __init__(
        self, call: dict[str, Any] | None = None, heads: int = 2, **made_with: Any
    ) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, heads, **made_with)
        self.call = call or {}

    def forward(self, x: Tensor) -> Tensor:
        if not self.attention.batch_first:
            x = x.transpose(0, 1)
        x = x + self.attention(x, x, x, **self.call)[0]
        return x if self.attention.batch_first else x.transpose(0, 1)


def by_hand(model: Patches, x: Tensor, bumps: dict[int, Tensor] | None = None) -> Any:
    """Logits of ``Patches`` of ``Attending``, head by head in plain arithmetic, and every A
    (n, h, t, t); ``bumps`` are added to the A of a block."""
    tokens = model.cut(x).flatten(2).transpose(1, 2)
    if model.token is not None:
        tokens = torch.cat([model.token.expand(len(x), -1, -1), tokens], 1)
    attentions = []
    for number, block in enumerate(model.blocks):
        module = block.attention
        projected = F.linear(tokens, module.in_proj_weight, module.in_proj_bias)
        width = 16 // module.num_heads
        heads, weights = [], []
        for head in range(module.num_heads):
            q, k, v = (projected[..., side * 16 + head * width :][..., :width] for side in range(3))
            a = torch.softmax(torch.einsum("nid,njd->nij", q, k) / math.sqrt(width), -1)
            if bumps and number in bumps:
                a = a + bumps[number][:, head]
            weights.append(a)
            heads.append(torch.einsum("nij,njd->nid", a, v))
        attentions.append(torch.stack(weights, 1))
        tokens = tokens + module.out_proj(torch.cat(heads, -1))
    pooled = tokens.mean(1) if model.token is None else tokens[:, 0]
    return model.head(pooled), attentions
