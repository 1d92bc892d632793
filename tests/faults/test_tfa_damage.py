"""Runs of kind tfa whose records and files are damaged on the way, or whose inputs change: told by
name, mended by the same command, never mixed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.cli.main import main
from gradattr.errors import ConflictError, IntegrityError, ShardError
from gradattr.models import save_weights
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.storage.verify import verify_run
from gradattr.work.modules import build_module
from tests.disturbed import STAGES, finished, flip, forget, records, same, when
from tests.small_tfa import digits_npz

from .conftest import DriverCrashed

Make = Callable[..., Any]


def _crash() -> None:
    raise DriverCrashed


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _edit(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"rows":', b'"rows":1', 1))


def test_records_that_are_damaged_count_as_absent(
    everything: Make, undisturbed_tfa: Run, tmp_path: Path
) -> None:
    """One record of each stage, each in another way; then the commit is gone."""
    result = run(everything())
    folder = Path(result.uri)
    damages = [_cut, _edit, Path.unlink, lambda path: path.write_bytes(b"")]
    damaged = []
    for number, stage in enumerate(STAGES):
        victim = sorted((folder / "shards" / stage).glob("*.json"))[-1]
        damages[number % len(damages)](victim)
        damaged.append((stage, victim.stem))
    (folder / "_COMMIT.json").unlink()
    forget()
    told: list[tuple[str, str]] = []
    run(
        everything(),
        listener=lambda e: told.append((e.stage, e.key)) if e.kind == "shard" else None,
    )
    assert told == damaged
    found = open_run(result.uri)
    same(found, undisturbed_tfa)
    assert verify_run(found.store, found.run_id).ok


#: (table, the stage that reads it next, the shards of the stage that fail, what happens to it).
READ_LATER = [
    ("predictions", "select", 1, flip),
    ("queries", "curvature", 2, Path.unlink),
    ("tensors", "tda", 3, flip),
    ("tensors", "tda", 3, Path.unlink),
    ("tda_extremes", "pair", 1, flip),
    ("tda_extremes", "pair", 1, Path.unlink),
    ("sketches", "pair", 1, Path.unlink),
    ("tfa_pairs", "map", 1, flip),
    ("tfa_insertion", "summary", 1, Path.unlink),
]


@pytest.mark.parametrize(("table", "stage", "failed", "damage"), READ_LATER)
def test_files_that_are_damaged_before_a_stage_reads_them(
    everything: Make,
    undisturbed_tfa: Run,
    tmp_path: Path,
    table: str,
    stage: str,
    failed: int,
    damage: Callable[[Path], None],
) -> None:
    store = tmp_path / "store"
    victims: list[Path] = []

    def spoil() -> None:
        victims.append(sorted(store.glob(f"runs/*/data/{table}/*"))[0])
        damage(victims[0])
        forget()

    with pytest.raises(ShardError) as caught:
        run(everything(), listener=when(stage, spoil))
    text = str(caught.value)
    assert f"{failed} of " in text and f"shards of stage {stage} failed" in text
    named = victims[0].name if damage is flip or "record is missing" not in text else ".json"
    assert named in text, text
    if damage is flip:
        # Altered bytes are not deleted by us: they may be evidence.
        with pytest.raises(ShardError, match="delete it and run the same command again"):
            finished(everything())
        victims[0].unlink()
    same(finished(everything()), undisturbed_tfa)


@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["altered", "deleted"])
def test_maps_that_are_damaged_before_the_commit(
    everything: Make, undisturbed_tfa: Run, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """No stage reads them: a lost one is found before the commit, an altered one by 'verify'."""
    store = tmp_path / "store"
    with pytest.raises(DriverCrashed):
        run(everything(), listener=when("summary", _crash, "shard"))
    victim = sorted(store.glob("runs/*/data/tfa_maps/*"))[0]
    damage(victim)
    result = finished(everything())
    report = verify_run(result.store, result.run_id)
    if damage is Path.unlink:
        assert report.ok
        same(result, undisturbed_tfa)
    else:
        assert not report.ok
        assert any(victim.name in problem for problem in report.problems)


def test_weights_that_vanish_are_trained_again(
    everything: Make, undisturbed_tfa: Run, tmp_path: Path
) -> None:
    with pytest.raises(DriverCrashed):
        run(everything(), listener=when("tda", _crash, "shard"))
    for weights in (tmp_path / "store").glob("models/*/*.safetensors"):
        weights.unlink()
    same(finished(everything()), undisturbed_tfa)


def test_scores_of_other_weights_are_never_mixed(
    everything: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU a model that is trained again is another one; here another seed stands for that."""
    with pytest.raises(DriverCrashed):
        run(everything(), listener=when("tda", _crash, "shard"))
    for weights in (tmp_path / "store").glob("models/*/*.safetensors"):
        weights.unlink()
    monkeypatch.setattr(
        "gradattr.work.train.build_module", lambda *given: build_module(*given[:2], seed=77)
    )
    with pytest.raises(IntegrityError, match="were computed with different weights"):
        finished(everything())
    assert not list((tmp_path / "store").glob("runs/*/_COMMIT.json"))


@pytest.fixture
def from_files(everything: Make, tmp_path: Path) -> Make:
    """The same with training data, queries and weights in files."""

    def make(**changes: Any) -> Any:
        weights = tmp_path / "weights.safetensors"
        parts: dict[str, Any] = {
            "data": {"format": "npz", "file": str(tmp_path / "train.npz")},
            "queries": {"data": {"format": "npz", "file": str(tmp_path / "test.npz")}, "count": 3},
            "model": {"arch": "mlp", "hidden": [12], "weights": str(weights)},
            "scores": ["grad_cos"],
        }
        manifest = everything(**(parts | changes))
        if not weights.exists():
            write_model(weights, manifest, 1)
            digits_npz(tmp_path / "train.npz", range(60))
            digits_npz(tmp_path / "test.npz", range(100, 130))
        return manifest

    return make


def write_model(path: Path, manifest: Any, seed: int) -> None:
    from gradattr.models import build_model

    model = build_model(manifest.model, shape=(1, 8, 8), num_classes=10, seed=seed)
    path.write_bytes(save_weights(model))


@pytest.mark.parametrize(
    ("changed", "stage"),
    [
        ("train.npz", "tda"),
        ("train.npz", "map"),
        ("test.npz", "tda"),
        ("weights.safetensors", "map"),
    ],
)
def test_inputs_that_change_between_two_attempts_are_another_run(
    from_files: Make, tmp_path: Path, changed: str, stage: str
) -> None:
    with pytest.raises(DriverCrashed):
        run(from_files(), listener=when(stage, _crash, "shard"))
    (old,) = (tmp_path / "store" / "runs").iterdir()
    before = {file: file.read_bytes() for file in old.rglob("*") if file.is_file()}
    path = tmp_path / changed
    if changed.endswith(".npz"):
        digits_npz(path, range(200, 261))
    else:
        write_model(path, from_files(), 2)
    assert finished(from_files()).run_id != old.name
    assert {file: file.read_bytes() for file in old.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("changed", "stage", "done"),
    [
        ("train.npz", "tda", 0),
        ("train.npz", "pair", 6),
        ("train.npz", "map", 2),
        ("test.npz", "tda", 0),
        ("weights.safetensors", "tda", 0),
    ],
)
def test_inputs_that_change_under_a_driver_are_not_mixed_in(
    from_files: Make, tmp_path: Path, changed: str, stage: str, done: int
) -> None:
    """A worker that starts later would read the new ones."""

    def change() -> None:
        path = tmp_path / changed
        if changed.endswith(".npz"):
            digits_npz(path, range(200, 261))
        else:
            write_model(path, from_files(), 2)
        forget()

    with pytest.raises(ShardError, match=changed.replace(".", r"\.")) as caught:
        run(from_files(), listener=when(stage, change))
    assert "Traceback" not in str(caught.value)
    store = tmp_path / "store"
    before = {"pair": "tda", "map": "pair"}.get(stage, stage)
    assert len(records(store, before)) == done
    assert records(store, stage) == []


def test_a_folder_of_another_manifest_is_left_alone(
    everything: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with pytest.raises(DriverCrashed):
        run(everything(), listener=when("tda", _crash, "shard"))
    (plan,) = (tmp_path / "store").glob("runs/*/run.json")
    plan.write_bytes(plan.read_bytes().replace(b'"fingerprint":"', b'"fingerprint":"0'))
    folder = plan.parent
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(ConflictError):
        finished(everything())
    path = tmp_path / "other.yaml"
    path.write_text(everything().model_dump_json(exclude_none=True))
    monkeypatch.setattr(sys, "argv", ["gradattr", "run", str(path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 4
    assert "belongs to another manifest" in " ".join(capsys.readouterr().err.split())
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
