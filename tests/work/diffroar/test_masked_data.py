"""Masks of trials: the random scheme is dealt anew for each seed, every other order stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradattr.storage.objects import open_store
from gradattr.work.diffroar import masked_data
from gradattr.work.diffroar.masked_data import MaskedData
from tests.made_up_audits import MadeUpAudit

ROWS = 50


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MaskedData:
    """Ranks that tell the image that they were drawn for."""
    store = open_store(str(tmp_path))
    ranks = np.repeat(np.arange(ROWS, dtype=np.uint8), 64).reshape(ROWS, 1, 8, 8)
    monkeypatch.setattr(MaskedData, "_read", lambda self, split, scheme: ranks)
    return MaskedData(MadeUpAudit().context(store), store)


def dealt(data: MaskedData, scheme: str, draw: int | None, split: str = "train") -> list[int]:
    masking = data.masking(split, scheme, 0.5, "top", draw=draw)
    assert torch.equal(masking.bins[0], data.masking(split, scheme, 0.5, "top", draw=draw).bins[0])
    owners: Any = masking.bins[:, 0, 0, 0].tolist()
    return list(owners)


def test_the_random_order_of_an_image_is_another_for_each_seed(data: MaskedData) -> None:
    draws = [dealt(data, "random", seed) for seed in range(4)]
    for one in draws:
        assert sorted(one) == list(range(ROWS))
        assert one != list(range(ROWS))
    # Two seeds give an image the same order as seldom as chance does.
    same = sum(a == b for a, b in zip(draws[0], draws[1], strict=True))
    assert same <= 6
    assert dealt(data, "random", 0, "test") != draws[0]


def test_the_luck_of_the_set_is_another_for_each_seed(
    data: MaskedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set of orders that all begin with one coordinate: each seed begins with another."""
    monkeypatch.setattr(masked_data, "_RENAMED_AT_ONCE", 7)
    order = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8).repeat(ROWS, 0)
    monkeypatch.setattr(MaskedData, "_read", lambda self, split, scheme: order.copy())
    draws = [data.masking("test", "random", 0.5, "top", draw=seed).bins for seed in range(5)]
    for bins in draws:
        assert torch.equal(bins, bins[:1].expand_as(bins))
        assert sorted(bins[0].flatten().tolist()) == list(range(64))
    assert len({int(bins[0].flatten().argmin()) for bins in draws}) > 1
    kept = data.masking("test", "random", 0.5, "top").bins
    assert torch.equal(kept, torch.from_numpy(order))


def test_both_arms_of_a_seed_have_the_same_orders(data: MaskedData) -> None:
    arms = [data.masking("test", "random", 0.5, arm, draw=3) for arm in ("top", "bottom")]
    assert torch.equal(arms[0].bins, arms[1].bins)


def test_other_orders_and_evaluation_without_seeds_stay(data: MaskedData) -> None:
    assert dealt(data, "standard/saliency", 1) == list(range(ROWS))
    assert dealt(data, "random", None) == list(range(ROWS))
