r"""A ReLU network with a second derivative: softplus in place of every ReLU, while it is entered.

The input gradient of a ReLU network is piecewise constant, so its derivative is 0 almost
everywhere and says nothing of how to change it. Dombrowski et al. (2019) replace
:math:`\max(x, 0)` by :math:`\frac{1}{\beta} \log(1 + e^{\beta x})`, which tends to it for large
beta. A function mode reaches ReLUs in whatever way they are written, and changes no module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_RELUS = frozenset({"relu", "relu6", "hardtanh", "threshold", "clamp", "clip", "clamp_min"})


class SmoothReLUs(TorchFunctionMode):
    """While it is entered, ReLUs are softplus of sharpness ``beta``; ``met`` counts them.

    They are nn.ReLU, nn.ReLU6, nn.Hardtanh and nn.Threshold from 0, F.relu, torch.relu,
    Tensor.relu, clamp and clip with min=0; in place or not. An upper end H is smoothed alike:
    softplus(x) - softplus(x - H).
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta
        self.met = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        plain = name.strip("_")
        x = args[0] if args else kwargs.get("input")
        if plain not in _RELUS or not isinstance(x, Tensor) or not x.is_floating_point():
            return func(*args, **kwargs)
        bounds = _bounds(plain, args, kwargs)
        if bounds is None:
            return func(*args, **kwargs)
        self.met += 1
        in_place = name.endswith("_") or bool(kwargs.get("inplace"))
        in_place |= plain in ("relu", "relu6") and len(args) > 1 and bool(args[1])
        in_place |= plain in ("hardtanh", "threshold") and len(args) > 3 and bool(args[3])
        return self._smooth(x, bounds[1], in_place)

    def _smooth(self, x: Tensor, high: float | None, in_place: bool) -> Tensor:
        # A copy: softplus keeps its input for the backward pass, and that may be written over.
        given = x.clone() if in_place else x
        out = _softplus(given, self.beta)
        if high is not None:
            out = out - _softplus(given - high, self.beta)
        return x.copy_(out) if in_place else out


def _softplus(x: Tensor, beta: float) -> Tensor:
    """Twice differentiable everywhere: F.softplus is linear beyond a threshold."""
    return F.softplus(x, beta=beta, threshold=40.0)


def _bounds(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[float, float | None] | None:
    """(0, upper end or None) of a ReLU; None for another range."""

    def argument(place: int, key: str, default: Any = None) -> Any:
        return args[place] if len(args) > place else kwargs.get(key, default)

    low: Any = 0.0
    high: Any = None
    if name == "relu6":
        high = 6.0
    elif name == "hardtanh":
        low, high = argument(1, "min_val", -1.0), argument(2, "max_val", 1.0)
    elif name == "threshold":
        low = 0.0 if argument(1, "threshold") == 0 and argument(2, "value") == 0 else None
    elif name in ("clamp", "clip"):
        low, high = argument(1, "min"), argument(2, "max")
    elif name == "clamp_min":
        low = argument(1, "min")
    if low is None or isinstance(low, Tensor) or isinstance(high, Tensor) or low != 0:
        return None
    return 0.0, None if high is None else float(high)


def smooth_forward(network: torch.nn.Module, x: Tensor, beta: float) -> Tensor:
    """Logits (n, classes) of x (n, ...) by the network with softplus in place of its ReLUs.

    With a graph that can be differentiated twice, if x takes a gradient.
    """
    with torch.enable_grad(), SmoothReLUs(beta):
        logits: Tensor = network(x.clone())
    return logits
