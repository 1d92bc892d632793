"""Gradient steps from one model on many images, each image with a model of its own.

``torch.func``: the models of a batch are one set of stacked parameters. Where a model cannot be
vectorised, or where that gives other values, a loop over the images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gradattr.influence.directions import Loss
from gradattr.influence.fallback import plain_attention
from gradattr.influence.products import GradientProducts
from gradattr.influence.wiring import AGREE, frozen_copy

#: Bytes of the stacked parameters of one batch: past it the steps wait for memory.
STEP_BYTES = 12 * 2**20
LARGEST_BATCH = 32

Parameters = dict[str, Tensor]


class Steps:
    """``steps`` plain gradient steps of rate ``lr`` on the loss of one image.

    ``how`` is 'vmap' or 'loop': found with the first images.
    """

    def __init__(
        self, products: GradientProducts, lr: float, steps: int, batch_size: int | None = None
    ) -> None:
        self.products, self.lr, self.steps = products, lr, steps
        self.values = _parameters(products.model, products.names)
        size = sum(v.numel() * v.element_size() for v in self.values.values())
        self.batch_size = batch_size or max(1, min(LARGEST_BATCH, STEP_BYTES // max(1, size)))
        self.how: str | None = None

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Of the model as it is: (n,)."""
        parts = []
        with torch.no_grad(), plain_attention():
            for rows in torch.split(torch.arange(len(x)), self.batch_size):
                outputs = self.products.model(x[rows].clone())
                parts.append(self.products.loss(outputs, y[rows]))
        return torch.cat(parts)

    def after(self, x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        """Loss of each query after the steps on the image in the same row: (n,)."""
        if self.how is None:
            self.how = self._find_how(x[:2], y[:2], query_x[:2], query_y[:2])
        one = _Model(self.products.model, self.products.loss, self.lr, self.steps)
        by = one.by_vmap if self.how == "vmap" else one.by_loop
        return by(self.values, x, y, query_x, query_y)

    def _find_how(self, *examples: Tensor) -> str:
        """Two examples both ways, in float64 where the model can."""
        try:
            model = frozen_copy(self.products.model).double()
            one = _Model(model, self.products.loss, self.lr, self.steps)
            values = _parameters(model, self.products.names)
            doubled = [v.double() if v.is_floating_point() else v for v in examples]
            fast, slow = one.by_vmap(values, *doubled), one.by_loop(values, *doubled)
        except Exception:  # whatever a user's model raises in vmap, or in float64
            return "loop"
        return "vmap" if torch.allclose(fast, slow, rtol=AGREE, atol=AGREE) else "loop"


def _parameters(model: nn.Module, names: list[str]) -> Parameters:
    every = dict(model.named_parameters(remove_duplicate=False))
    return {name: every[name].detach() for name in names}


class _Model:
    """A model as a function of its parameters, one image at a time."""

    def __init__(self, model: nn.Module, loss: Loss, lr: float, steps: int) -> None:
        self.model, self.loss, self.lr, self.steps = model, loss, lr, steps

    def loss_of(self, values: Parameters, image: Tensor, label: Tensor) -> Tensor:
        outputs = functional_call(self.model, values, (image[None].clone(),))
        return self.loss(outputs, label[None]).sum()

    def one(
        self, values: Parameters, image: Tensor, label: Tensor, query: Tensor, query_label: Tensor
    ) -> Tensor:
        for _ in range(self.steps):
            slopes = grad(self.loss_of)(values, image, label)
            values = {name: value - self.lr * slopes[name] for name, value in values.items()}
        return self.loss_of(values, query, query_label)

    def by_vmap(self, values: Parameters, *examples: Tensor) -> Tensor:
        with plain_attention(), torch.no_grad():
            found: Tensor = vmap(self.one, (None, 0, 0, 0, 0), randomness="error")(
                values, *examples
            )
        return found

    def by_loop(self, values: Parameters, *examples: Tensor) -> Tensor:
        found = []
        with plain_attention():
            for image, label, query, query_label in zip(*examples, strict=True):
                own = values
                for _ in range(self.steps):
                    leaves = {name: value.clone().requires_grad_() for name, value in own.items()}
                    with torch.enable_grad():
                        value = self.loss_of(leaves, image, label)
                    slopes = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
                    own = {
                        name: value if slope is None else value - self.lr * slope
                        for (name, value), slope in zip(own.items(), slopes, strict=True)
                    }
                with torch.no_grad():
                    found.append(self.loss_of(own, query, query_label))
        return torch.stack(found)
