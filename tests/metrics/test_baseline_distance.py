"""How far a baseline is: by hand, against scikit-image, in pixels whatever the model's space."""

from __future__ import annotations

import pytest
import torch
from skimage.metrics import structural_similarity

from gradattr.attribution import Black, Normalization
from gradattr.errors import UsageError
from gradattr.metrics.baseline_distance import baseline_distance
from tests.small_classifiers import pictures

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
SPACE = Normalization.from_mean_std(MEAN, STD)


def normalised(x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v, dtype=x.dtype).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std


def test_of_pixels_by_hand() -> None:
    x, starts = pictures(4, 12), pictures(4, 12, seed=1)
    found = baseline_distance(normalised(x), normalised(starts), SPACE)
    for n in range(4):
        change = starts[n] - x[n]
        assert found.l2[n].item() == pytest.approx((change.norm() / x[n].norm()).item(), rel=1e-9)
        assert found.linf[n].item() == pytest.approx(change.abs().max().item(), rel=1e-9)
        one, two = x[n].numpy(), starts[n].numpy()
        expected = structural_similarity(one, two, data_range=1, channel_axis=0)
        assert found.ssim[n].item() == pytest.approx(expected, abs=1e-9)


def test_the_image_itself_and_black() -> None:
    x = normalised(pictures(3, 9))
    itself = baseline_distance(x, x, SPACE)
    assert itself.l2.tolist() == itself.linf.tolist() == [0, 0, 0]
    torch.testing.assert_close(itself.ssim, torch.ones(3, dtype=torch.float64))
    black = Black().draw(x, [0] * 3, 0, SPACE)
    torch.testing.assert_close(baseline_distance(x, black, SPACE).l2, itself.ssim)
    # Relative to nothing there is no distance, but the largest change and the structure are there.
    of_black = baseline_distance(black, x, SPACE)
    assert of_black.l2.isnan().all()
    assert (of_black.linf > 0.5).all()
    assert (of_black.ssim.abs() < 0.2).all()


def test_what_is_not_finite_or_too_small() -> None:
    x, starts = pictures(2, 8), pictures(2, 8, seed=1)
    starts[0, 0, 0, 0] = torch.inf
    found = baseline_distance(x, starts)
    assert all(one.isnan().tolist() == [True, False] for one in found)
    assert baseline_distance(pictures(1, 2), pictures(1, 2, seed=1)).ssim.isnan().all()
    with pytest.raises(UsageError, match="twice"):
        baseline_distance(x, starts[:1])
