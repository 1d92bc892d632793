"""Every operation of a model on its way from input to logits, looked at one by one.

Hooks on modules see neither functions, nor sums, nor what writes in place, and a module that is
used twice once too little. A function mode sees every call of torch, of modules and functions
alike, and nothing of it stays behind.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradattr.attribution.propagation import torch_operations as kinds
from gradattr.attribution.propagation.torch_operations import Operation, as_operation

#: Layers of this package with a backward pass of their own, linear in their input.
_OWN_LINEAR_LAYERS = ("_FrozenConvBackward", "_FrozenLinearBackward")

#: What a tensor carries while a mode is at work: who has seen it, and what it is to that.
_MARK = "_gradattr_seen"


class Unfit(Exception):
    """A rule has no answer for an operation; the text says which and why."""


class Interception(TorchFunctionMode):
    """While it is entered, calls of torch that depend on the input go through ``replaced``.

    What depends on the input is what requires a gradient, but parameters: autograd's own account,
    views and writing in place included. To that belongs that nothing gets past: tensors that
    require a gradient and were made by no torch function (a custom autograd.Function), values that
    were cut off (``detach``, a comparison, ``no_grad``) and computed with, and Python's decisions
    by values raise ``Unfit``. So does every operation that ``replaced`` does not know.
    """

    #: Of what the refusals speak.
    rule_name = "the rule"
    reasons: dict[str, str] = {}  # noqa: RUF012 -- a constant of each rule

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def replaced(self, operation: Operation, dependent: Sequence[Tensor]) -> Any:
        """The operation's result, with the rule's derivative. ``dependent``: its arguments that
        depend on the input, at least one. Raises Unfit."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        operation = as_operation(func, args, kwargs or {})
        if operation.name == "grad" or operation.name in kinds.SHAPE_ONLY or _is_query(operation):
            result = operation.call()
            if operation.name == "requires_grad_":
                self.mark(result, "dependent")
            return result
        self.meet(operation)
        if not torch.is_grad_enabled():
            # Under no_grad, or inside of an autograd.Function: wrong only if it is used later.
            return self._cut(operation, any(map(self._is_near, operation.tensors())))
        dependent = [tensor for tensor in operation.tensors() if self._depends(tensor, operation)]
        if not dependent:
            return self.independent(operation)
        if operation.name in kinds.CUTTING:
            return self._cut(operation, True)
        if operation.name in kinds.DECISIONS:
            raise self.unfit(operation, "the model decides by values that depend on its input")
        if operation.kwargs.get("out") is not None:
            raise self.unfit(operation, "it writes into a tensor that was made before ('out')")
        result = self.replaced(operation, dependent)
        self._mark_all(result, "dependent")
        if operation.in_place and isinstance(operation.first, Tensor):
            self.mark(operation.first, "dependent")
        return result

    def meet(self, operation: Operation) -> None:
        """Called before every operation, whether it depends on the input or not."""

    def independent(self, operation: Operation) -> Any:
        """An operation on constants and parameters."""
        if torch.is_grad_enabled() and any(t.requires_grad for t in operation.tensors()):
            # What is made of parameters would look as if it depended on the input.
            with torch.no_grad():
                return operation.call()
        return operation.call()

    def mark(self, tensor: Tensor, what: Any) -> None:
        """Note what the tensor is to this mode."""
        setattr(tensor, _MARK, (self, what))

    def marked(self, tensor: Tensor) -> Any:
        """What was noted, None if nothing was."""
        owner, what = getattr(tensor, _MARK, (None, None))
        return what if owner is self else None

    def unfit(self, operation: Operation, reason: str | None = None) -> Unfit:
        """The refusal of an operation."""
        why = reason or self.reasons.get(operation.name)
        if why is None:
            why = f"{self.rule_name} has no answer to this operation"
        return Unfit(f"'{operation.name.strip('.')}'{self.place()}: {why}")

    def check_seen(self, logits: Tensor) -> None:
        """Raises Unfit unless the model's answer comes out of an operation that was looked at."""
        if not logits.requires_grad or self.marked(logits) is None:
            raise Unfit(
                "its answer comes out of no function of torch: a custom autograd.Function, a "
                "scripted or compiled part of the model, or values that were cut off from the input"
            )

    def place(self) -> str:
        """ " in module 'layer1.0' (Block)": the module that is at work, found on the stack."""
        frame = sys._getframe(1)
        while frame is not None:
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module):
                return self._described(module)
            frame = frame.f_back  # type: ignore[assignment]
        return ""

    def _described(self, module: nn.Module) -> str:
        kind = type(module).__name__
        for name, known in self.network.named_modules() if self.network is not None else ():
            if known is module and name:
                return f" in module '{name}' ({kind})"
        return f" in {kind}"

    def _cut(self, operation: Operation, noted: bool) -> Any:
        with torch.no_grad():
            result = operation.call()
        if noted:
            self._mark_all(result, f"'{operation.name}'{self.place()}")
        return result

    def _is_near(self, tensor: Tensor) -> bool:
        """Whether it depends on the input, or did before it was cut off."""
        return tensor.grad_fn is not None or self.marked(tensor) is not None

    def _depends(self, tensor: Tensor, operation: Operation) -> bool:
        what = self.marked(tensor)
        if tensor.requires_grad:
            if what is not None and not isinstance(what, str):
                return True
            if what == "dependent":
                return True
            maker = tensor.grad_fn
            if maker is None:  # a parameter
                return False
            if maker.name() in _OWN_LINEAR_LAYERS:
                return True
            raise self.unfit(
                operation,
                f"it works on values that came past torch's functions ({maker.name()}): a custom "
                "autograd.Function, a scripted or compiled part of the model",
            )
        if isinstance(what, str) and what != "dependent" and operation.name not in kinds.CUTTING:
            raise self.unfit(
                operation,
                f"it works on values that depend on the input, but were cut off from it by {what}",
            )
        return False

    def _mark_all(self, result: Any, what: str) -> None:
        if isinstance(result, Tensor):
            # Operations that have nothing to do hand on the very tensor that they were given.
            if (what == "dependent") == result.requires_grad:
                self.mark(result, what)
        elif isinstance(result, list | tuple):
            for item in result:
                self._mark_all(item, what)


def check_dropout(mode: Interception, operation: Operation) -> None:
    """Raises Unfit for a dropout that is at work."""
    if operation.argument(2, "training", operation.name.startswith(("dropout", "alpha"))):
        raise mode.unfit(operation, "it is in training mode, which makes the answer random")


def check_batch_norm(mode: Interception, operation: Operation) -> None:
    """Raises Unfit for a batch norm that uses the batch's own statistics."""
    if operation.argument(5, "training", False) or operation.argument(1, "running_mean") is None:
        raise mode.unfit(
            operation, "it uses the batch's own statistics, so that the samples are not independent"
        )


def check_one_factor(mode: Interception, operation: Operation, dependent: Sequence[Tensor]) -> None:
    """Raises Unfit unless the operation is linear in all that depends on the input."""
    if len(dependent) > 1:
        raise mode.unfit(operation)
    if operation.name not in kinds.MATRIX_PRODUCTS:
        if dependent[0] is not operation.first:
            raise mode.unfit(operation, "it divides or weights by values that depend on the input")
        if operation.kwargs.get("rounding_mode") is not None:
            raise mode.unfit(operation, "it rounds")


def slope_of(operation: Operation) -> Tensor | float:
    """The slope of leaky_relu and prelu below 0, as it goes with the first argument."""
    if operation.name == "leaky_relu":
        return float(operation.argument(1, "negative_slope", 0.01))
    weight: Tensor = operation.argument(1, "weight").detach()
    if weight.numel() == 1:
        return weight.view(())
    return weight.view(-1, *[1] * (operation.first.dim() - 2))


def _is_query(operation: Operation) -> bool:
    return operation.name.startswith(".is_")
