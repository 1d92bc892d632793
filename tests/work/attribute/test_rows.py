"""Every input row becomes a row of every table, whatever happened to it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gradattr.data.types import RowError
from gradattr.work.attribute.rows import Group, ShardRows


def test_good_rows(collector: Any, manifest: Any, batch: Any, attribution: Any) -> None:
    rows = ShardRows(collector, manifest(), (1, 2, 2))
    maps = torch.tensor([[[[1.0, -2.0], [0.0, 4.0]]], [[[0.5, 0.5], [0.5, 0.5]]]])
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    found = attribution(
        maps,
        logits,
        baseline_score=torch.tensor([0.5, 2.0]),
        completeness_gap=torch.tensor([0.25, 0.1]),
    )
    rows.add_batch(batch([1, 1], first=7), [Group([0, 1], [found])])
    one, two = collector.rows("predictions")
    assert (one["row"], one["predicted"], one["correct"]) == (7, 1, True)
    assert one["confidence"] == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-6)
    assert one["loss"] == pytest.approx(-math.log(one["confidence"]), rel=1e-6)
    assert (two["predicted"], two["correct"]) == (0, False)
    assert two["loss"] == pytest.approx(math.log(1 + math.exp(2)), rel=1e-6)
    first, second = collector.rows("attributions")
    assert [first[k] for k in ("total", "abs_total", "minimum", "maximum")] == [3, 7, -2, 4]
    assert first["completeness_gap_relative"] == pytest.approx(0.5)
    # Score and baseline score are equal: a relative gap does not exist.
    assert second["completeness_gap_relative"] is None
    stored = [torch.tensor(row["map"]).flatten() for row in collector.rows("maps")]
    assert [one.tolist() for one in stored] == [one.flatten().tolist() for one in maps]
    assert (rows.row_ids, rows.bad_rows, rows.statuses) == ([7, 8], set(), {})


def test_a_map_that_is_not_finite_is_never_stored_as_zero(
    collector: Any, manifest: Any, batch: Any, attribution: Any
) -> None:
    rows = ShardRows(collector, manifest(), (1, 2, 2))
    maps = torch.ones(3, 1, 2, 2)
    maps[1, 0, 0, 0] = math.nan
    found = attribution(maps, torch.eye(3))
    rows.add_batch(batch([0, 1, 2]), [Group([0, 1, 2], [found])])
    assert [row["status"] for row in collector.rows("attributions")] == ["ok", "non_finite", "ok"]
    assert [row["map"] is None for row in collector.rows("maps")] == [False, True, False]
    bad = collector.rows("attributions")[1]
    assert bad["total"] is None
    assert "NaN" in bad["error"]
    assert rows.bad_rows == {1}
    assert collector.rows("errors") == [
        {
            "row": 1,
            "sample_id": "s1",
            "stage": "attribute",
            "method": "gradient",
            "status": "non_finite",
            "error": bad["error"],
        }
    ]


def test_rows_that_cannot_be_read(collector: Any, manifest: Any) -> None:
    spec = manifest(methods=["gradient", "random"])
    rows = ShardRows(collector, spec, (1, 2, 2))
    rows.add_errors([RowError(4, "<b>.png", "decode_error", "truncated")])
    assert [row["status"] for row in collector.rows("predictions")] == ["decode_error"]
    for table in ("attributions", "maps"):
        found = collector.rows(table)
        assert [(r["row"], r["method"], r["status"]) for r in found] == [
            (4, "gradient", "decode_error"),
            (4, "random", "decode_error"),
        ]
    assert collector.rows("errors")[0]["method"] is None
    assert rows.statuses == {"decode_error": 1}
    assert rows.examples == ["row 4 (<b>.png): decode_error: truncated"]


def test_rows_without_a_label_lack_only_the_methods_that_need_one(
    collector: Any, manifest: Any, batch: Any, attribution: Any
) -> None:
    methods = ["gradient", {"name": "saliency", "target": "loss_true"}]
    rows = ShardRows(collector, manifest(methods=methods), (1, 2, 2))
    logits = torch.eye(3)
    free = attribution(torch.ones(3, 1, 2, 2), logits)
    bound = attribution(torch.ones(2, 1, 2, 2), logits[[0, 2]], method="saliency")
    rows.add_batch(batch([0, -1, 2]), [Group([0, 1, 2], [free]), Group([0, 2], [bound])])
    status = {(r["row"], r["method"]): r["status"] for r in collector.rows("attributions")}
    assert len(status) == 6
    assert {key for key, value in status.items() if value != "ok"} == {(1, "saliency")}
    assert status[1, "saliency"] == "label_error"
    predictions = collector.rows("predictions")
    assert [row["status"] for row in predictions] == ["ok"] * 3
    assert (predictions[1]["label"], predictions[1]["correct"], predictions[1]["loss"]) == (
        None,
        None,
        None,
    )
    assert predictions[1]["predicted"] == 1


def test_no_maps_are_written_where_none_are_wanted(
    collector: Any, manifest: Any, batch: Any, attribution: Any
) -> None:
    rows = ShardRows(collector, manifest(store={"maps": "none"}), (1, 2, 2))
    rows.add_batch(batch([0]), [Group([0], [attribution(torch.ones(1, 1, 2, 2), torch.eye(1, 2))])])
    assert "maps" not in collector.parts
    assert len(collector.rows("attributions")) == 1


def test_a_method_without_an_answer_is_no_fault_of_the_row(
    collector: Any, manifest: Any, batch: Any, attribution: Any
) -> None:
    rows = ShardRows(collector, manifest(), (1, 2, 2))
    found = attribution(
        torch.zeros(2, 1, 2, 2),
        torch.eye(2),
        status=("ok", "degenerate"),
        baseline_confidence=torch.tensor([0.25, 1.0], dtype=torch.float64),
        path_spearman=torch.tensor([0.5, math.nan], dtype=torch.float64),
    )
    rows.add_batch(batch([0, 1]), [Group([0, 1], [found])])
    good, stuck = collector.rows("attributions")
    assert (good["baseline_confidence"], good["path_spearman"]) == (0.25, 0.5)
    assert (stuck["baseline_confidence"], stuck["path_spearman"]) == (1.0, None)
    assert stuck["status"] == "degenerate"
    assert "nothing to go by" in stuck["error"]
    assert collector.rows("maps")[1]["map"] is None
    assert [row["status"] for row in collector.rows("errors")] == ["degenerate"]
    assert (rows.bad_rows, rows.statuses) == (set(), {"degenerate": 1})


def _kept(
    collector: Any, manifest: Any, batch: Any, attribution: Any, methods: list[Any], channels: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is kept of Grad-CAM's map 0 1 / 2 3 of an image of three channels."""
    rows = ShardRows(collector, manifest(methods=methods), (3, 2, 2))
    maps = torch.arange(4.0).view(1, 1, 2, 2)
    found = attribution(maps, torch.eye(2)[:1], method="grad_cam")
    others = [
        attribution(torch.ones(1, channels, 2, 2), torch.eye(2)[:1], method="gradient")
        for _ in methods[1:]
    ]
    one = batch([0])
    one.x = torch.zeros(1, 3, 2, 2)
    rows.add_batch(one, [Group([0], [found, *others])])
    return collector.rows("attributions")[0], collector.rows("maps")[0]


def test_maps_without_channels_are_kept_without(
    collector: Any, manifest: Any, batch: Any, attribution: Any
) -> None:
    joined = {"name": "gradient", "post": ["channel_max"]}
    scalars, kept = _kept(collector, manifest, batch, attribution, ["grad_cam", joined], 1)
    assert (kept["channels"], kept["height"], kept["width"]) == (1, 2, 2)
    assert torch.tensor(kept["map"]).flatten().tolist() == [0, 1, 2, 3]
    assert scalars["total"] == 6


def test_maps_without_channels_beside_maps_with_them_keep_their_sum(
    collector: Any, manifest: Any, batch: Any, attribution: Any
) -> None:
    scalars, kept = _kept(collector, manifest, batch, attribution, ["grad_cam", "gradient"], 3)
    assert kept["channels"] == 3
    stored = torch.tensor(kept["map"]).view(3, 2, 2)
    torch.testing.assert_close(stored.sum(0), torch.arange(4.0).view(2, 2))
    torch.testing.assert_close(stored, stored[:1].expand(3, -1, -1))
    assert scalars["total"] == pytest.approx(6)
