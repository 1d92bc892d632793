"""Agreement of an estimate with the exact effects."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from gradattr.patching import faithfulness, patching_score


@given(st.integers(0, 99), st.integers(1, 3), st.integers(2, 6))
@settings(max_examples=25, deadline=None)
def test_the_numbers_are_those_of_a_loop(seed, sites, longest):
    generator = torch.Generator().manual_seed(seed)
    one, two = torch.randn(2, 3, sites, longest, generator=generator, dtype=torch.float64).round(
        decimals=1
    )
    lengths = torch.randint(2, longest + 1, (3,), generator=generator)
    real = torch.arange(longest)[None] < lengths[:, None]
    found = faithfulness(one, two, real)
    for i, length in enumerate(lengths.tolist()):
        a, b = (values[i, :, :length].flatten() for values in (one, two))
        assert float(found.l2[i]) == pytest.approx(float(torch.dist(a, b)))
        assert float(found.relative_l2[i]) == pytest.approx(float(torch.dist(a, b) / b.norm()))
        if a.unique().numel() > 1 and b.unique().numel() > 1:
            assert float(found.spearman[i]) == pytest.approx(spearmanr(a, b).statistic)


def test_the_ends_of_the_scale():
    exact = torch.tensor([[[1.0, 2, 3]], [[0, 0, 0]]]).double()
    real = torch.ones(2, 3, dtype=torch.bool)
    same = faithfulness(exact, exact, real)
    assert same.l2.tolist() == [0, 0]
    assert float(same.spearman[0]) == pytest.approx(1)
    assert same.relative_l2[1].isnan()
    assert same.spearman[1].isnan()
    nothing = faithfulness(0 * exact, exact, real)
    assert float(nothing.relative_l2[0]) == 1
    broken = faithfulness(exact * torch.nan, exact, real)
    assert broken.l2.isnan().all()
    with pytest.raises(ValueError, match="positions"):
        faithfulness(exact, exact, real[:, :2])


def test_scores_have_names():
    logits = torch.tensor([[0.0, 1.0, 3.0]])
    answer, foil = torch.tensor([2]), torch.tensor([0])
    assert patching_score("logit_difference")(logits, answer, foil).tolist() == [3]
    p = torch.softmax(logits, 1)[0, 2]
    assert torch.allclose(patching_score("prob")(logits, answer, None), p)
    with pytest.raises(ValueError, match="'loss' given, expected one of prob"):
        patching_score("loss")
