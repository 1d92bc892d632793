"""Whether confidence grows along a path."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn

from gradattr.attribution import integrated_gradients, saliency
from gradattr.attribution.paths.path_facts import monotonicity, path_facts


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12))
def test_spearman_with_ties_is_scipys(values):
    rows = torch.tensor([values, values[::-1]], dtype=torch.float64)
    found = monotonicity(rows)
    if len(set(values)) == 1:
        assert found.isnan().all()
        return
    expected = spearmanr(range(len(values)), values).statistic
    assert found.tolist() == pytest.approx([expected, -expected])


def test_ends_are_counted_once():
    start, low, high, end = (torch.tensor([v]).log() for v in (0.1, 0.2, 0.7, 0.9))
    with_end = path_facts(start, [low, high, end], end, (0.3, 0.6, 1.0))
    without = path_facts(start, [low, high], end, (0.3, 0.6))
    assert with_end.spearman.item() == without.spearman.item() == pytest.approx(1)
    assert with_end.baseline_confidence.item() == pytest.approx(0.1)
    falling = path_facts(end, [high, low], start, (0.3, 0.6))
    assert falling.spearman.item() == pytest.approx(-1)


def test_a_value_that_is_no_number_has_no_rank():
    assert monotonicity(torch.tensor([[0.0, float("nan"), 1.0]])).isnan().all()


def test_integrated_gradients_say_how_confidence_grows(network, images):
    model, x = network("cnn"), images(3)
    found = integrated_gradients(model, x, steps=6, rule="left", batch_size=5)
    for i in range(3):
        points = torch.stack([k / 6 * x[i] for k in range(7)])
        with torch.no_grad():
            p = model(points).softmax(1)[:, found.index[i]]
        assert found.baseline_confidence[i].item() == pytest.approx(p[0].item())
        assert found.path_spearman[i].item() == pytest.approx(spearmanr(range(7), p).statistic)
    assert saliency(model, x).path_spearman is None


def test_probabilities_that_round_to_one_are_still_told_apart():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[10.0] * 4, [-10.0] * 4]))
    found = integrated_gradients(model, torch.ones(1, 1, 2, 2), steps=20, baseline=0.5)
    assert found.baseline_confidence.item() == 1
    assert found.path_spearman.item() == pytest.approx(1)
