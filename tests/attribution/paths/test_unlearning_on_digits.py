"""What UNI is for, on a network that has learned real digits.

Medians of the path's Spearman are 1 of both paths on a network that small; means tell them apart.
"""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.attribution import Constant, PlainEvaluator, Unlearned, integrated_gradients, uni


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, float]:
    """A small CNN, the test images (n, 1, 8, 8) in its input space, and what is black there."""
    data = load_digits()
    x = torch.tensor(data.images).float()[:, None] / 16
    y = torch.tensor(data.target)
    held_out = torch.arange(len(x)) % 5 == 0
    mean, std = x[~held_out].mean(), x[~held_out].std()
    x = (x - mean) / std
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 10),
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        images, labels = x[~held_out], y[~held_out]
        for _ in range(20):
            for rows in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(images[rows]), labels[rows]).backward()
                optimizer.step()
    with torch.no_grad():
        assert (model(x[held_out]).argmax(1) == y[held_out]).float().mean() > 0.96
    return model, x[held_out], float(-mean / std)


def test_confidence_falls_and_grows_back(trained):
    model, x, black = trained
    found = uni(model, x)
    assert set(found.status) == {"ok"}
    assert (found.baseline_confidence < found.score).double().mean() >= 0.95
    assert found.path_spearman.median() >= 0.9
    from_black = integrated_gradients(model, x, "prob_pred", steps=15, rule="right", baseline=black)
    assert found.path_spearman.mean() > from_black.path_spearman.mean()
    assert (found.path_spearman == found.path_spearman.max()).double().mean() > 0.95


def test_with_a_uniform_target_the_effect_disappears(trained):
    """So it is unlearning that finds the baseline, not the descent."""
    model, x, _ = trained
    found = uni(model, x)
    uniform = torch.full((len(x), 10), 0.1).log()
    starts = Unlearned().approach(PlainEvaluator(model), x, uniform)
    with torch.no_grad():
        left = model(starts).softmax(1).gather(1, found.index[:, None])[:, 0]
    assert (found.score - left).mean() < 0.25 * (found.score - found.baseline_confidence).mean()
    assert (left < found.score).double().mean() < 0.8


def test_its_baseline_is_nearer_than_black(trained):
    model, x, black = trained
    found = uni(model, x)
    start = Unlearned().find(PlainEvaluator(model), x, found.index)
    assert ((start - x).flatten(1).norm(dim=1) < (x - black).flatten(1).norm(dim=1) / 4).all()
    far = integrated_gradients(model, x, "prob_pred", baseline=Constant(black))
    assert far.baseline_confidence.mean() < found.baseline_confidence.mean()
