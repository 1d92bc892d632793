"""Per-example parameter gradients of a layer from what went in and what came back.

A layer that was called on a batch saw its inputs a and, in the backward pass, the gradients δ of
its outputs. That is enough: the gradient of a linear layer's weight is ``sum_p δ_p a_p^T`` over
its positions p, and a convolution is a linear layer on patches. So scalar products and norms of
per-example gradients need no backward pass of their own, and no gradient of a whole model is
stored.

Letters: n examples, q directions, p positions, o outputs, k inputs of one output, g groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.influence.directions import Directions
from gradattr.influence.factors import Factors, Size, cheapest, products_of, row_squares

#: Bytes of weight gradients and patches written down at a time.
CHUNK_BYTES = 32 * 2**20
#: From so many positions on a convolution's gradients are made image by image.
MANY_POSITIONS = 256
#: Below so many values torch takes a slow kernel for a single image.
SMALL_IMAGE = 20480

#: Products (n, q) and squared norms (n,), each where asked for.
Pair = tuple[Tensor | None, Tensor | None]

#: By parameter name: one gradient per example (n, ...), or one direction per query (q, ...).
Gradients = Mapping[str, Tensor]


@dataclass
class Call:
    """One call of a layer on a batch: its input (n, ...) and the gradient of its output."""

    inputs: Tensor
    grads: Tensor


@dataclass
class Prepared:
    """Directions as one layer wants them, and the factors of its weight's if they were kept."""

    values: dict[str, Tensor]
    factors: Factors | None = None


class Layer(ABC):
    """A layer whose per-example gradients are known in closed form.

    ``names`` says under which name each of its own parameters ('weight', 'bias') is asked for;
    the others are left out of every sum.
    """

    def __init__(self, module: nn.Module, names: Mapping[str, str]) -> None:
        self.module = module
        self.names = dict(names)

    @abstractmethod
    def gradients(self, calls: Sequence[Call]) -> dict[str, Tensor]:
        """{parameter name: (n, *its shape)}; the calls of one batch add up."""

    def kept_factors(self, calls: Sequence[Call]) -> dict[str, Factors]:
        """What to keep with a direction beside its gradients, to make products cheaper."""
        return {}

    def prepare(self, directions: Directions) -> Prepared:
        """The part of the directions that is this layer's, laid out for ``products``. Once for
        many batches."""
        return Prepared({name: directions.values[name] for name in self.names.values()})

    def products(
        self, calls: Sequence[Call], prepared: Prepared | None, norms: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Scalar products with the directions (n, q), and squared norms (n,); None if not asked."""
        values = None if prepared is None else prepared.values
        return products_of(self.gradients(calls), values, norms)

    def _renamed(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: own[short] for short, name in self.names.items()}


class FactoredLayer(Layer):
    """A layer whose weight gradient is a sum of outer products: linear, convolution."""

    @abstractmethod
    def factors(self, call: Call) -> Factors:
        """The outer products of one call."""

    @abstractmethod
    def to_weight(self, matrix: Tensor) -> Tensor:
        """(..., g, o, k) -> (..., *weight shape)."""

    @abstractmethod
    def to_matrix(self, weight: Tensor) -> Tensor:
        """(..., *weight shape) -> (..., g, o, k)."""

    def joined(self, calls: Sequence[Call]) -> Factors:
        """All calls at once: a layer that is used twice has twice the positions."""
        return Factors.joined([self.factors(call) for call in calls])

    def matrices(self, calls: Sequence[Call]) -> Tensor:
        """Gradients of the weight (n, g, o, k)."""
        return self.joined(calls).matrices()

    def gradients(self, calls: Sequence[Call]) -> dict[str, Tensor]:
        own = {}
        if "weight" in self.names:
            own["weight"] = self.to_weight(self.matrices(calls))
        if "bias" in self.names:
            own["bias"] = self.sums(calls)
        return self._renamed(own)

    def sums(self, calls: Sequence[Call]) -> Tensor:
        """Gradients of the bias (n, channels)."""
        return torch.stack([self._summed(call.grads) for call in calls]).sum(0)

    def prepare(self, directions: Directions) -> Prepared:
        own = {short: directions.values[name] for short, name in self.names.items()}
        kept = None
        if "weight" in own:
            kept = directions.factors.get(self.names["weight"])
            own["weight"] = self.to_matrix(own["weight"]).contiguous()
        return Prepared(own, kept)

    def products(
        self, calls: Sequence[Call], prepared: Prepared | None, norms: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        dots, squares = [], []
        for part in self._chunks(calls):
            by_weight: Pair = (None, None)
            by_bias: Pair = (None, None)
            if "weight" in self.names:
                by_weight = self._weight_products(part, prepared, norms)
            if "bias" in self.names:
                biases = None if prepared is None else {"bias": prepared.values["bias"]}
                by_bias = products_of({"bias": self.sums(part)}, biases, norms)
            dots.append(_added(by_weight[0], by_bias[0]))
            squares.append(_added(by_weight[1], by_bias[1]))
        return _joined(dots), _joined(squares)

    def kept_factors(self, calls: Sequence[Call]) -> dict[str, Factors]:
        """{parameter name: factors} of the weight, if they are worth keeping with a direction."""
        if "weight" not in self.names or not self.size(calls).few_positions:
            return {}
        return {self.names["weight"]: self.joined(calls)}

    def size(self, calls: Sequence[Call]) -> Size:
        """Positions, inputs and outputs of one example."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        groups = getattr(self.module, "groups", 1)
        positions = sum(call.grads[0].numel() for call in calls) // len(weight)
        return Size(positions, weight[0].numel(), len(weight) // groups)

    def _weight_products(
        self, calls: Sequence[Call], prepared: Prepared | None, norms: bool
    ) -> Pair:
        directions = None if prepared is None else prepared.values["weight"]
        kept = None if prepared is None else prepared.factors
        queries = 0 if directions is None else len(directions)
        positions = 0 if kept is None else kept.inputs.shape[2]
        dots_by, norms_by = cheapest(self.size(calls), queries, norms, positions)
        matrices = factors = None
        if "direct" in (dots_by, norms_by):
            matrices = self.matrices(calls).flatten(1)
        if {dots_by, norms_by} != {"direct"}:
            factors = self.joined(calls)
        dots = squares = None
        if directions is not None:
            if dots_by == "direct" and matrices is not None:
                dots = matrices @ directions.flatten(1).T
            elif factors is not None:
                gram = dots_by == "gram" and kept is not None
                dots = factors.against(kept) if gram and kept else factors.applied(directions)
        if norms:
            if norms_by == "direct" and matrices is not None:
                squares = row_squares(matrices)
            elif factors is not None:
                squares = factors.gram()
        return dots, squares

    @abstractmethod
    def _summed(self, grads: Tensor) -> Tensor:
        """Sum over positions: (n, ...) -> (n, channels)."""

    def _chunks(self, calls: Sequence[Call]) -> Iterator[list[Call]]:
        """A few examples at a time: patches and matrices are larger than what was captured."""
        n, one = len(calls[0].inputs), self.size(calls)
        groups = getattr(self.module, "groups", 1)
        values = one.inputs * one.outputs + one.positions * (one.inputs + one.outputs)
        size = max(1, CHUNK_BYTES // (groups * values * calls[0].inputs.element_size()))
        for first in range(0, n, size):
            rows = slice(first, first + size)
            yield [Call(call.inputs[rows], call.grads[rows]) for call in calls]


class LinearLayer(FactoredLayer):
    """y = W a + b at every position."""

    def factors(self, call: Call) -> Factors:
        a, grads = call.inputs, call.grads
        n = len(a)
        return Factors(a.reshape(n, 1, -1, a.shape[-1]), grads.reshape(n, 1, -1, grads.shape[-1]))

    def _summed(self, grads: Tensor) -> Tensor:
        return grads.flatten(1, -2).sum(1) if grads.dim() > 2 else grads

    def to_weight(self, matrix: Tensor) -> Tensor:
        return matrix.squeeze(-3)

    def to_matrix(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(-3)


class Conv2dLayer(FactoredLayer):
    """A convolution is a linear layer on patches (height, width, channel), one per position."""

    def __init__(self, module: nn.Conv2d, names: Mapping[str, str]) -> None:
        super().__init__(module, names)
        self.conv = module

    def factors(self, call: Call) -> Factors:
        groups = self.conv.groups
        return Factors(
            patches(self.conv, call.inputs),
            torch.unflatten(call.grads.permute(0, 2, 3, 1), 3, (groups, -1))
            .movedim(3, 1)
            .flatten(2, 3),
        )

    def matrices(self, calls: Sequence[Call]) -> Tensor:
        """Where an image has many positions torch's own kernel, one image at a time, is faster than
        writing patches down: 1.1 to 1.6 times, measured at 256 and more on a CPU."""
        (call, *more) = calls
        many = self.size(calls).positions >= MANY_POSITIONS
        if more or not many or torch.is_grad_enabled() or self.conv.padding_mode != "zeros":
            return super().matrices(calls)
        if isinstance(self.conv.padding, str):
            return super().matrices(calls)
        inputs, grads = call.inputs, call.grads
        if inputs[0].numel() < SMALL_IMAGE and self.conv.groups == 1:
            return self.to_matrix(self._as_groups(inputs, grads))
        rows = [self._kernel(inputs[i : i + 1], grads[i : i + 1]) for i in range(len(inputs))]
        return self.to_matrix(torch.stack(rows))

    def products(
        self, calls: Sequence[Call], prepared: Prepared | None, norms: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        if not torch.is_grad_enabled() or self._prefers_factors(calls):
            return super().products(calls, prepared, norms)
        dots = None if prepared is None else self._along_shared(calls, prepared)
        return dots, self._own_squares(calls) if norms else None

    def _prefers_factors(self, calls: Sequence[Call]) -> bool:
        return self.size(calls).few_positions

    def _along_shared(self, calls: Sequence[Call], prepared: Prepared) -> Tensor:
        """Scalar products that can be differentiated cheaply: <δ, a convolved with D>."""
        columns = []
        for number in range(len(next(iter(prepared.values.values())))):
            own = {short: value[number : number + 1] for short, value in prepared.values.items()}
            columns.append(sum(self._moved(call, own, 1) for call in calls))
        return torch.stack([torch.as_tensor(column) for column in columns], 1)

    def _own_squares(self, calls: Sequence[Call]) -> Tensor:
        """||g||^2 with its slope 2 d<g, c>, c = g held fixed: no weight's gradient in the graph."""
        with torch.no_grad():
            fixed = [Call(call.inputs.detach(), call.grads.detach()) for call in calls]
            own = self.prepare(Directions(self.gradients(fixed))).values
        along = torch.stack([self._moved(call, own, len(call.inputs)) for call in calls]).sum(0)
        return 2 * along - along.detach()

    def _moved(self, call: Call, own: Mapping[str, Tensor], images: int) -> Tensor:
        """<δ, a convolved with the direction> (n,): one direction, or one for each image."""
        total = call.grads.new_zeros(len(call.grads))
        if "weight" in own:
            weight = self.to_weight(own["weight"]).flatten(0, 1)
            inputs, conv = call.inputs, self.conv
            if images > 1:
                inputs = inputs.reshape(1, -1, *inputs.shape[2:])
            padding: str | tuple[int, ...] | int = conv.padding
            if conv.padding_mode != "zeros":
                inputs, padding = padded(conv, inputs), 0
            moved = F.conv2d(
                inputs, weight, None, conv.stride, padding, conv.dilation, images * conv.groups
            )
            total = total + (moved.reshape(call.grads.shape) * call.grads).sum((1, 2, 3))
        if "bias" in own:
            total = total + (self._summed(call.grads) * own["bias"]).sum(1)
        return total

    def _as_groups(self, inputs: Tensor, grads: Tensor) -> Tensor:
        """One call for the batch: the images as groups of one image's channels."""
        n, weight = len(inputs), self.conv.weight
        found = self._kernel(
            inputs.reshape(1, -1, *inputs.shape[2:]),
            grads.reshape(1, -1, *grads.shape[2:]),
            weight.repeat(n, 1, 1, 1),
            n,
        )
        return found.view(n, *weight.shape)

    def _kernel(
        self, inputs: Tensor, grads: Tensor, weight: Tensor | None = None, groups: int | None = None
    ) -> Tensor:
        conv = self.conv
        found: Tensor = torch.ops.aten.convolution_backward(
            grads,
            inputs,
            conv.weight if weight is None else weight,
            None,
            conv.stride,
            conv.padding,
            conv.dilation,
            False,
            [0, 0],
            groups or conv.groups,
            [False, True, False],
        )[1]
        return found

    def _summed(self, grads: Tensor) -> Tensor:
        return grads.sum((2, 3))

    def to_weight(self, matrix: Tensor) -> Tensor:
        """Rows (height, width, channel) -> (channel, height, width)."""
        window = self.conv.kernel_size
        return torch.unflatten(matrix.flatten(-3, -2), -1, (*window, -1)).movedim(-1, -3)

    def to_matrix(self, weight: Tensor) -> Tensor:
        rows = weight.movedim(-3, -1).flatten(-3)
        return torch.unflatten(rows, -2, (self.conv.groups, -1))


def padded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The input with the convolution's own border."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)


def patches(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What each output position of a convolution sees: (n, c, h, w) -> (n, g, p, k)."""
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        x = padded(conv, x)
    elif any(conv.padding):
        rows, columns = conv.padding
        x = F.pad(x, (columns, columns, rows, rows))
    x = x.permute(0, 2, 3, 1)
    if conv.kernel_size == (1, 1):
        x = x[:, :: conv.stride[0], :: conv.stride[1]]
        windows = torch.unflatten(x, 3, (conv.groups, -1)).movedim(3, 1)
        return windows.flatten(2, 3)
    for dim, (size, step, gap) in enumerate(
        zip(conv.kernel_size, conv.stride, conv.dilation, strict=True), start=1
    ):
        x = x.unfold(dim, (size - 1) * gap + 1, step)[..., ::gap]
    # (n, height, width, channel, kernel height, kernel width)
    windows = torch.unflatten(x, 3, (conv.groups, -1)).permute(0, 3, 1, 2, 5, 6, 4)
    return windows.flatten(4).flatten(2, 3)


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


#: Exactly these types: a subclass may do something else in its forward.
LAYERS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: LinearLayer,
    nn.Conv2d: Conv2dLayer,
    nn.BatchNorm1d: NormLayer,
    nn.BatchNorm2d: NormLayer,
    nn.LayerNorm: NormLayer,
    nn.GroupNorm: NormLayer,
}


def _added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    if len(found) <= 1:
        return found[0] if found else None
    return torch.cat(found)
