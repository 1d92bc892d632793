"""Trainings that keep epochs, ended at every write: the kept weights of the resumed training are
those of an undisturbed one, bit for bit."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.retries.standard import ExponentialBackoff

from gradattr.canonical import digest_bytes
from gradattr.errors import StoreError
from gradattr.manifest.kinds import KINDS
from gradattr.manifest.operation import Store
from gradattr.models import TrainedModel, read_trained
from gradattr.report.results import open_run
from gradattr.runtime.driver import run
from gradattr.storage.gc import collect
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.remote_backend import S3Backend
from gradattr.storage.verify import verify_run
from gradattr.work.planning.prepare import prepare
from tests.fault_proxy import Fault, FaultProxy, Request, random_faults
from tests.s3_servers import S3Server

Make = Callable[..., Any]
Kept = list[tuple[int, float, bytes]]

ASKED = [1, 3, 4]
SEED = 20261123

#: What the writes of a training are called.
WRITES = ["kept", "checkpoint", "checkpoint.json"]
WRITES += [*WRITES[1:], *WRITES * 2, "weights", "record.json"]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A training of four epochs with a checkpoint to resume from after every second."""

    def build(store: Any = None, **train: Any) -> Any:
        recipe = {
            "data": {"format": "digits", "limit": 60},
            "epochs": 4,
            "lr": 0.05,
            "lr_decay_every": 2,
            "batch_size": 16,
            "checkpoint_every": 2,
            "augment": {"crop_padding": 1},
            "stop_below": 0,
            "keep_epochs": ASKED,
        }
        value = {
            "kind": "train",
            "name": "kept",
            "model": {"arch": "cnn", "width": 2, "train": recipe | train},
            "runtime": {"address": "inline"},
            "store": store or {"url": str(tmp_path / "store")},
        }
        return KINDS["train"].model_validate(value)

    return build


def _trained(manifest: Any) -> TrainedModel:
    digest = prepare(manifest).context.model("model").digest
    trained = read_trained(open_store(manifest.store), digest)
    assert trained is not None
    return trained


def _finished(manifest: Any) -> Kept:
    """Carry it out; what it has kept, after looking at every file: (epoch, lr, bytes), and the
    final weights as epoch 0."""
    result = run(manifest)
    opened = open_run(result.run_id, store=manifest.store)
    report = verify_run(opened.store, result.run_id)
    assert report.ok, report.problems
    trained = _trained(manifest)
    found: Kept = []
    for epoch, lr, file in [
        (0, 0.0, trained),
        *((kept.epoch, kept.lr, kept) for kept in trained.kept),
    ]:
        data = opened.store.get(file.key)
        assert data is not None
        assert (digest_bytes(data), len(data)) == (file.sha256, file.bytes)
        found.append((epoch, lr, data))
    return found


@pytest.fixture(scope="module")
def known() -> dict[str, Kept]:
    return {}


@pytest.fixture
def undisturbed(make: Make, known: dict[str, Kept], tmp_path: Path) -> Kept:
    """What the training keeps where nothing goes wrong; carried out once."""
    if not known:
        known["kept"] = _finished(make({"url": str(tmp_path / "undisturbed")}))
        assert [epoch for epoch, _, _ in known["kept"]] == [0, *ASKED]
    return known["kept"]


def _only_the_model_is_left(manifest: Any) -> None:
    """Whatever attempts have left behind, gc takes it, and nothing of the model."""
    store = open_store(manifest.store)
    collect(store, grace_hours=0)
    left = {Path(item.key).name for item in store.list("models/")}
    assert left == {"record.json", *(Path(f["key"]).name for f in _trained(manifest).files())}


def _killed_at(nth: int, before: bool, manifest: Any) -> str:
    """Carry it out in a fork that is killed at its ``nth`` write below models/, just before or
    just after the file has its name. What was being written; '' if it came to its end."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)
        try:
            _kill_me_at(nth, before, sender)
            run(manifest)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    os.close(sender)
    with os.fdopen(receiver) as file:
        name = file.read()
    _, status = os.waitpid(child, 0)
    if name:
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, name
    else:
        assert os.waitstatus_to_exitcode(status) == 0
    return name


def _kill_me_at(nth: int, before: bool, sender: int) -> None:
    left = [nth]

    def fragile(give_name: Callable[..., Any]) -> Callable[..., Any]:
        def write(source: Any, target: Any, **options: Any) -> Any:
            left[0] -= "/models/" in str(target)
            last = left[0] == 0 and "/models/" in str(target)
            if not last or not before:
                give_name(source, target, **options)
            if last:
                os.write(sender, Path(target).name.encode())
                os.kill(os.getpid(), signal.SIGKILL)

        return write

    os.link, os.replace = fragile(os.link), fragile(os.replace)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_write(make: Make, undisturbed: Kept, tmp_path: Path, before: bool) -> None:
    killed = []
    while True:
        url = tmp_path / f"store-{len(killed)}"
        manifest = make({"url": str(url)})
        name = _killed_at(len(killed) + 1, before, manifest)
        if not name:
            break
        killed.append(name.partition("-")[0])
        assert _finished(manifest) == undisturbed, name
        _only_the_model_is_left(manifest)
        assert _finished(manifest) == undisturbed, name
    assert killed == WRITES


def test_killed_again_and_again_in_one_store(make: Make, undisturbed: Kept, tmp_path: Path) -> None:
    """Each time a write later than the time before, until it comes to its end."""
    manifest, kills = make(), 0
    while _killed_at(1 + kills % 3, bool(kills % 2), manifest):
        kills += 1
        assert kills < 60
    assert kills >= 3
    assert _finished(manifest) == undisturbed
    _only_the_model_is_left(manifest)


@pytest.mark.parametrize("damage", ["gone", "cut", "other bytes"])
def test_killed_and_then_a_kept_file_is_damaged(
    make: Make, undisturbed: Kept, tmp_path: Path, damage: str
) -> None:
    manifest = make()
    # Epoch 1 with its checkpoint, that of epoch 2, and epoch 3 with its own.
    assert _killed_at(9, False, manifest).startswith("kept-000004")
    (victim,) = (tmp_path / "store").glob("models/*/kept-000001-*")
    data = victim.read_bytes()
    victim.unlink()
    if damage == "cut":
        victim.write_bytes(data[:-1])
    elif damage == "other bytes":
        victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert _finished(manifest) == undisturbed
    assert victim.name not in {Path(kept.key).name for kept in _trained(manifest).kept}


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
    [("moto", (1, 2, 3, 7, 12, 13)), ("rclone", (6, 8, 9))],
    ids=["moto", "rclone"],
)
def test_on_s3_ended_after_a_write(
    request: pytest.FixtureRequest,
    dying: DyingS3,
    make: Make,
    undisturbed: Kept,
    server: str,
    at: tuple[int, ...],
) -> None:
    """With conditional PUT and without it."""
    s3: S3Server = request.getfixturevalue(server)
    for number in at:
        manifest = make(_json(s3.store()))
        dying.start(number)
        with pytest.raises(Died):
            run(manifest)
        assert dying.written == WRITES[:number]
        dying.start(0)
        assert _finished(manifest) == undisturbed, WRITES[:number]


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
    moto: S3Server, proxy: FaultProxy, make: Make, undisturbed: Kept, name: str
) -> None:
    manifest = make(_json(moto.store(endpoint=proxy.endpoint)))
    fault, hits = FAULTS[name](), 0

    def counted(request: Request) -> str | None:
        nonlocal hits
        kind = fault(request)
        hits += kind is not None
        return kind

    proxy.fault = counted
    run(manifest)
    # The heads of a model that is there, and a training that looks for its kept weights.
    assert [kept.epoch for kept in _trained(manifest).kept] == ASKED
    proxy.fault = lambda request: None
    proxy.settle()
    assert hits >= 3, "the fault was never met"
    assert _finished(manifest) == undisturbed


def test_random_faults_on_s3_until_it_is_done(
    moto: S3Server, proxy: FaultProxy, make: Make, undisturbed: Kept
) -> None:
    """The same command again and again; what was kept before is used or made again."""
    manifest = make(_json(moto.store(endpoint=proxy.endpoint)))
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
    assert _finished(manifest) == undisturbed


def test_on_s3_a_kept_object_that_was_lost_after_an_end(
    moto: S3Server, dying: DyingS3, make: Make, undisturbed: Kept
) -> None:
    store = moto.store()
    manifest = make(_json(store))
    dying.start(9)
    with pytest.raises(Died):
        run(manifest)
    dying.start(0)
    opened = open_store(store)
    (lost,) = (key for key in _objects(opened) if "/kept-000003-" in key)
    opened.delete(lost)
    assert _finished(manifest) == undisturbed
    trained = _trained(manifest)
    collect(opened, grace_hours=0)
    assert {file["key"] for file in trained.files()} <= _objects(opened)


def test_two_trainings_of_one_model_at_once_on_s3(
    moto: S3Server, make: Make, undisturbed: Kept
) -> None:
    """Two drivers, each in its own thread: one model counts, with kept weights of one course."""
    manifest = make(_json(moto.store()))
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
    trained = _trained(manifest)
    assert [kept.epoch for kept in trained.kept] == ASKED
    assert trained.kept[-1].sha256 == trained.sha256
    assert undisturbed[-1][0] == ASKED[-1]
