"""Whole runs on an S3 store that misbehaves: same rows, or exit 3 and nothing lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.retries.standard import ExponentialBackoff

from gradattr.errors import StoreError
from gradattr.manifest.operation import Store
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.storage.filesystem import ATTEMPTS, S3Options, s3_filesystem
from gradattr.storage.objects import open_store
from gradattr.storage.verify import verify_run
from tests.fault_proxy import Fault, FaultProxy, Request, random_faults
from tests.s3_servers import BUCKET, S3Server

Make = Callable[..., Any]
SEED = 20261122


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of requests is what is tested, not how long the client waits in between."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.01)


@pytest.fixture
def proxy(moto: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(moto.port) as running:
        yield running


@pytest.fixture
def on_s3(moto: S3Server, proxy: FaultProxy, make_small: Make, digits_file: Path) -> Any:
    """The small run with data and results on S3, both reached through the proxy."""
    store = moto.store(endpoint=proxy.endpoint, maps="float32")
    open_store(store).put("data/digits.npz", digits_file.read_bytes())
    data = {"format": "npz", "file": f"{store.url}/data/digits.npz"}
    return make_small(data=data, store=store.model_dump(exclude_none=True))


def _opened(manifest: Any, run_id: str) -> Run:
    return open_run(run_id, store=manifest.store)


def _every(n: int, kind: str, methods: str = "GET HEAD PUT") -> Fault:
    """Each n-th request of these methods; its repetition comes through."""
    seen = iter(range(1, 100_000))

    def fault(request: Request) -> str | None:
        return kind if request.method in methods and next(seen) % n == 0 else None

    return fault


FAULTS: dict[str, Callable[[], Fault]] = {
    "503 three times": lambda: lambda r: "503" if r.number % 25 in (7, 8, 9) else None,
    "resets and torn uploads": lambda: _every(5, "reset"),
    "lost replies": lambda: _every(3, "lost", "PUT"),
    "late duplicates": lambda: _every(1, "twice", "PUT"),
    "cut downloads": lambda: _every(3, "cut", "GET"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_passes_changes_no_row(
    proxy: FaultProxy, on_s3: Any, undisturbed: Run, same: Make, name: str
) -> None:
    fault, hits = FAULTS[name](), 0

    def counted(request: Request) -> str | None:
        nonlocal hits
        kind = fault(request)
        hits += kind is not None
        return kind

    proxy.fault = counted
    result = run(on_s3)
    proxy.fault = lambda request: None
    proxy.settle()
    assert hits >= 3, "the fault was never met"
    opened = _opened(on_s3, result.run_id)
    same(opened, undisturbed)
    report = verify_run(opened.store, result.run_id)
    assert report.ok, report.problems


def test_answers_that_take_five_seconds(
    proxy: FaultProxy, on_s3: Any, undisturbed: Run, same: Make
) -> None:
    proxy.delay_s = 5.0
    slow: list[str] = []

    def first_record(request: Request) -> str | None:
        if request.method != "PUT" or "/shards/" not in request.path or slow:
            return None
        slow.append(request.path)
        return "delay"

    proxy.fault = first_record
    result = run(on_s3)
    assert len(slow) == 1
    same(_opened(on_s3, result.run_id), undisturbed)


def test_a_store_that_is_slow_but_answers_passes_the_probe(
    moto: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of the probe is for the first answer, not for the sum of all."""
    monkeypatch.setattr("gradattr.storage.objects.PROBE_SECONDS", 1.5)
    proxy.delay_s = 0.5
    proxy.fault = lambda request: "delay"
    assert open_store(moto.store(endpoint=proxy.endpoint)).probe()["writable"]
    assert len(proxy.requests) * proxy.delay_s > 1.5


def test_random_faults_until_it_is_done(
    rclone: S3Server, make_small: Make, undisturbed: Run, same: Make
) -> None:
    """The same command again and again, as a person would; here without conditional PUT."""
    with FaultProxy(rclone.port) as proxy:
        store = rclone.store(endpoint=proxy.endpoint, maps="float32")
        manifest = make_small(store=store.model_dump(exclude_none=True))
        kinds = ("503", "reset", "lost", "cut", "twice", "expired")
        proxy.fault = random_faults(SEED, 0.08, kinds)
        attempts = 0
        while True:
            attempts += 1
            try:
                result = run(manifest)
                break
            except StoreError as error:
                assert error.exit_code == 3
                assert attempts < 60
        proxy.fault = lambda request: None
        proxy.settle()
        assert attempts > 1, "no attempt failed; raise the rate"
        opened = _opened(manifest, result.run_id)
        same(opened, undisturbed)
        assert verify_run(opened.store, result.run_id).ok


@pytest.mark.parametrize(
    ("kind", "most"), [("503", 3 * ATTEMPTS), ("reset", 8 * ATTEMPTS), ("expired", 3)]
)
def test_a_store_that_is_gone_stops_the_run_which_resumes(
    proxy: FaultProxy,
    on_s3: Any,
    listener: Make,
    undisturbed: Run,
    same: Make,
    kind: str,
    most: int,
) -> None:
    """From the third shard on. ``most``: one operation of the shard, and one note in the log.
    (After a reset aiohttp asks again by itself, so that every attempt counts twice.)"""
    first = listener()
    since: list[int] = []

    def gone(event: Any) -> None:
        first(event)
        if len(first.shards) == 2 and not since:
            since.append(len(proxy.requests))
            proxy.fault = lambda request: kind

    with pytest.raises(StoreError, match="goes on from there") as caught:
        run(on_s3, listener=gone)
    assert caught.value.exit_code == 3
    assert len(proxy.requests) - since[0] <= most
    proxy.fault = lambda request: None
    second = listener()
    result = run(on_s3, listener=second)
    assert sorted(first.shards + second.shards) == ["00000", "00001", "00002", "00003"]
    same(_opened(on_s3, result.run_id), undisturbed)


def test_a_read_only_prefix_is_found_before_any_work(
    proxy: FaultProxy, on_s3: Any, listener: Make
) -> None:
    proxy.fault = lambda request: "403" if request.method in ("PUT", "POST") else None
    told, start = listener(), time.monotonic()
    with pytest.raises(StoreError, match="access denied") as caught:
        run(on_s3, listener=told)
    assert time.monotonic() - start < 10
    assert caught.value.exit_code == 3
    assert told.shards == []
    assert not any(event.kind == "stage" for event in told.events)


@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_a_missing_bucket_is_found_and_never_created(
    request: pytest.FixtureRequest, make_small: Make, listener: Make, server: str
) -> None:
    running: S3Server = request.getfixturevalue(server)
    store = running.store(bucket="no-such-bucket")
    told, start = listener(), time.monotonic()
    with pytest.raises(StoreError, match=r"no-such-bucket.*no such bucket") as caught:
        run(make_small(store=store.model_dump(exclude_none=True)), listener=told)
    assert time.monotonic() - start < 10
    assert caught.value.exit_code == 3
    assert not any(event.kind == "stage" for event in told.events)
    options = S3Options.from_store(Store.model_validate(store))
    buckets = s3_filesystem(options).call_s3("list_buckets")["Buckets"]
    assert [bucket["Name"] for bucket in buckets] == [BUCKET]
