"""Nothing that depends on the input gets past a rule unseen."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradattr.attribution import Black, deep_lift
from gradattr.attribution.propagation.deep_lift_maps import DeepLift
from gradattr.errors import MethodError


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3, 2), function
        self.last, self.scale = nn.Linear(900, 6), nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        return self.last(self.function(self, self.conv(x)).flatten(1))


class Swish(torch.autograd.Function):
    """A function of one's own, as memory-saving activations are written."""

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a * torch.sigmoid(a)

    @staticmethod
    def backward(ctx, grad):
        return grad


def _switched_off(_, a):
    with torch.no_grad():
        gate = a.sigmoid()
    return a * gate


def _written_into(_, a):
    found = torch.zeros_like(a)
    found[:, :2] = a[:, :2]
    found[:, 2:] = a[:, 2:].abs()
    return found


def model_of(function):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Calls(function).double().eval()


REFUSED = {
    "sin": (lambda _, a: torch.sin(a), "'sin' in Calls: DeepLIFT's rescale rule has no answer"),
    "own function": (lambda _, a: Swish.apply(a) + 1, "came past torch's functions (SwishBackward"),
    "last": (lambda _, a: Swish.apply(a), "came past torch's functions (SwishBackward"),
    "detached": (lambda _, a: a * a.detach(), "cut off from it by 'detach' in Calls"),
    "no_grad": (_switched_off, "cut off from it by 'sigmoid' in Calls"),
    "comparison": (lambda _, a: a * (a > 0), "cut off from it by 'gt'"),
    "choice": (lambda _, a: torch.where(a > 0, a, 0.1 * a), "cut off from it by 'gt'"),
    "decision": (lambda _, a: a if a.sum() > 0 else -a, "cut off from it by 'gt'"),
    "number": (lambda _, a: a * float(a.sum()), "decides by values"),
    "quotient": (lambda _, a: a / (1 + a.abs()), "'div' in Calls"),
    "attention": (lambda _, a: (a @ a.mT).relu() @ a, "more than one of its factors"),
    "norm": (lambda _, a: F.normalize(a), "statistic of the sample"),
    "softmax": (lambda _, a: a.softmax(1), "logits can be explained"),
    "dropout": (lambda _, a: F.dropout(a), "training mode"),
    "batch": (lambda _, a: F.batch_norm(a, None, None, training=True), "batch's own statistics"),
    "sorted": (lambda _, a: a.sort().values, "'sort'"),
    "places": (
        lambda _, a: F.interpolate(F.adaptive_max_pool2d(a, 4), 15),
        "windows differ in size",
    ),
    "gated": (lambda _, a: F.glu(torch.cat([a, a], 1), 1), "'glu'"),
    "kernels": (lambda m, a: a + F.conv2d(a, a[:1]), "factors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused(images, name):
    function, text = REFUSED[name]
    model = model_of(function)
    reason = DeepLift(Black()).obstacle(model, images(1))
    assert text in str(reason)
    with pytest.raises(MethodError, match=r"^'"):
        deep_lift(model, images(2))


KNOWN = {
    "writing": _written_into,
    "in place": lambda _, a: a.relu_().mul_(2).sub_(1).clamp_(max=1.5),
    "shapes": lambda _, a: a.transpose(0, 1).relu().roll(1, 2).flip(3).transpose(0, 1),
    "parameters": lambda m, a: (a * (m.scale / m.scale.norm()).exp() - m.scale).tanh(),
    "constants": lambda _, a: 1 - a.where(torch.ones_like(a) > 0, 0.0) / 2 + torch.rand(()) * 0,
    "merged axes": lambda _, a: F.softsign(a.reshape(-1, 15)).reshape(a.shape),
    "channels": lambda _, a: F.prelu(a, torch.tensor([0.1, 0.2, 0.3, 0.4]).double()),
    "squares": lambda _, a: a * a,
    "layers": lambda _, a: F.selu(F.interpolate(F.avg_pool2d(F.pad(a, (1, 1, 1, 1)), 2), (15, 15))),
    "einsum": lambda m, a: torch.einsum("nchw,dc->ndhw", a, m.conv.weight[:, :, 0, 0] @ _MIX),
    "largest": lambda _, a: a + F.adaptive_max_pool2d(a, 1) + F.max_pool2d(a, 2, 1, 1, 2),
}
_MIX = torch.ones(3, 4, dtype=torch.float64)


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_adds_up(images, name):
    model, x = model_of(KNOWN[name]), images(3)
    found = deep_lift(model, x, baseline=0.2)
    assert found.completeness_gap.abs().max() < 1e-12
    one = deep_lift(model, x[2:], baseline=images(1, seed=4))
    assert one.completeness_gap.abs().max() < 1e-12
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_model_that_decides_by_a_side_effect(images):
    calls = []

    def function(_, a):
        calls.append(a)
        return a.relu() if len(calls) % 2 else a.tanh()

    with pytest.raises(MethodError, match="not those at the sample"):
        deep_lift(model_of(function), images(1), baseline=images(1, seed=3))


def test_compiled_parts_are_out_of_reach(images):
    model = nn.Sequential(torch.jit.trace(nn.ReLU(), torch.zeros(1)), nn.Flatten()).eval()
    assert "module '0' is compiled" in DeepLift(Black()).obstacle(model, images(1))
