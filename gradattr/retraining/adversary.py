r"""Adversarial examples by projected gradient descent (Madry et al. 2018).

Within a budget :math:`\|\delta\| \le \epsilon` around an image x with label y the cross-entropy
:math:`L(x + s \delta, y)` is raised step by step, s being the input's units per unit of eps. With
:math:`g = \nabla_\delta L`,

* linf: :math:`\delta \leftarrow \mathrm{clip}(\delta + a\,\mathrm{sign}(g), -\epsilon, \epsilon)`
* l2: :math:`\delta \leftarrow \delta + a\,g/\|g\|_2`, projected on the ball (norm per image)

and after either :math:`x + s\delta` is clamped to the bounds of the data.

Shapes: n images, c channels, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.errors import UsageError


@dataclass(frozen=True)
class Adversary:
    """Who perturbs the images. Plain values only."""

    norm: Literal["l2", "linf"]
    eps: float
    """Radius of the ball around each image; 0 perturbs nothing."""
    steps: int = 7
    step_size: float | None = None
    """Length of a step, in units of eps. Default: 2.5 * eps / steps."""
    start: Literal["zero", "random"] = "zero"
    """Where the search begins: at the image, or at a point drawn uniformly from the ball."""
    scale: tuple[float, ...] | None = None
    """Units of the model's input per unit of eps, for each channel: 1/std where eps is in pixels
    and the input is normalised. Default: 1."""
    low: tuple[float, ...] | None = None
    """Least value of the model's input, for each channel. Default: no bound."""
    high: tuple[float, ...] | None = None
    """Largest value of the model's input, for each channel. Default: no bound."""

    def __post_init__(self) -> None:
        _require(self.norm in ("l2", "linf"), "norm", self.norm, "l2 or linf")
        _require(0 <= self.eps < float("inf"), "eps", self.eps, "0 or a positive number")
        _require(self.steps >= 1, "steps", self.steps, "1 or more")
        step = self.step_size
        _require(step is None or step > 0, "step_size", step, "a number above 0, or None")
        _require(self.start in ("zero", "random"), "start", self.start, "zero or random")
        scale = self.scale
        _require(scale is None or all(s > 0 for s in scale), "scale", scale, "numbers above 0")
        if self.low is not None and self.high is not None:
            below = len(self.low) == len(self.high) and all(
                low <= high for low, high in zip(self.low, self.high, strict=True)
            )
            _require(below, "low", self.low, f"one number per channel, at most high {self.high}")

    @property
    def step(self) -> float:
        """Length of a step, in units of eps."""
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size


def perturb(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    adversary: Adversary,
    *,
    start: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Images x (n, c, h, w) with labels y (n,) -> images (n, c, h, w) that the model gets wrong.

    The model runs in eval mode and is left as it was: modes, buffers, gradients of parameters;
    no global random generator is touched. With eps 0, x itself is returned. An image that exceeds
    the bounds already may keep its values but not exceed them further.

    ``start`` (n, c, h, w), in units of eps, is where the search begins; by default it is what the
    adversary says, a random one drawn as a function of ``seed`` and the number of images.

    Raises UsageError if the adversary was made for another number of channels.
    """
    if adversary.eps == 0 or not len(x):
        return x
    budget = _Budget.around(x, adversary)
    if start is None:
        start = random_start(adversary, tuple(x.shape), seed)
    delta = torch.zeros_like(x) if start is None else start.to(x, copy=True)
    delta = budget.project(delta)
    with _frozen(model):
        for _ in range(adversary.steps):
            gradient = _gradient(model, budget.image(delta), y)
            delta = budget.project(budget.climb(delta, gradient))
    return budget.image(delta)


def random_start(adversary: Adversary, shape: tuple[int, ...], seed: int) -> Tensor | None:
    """Points (n, c, h, w) drawn uniformly from the ball, on the CPU; None for a start at zero."""
    if adversary.start == "zero":
        return None
    generator = torch.Generator().manual_seed(seed)
    if adversary.norm == "linf":
        return (2 * torch.rand(shape, generator=generator) - 1) * adversary.eps
    direction = torch.randn(shape, generator=generator)
    size = direction[0].numel()
    # A radius with density ~ r^(size-1): the ball's volume is where its surface is.
    radius = torch.rand(shape[0], generator=generator).double().pow(1 / size).to(direction)
    return direction * _per_image(adversary.eps * radius / _norms(direction), direction)


@dataclass(frozen=True)
class _Budget:
    """Where x + scale * delta may be."""

    adversary: Adversary
    x: Tensor
    scale: Tensor | float
    low: Tensor | None
    """Least value of each input (n, c, h, w)."""
    high: Tensor | None

    @classmethod
    def around(cls, x: Tensor, adversary: Adversary) -> _Budget:
        scale = _channels(adversary.scale, x, "scale")
        low, high = (_channels(getattr(adversary, n), x, n) for n in ("low", "high"))
        return cls(
            adversary,
            x,
            1.0 if scale is None else scale,
            None if low is None else torch.minimum(x, low),
            None if high is None else torch.maximum(x, high),
        )

    def image(self, delta: Tensor) -> Tensor:
        return self._clamped(self.x + self.scale * delta)

    def climb(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """One step uphill. ``gradient`` is with respect to the input, not to delta."""
        if self.adversary.norm == "linf":
            return delta + self.adversary.step * gradient.sign()
        gradient = gradient * self.scale
        # Scaled by its largest value first: the squares of tiny gradients would underflow.
        largest = gradient.abs().flatten(1).amax(1)
        gradient = gradient / _per_image(torch.where(largest > 0, largest, 1), gradient)
        norms = _norms(gradient)
        lengths = self.adversary.step / torch.where(norms > 0, norms, 1)
        return delta + gradient * _per_image(lengths, gradient)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point of the ball, then of the data's bounds."""
        eps = self.adversary.eps
        if self.adversary.norm == "linf":
            delta = delta.clamp(-eps, eps)
        else:
            norms = _norms(delta)
            shrink = torch.where(norms > eps, eps / norms, torch.ones_like(norms))
            delta = delta * _per_image(shrink, delta)
        if self.low is None and self.high is None:
            return delta
        return (self.image(delta) - self.x) / self.scale

    def _clamped(self, image: Tensor) -> Tensor:
        if self.low is not None:
            image = torch.maximum(image, self.low)
        if self.high is not None:
            image = torch.minimum(image, self.high)
        return image


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(n, c, h, w): of each image's cross-entropy with respect to the image."""
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        loss = F.cross_entropy(model(leaf), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode, and no gradients for parameters; then everything as it was."""
    modes = [(module, module.training) for module in model.modules()]
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


def _channels(values: tuple[float, ...] | None, x: Tensor, name: str) -> Tensor | None:
    """One value per channel as (c, 1, 1)."""
    if values is None:
        return None
    if len(values) not in (1, x.shape[1]):
        raise UsageError(
            f"adversary: {name} has {len(values)} values, the images have {x.shape[1]} channels"
        )
    return torch.tensor(values, dtype=x.dtype, device=x.device)[:, None, None]


def _norms(x: Tensor) -> Tensor:
    """(n, ...) -> (n,): l2 norms."""
    return x.flatten(1).norm(dim=1)


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    """(n,) -> (n, 1, ...)."""
    return values.reshape(-1, *(1 for _ in like.shape[1:]))


def _require(holds: bool, name: str, given: object, expected: str) -> None:
    if not holds:
        raise UsageError(f"adversary: {name} is {given!r}, expected {expected}")
