"""Per-example gradients of any parameter: what the layer rules do not cover.

``torch.func.vmap(grad)`` where the model allows it, else one backward pass per example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gradattr.influence.directions import Loss

#: Bytes of per-example gradients written down at a time.
FALLBACK_BYTES = 128 * 2**20


class Fallback:
    """Gradients of the parameters ``names`` of ``model``, one per example.

    ``how`` is 'vmap' or 'loop': found on first use.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], loss_batch: int = 16) -> None:
        self.model = model
        self.names = list(names)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self.values = {name: parameters[name].detach() for name in self.names}
        size = sum(v.numel() * v.element_size() for v in self.values.values())
        self.batch = max(1, min(loss_batch, FALLBACK_BYTES // max(1, size)))
        self.how = "vmap"

    def visit(
        self, x: Tensor, y: Tensor, loss: Loss, consume: Callable[[slice, dict[str, Tensor]], None]
    ) -> None:
        """``consume(rows, {name: (rows, *shape)})`` for a few examples at a time."""
        for first in range(0, len(x), self.batch):
            rows = slice(first, min(first + self.batch, len(x)))
            consume(rows, self.gradients(x[rows], y[rows], loss))

    def gradients(
        self, x: Tensor, y: Tensor, loss: Loss, *, create_graph: bool = False
    ) -> dict[str, Tensor]:
        """{name: (n, *shape)} for a batch that is small enough; with a graph back to x if asked."""
        # torch 2.14 differentiates what vmap(grad) made of a layer norm wrongly, and says nothing;
        # the loop, by autograd alone, is right.
        if self.how == "vmap" and not create_graph:
            try:
                return self._by_vmap(x, y, loss)
            except (RuntimeError, NotImplementedError, ValueError, TypeError):
                self.how = (
                    "loop"  # data-dependent control flow, an operator without a batching rule
                )
        return self._by_loop(x, y, loss, create_graph)

    def one_loss(self, loss: Loss) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
        """(parameters, x (...), y) -> the loss of one example, as a number."""

        def of_one(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            outputs = functional_call(self.model, values, (image[None],))
            return loss(outputs, label[None]).squeeze(0)

        return of_one

    def _by_vmap(self, x: Tensor, y: Tensor, loss: Loss) -> dict[str, Tensor]:
        with plain_attention():
            per_example = vmap(grad(self.one_loss(loss)), (None, 0, 0), randomness="error")
            return per_example(self.values, x, y)

    def _by_loop(self, x: Tensor, y: Tensor, loss: Loss, create_graph: bool) -> dict[str, Tensor]:
        rows = [
            parameter_gradients(self.model, self.values, x[i], y[i], loss, create_graph)
            for i in range(len(x))
        ]
        return {name: torch.stack([row[name] for row in rows]) for name in self.names}


def parameter_gradients(
    model: nn.Module,
    values: Mapping[str, Tensor],
    image: Tensor,
    label: Tensor,
    loss: Loss,
    create_graph: bool = False,
) -> dict[str, Tensor]:
    """The slow oracle: one backward pass through the model for one example x (...), y."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in values.items()}
    with torch.enable_grad(), plain_attention():
        outputs = functional_call(model, leaves, (image[None].clone(),))
        found = torch.autograd.grad(
            loss(outputs, label[None]).sum(),
            list(leaves.values()),
            create_graph=create_graph,
            allow_unused=True,
        )
    return {
        name: torch.zeros_like(leaf) if g is None else g
        for (name, leaf), g in zip(leaves.items(), found, strict=True)
    }


class plain_attention:  # noqa: N801 - used like a function
    """Inside, attention is made of operators that can be differentiated twice and vectorised.

    The fused kernels of torch know neither. Settings are put back on leaving.
    """

    def __enter__(self) -> None:
        self._fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        self._kernel = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        self._kernel.__enter__()

    def __exit__(self, *error: object) -> None:
        self._kernel.__exit__(None, None, None)
        torch.backends.mha.set_fastpath_enabled(self._fast)
