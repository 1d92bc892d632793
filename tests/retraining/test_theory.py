"""The theory data's golden table (Shah et al. 2021, eq. 2 and Theorem 1), to 0.05.

Ten blocks of one coordinate, no noise: a task block (one of the first five) holds the label, -1 or
1, all else is 0; so there are ten distinct points, and one step sees them all. Published magnitudes
of the logit gradient, each row normalised to a maximum of 1, of the signal's block, the other task
blocks and the noise blocks: linear .93 .93 .05, standard MLP .87 .98 .03, robust MLP 1 .015 .007.

What reproduces them: plain gradient descent (no momentum, no weight decay) at rate 0.1 on the loss
log(1 + exp(-y f)), torch's own initialisation. The standard models are those of 300 steps. In the
linear model's noise blocks, and in the differences between its task blocks, stands what is left of
the initial weights, and wears off as the others grow (means of eight models: .945 .945 .114 after
200 steps, .967 .967 .090 after 300, .978 .978 .078 after 400). The standard MLP's figures move by
less than .002 between 50 steps and 2 000. The robust MLP's are reached after 1 000 steps, and hold.
"""

from __future__ import annotations

import pytest
import torch

from gradattr.models import simple
from gradattr.retraining import Adversary, Recipe, train_classifier

BLOCKS = 10
SHAPE = (1, BLOCKS, 1)
TOLERANCE = 0.05


def points():
    """x (10, 1, 10, 1) and the labels -1, 1 as classes 0, 1; points 2j and 2j+1 have block j."""
    block = torch.arange(BLOCKS) // 2
    y = torch.arange(BLOCKS) % 2
    x = torch.zeros(BLOCKS, BLOCKS)
    x[torch.arange(BLOCKS), block] = 2.0 * y - 1
    return x.view(BLOCKS, *SHAPE), y, block


def magnitudes(model):
    """(signal, other task blocks, noise blocks): mean |gradient|, rows normalised to 1."""
    x, _, block = points()
    leaf = x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    gradient = gradient.abs().flatten(1)
    gradient = gradient / gradient.amax(1, keepdim=True)
    task = torch.arange(BLOCKS)[None] < BLOCKS // 2
    signal = torch.arange(BLOCKS)[None] == block[:, None]
    parts = (signal, task & ~signal, (~task).expand_as(signal))
    return [gradient[part].mean().item() for part in parts]


def trained(make, steps, adversary=None, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
    recipe = Recipe(
        lr=0.1,
        lr_decay=1.0,
        momentum=0.0,
        weight_decay=0.0,
        batch_size=BLOCKS,
        epochs=steps,
        stop_below=0.0,
        adversary=adversary,
    )
    x, y, _ = points()
    result = train_classifier(model, x, y, recipe)
    assert result.history[-1].accuracy == 1.0
    return model


def linear():
    return simple.linear(SHAPE, 2, "margin")


def wide_mlp():
    return simple.mlp(SHAPE, 2, [10_000], "margin")


def test_linear_model():
    found = torch.tensor([magnitudes(trained(linear, 300, seed=seed)) for seed in range(10)])
    assert found.mean(0).tolist() == pytest.approx([0.93, 0.93, 0.05], abs=TOLERANCE)


@pytest.mark.parametrize("seed", [0, 1])
def test_standard_mlp(seed):
    found = magnitudes(trained(wide_mlp, 300, seed=seed))
    assert found == pytest.approx([0.87, 0.98, 0.03], abs=TOLERANCE)


def test_robust_mlp():
    adversary = Adversary("linf", 0.35, steps=8, step_size=0.25 * 0.35)
    found = magnitudes(trained(wide_mlp, 4000, adversary))
    assert found == pytest.approx([1.0, 0.015, 0.007], abs=TOLERANCE)
