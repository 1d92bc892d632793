"""Data or weights that change between a crash and the next attempt, and damaged commits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.cli.main import main
from gradattr.errors import ShardError
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.storage.verify import verify_run

from .conftest import write_digits

Make = Callable[..., Any]


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _change_data(data: Path, weights: Path) -> None:
    write_digits(data, marked=59)


def _change_model(data: Path, weights: Path) -> None:
    raw = bytearray(weights.read_bytes())
    raw[-2] ^= 1
    weights.write_bytes(raw)


@pytest.mark.parametrize("change", [_change_data, _change_model])
def test_changed_inputs_are_another_run(
    make_small: Make,
    crash: Make,
    listener: Make,
    digits_file: Path,
    weights: Path,
    tmp_path: Path,
    change: Callable[[Path, Path], None],
) -> None:
    own_weights = tmp_path / "weights.safetensors"
    own_weights.write_bytes(weights.read_bytes())
    model = {"arch": "cnn", "width": 4, "weights": str(own_weights)}
    crash(model=model)
    (old,) = (tmp_path / "store" / "runs").iterdir()
    before = _snapshot(old)
    change(digits_file, own_weights)
    told = listener()
    result = run(make_small(model=model), listener=told)
    assert result.run_id != old.name
    assert len(told.shards) == 4, "a shard of the old inputs was taken for one of the new"
    assert open_run(result.uri).rows == 60
    assert _snapshot(old) == before


def test_data_that_changes_under_a_driver_is_not_mixed_in(
    make_small: Make, digits_file: Path, tmp_path: Path
) -> None:
    """Between planning and reading the file becomes another of the same name."""

    def change(event: Any) -> None:
        if event.kind == "stage":
            digits_file.write_bytes(digits_file.read_bytes() + b"more")

    with pytest.raises(ShardError, match=r"digits\.npz"):
        run(make_small(), listener=change)
    assert not list((tmp_path / "store").glob("runs/*/shards/attribute/*.json"))


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _edit(data: bytes) -> bytes:
    return data.replace(b'"rows":{"attribute":60}', b'"rows":{"attribute":59}')


@pytest.mark.parametrize("damage", [_cut, _edit])
def test_readers_refuse_a_damaged_commit(
    undisturbed: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[bytes], bytes],
) -> None:
    path = Path(undisturbed.uri) / "_COMMIT.json"
    original = path.read_bytes()
    assert damage(original) != original
    path.write_bytes(damage(original))
    commands = [["show"], ["query", "SELECT 1"], ["verify"], ["status"]]
    for command, *rest in commands:
        monkeypatch.setattr(sys, "argv", ["gradattr", command, undisturbed.uri, *rest])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 1, command
        assert "_COMMIT.json" in "".join(capsys.readouterr())


def test_a_damaged_commit_is_rebuilt_from_the_records(
    make_small: Make, listener: Make, tmp_path: Path
) -> None:
    result = run(make_small())
    path = Path(result.uri) / "_COMMIT.json"
    original = path.read_bytes()
    path.unlink()
    told = listener()
    again = run(make_small(), listener=told)
    assert told.shards == []
    assert path.read_bytes() == original
    assert verify_run(open_run(again.uri).store, again.run_id).ok
