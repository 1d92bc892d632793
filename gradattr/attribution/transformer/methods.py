"""More methods for a notebook: those that read attention.

They need ``nn.MultiheadAttention`` over a grid of patches; maps are (n, 1, H, W), upsampled
bilinearly. MethodError says why a model does not fit. Their arguments are as in ``methods``.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from gradattr.attribution.methods import Common, Model, run_request
from gradattr.attribution.requests import method_request
from gradattr.attribution.result import Attribution
from gradattr.attribution.target import TargetName
from gradattr.attribution.transformer.attention_maps import Head


def attention(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    block: int = -1,
    head: Head = "mean",
    **common: Unpack[Common],
) -> Attribution:
    """What the class token takes from each patch in one block: a row of its attention weights.

    Without a class token: what each patch gives to the others, on average. ``block``: attention in
    call order, from 0, -1 is the last; ``head``: 'mean', or one of them, from 0. The map is the
    same for every target.
    """
    request = method_request("attention", target=target, block=block, head=head)
    return run_request(model, x, request, **common)


def attention_rollout(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    residual: bool = True,
    head: Head = "mean",
    **common: Unpack[Common],
) -> Attribution:
    """Attention followed through all blocks to the patches (Abnar, Zuidema 2020).

    The product of (A + I) / 2 over the blocks, of A itself without ``residual``; rows add up to 1.
    ``head``: 'mean', or one of every block. The map is the same for every target.
    """
    request = method_request("attention_rollout", target=target, residual=residual, head=head)
    return run_request(model, x, request, **common)


def attention_x_gradient(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    block: int = -1,
    head: Head = "mean",
    **common: Unpack[Common],
) -> Attribution:
    """Attention weights times the gradient of the score in them, signed; as ``attention`` else."""
    request = method_request("attention_x_gradient", target=target, block=block, head=head)
    return run_request(model, x, request, **common)
