"""Pseudo-gradients of the Fisher matrix, streamed: which labels a training example gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from gradattr.errors import MethodError
from gradattr.influence.directions import Loss
from gradattr.influence.hashing import MASK, uniform
from gradattr.influence.layers import Call, Layer
from gradattr.influence.products import GradientProducts

Fisher = Literal["sampled", "exact", "empirical"]
Examples = tuple[Tensor, Tensor]
Batches = Callable[[], Iterable[Examples]]

FISHERS: tuple[Fisher, ...] = ("sampled", "exact", "empirical")


class FisherStream:
    """The training examples, and the gradients that the Fisher matrix is made of."""

    def __init__(
        self, products: GradientProducts, examples: Examples | Batches, fisher: Fisher, seed: int
    ) -> None:
        if fisher not in FISHERS:
            raise MethodError(
                f"fisher '{fisher}' was given; expected 'sampled', 'exact' or 'empirical'"
            )
        self.products, self.fisher, self.seed = products, fisher, seed & MASK
        self.batches: Batches = examples if callable(examples) else lambda: [examples]
        self.dtype = next(products.model.parameters()).dtype
        self.count = 0

    def run(
        self,
        by_layer: Callable[[Layer, list[Call], bool], None],
        by_example: Callable[[dict[str, Tensor]], None],
    ) -> None:
        """One pass. ``by_layer(layer, calls, first)``: whether these inputs are new, since every
        class of 'exact' shows them again."""
        seen = 0
        for x, y in self.batches():
            if len(x) == 0:
                continue
            self.products.unfolded(x, y)
            for number, (labels, loss) in enumerate(self._questions(x, y, seen)):

                def layers(_: slice, layer: Layer, calls: list[Call], n: int = number) -> None:
                    by_layer(layer, calls, n == 0)

                self.products.visit_layers(
                    x, labels, layers, lambda _, values: by_example(values), loss=loss
                )
            seen += len(x)
        if seen == 0:
            raise MethodError("EK-FAC was given no examples")
        if self.count not in (0, seen):
            raise MethodError(
                f"the stream had {self.count} examples the first time and {seen} the second; "
                "EK-FAC reads the same ones twice"
            )
        self.count = seen

    def _questions(self, x: Tensor, y: Tensor, seen: int) -> Iterator[tuple[Tensor, Loss]]:
        """Labels and losses whose squared gradients are to be summed."""
        loss = self.products.loss
        if self.fisher == "empirical":
            yield y, loss
            return
        with torch.no_grad():
            outputs = self.products.model(x[:1].clone())
        if outputs.dim() != 2:
            raise MethodError(
                f"fisher '{self.fisher}' needs outputs (n, classes), the model's have the shape "
                f"{tuple(outputs.shape)}; take 'empirical'"
            )
        numbers = torch.arange(seen, seen + len(x), device=x.device)
        if self.fisher == "sampled":
            yield numbers, lambda outputs, numbers: loss(outputs, self.drawn(outputs, numbers))
            return
        for label in range(outputs.shape[1]):
            yield (
                torch.full_like(numbers, label),
                lambda outputs, labels: _weighted(loss, outputs, labels),
            )

    def drawn(self, outputs: Tensor, numbers: Tensor) -> Tensor:
        """Labels (n,) from softmax(outputs), by the examples' numbers in the stream."""
        shares = outputs.detach().double().softmax(1).cumsum(1)
        draws = uniform(numbers, torch.full_like(numbers, self.seed))
        return (shares <= draws[:, None]).sum(1).clamp(max=outputs.shape[1] - 1)


def _weighted(loss: Loss, outputs: Tensor, labels: Tensor) -> Tensor:
    """The loss times the root of the label's probability: its gradients' squares then are weighted
    by the probability."""
    shares = outputs.detach().softmax(1).gather(1, labels[:, None]).squeeze(1)
    return shares.sqrt() * loss(outputs, labels)
