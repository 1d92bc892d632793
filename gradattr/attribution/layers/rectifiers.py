"""ReLUs that differentiate differently, whatever way they are written in.

Guided backprop and deconvolution keep the forward pass and change the derivative of every ReLU.
Hooks on modules reach only ``nn.ReLU``, and none that writes in place; a function mode sees every
call, of modules and functions alike, and changes nothing that stays behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

Rule = Literal["guided", "deconvolution"]

#: Nonlinear functions, element by element, whose own derivative would stay in place.
_OTHERS = frozenset(
    {
        *("abs", "celu", "cos", "elu", "erf", "gelu", "hardshrink", "hardswish", "leaky_relu"),
        *("log_sigmoid", "logsigmoid", "mish", "prelu", "rrelu", "selu", "silu", "sin"),
        *("softplus", "softshrink", "softsign", "tanh", "tanhshrink"),
        *("gru", "gru_cell", "lstm", "lstm_cell", "rnn_relu", "rnn_tanh", "rnn_tanh_cell"),
    }
)
#: Gates as long as their values weight something else.
_GATES = frozenset({"sigmoid", "hardsigmoid"})
_PRODUCTS = frozenset({"mul", "multiply", "__mul__", "__rmul__", "__imul__"})
_LAYERS = frozenset({"linear", "conv1d", "conv2d", "conv3d", "matmul", "__matmul__", "addmm"})
_COMPARISONS = frozenset(
    {
        *("gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal"),
        *("__gt__", "__ge__", "__lt__", "__le__"),
    }
)
_CHOICES = _PRODUCTS | {"where", "masked_fill", "__setitem__"}


class _Call(NamedTuple):
    """A ReLU: max(x, 0), or min(max(x, 0), high)."""

    x: Tensor
    high: float | None = None
    in_place: bool = False


class Rectifying(TorchFunctionMode):
    """While it is entered, the derivative of every ReLU is another one.

    With g the gradient at the output of a ReLU and x its input, the gradient handed on is
    g [g > 0] [x > 0] by the rule 'guided', g [g > 0] by 'deconvolution'. The upper end of a ReLU6
    keeps its derivative: 0 beyond.

    ReLUs are nn.ReLU, nn.ReLU6, nn.Hardtanh and nn.Threshold from 0, F.relu, torch.relu,
    Tensor.relu, clamp and clip with min=0 (and max=6), maximum with zeros; in place or not.

    Afterwards ``met`` is the number of ReLUs that gradients have passed, ``others`` counts the
    nonlinear functions that kept their own derivative. Gates (a sigmoid that weights something
    else, softmax), products and normalisations are none.
    """

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.guided = rule == "guided"
        self.met = 0
        self.others: Counter[str] = Counter()
        #: Values of gates and comparisons, by identity, with what they were computed from; held so
        #: that no other tensor takes their place.
        self._gates: dict[int, tuple[Tensor, Tensor]] = {}
        self._conditions: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").partition(".")[0]
        call = _as_relu(name, args, kwargs)
        if call is not None:
            return _Rectified.apply(call.x, call.high, call.in_place, self)
        result = func(*args, **kwargs)
        self._note(name, args, kwargs, result)
        return result

    def _note(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: object
    ) -> None:
        """What could be an activation function."""
        plain = name if name.startswith("__") else name.rstrip("_")
        watched = plain in _OTHERS or plain in _GATES or plain in _COMPARISONS
        if watched or plain == "hardtanh":
            given = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
            if given is None or not given.requires_grad:
                return
            if plain in _GATES and isinstance(result, Tensor):
                self._gates[id(result)] = (result, given)
            elif plain in _COMPARISONS and isinstance(result, Tensor):
                self._conditions[id(result)] = result
            else:
                self.others[plain] += 1
        elif self._gates and plain in _PRODUCTS | _LAYERS:
            operands = {id(v): v for v in args if isinstance(v, Tensor)}
            for key in operands.keys() & self._gates.keys():
                if plain in _LAYERS:
                    self.others["sigmoid"] += 1
                elif id(self._gates[key][1]) in operands:
                    self.others["x * sigmoid(x)"] += 1
        if self._conditions and plain in _CHOICES:
            held = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
            if any(id(v) in self._conditions for v in held):
                self.others["a choice by comparison (x > 0 or the like)"] += 1

    def obstacle(self, network: nn.Module) -> str | None:
        """Why the gradients computed so far are not those of the rule; None if they are."""
        compiled = compiled_module(network)
        if compiled is not None:
            return (
                f"{compiled} is compiled, its ReLUs are out of reach; the model as it was before "
                "it was compiled would be needed"
            )
        found = ", ".join(f"{name} ({count})" for name, count in sorted(self.others.items()))
        if self.met == 0:
            there = f"; its activation functions are {found}" if found else ""
            return f"no ReLU lies between input and output{there}. It would be the plain gradient"
        if self.others:
            return (
                f"beside {self.met} ReLUs it has other activation functions, which would keep "
                f"their own derivative: {found}. Activation functions that are all ReLUs are needed"
            )
        return None


def compiled_module(network: nn.Module) -> str | None:
    """A part that a function mode cannot look into, in words; None if there is none."""
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            return f"module '{name}'" if name else "the model"
    return None


def _as_relu(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
    """The ReLU that is called, or None."""
    form = _FORMS.get(name.strip("_"))
    if form is None or "out" in kwargs:
        return None
    x = args[0] if args else kwargs.get("input", kwargs.get("self"))
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None

    def argument(place: int, key: str, default: Any = None) -> Any:
        return args[place] if len(args) > place else kwargs.get(key, default)

    call = form(x, argument)
    if call is not None and name.endswith("_"):
        return call._replace(in_place=True)
    return call


Argument = Callable[..., Any]


def _relu(x: Tensor, argument: Argument) -> _Call:
    return _Call(x, None, bool(argument(1, "inplace", False)))


def _relu6(x: Tensor, argument: Argument) -> _Call:
    return _Call(x, 6.0, bool(argument(1, "inplace", False)))


def _hardtanh(x: Tensor, argument: Argument) -> _Call | None:
    low, high = argument(1, "min_val", -1.0), argument(2, "max_val", 1.0)
    return _Call(x, float(high), bool(argument(3, "inplace", False))) if low == 0 else None


def _threshold(x: Tensor, argument: Argument) -> _Call | None:
    if argument(1, "threshold") != 0 or argument(2, "value") != 0:
        return None
    return _Call(x, None, bool(argument(3, "inplace", False)))


def _clamp(x: Tensor, argument: Argument) -> _Call | None:
    """Other bounds are a range that something is kept in, pixels for instance."""
    low, high = argument(1, "min"), argument(2, "max")
    if isinstance(low, Tensor) or isinstance(high, Tensor) or low != 0 or high not in (None, 6):
        return None
    return _Call(x, None if high is None else 6.0)


def _clamp_min(x: Tensor, argument: Argument) -> _Call | None:
    low = argument(1, "min")
    return None if isinstance(low, Tensor) or low != 0 else _Call(x)


def _maximum(x: Tensor, argument: Argument) -> _Call | None:
    other = argument(1, "other")
    for one, two in ((x, other), (other, x)):
        if not isinstance(one, Tensor) or not isinstance(two, Tensor):
            return None
        fits = two.shape == one.shape or two.numel() == 1
        if fits and one.requires_grad and not two.requires_grad and not bool(two.any()):
            return _Call(one)
    return None


_FORMS: dict[str, Callable[[Tensor, Argument], _Call | None]] = {
    "relu": _relu,
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    "threshold": _threshold,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp_min,
    "maximum": _maximum,
    "max": _maximum,
    "fmax": _maximum,
}


class _Rectified(torch.autograd.Function):
    """A ReLU with the derivative of a rule."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, high: float | None, in_place: bool, mode: Rectifying
    ) -> Tensor:
        ctx.mode, ctx.has_mask = mode, high is not None
        if in_place:
            ctx.mark_dirty(x)
            out = x.relu_() if high is None else x.clamp_(0, high)
        else:
            out = x.relu() if high is None else x.clamp(0, high)
        if high is not None:
            ctx.save_for_backward((out > 0) & (out < high) if mode.guided else out < high)
        elif mode.guided:
            ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.mode.met += 1
        positive: Tensor = torch.ops.aten.threshold_backward(grad, grad, 0)
        if ctx.has_mask:
            (mask,) = ctx.saved_tensors
            positive = positive.masked_fill(mask.logical_not(), 0)
        elif ctx.mode.guided:
            (out,) = ctx.saved_tensors
            positive = torch.ops.aten.threshold_backward(positive, out, 0)
        return positive, None, None, None
