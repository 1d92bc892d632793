"""Catalogue entries of the methods that read attention."""

from __future__ import annotations

from gradattr.attribution.catalogue_entry import (
    DIFFERENTIABLE,
    LABELS,
    SATURATED,
    MethodInfo,
    Parameter,
)

_NO_CLAIM = "none claimed"
_TOKENS = (
    "self-attention by nn.MultiheadAttention over a grid of patches, with or without a class token "
    "in front"
)
_WINDOWS = "windows (Swin): only blocks whose one window is the whole image can be read"
_EVERY_CLASS = "the same map for every target and class: where the model looks, not what for"
_HEAD = Parameter("head", "mean", "mean over the heads, or one of them, from 0")
_BLOCK = Parameter("block", -1, "attention in call order, from 0; -1 the last")

ATTENTION_METHODS = (
    MethodInfo(
        "attention",
        "A_cls,j of a block, upsampled (without a class token: mean_i A_ij)",
        "Vaswani et al. 2017, Attention is all you need",
        1,
        "a forward pass",
        (_TOKENS,),
        False,
        _NO_CLAIM,
        (
            _EVERY_CLASS,
            "late tokens are mixtures: a patch stands for more than its pixels",
            _WINDOWS,
        ),
        (_BLOCK, _HEAD),
        per_pixel=True,
        contributions=True,
    ),
    MethodInfo(
        "attention_rollout",
        "(B_L ⋯ B_1)_cls,j upsampled, B = (A + I)/2 or A, rows add up to 1",
        "Abnar, Zuidema 2020, Quantifying attention flow in transformers",
        1,
        "a forward pass",
        (_TOKENS, "the same tokens in every block"),
        False,
        _NO_CLAIM,
        (
            _EVERY_CLASS,
            "residual False: rows of a product of many A's are all alike",
            "windows and merged patches (Swin): refused",
        ),
        (
            Parameter("residual", True, "a block keeps half of a token, as its shortcut does"),
            _HEAD,
        ),
        per_pixel=True,
        contributions=True,
    ),
    MethodInfo(
        "attention_x_gradient",
        "(A ⊙ ∂f/∂A)_cls,j of a block, upsampled (without a class token: mean_i)",
        "Barkan et al. 2021, Grad-SAM; Chefer, Gur, Wolf 2021, Transformer interpretability beyond "
        "attention visualization",
        1,
        "a forward and a backward pass",
        (_TOKENS, DIFFERENTIABLE, LABELS),
        False,
        _NO_CLAIM,
        (SATURATED, _WINDOWS),
        (_BLOCK, _HEAD),
        per_pixel=True,
        contributions=True,
    ),
)
