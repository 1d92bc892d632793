"""``gradattr ingest``: what it takes of a data set, and what it says about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradattr.data import index_data
from gradattr.manifest.loading import load_data
from tests.cli.conftest import Command


def test_some_classes_and_rows_with_their_patch(gradattr: Command, tmp_path: Path) -> None:
    source, to = tmp_path / "data.yaml", tmp_path / "out"
    source.write_text("data: {format: digits, patch: {class: '3', fraction: 0.5, size: 2}}\n")
    arguments = [str(source), str(to), "--only", "8", "--only", "3", "--rows", ":500"]
    done = gradattr("ingest", *arguments)
    assert done.code == 0
    assert done.out.splitlines()[0].startswith("99 rows in 1 files under ")
    hint = done.out.splitlines()[1].removeprefix("  use it as  ")
    assert hint == f"data: {{format: parquet, files: ['{to}'], mask: mask}}"
    (tmp_path / "hint.yaml").write_text(hint + "\n")
    index = index_data(load_data(tmp_path / "hint.yaml"))
    assert (index.rows, index.class_names) == (99, ("8", "3"))
    (file,) = to.iterdir()
    stamp = file.stat().st_mtime_ns
    assert gradattr("ingest", *arguments) == done
    assert [one.stat().st_mtime_ns for one in to.iterdir()] == [stamp]


def test_the_hint_without_masks(gradattr: Command, tmp_path: Path) -> None:
    done = gradattr("ingest", "digits", str(tmp_path / "out"), "--rows", "5:9")
    assert done.out.splitlines()[0].startswith("4 rows in 1 files")
    assert "mask:" not in done.out


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--only", "30"], 2, "only: there is no class 30; the data has classes 0 to 9"),
        (["--only", "three"], 2, "only: there is no class 'three'"),
        (["--rows", "5"], 2, "--rows 5: expected START:STOP"),
        (["--rows", "5:9999"], 2, "rows 5:9999 were asked for"),
        (["--rows", "-5:9"], 2, "--rows -5:9: expected START:STOP"),
        (["--rows", "0:1", "--only", "9"], 2, "the selection is empty"),
    ],
)
def test_refusals(
    options: list[str], code: int, reason: str, gradattr: Command, tmp_path: Path
) -> None:
    done = gradattr("ingest", "digits", str(tmp_path / "out"), *options)
    assert done.code == code and reason in done.err
    assert not (tmp_path / "out").exists()
