"""Baselines by unlearning (UNI): the input nearby at which the model answers as if it had unlearned
its prediction.

One step of gradient *ascent* on the loss gives each sample a model of its own that has forgotten a
little of it; a few steps in input space find the point where the model as it is answers like that.
Only the answer of the unlearned models needs parameters per sample: they are stacked and called
once for many samples (torch.func). Everything else is an ordinary batched pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradattr.attribution.baselines import Baseline
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.microbatch import is_out_of_memory

#: Bytes of stacked parameters at once. A model that needs half of it gains nothing by stacking: a
#: ResNet-20 is 2.4 times as fast as sample by sample, a ResNet-18 no faster.
STACK_BYTES = 64 * 2**20

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Unlearned:
    """x' = x + delta, where the model answers as after unlearning x (UNI, Algorithm 1).

    theta' = theta + ``eta`` * grad L / ||grad L||, L the cross-entropy of the predicted class;
    then ``iterations`` times, from delta = 0: delta -= ``mu`` * grad KL(F(x; theta') || F(x +
    delta; theta)), delta = ``eps`` * delta / ||delta||. Norms are Euclidean, of one sample, over
    all parameters and over all coordinates; units are those of the model's input.

    Where a gradient is 0 (nothing to unlearn, nowhere to go) x' is x itself.
    """

    eta: float = 1.0
    iterations: int = 10
    eps: float = 0.25
    mu: float = 0.1
    same_for_all = False
    varies = False

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations: {self.iterations} given, at least 1 expected")
        for name in ("eta", "eps", "mu"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)} given, more than 0 expected")

    @property
    def evaluations(self) -> int:
        """Model evaluations per sample: grad L, the unlearned answer, and each step."""
        return self.iterations + 2

    def find(self, evaluator: Evaluator, x: Tensor, predicted: Tensor) -> Tensor:
        """x' (n, ...) of samples x (n, ...) whose predicted classes are ``predicted`` (n,)."""
        log_goal = unlearned_log_p(evaluator.network, x, predicted, self.eta)
        return self.approach(evaluator, x, log_goal)

    def approach(self, evaluator: Evaluator, x: Tensor, log_goal: Tensor) -> Tensor:
        """The point on the sphere around x (n, ...) where the steps towards the answer whose
        log-probabilities are ``log_goal`` (n, classes) end."""
        goal = log_goal.exp()

        def divergence(logits: Tensor, index: Tensor) -> Tensor:
            """KL(goal || F(x + delta; theta)), in nats."""
            return (goal * (log_goal - _log_p(logits))).sum(1)

        index = log_goal.argmax(1)
        delta = torch.zeros_like(x)
        for _ in range(self.iterations):
            h = evaluator.stem(x + delta)
            _, slopes, _ = evaluator.gradients(h, index, divergence)
            delta = delta - self.mu * evaluator.pullback(slopes, x.shape)
            delta = self.eps * _unit(delta)
        return x + delta


#: Where a path can start.
Start = Baseline | Unlearned


def unlearned_log_p(network: nn.Module, x: Tensor, index: Tensor, eta: float) -> Tensor:
    """log F(x_i; theta + eta * grad L_i / ||grad L_i||) of every sample: (n, classes).

    L_i is the cross-entropy of class ``index[i]`` at x_i. A sample whose gradient is 0 keeps
    theta. ``network`` is used in eval mode and is not changed.

    A model that torch.func cannot call with stacked parameters is called sample by sample.
    """
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    size = sum(p.numel() * p.element_size() for p in parameters.values())
    together = max(1, STACK_BYTES // max(1, size))
    parts = zip(torch.split(x, together), torch.split(index, together), strict=True)
    if together == 1:
        return torch.cat([_one_by_one(network, parameters, *part, eta) for part in parts])
    return torch.cat([_stacked(network, parameters, *part, eta) for part in parts])


def _stacked(
    network: nn.Module, parameters: Parameters, x: Tensor, index: Tensor, eta: float
) -> Tensor:
    def logits(values: Parameters, one: Tensor) -> Tensor:
        return functional_call(network, values, (one[None].clone(),))[0]

    def loss(values: Parameters, one: Tensor, c: Tensor) -> Tensor:
        return F.cross_entropy(logits(values, one), c)

    try:
        with _unfused_attention():
            slopes = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, index)
            with torch.no_grad():
                moved = _ascend(parameters, slopes, eta)
                return _log_p(vmap(logits)(moved, x))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        # vmap refuses data-dependent control flow, and operations that write into shared buffers.
        if is_out_of_memory(error):
            raise
    return _one_by_one(network, parameters, x, index, eta)


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Attention as products that can be stacked: vmap takes its fused kernels one by one."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _one_by_one(
    network: nn.Module, parameters: Parameters, x: Tensor, index: Tensor, eta: float
) -> Tensor:
    rows = []
    leaves = {name: p.clone().requires_grad_(True) for name, p in parameters.items()}
    for one, c in zip(torch.split(x, 1), torch.split(index, 1), strict=True):
        with torch.enable_grad():
            loss = F.cross_entropy(functional_call(network, leaves, (one.clone(),)), c)
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        slopes = {
            name: torch.zeros_like(p)[None] if slope is None else slope[None]
            for (name, p), slope in zip(parameters.items(), found, strict=True)
        }
        with torch.no_grad():
            moved = {name: p[0] for name, p in _ascend(parameters, slopes, eta).items()}
            rows.append(_log_p(functional_call(network, moved, (one.clone(),))))
    return torch.cat(rows)


def _ascend(parameters: Parameters, slopes: Parameters, eta: float) -> Parameters:
    """theta + eta * g_i / ||g_i|| for every sample, in the memory of the gradients g (n, ...)."""
    # A certain prediction has gradients whose squares vanish in float32.
    squares = [
        torch.linalg.vector_norm(slope.flatten(1), dim=1, dtype=torch.float64).square()
        for slope in slopes.values()
    ]
    length = torch.stack(squares).sum(0).sqrt()
    share = torch.where(length > 0, eta / length, torch.zeros_like(length))
    for name, slope in slopes.items():
        # Scaled in two steps: a share beyond float32 would meet a slope near its end.
        root = share.sqrt().to(slope.dtype).view(-1, *[1] * (slope.dim() - 1))
        slope.mul_(root).mul_(root).add_(parameters[name])
    return slopes


def _log_p(logits: Tensor) -> Tensor:
    """Log-probabilities, never below float32."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits, dim=1, dtype=wide)


def _unit(delta: Tensor) -> Tensor:
    """delta / ||delta|| of each sample; 0 where delta is 0."""
    peak = delta.flatten(1).abs().amax(1)
    shape = (-1, *[1] * (delta.dim() - 1))
    scaled = delta / torch.where(peak == 0, torch.ones_like(peak), peak).view(shape)
    length = scaled.flatten(1).norm(dim=1)
    return scaled / torch.where(length == 0, torch.ones_like(length), length).view(shape)
