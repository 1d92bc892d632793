"""A committed run, opened in Python."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from gradattr.errors import QueryError, UsageError
from gradattr.report.results import Run, open_run


def test_tables_frames_and_sql_agree(opened: Run) -> None:
    table = opened.table("attributions")
    assert isinstance(table, pa.Table)
    frame = opened.frame("attributions")
    assert len(frame) == table.num_rows == 160
    means = frame.groupby("method").abs_total.mean()
    rows = opened.sql("SELECT method, avg(abs_total) AS m FROM attributions GROUP BY 1").to_pylist()
    assert {row["method"]: pytest.approx(row["m"]) for row in rows} == means.to_dict()


def test_maps_agree_with_their_scalars(opened: Run) -> None:
    for row in opened.sql("SELECT * FROM attributions WHERE row IN (0, 17, 39)").to_pylist():
        one = opened.map(row["sample_id"], row["method"])
        assert one.shape == (1, 8, 8)
        assert one.sum() == pytest.approx(row["total"], rel=1e-4, abs=1e-4)
        assert np.abs(one).sum() == pytest.approx(row["abs_total"], rel=1e-4)
        assert (one.min(), one.max()) == (row["minimum"], row["maximum"])


@pytest.mark.parametrize(("choice", "tolerance"), [("float16", 1e-3), ("int8", 5e-3)])
def test_smaller_storage_stays_close(
    opened: Run, make_run: object, choice: str, tolerance: float
) -> None:
    small = make_run(choice)  # type: ignore[operator]
    for sample in ("00000000", "00000031"):
        exact, near = opened.map(sample, "saliency"), small.map(sample, "saliency")
        assert np.abs(exact - near).max() <= tolerance * np.abs(exact).max()


def test_what_is_not_there_is_said(opened: Run) -> None:
    with pytest.raises(UsageError, match="no map of sample 'nobody'"):
        opened.map("nobody", "saliency")
    with pytest.raises(UsageError, match="no table 'map'"):
        opened.table("map")
    with pytest.raises(UsageError, match="expected <store>/runs/<run id>"):
        open_run("results")
    with pytest.raises(UsageError, match="does not exist or is not complete"):
        open_run(opened.uri + "0")
    with pytest.raises(QueryError):
        opened.sql("DROP VIEW predictions")


def test_it_shows_itself(opened: Run) -> None:
    shown = opened._repr_html_()
    assert "<table>" in shown
    for method in opened.methods:
        assert method in shown
    assert "looked-at" in repr(opened)
