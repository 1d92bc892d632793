"""Magnitudes by block, against sums by hand."""

from __future__ import annotations

import pytest
import torch

from gradattr.errors import UsageError
from gradattr.metrics.theory import block_magnitudes


def test_each_role_by_hand() -> None:
    maps = torch.tensor([[4.0, -2.0, 1.0, 0.0], [0.5, -1.0, 0.0, 0.25]])[:, None, :, None]
    found = block_magnitudes(maps, torch.tensor([0, 0]))
    assert found.signal == pytest.approx((1 + 0.5) / 2)
    assert found.task == pytest.approx((0.5 + 1) / 2)
    assert found.noise == pytest.approx((0.25 + 0 + 0 + 0.25) / 4)
    swapped = block_magnitudes(maps, torch.tensor([1, 1]))
    assert (swapped.signal, swapped.task) == (found.task, found.signal)


def test_a_block_counts_by_its_norm() -> None:
    maps = torch.zeros(1, 1, 4, 2)
    maps[0, 0, 0] = torch.tensor([3.0, -4.0])
    maps[0, 0, 1] = torch.tensor([0.0, 2.5])
    found = block_magnitudes(maps, torch.tensor([1]))
    assert found == pytest.approx((0.5, 1.0, 0.0))


@pytest.mark.parametrize(
    ("maps", "signal", "reason"),
    [
        (torch.ones(2, 1, 5, 1), torch.tensor([0, 1]), "d even"),
        (torch.ones(2, 3, 4, 1), torch.tensor([0, 1]), r"expected \(n, 1, d, m\)"),
        (torch.ones(2, 1, 4, 1), torch.tensor([0, 2]), "one of 0 to 1 for each of 2 maps"),
        (torch.ones(2, 1, 4, 1), torch.tensor([0]), "one of 0 to 1 for each of 2 maps"),
        (torch.zeros(2, 1, 4, 1), torch.tensor([0, 1]), "map 0 is 0 everywhere"),
        (torch.tensor([1.0, float("nan")] * 4).view(2, 1, 4, 1), torch.tensor([0, 1]), "not fini"),
    ],
)
def test_what_does_not_fit(maps: torch.Tensor, signal: torch.Tensor, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        block_magnitudes(maps, signal)
