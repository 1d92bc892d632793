"""Filled-in pixels against a dense solve, equation by equation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradattr.errors import UsageError
from gradattr.metrics.imputation import impute
from tests.small_classifiers import pictures


def dense(image: Tensor, removed: Tensor) -> Tensor:
    """One image (c, h, w): a full matrix over all pixels, known ones with an equation x = x."""
    _, h, w = image.shape
    matrix = torch.zeros(h * w, h * w, dtype=torch.float64)
    right = torch.zeros(h * w, len(image), dtype=torch.float64)
    for row in range(h):
        for column in range(w):
            here = row * w + column
            if not removed[row, column]:
                matrix[here, here] = 1
                right[here] = image[:, row, column]
                continue
            for down in (-1, 0, 1):
                for aside in (-1, 0, 1):
                    r, c = row + down, column + aside
                    if (down, aside) == (0, 0) or not (0 <= r < h and 0 <= c < w):
                        continue
                    weight = 1 / 12 if down and aside else 1 / 6
                    matrix[here, here] += weight
                    matrix[here, r * w + c] -= weight
    return torch.linalg.solve(matrix, right).T.reshape(image.shape)


@pytest.mark.parametrize(("h", "w"), [(9, 7), (1, 12), (40, 3)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_against_a_dense_solve(h: int, w: int, share: float) -> None:
    x = pictures(5, max(h, w))[..., :h, :w]
    generator = torch.Generator().manual_seed(1)
    removed = torch.rand(5, h, w, generator=generator) < share
    removed[:, 0, 0] = False
    removed[1] = False
    filled = impute(x, removed)
    for image, gone, found in zip(x, removed, filled, strict=True):
        assert (found - dense(image, gone)).abs().max() < 1e-11
    assert torch.equal(filled[1], x[1])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kept=st.integers(1, 35),
    value=st.floats(-3, 3),
)
def test_laws(seed: int, kept: int, value: float) -> None:
    """Constants are reproduced; known pixels stay; no new extremes; linear in the image."""
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.rand(2, 36, generator=generator).argsort(1).argsort(1).view(2, 6, 6)
    removed = ranks >= kept
    constant = torch.full((2, 2, 6, 6), value, dtype=torch.float64)
    assert torch.allclose(impute(constant, removed), constant, rtol=0, atol=1e-12)
    x = pictures(2, 6, seed=seed)
    filled = impute(x, removed)
    assert torch.equal(filled.where(~removed[:, None], 0), x.where(~removed[:, None], 0))
    known = x.where(~removed[:, None], torch.nan)
    for image, found in zip(known.flatten(0, 1), filled.flatten(0, 1), strict=True):
        there = image[~image.isnan()]
        assert there.min() - 1e-12 <= found.min()
        assert found.max() <= there.max() + 1e-12
    assert torch.allclose(impute(2 * x + 1, removed), 2 * filled + 1, rtol=0, atol=1e-11)


def test_many_images_are_as_each_alone() -> None:
    """Small images are solved together; what one holds does not reach another."""
    x = pictures(13, 30)
    generator = torch.Generator().manual_seed(2)
    removed = torch.rand(13, 30, 30, generator=generator) < 0.7
    x[3] = torch.nan
    filled = impute(x, removed)
    for number in (0, 2, 4, 12):
        one = slice(number, number + 1)
        assert torch.allclose(impute(x[one], removed[one]), filled[one], rtol=0, atol=1e-12)
    assert impute(x[:1].float(), removed[:1]).dtype == torch.float32
    assert impute(x[:0], removed[:0]).shape == (0, 3, 30, 30)


def test_what_cannot_be_filled_in() -> None:
    with pytest.raises(UsageError, match="no pixel left"):
        impute(pictures(2, 3), torch.ones(2, 3, 3, dtype=torch.bool))
    with pytest.raises(UsageError, match=r"expected \(b, c, h, w\) and \(b, h, w\)"):
        impute(pictures(2, 3), torch.ones(2, 1, 3, 3, dtype=torch.bool))
