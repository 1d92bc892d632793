"""Small data sets in files, and drivers that crash when they are told to."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.runtime.progress import Event
from tests.disturbed import (
    asks,
    everything,
    fresh_process,
    undisturbed_answer,
    undisturbed_tfa,
)
from tests.small_audits import audit_of_jobs
from tests.small_diffroar import audit
from tests.small_runs import make_manifest, one_thread, table_of, weights
from tests.small_tfa import tfa, tfa_store
from tests.small_trainings import kept_once, training, undisturbed_kept

__all__ = [
    "asks",
    "audit",
    "audit_of_jobs",
    "everything",
    "fresh_process",
    "kept_once",
    "make_manifest",
    "one_thread",
    "table_of",
    "tfa",
    "tfa_store",
    "training",
    "undisturbed_answer",
    "undisturbed_kept",
    "undisturbed_tfa",
    "weights",
]

ROWS, SHARD_ROWS, SHARDS = 60, 15, 4
METHODS: list[Any] = ["saliency", {"name": "smoothgrad", "samples": 3}]


class DriverCrashed(Exception):
    """Stands for a driver that dies at this very instant."""


class Listener:
    """Notes what a driver says. ``crash_after``: it dies after so many shards."""

    def __init__(self, crash_after: int | None = None) -> None:
        self.events: list[Event] = []
        self._crash_after = crash_after

    @property
    def shards(self) -> list[str]:
        """Keys of the shards that this driver finished."""
        return [event.key for event in self.events if event.kind == "shard"]

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self._crash_after is not None and len(self.shards) >= self._crash_after:
            raise DriverCrashed


@pytest.fixture
def listener() -> Callable[..., Listener]:
    return Listener


@pytest.fixture
def crash(make_small: Callable[..., Any]) -> Callable[..., None]:
    """Start a run whose driver dies after two of its four shards."""

    def start(**changes: Any) -> None:
        with pytest.raises(DriverCrashed):
            run(make_small(**changes), listener=Listener(crash_after=2))

    return start


def write_digits(path: Path, marked: int | None = None) -> Path:
    """The first digits as an NPZ file; row ``marked`` is all white, as no real digit is."""
    digits = load_digits()
    images = (digits.images[:ROWS] * 15).astype(np.uint8)
    if marked is not None:
        images[marked] = 255
    np.savez(path, images=images, labels=digits.target[:ROWS])
    return path


@pytest.fixture
def digits_file(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "digits.npz")


@pytest.fixture
def marked_file(tmp_path: Path) -> Path:
    """Row 20, in shard 00001, is white."""
    return write_digits(tmp_path / "marked.npz", marked=20)


@pytest.fixture
def make_small(make_manifest: Callable[..., Any], digits_file: Path) -> Callable[..., Any]:
    """Four shards of 15 rows from a file, two methods."""

    def make(**changes: Any) -> Any:
        defaults: dict[str, Any] = {
            "data": {"format": "npz", "file": str(digits_file)},
            "methods": METHODS,
            "shard_rows": SHARD_ROWS,
        }
        return make_manifest(**(defaults | changes))

    return make


@pytest.fixture
def undisturbed(make_small: Callable[..., Any], tmp_path: Path) -> Run:
    """What the small run gives where nothing goes wrong."""
    store = {"url": str(tmp_path / "undisturbed"), "maps": "float32"}
    return open_run(run(make_small(store=store)).uri)


@pytest.fixture
def same(table_of: Callable[..., Any]) -> Callable[..., None]:
    """Assert that two runs have the same tables."""

    def compare(one: Run, two: Run) -> None:
        for name in ("predictions", "attributions", "maps", "errors"):
            assert table_of(one, name).equals(table_of(two, name)), name

    return compare


@pytest.fixture
def quick_collections() -> Iterator[None]:
    """Who runs out of memory looks for garbage; here among what the test itself has made, for to
    look through all that was ever imported takes half a second each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder on the module path with models that fail on purpose; its file's name."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "fragile_models.py").write_text(Path(__file__).with_name("fragile.txt").read_text())
    sys.path.insert(0, str(folder))
    yield "fragile_models"
    sys.path.remove(str(folder))
