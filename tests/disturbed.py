"""Runs of kind tfa that are disturbed on their way: killed, stopped, their files damaged."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
import torch

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

#: Children are forks of a process that has only imported what they need. A fork of this one, full
#: of other libraries' threads, may hang or crash.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(
    [
        "tests.disturbed",
        # What is imported late and takes seconds.
        "torch._dynamo",
        "torch._decomp.decompositions_for_jvp",
        "pyarrow.acero",
        "pyarrow.dataset",
        "pyarrow.pandas_compat",
        "sklearn.datasets.data",
    ]
)
#: So that the imports leave it with one thread.
ONE_THREAD = {
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
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


def in_a_child(work: Callable[..., Any], *given: Any) -> ForkServerProcess:
    """Do it in a new process, which knows of this one only what it is given (all of it must
    pickle) and ends after a minute at the latest."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ONE_THREAD.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    child = CHILDREN.Process(target=_bounded, args=(work, *given))
    child.start()
    return child


def _bounded(work: Callable[..., Any], *given: Any) -> None:
    signal.alarm(60)
    threads = [task.name for task in Path(f"/proc/{os.getppid()}/task").iterdir()]
    assert len(threads) == 1, "forked from a process with several threads"
    torch.set_num_threads(1)
    work(*given)


def killed_at(place: str, nth: int, manifest: Any, *, before: bool = True) -> str:
    """Carry it out in a child that is killed at its ``nth`` write to a path with ``place`` in it,
    just before or just after the file has its name. What was being written; '' if it came to its
    end."""
    receiver, sender = CHILDREN.Pipe(duplex=False)
    child = in_a_child(_run_until, place, nth, before, sender, manifest)
    child.join()
    sender.close()
    try:
        name = str(receiver.recv())
    except EOFError:
        name = ""
    assert child.exitcode == (-signal.SIGKILL if name else 0), name
    return name


def _run_until(place: str, nth: int, before: bool, sender: Connection, manifest: Any) -> None:
    left = [nth]

    def fragile(give_name: Callable[..., Any]) -> Callable[..., Any]:
        def write(source: Any, target: Any, **options: Any) -> Any:
            left[0] -= place in str(target)
            last = left[0] == 0 and place in str(target)
            if not last or not before:
                give_name(source, target, **options)
            if last:
                sender.send(Path(target).name)
                os.kill(os.getpid(), signal.SIGKILL)

        return write

    os.link, os.replace = fragile(os.link), fragile(os.replace)
    run(manifest)


def two_at_once(manifest: Any) -> None:
    """Carry it out in two children that both find nothing done: both carry out every task of
    every stage, and come to their end."""
    both = CHILDREN.Barrier(2)
    children = [in_a_child(_run_together, both, manifest) for _ in range(2)]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]


def _run_together(both: Barrier, manifest: Any) -> None:
    run(manifest, listener=when("train", both.wait))
