r"""The rescale rule: every operation replaced by one whose derivative is its multiplier.

Every operation's derivative is replaced by its multiplier from its value at a baseline x' to its
value at x (``multipliers``). Multipliers multiply by the chain rule, so one backward pass gives
those of the whole network, and :math:`\sum (x - x') m = f(x) - f(x')` holds to rounding.

Two passes forward are watched by a function mode: the first, at x', notes what nonlinear operations
work on; the second, at x, meets the same operations in the same order. So functions, modules that
are used twice, what writes in place, and sums need no care of their own, and a baseline that is the
same for every image is evaluated once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.propagation import torch_operations as kinds
from gradattr.attribution.propagation.interception import (
    Interception,
    Unfit,
    check_batch_norm,
    check_dropout,
    check_one_factor,
    slope_of,
)
from gradattr.attribution.propagation.max_pooling import PathMaximum, windows_of
from gradattr.attribution.propagation.multipliers import (
    LogSoftmax,
    Multiplied,
    Product,
    secant,
    secant_of_relu,
    secant_with_slope,
)
from gradattr.attribution.propagation.torch_operations import Operation, as_operation
from gradattr.attribution.target import Objective

_RECORDED = kinds.ELEMENTWISE | kinds.PRODUCTS | kinds.MAX_POOLS | {"log_softmax", "cross_entropy"}
_MANY = "a function of many variables, and the rescale rule is one for functions of one variable"
_REASONS = {
    **dict.fromkeys(kinds.NORMALISATIONS, f"it divides by a statistic of the sample, {_MANY}"),
    **dict.fromkeys(kinds.SOFTMAX, f"it is {_MANY}; logits can be explained, and their softmax"),
    **dict.fromkeys(kinds.ATTENTION, f"its softmax is {_MANY}"),
    **dict.fromkeys(
        kinds.MATRIX_PRODUCTS | kinds.LAYERS,
        "more than one of its factors depends on the input; only products of elements are split up",
    ),
}


class Noted(NamedTuple):
    """What an operation worked on at the baseline."""

    name: str
    tensors: tuple[Tensor, ...]

    def fits(self, name: str, tensors: Sequence[Tensor]) -> bool:
        """Whether the same operation on these tensors goes with it, element by element."""
        return (
            name == self.name
            and len(tensors) == len(self.tensors)
            and all(map(_broadcasts, self.tensors, tensors))
        )


class Recording(TorchFunctionMode):
    """Notes the tensors that nonlinear operations work on, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Noted] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        operation = as_operation(func, args, kwargs or {})
        if operation.name in _RECORDED:
            # Copies: what comes later may write into them.
            tensors = tuple(tensor.detach().clone() for tensor in _noted_of(operation))
            self.notes.append(Noted(operation.name, tensors))
        return operation.call()


class Diverged(Exception):
    """The operations at x are not those that were noted at the baseline."""


class Rescaling(Interception):
    """Gives every nonlinear operation its multiplier from the noted values."""

    rule_name = "DeepLIFT's rescale rule"
    reasons = _REASONS

    def __init__(self, notes: Sequence[Noted], network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.notes = notes
        self.met = 0
        self.note: Noted | None = None
        self.at_the_end = False
        """Whether the scalar is being made of the logits."""

    def meet(self, operation: Operation) -> None:
        """Find what was noted of this operation."""
        self.note = None
        if operation.name in _RECORDED:
            tensors = _noted_of(operation)
            if self.met >= len(self.notes) or not self.notes[self.met].fits(
                operation.name, tensors
            ):
                raise Diverged(operation.name)
            self.note = self.notes[self.met]
            self.met += 1

    def replaced(self, operation: Operation, dependent: Sequence[Tensor]) -> Any:
        name = operation.name
        if name in kinds.ARRANGING or name in kinds.SUMS or name in kinds.AVERAGING:
            return operation.call()
        if name in kinds.DROPOUTS:
            check_dropout(self, operation)
            return operation.call()
        if name == "batch_norm":
            check_batch_norm(self, operation)
        if name in kinds.LAYERS | kinds.MATRIX_PRODUCTS | kinds.QUOTIENTS or name == "batch_norm":
            check_one_factor(self, operation, dependent)
            return operation.call()
        if name in kinds.PRODUCTS and len(dependent) == 1:
            return operation.call()
        if self.note is None:
            raise self.unfit(operation)
        result = self._nonlinear(operation, dependent, self.note.tensors)
        return operation.first.copy_(result) if operation.in_place else result

    def _nonlinear(
        self, operation: Operation, dependent: Sequence[Tensor], noted: Sequence[Tensor]
    ) -> Tensor:
        name, a, reference = operation.name, operation.first, noted[0]
        if name in kinds.PRODUCTS:
            return Product.apply(a, operation.argument(1, "other"), *noted)
        if len(dependent) > 1 or dependent[0] is not a:
            raise self.unfit(operation, "its parameters depend on the input")
        if name in kinds.MAX_POOLS:
            windows = windows_of(operation)
            if windows is None:
                raise self.unfit(operation, "its windows differ in size, or it returns places too")
            return PathMaximum.apply(a, reference, windows)
        if name in kinds.SOFTMAX:
            return self._log_softmax(operation, reference)
        if name == "relu":
            return Multiplied.apply(a, lambda x: secant_of_relu(x, reference))
        if name in ("leaky_relu", "prelu"):
            slope = slope_of(operation)
            return Multiplied.apply(a, lambda x: secant_with_slope(x, reference, slope))
        if name == "rrelu" and operation.argument(3, "training", False):
            raise self.unfit(operation, "it is in training mode, which makes the answer random")
        return Multiplied.apply(a, lambda x: secant(operation.on, x, reference))

    def _log_softmax(self, operation: Operation, reference: Tensor) -> Tensor:
        """As part of the scalar that is explained."""
        if not self.at_the_end:
            raise self.unfit(operation)
        logarithms: Tensor = LogSoftmax.apply(operation.first, reference)
        if operation.name == "log_softmax":
            return logarithms
        index = operation.argument(1, "target")
        return -logarithms.gather(1, index[:, None]).squeeze(1)


def _broadcasts(reference: Tensor, tensor: Tensor) -> bool:
    """Only along the axis of the samples, of which there may be one at the baseline."""
    sizes = zip(reference.shape, tensor.shape, strict=True)
    return reference.dim() == tensor.dim() and all(one in (1, other) for one, other in sizes)


def _noted_of(operation: Operation) -> list[Tensor]:
    given = (operation.first, operation.argument(1, "other"))
    return [tensor for tensor in given if isinstance(tensor, Tensor)]


class Multipliers(NamedTuple):
    """Of a scalar from x' (n, ...) to x: with respect to x, and the scalar (n,) at x'."""

    maps: Tensor
    baseline_score: Tensor


def multipliers(
    evaluator: Evaluator, x: Tensor, start: Tensor, index: Tensor, objective: Objective
) -> Multipliers:
    """The multipliers (n, ...) of ``objective`` from ``start`` (n, ...), or (1, ...) for all, to x.

    Raises Unfit for an operation that the rule has no answer to.
    """
    try:
        return _from(evaluator, x, start, index, objective)
    except Diverged:
        if len(start) == len(x):
            raise Unfit(_DECIDES) from None
    # The samples' axis is not an axis of its own everywhere, so that one does not stand for all.
    try:
        return _from(evaluator, x, start.expand_as(x), index, objective)
    except Diverged:
        raise Unfit(_DECIDES) from None


_DECIDES = (
    "its operations at the baseline are not those at the sample: it decides by the input's values "
    "what to do"
)


def _from(
    evaluator: Evaluator, x: Tensor, start: Tensor, index: Tensor, objective: Objective
) -> Multipliers:
    with Recording() as recording:
        logits, _ = evaluator.logits_and_gradients(evaluator.stem(start), ())
        score = objective(logits.expand(len(x), -1), index)
    rescaling = Rescaling(recording.notes, evaluator.network)

    def scalar(logits: Tensor, index: Tensor) -> Tensor:
        rescaling.at_the_end = True
        return objective(logits, index)

    stem = evaluator.stem(x)
    with rescaling:
        _, grads, _ = evaluator.gradients(stem, index, scalar)
    return Multipliers(evaluator.pullback(grads, x.shape), score)
