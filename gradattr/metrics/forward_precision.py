"""Forward passes in bfloat16: for metrics that only ask what the model says.

Convolutions and products are computed in bfloat16 (``torch.autocast``), several times as fast where
the hardware has it; normalisations, softmax and what the metric makes of the answers stay in
float32 or wider. Their weights are rounded once, not in every pass.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradattr.attribution.evaluator import Choose, Evaluator, Explained
from gradattr.attribution.target import Objective

_ROUNDED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Bfloat16Forwards:
    """An evaluator whose ``logits`` are computed in bfloat16, and returned in float32; in all else
    it is the one that it is made from, which stays as it is."""

    def __init__(self, exact: Evaluator) -> None:
        self.exact = exact
        # What it keeps besides, as the network that it was tuned from, need not be there twice.
        kept = {id(v): v for k, v in vars(exact).items() if k == "network"}
        self._rounded = copy.deepcopy(exact, dict(kept))
        for part in vars(self._rounded).values():
            if isinstance(part, nn.Module) and id(part) not in kept:
                _round_weights(part)

    @property
    def network(self) -> nn.Module:
        return self.exact.network

    def logits(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self._rounded.logits(x).float()

    def stem(self, x: Tensor) -> Tensor:
        return self.exact.stem(x)

    def pullback(self, grad_h: Tensor, x_shape: torch.Size) -> Tensor:
        return self.exact.pullback(grad_h, x_shape)

    def gradients(
        self, h: Tensor, index: Tensor, objective: Objective
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.exact.gradients(h, index, objective)

    def logits_and_gradients(
        self, h: Tensor, choices: Sequence[Choose]
    ) -> tuple[Tensor, list[Explained]]:
        return self.exact.logits_and_gradients(h, choices)


def _round_weights(part: nn.Module) -> None:
    for layer in part.modules():
        if isinstance(layer, _ROUNDED) and layer.weight.dtype == torch.float32:
            layer.to(torch.bfloat16)
