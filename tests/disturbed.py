"""Runs of kind tfa that are disturbed on their way: killed, stopped, their files damaged."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.runtime.progress import Event
from gradattr.storage.commit import read_commit
from gradattr.work.tfa import loaded, query_set
from tests.small_tfa import MakeTfa

#: Every stage but 'lookup', which takes the place of 'tda'.
STAGES = ("train", "predict", "select", "curvature", "tda", "pair", "map", "summary")
SCORES: list[Any] = [
    "grad_cos",
    {"score": "influence", "id": "ekfac", "damping": 0.1},
    {"score": "influence", "id": "cg", "inverse": "cg", "damping": 0.5, "examples": 40},
    "tracin",
]
#: A manifest with every stage and every table.
EVERYTHING: dict[str, Any] = {
    "queries": {"count": 3},
    "scores": SCORES,
    "maps": [{"map": "tfa", "samples": 2, "sigma": 0.1}, {"map": "two_step", "method": "saliency"}],
    "insertion": {"levels": [0.5]},
    "index": {"buckets": 64, "candidates": 6, "recall_queries": 2, "recall_top": 3},
    "top": 2,
    "query_block": 2,
    "map_queries": 2,
}
#: One that is answered through an index.
LOOKUP: dict[str, Any] = {
    "name": "asks",
    "scores": ["grad_cos"],
    "index": None,
    "queries": {"count": 3, "order": "row"},
    "insertion": None,
}


@pytest.fixture
def everything(tfa: MakeTfa, tmp_path: Path) -> Callable[..., Any]:
    """A manifest with every stage, in a store of the test's own."""

    def make(**changes: Any) -> Any:
        changes.setdefault("store", {"url": str(tmp_path / "store")})
        return tfa(**(EVERYTHING | changes))

    return make


@pytest.fixture(scope="session")
def undisturbed_tfa(tfa: MakeTfa, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What that manifest gives where nothing goes wrong; carried out once."""
    store = {"url": str(tmp_path_factory.mktemp("undisturbed"))}
    return open_run(run(tfa(**EVERYTHING, store=store)).uri)


@pytest.fixture
def asks(everything: Callable[..., Any], undisturbed_tfa: Run, tmp_path: Path) -> Any:
    """A manifest that is answered through the index of a run in a store of the test's own."""
    shutil.copytree(undisturbed_tfa.uri.rpartition("/runs/")[0], tmp_path / "store")
    return everything(**LOOKUP, index_of=f"run:{undisturbed_tfa.run_id}")


@pytest.fixture(scope="session")
def undisturbed_answer(
    tfa: MakeTfa, undisturbed_tfa: Run, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """What ``asks`` gives where nothing goes wrong; carried out once."""
    store = tmp_path_factory.mktemp("asked") / "store"
    shutil.copytree(undisturbed_tfa.uri.rpartition("/runs/")[0], store)
    changes = EVERYTHING | LOOKUP | {"index_of": f"run:{undisturbed_tfa.run_id}"}
    return open_run(run(tfa(**changes, store={"url": str(store)})).uri)


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """What a worker remembers of the last test's run, another process would not know."""
    forget()
    yield


def forget() -> None:
    """As if this were a new process."""
    loaded._cache.clear()
    query_set._cache.clear()


def same(one: Run, two: Run) -> None:
    """Assert that every table is the same, bit for bit."""
    names = [set(read_commit(found.store, found.run_id).tables) for found in (one, two)]
    assert names[0] == names[1]
    for name in sorted(names[0]):
        assert one.table(name).equals(two.table(name)), name


def finished(manifest: Any) -> Run:
    """Carry it out in what is as good as a new process."""
    forget()
    return open_run(run(manifest).run_id, store=manifest.store)


def records(store: Path, stage: str) -> list[str]:
    """Keys of the shards that are done."""
    return sorted(path.stem for path in store.glob(f"runs/*/shards/{stage}/*.json"))


def when(stage: str, act: Callable[[], Any], kind: str = "stage") -> Callable[[Event], None]:
    """A listener that acts once, as a stage begins (or as its first shard is done)."""
    left = [act]

    def listener(event: Event) -> None:
        if event.kind == kind and event.stage == stage and left:
            left.pop()()

    return listener


def flip(path: Path) -> None:
    """Alter one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def in_a_child(work: Callable[[], Any]) -> int:
    """Do it in a fork of this process, which costs no start of Python; its number."""
    child = os.fork()
    if child:
        return child
    signal.alarm(60)
    try:
        work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def killed_at(place: str, nth: int, manifest: Any) -> bool:
    """Carry it out in a fork that is killed as the ``nth`` file whose path has ``place`` in it is
    about to get its name. False if it came to its end before."""

    def work() -> None:
        link, left = os.link, [nth]

        def linked(source: Any, target: Any, **options: Any) -> None:
            left[0] -= place in str(target)
            if place in str(target) and left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            link(source, target, **options)

        os.link = linked
        run(manifest)

    forget()
    _, status = os.waitpid(in_a_child(work), 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False
