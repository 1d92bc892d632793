"""Out of memory in a run of kind tfa: smaller batches a bounded number of times, then the shard
fails and says at which batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradattr.errors import ShardError
from gradattr.influence import GradientProducts
from gradattr.influence.curvature import Curvature
from gradattr.influence.differentiable import Tape
from gradattr.influence.stepping import Steps
from gradattr.report.results import Run
from gradattr.runtime.driver import run
from gradattr.work.tfa import training_maps
from tests.disturbed import finished, forget, records
from tests.small_tfa import digits_npz

Make = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("quick_collections")


class Memory:
    """A machine with room for so many examples at once, where ``places`` say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.refused: list[int] = []

    def limit(self, owner: Any, name: str, largest: int, count: Callable[..., int]) -> None:
        real = getattr(owner, name)

        def limited(*args: Any, **kwargs: Any) -> Any:
            if count(*args, **kwargs) > largest:
                self.refused.append(count(*args, **kwargs))
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return real(*args, **kwargs)

        self._patch.setattr(owner, name, limited)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


def _third(*args: Any, **_: Any) -> int:
    return len(args[2])


def _second(*args: Any, **_: Any) -> int:
    return len(args[1])


#: Where memory runs out: what is limited, and how many examples a call of it has.
PLACES: dict[str, tuple[Any, str, Callable[..., int]]] = {
    "gradients": (GradientProducts, "_pass", _third),
    "maps": (Tape, "record", _second),
    "steps": (Steps, "after", _second),
    "two-step maps": (training_maps, "attribute", lambda *_, batch_size, **__: batch_size),
    "conjugate gradients": (Curvature, "_gauss_newton", _second),
}


def _limit(memory: Memory, place: str, largest: int) -> None:
    owner, name, count = PLACES[place]
    if name == "record":
        # A static method: the first argument is the wiring.
        memory.limit(owner, name, largest, count)
        setattr(owner, name, staticmethod(getattr(owner, name)))
    else:
        memory.limit(owner, name, largest, count)


def _extras(store: Path, stage: str) -> list[dict[str, Any]]:
    paths = sorted(store.glob(f"runs/*/shards/{stage}/*.json"))
    return [json.loads(path.read_text())["extra"] for path in paths]


@pytest.mark.parametrize("place", PLACES)
def test_batches_are_halved_until_they_fit(
    everything: Make, undisturbed_tfa: Run, memory: Memory, tmp_path: Path, place: str
) -> None:
    _limit(memory, place, 8 if place == "conjugate gradients" else 4)
    found = finished(everything(engine={"batch_size": 32}))
    assert memory.refused, "nothing was refused"
    assert len(memory.refused) <= 12, "what did not fit once was tried again and again"
    for table, column in [
        ("tda_scores", "score"),
        ("tfa_map_scores", "abs_total"),
        ("tfa_insertion", "top"),
    ]:
        ours, theirs = found.table(table), undisturbed_tfa.table(table)
        assert ours.num_rows == theirs.num_rows
        np.testing.assert_allclose(
            ours[column].to_numpy(), theirs[column].to_numpy(), rtol=2e-3, atol=2e-5
        )
    if place == "gradients":
        told = [extra["gradients"]["batch_size"] for extra in _extras(tmp_path / "store", "tda")]
        assert set(told) == {4}


@pytest.mark.parametrize(
    ("place", "stage", "text"),
    [
        ("gradients", "tda", "out of memory at batch size 2 (the first try was 32)"),
        ("maps", "map", "out of memory at batch size 2 (the first try was 32)"),
        ("two-step maps", "map", "out of memory at batch size 2 (the first try was 32)"),
        ("steps", "map", "out of memory at batch size 2 (the first try was 32)"),
    ],
)
def test_what_never_fits_is_told(
    everything: Make, memory: Memory, tmp_path: Path, place: str, stage: str, text: str
) -> None:
    _limit(memory, place, 0)
    with pytest.raises(ShardError) as caught:
        run(everything(engine={"batch_size": 32}, scores=["grad_cos"], index=None))
    assert caught.value.exit_code == 3
    assert text in str(caught.value), str(caught.value)
    assert "CUDA out of memory" in str(caught.value)
    assert f"shards of stage {stage} failed" in str(caught.value)
    assert records(tmp_path / "store", "predict") == ["00000", "00001"]


def test_a_shard_that_never_fits_and_others_that_do(
    everything: Make, fragile: str, tmp_path: Path
) -> None:
    """A model that wants more for one image; the run goes on with smaller batches."""
    images = np.random.default_rng(1).uniform(0.1, 0.8, (60, 8, 8)).astype(np.float32)
    images[30] = 1.0
    changes = {
        "data": digits_npz(tmp_path / "train.npz", range(60), images=images),
        "preprocess": {},
        "model": {
            "arch": "python",
            "factory": f"{fragile}:hungry",
            "kwargs": {"largest": 2, "only_white": True},
            "num_classes": 10,
        },
        "scores": ["grad_cos"],
        "insertion": None,
    }
    with pytest.raises(ShardError) as caught:
        run(everything(**changes, engine={"batch_size": 64}))
    assert "1 of 6 shards of stage tda failed" in str(caught.value)
    text = "tda/0000-00001: out of memory at batch size 4 (the first try was 64)"
    assert text in str(caught.value)
    # The next shard with this image began where this one had given up.
    assert len(records(tmp_path / "store", "tda")) == 5
    forget()
    # The batch size is no part of a run's identity: the same run goes on with a smaller one.
    told: list[str] = []
    run(
        everything(**changes, engine={"batch_size": 2}),
        listener=lambda event: told.append(event.key) if event.stage == "tda" else None,
    )
    assert [key for key in told if key] == ["0000-00001"]
