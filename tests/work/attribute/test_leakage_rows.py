"""The table 'leakage': a row per image, method and level, whatever happened to the image."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gradattr.data.types import RowError
from gradattr.work.attribute.rows import Group, ShardRows

BLOCKS = {"data": "blockmnist", "leakage_levels": [0.25, 1.0]}


@pytest.fixture
def masked(batch: Any) -> Any:
    """A batch of 2x2 images whose upper row is marked; the first has its signal on top."""

    def make(labels: list[int]) -> Any:
        made = batch(labels)
        made.masks = torch.tensor([[[True, True], [False, False]]]).repeat(len(labels), 1, 1)
        made.signal_on_top = torch.arange(len(labels)) == 0
        return made

    return make


def _numbers(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(r["row"], r["level"], r["share"], r["mass_ratio"], r["status"]) for r in rows]


def test_numbers_of_each_image(
    collector: Any, manifest: Any, masked: Any, attribution: Any
) -> None:
    rows = ShardRows(collector, manifest(**BLOCKS), (1, 2, 2))
    maps = torch.tensor([[[[4.0, 0.0], [1.0, 3.0]]], [[[0.0, 1.0], [1.0, 2.0]]]])
    rows.add_batch(masked([0, 1]), [Group([0, 1], [attribution(maps, torch.eye(2))])])
    found = collector.rows("leakage")
    assert _numbers(found) == [
        (0, 0.25, 1.0, 0.5, "ok"),
        (0, 1.0, 0.5, 0.5, "ok"),
        (1, 0.25, 0.0, 0.25, "ok"),
        (1, 1.0, 0.5, 0.25, "ok"),
    ]
    assert [r["signal_on_top"] for r in found] == [True, True, False, False]
    assert {(r["method"], r["sample_id"], r["region_share"]) for r in found} == {
        ("gradient", "s0", 0.5),
        ("gradient", "s1", 0.5),
    }
    assert [r["signal_on_top"] for r in collector.rows("predictions")] == [True, False]


def test_maps_without_a_ranking_have_a_status_and_no_number(
    collector: Any, manifest: Any, masked: Any, attribution: Any
) -> None:
    rows = ShardRows(collector, manifest(**BLOCKS), (1, 2, 2))
    maps = torch.ones(3, 1, 2, 2)
    maps[0], maps[1, 0, 0, 0] = 0, math.nan
    rows.add_batch(masked([0, 1, 1]), [Group([0, 1, 2], [attribution(maps, torch.eye(3))])])
    found = collector.rows("leakage")
    statuses = ["zero_map", "zero_map", "non_finite", "non_finite", "ok", "ok"]
    assert [r["status"] for r in found] == statuses
    assert [r["share"] is None for r in found] == [s != "ok" for s in statuses]
    assert [r["mass_ratio"] is None for r in found] == [s != "ok" for s in statuses]
    # A map of zeros is a result: the row is not bad.
    assert rows.bad_rows == {1}


def test_rows_that_cannot_be_read_and_rows_without_a_label(
    collector: Any, manifest: Any, masked: Any, attribution: Any
) -> None:
    methods = [{"name": "gradient", "target": "loss_true"}]
    rows = ShardRows(collector, manifest(methods=methods, **BLOCKS), (1, 2, 2))
    rows.add_errors([RowError(9, "s9", "decode_error", "truncated")])
    found = attribution(torch.ones(1, 1, 2, 2), torch.eye(1, 2))
    rows.add_batch(masked([-1, 1]), [Group([1], [found])])
    got = {(r["row"], r["level"]): (r["status"], r["share"]) for r in collector.rows("leakage")}
    assert got == {
        (9, 0.25): ("decode_error", None),
        (9, 1.0): ("decode_error", None),
        (0, 0.25): ("label_error", None),
        (0, 1.0): ("label_error", None),
        (1, 0.25): ("ok", 0.5),
        (1, 1.0): ("ok", 0.5),
    }
    # What there is of an image is told of the right one.
    top = {r["row"]: r["signal_on_top"] for r in collector.rows("leakage")}
    assert top == {9: None, 0: None, 1: False}


@pytest.mark.parametrize("changes", [{}, {"data": "blockmnist", "leakage_levels": []}])
def test_no_table_without_masks_or_levels(
    changes: dict[str, Any], collector: Any, manifest: Any, masked: Any, attribution: Any
) -> None:
    rows = ShardRows(collector, manifest(**changes), (1, 2, 2))
    rows.add_batch(
        masked([0]), [Group([0], [attribution(torch.ones(1, 1, 2, 2), torch.eye(1, 2))])]
    )
    assert "leakage" not in collector.parts
