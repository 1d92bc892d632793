"""Normalisation layers: a gain and a shift of what was normalised."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.influence.layers import Call, Layer


class NormLayer(Layer):
    """y = γ z + β with z the normalised input: batch norm in eval mode, layer and group norm."""

    def gradients(self, calls: Sequence[Call]) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for call in calls:
            own = {}
            if "weight" in self.names:
                own["weight"] = self._summed(call.grads * self._normalised(call.inputs))
            if "bias" in self.names:
                own["bias"] = self._summed(call.grads)
            total = {k: total[k] + v if k in total else v for k, v in own.items()}
        return self._renamed(total)

    def _normalised(self, x: Tensor) -> Tensor:
        module = self.module
        if isinstance(module, nn.LayerNorm):
            return F.layer_norm(x, module.normalized_shape, eps=module.eps)
        if isinstance(module, nn.GroupNorm):
            return F.group_norm(x, module.num_groups, eps=module.eps)
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        return F.batch_norm(x, module.running_mean, module.running_var, eps=module.eps)

    def _summed(self, values: Tensor) -> Tensor:
        """Sum over positions: (n, ...) -> (n, *parameter shape)."""
        if isinstance(self.module, nn.LayerNorm):
            own = len(self.module.normalized_shape)
            return values.flatten(1, -1 - own).sum(1) if values.dim() > own + 1 else values
        return values.flatten(2).sum(2) if values.dim() > 2 else values
