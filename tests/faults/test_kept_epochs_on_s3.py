"""Trainings that keep epochs, on an S3 store that fails or whose client dies: the kept weights are
those of an undisturbed training, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.retries.standard import ExponentialBackoff

from gradattr.errors import StoreError
from gradattr.manifest.operation import Store
from gradattr.runtime.driver import run
from gradattr.storage.gc import collect
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.remote_backend import S3Backend
from tests.fault_proxy import Fault, FaultProxy, Request, random_faults
from tests.s3_servers import S3Server
from tests.small_trainings import ASKED, WRITES, Kept, finished, trained_model

Make = Callable[..., Any]

SEED = 20261123


class Died(BaseException):
    """Stands for a process that ends at this very instant."""


class DyingS3:
    """S3 whose writes of models are counted; who writes there dies after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[str] = []
        self.die_at = 0
        for name in ("create", "put"):
            monkeypatch.setattr(S3Backend, name, self._dying(getattr(S3Backend, name)))

    def start(self, die_at: int) -> None:
        self.written, self.die_at = [], die_at

    def _dying(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(backend: Any, key: str, data: bytes) -> Any:
            if not key.startswith("models/"):
                return write(backend, key, data)
            self.written.append(Path(key).name.partition("-")[0])
            answer = write(backend, key, data)
            if len(self.written) == self.die_at:
                raise Died
            return answer

        return counted


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> DyingS3:
    return DyingS3(monkeypatch)


def _json(store: Store) -> dict[str, Any]:
    return store.model_dump(exclude_none=True)


def _objects(store: ObjectStore) -> set[str]:
    return {item.key for item in store.list("models/")}


@pytest.mark.parametrize(
    ("server", "at"),
    [("moto", (1, 3, 7, 13)), ("rclone", (6, 8, 9))],
    ids=["moto", "rclone"],
)
def test_on_s3_ended_after_a_write(
    request: pytest.FixtureRequest,
    dying: DyingS3,
    training: Make,
    undisturbed_kept: Kept,
    server: str,
    at: tuple[int, ...],
) -> None:
    """With conditional PUT and without it."""
    s3: S3Server = request.getfixturevalue(server)
    for number in at:
        manifest = training(_json(s3.store()))
        dying.start(number)
        with pytest.raises(Died):
            run(manifest)
        assert dying.written == WRITES[:number]
        dying.start(0)
        assert finished(manifest) == undisturbed_kept, WRITES[:number]


FAULTS: dict[str, Callable[[], Fault]] = {
    "resets and torn uploads": lambda: _every(4, "reset", "GET HEAD PUT"),
    "lost replies": lambda: _every(2, "lost", "PUT"),
    "late duplicates": lambda: _every(1, "twice", "PUT"),
    "cut downloads": lambda: _every(2, "cut", "GET"),
}


def _every(n: int, kind: str, methods: str) -> Fault:
    """Each n-th request for a trained model's objects; its repetition comes through."""
    seen = iter(range(1, 100_000))

    def fault(request: Request) -> str | None:
        met = request.method in methods and "/models/" in request.path
        return kind if met and next(seen) % n == 0 else None

    return fault


@pytest.fixture
def proxy(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.01)
    with FaultProxy(moto.port) as running:
        yield running


@pytest.mark.parametrize("name", FAULTS)
def test_what_passes_on_s3_changes_no_kept_weights(
    moto: S3Server, proxy: FaultProxy, training: Make, undisturbed_kept: Kept, name: str
) -> None:
    manifest = training(_json(moto.store(endpoint=proxy.endpoint)))
    fault, hits = FAULTS[name](), 0

    def counted(request: Request) -> str | None:
        nonlocal hits
        kind = fault(request)
        hits += kind is not None
        return kind

    proxy.fault = counted
    run(manifest)
    # The heads of a model that is there, and a training that looks for its kept weights.
    assert [kept.epoch for kept in trained_model(manifest).kept] == ASKED
    proxy.fault = lambda request: None
    proxy.settle()
    assert hits >= 3, "the fault was never met"
    assert finished(manifest) == undisturbed_kept


def test_random_faults_on_s3_until_it_is_done(
    moto: S3Server, proxy: FaultProxy, training: Make, undisturbed_kept: Kept
) -> None:
    """The same command again and again; what was kept before is used or made again."""
    manifest = training(_json(moto.store(endpoint=proxy.endpoint)))
    proxy.fault = random_faults(SEED, 0.15, ("503", "reset", "lost", "cut", "twice", "expired"))
    attempts = 0
    while True:
        attempts += 1
        try:
            run(manifest)
            break
        except StoreError as error:
            assert error.exit_code == 3
            assert attempts < 100
    proxy.fault = lambda request: None
    proxy.settle()
    assert attempts > 1, "no attempt failed; raise the rate"
    assert finished(manifest) == undisturbed_kept


def test_on_s3_a_kept_object_that_was_lost_after_an_end(
    moto: S3Server, dying: DyingS3, training: Make, undisturbed_kept: Kept
) -> None:
    store = moto.store()
    manifest = training(_json(store))
    dying.start(9)
    with pytest.raises(Died):
        run(manifest)
    dying.start(0)
    opened = open_store(store)
    (lost,) = (key for key in _objects(opened) if "/kept-000003-" in key)
    opened.delete(lost)
    assert finished(manifest) == undisturbed_kept
    trained = trained_model(manifest)
    collect(opened, grace_hours=0)
    assert {file["key"] for file in trained.files()} <= _objects(opened)


def test_two_trainings_of_one_model_at_once_on_s3(
    moto: S3Server, training: Make, undisturbed_kept: Kept
) -> None:
    """Two drivers, each in its own thread: one model counts, with kept weights of one course."""
    manifest = training(_json(moto.store()))
    start, failed = threading.Barrier(2), []

    def train() -> None:
        start.wait()
        try:
            run(manifest)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=train) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    trained = trained_model(manifest)
    assert [kept.epoch for kept in trained.kept] == ASKED
    assert trained.kept[-1].sha256 == trained.sha256
    assert undisturbed_kept[-1][0] == ASKED[-1]
