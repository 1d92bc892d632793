"""The store's rows of the fault table, through a proxy that misbehaves on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from botocore.retries.standard import ExponentialBackoff

from gradattr.errors import StoreError
from gradattr.storage.commit import commit_run, missing_shards
from gradattr.storage.filesystem import ATTEMPTS, S3Options, read_bytes
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.query import open_query
from gradattr.storage.reader import read_table
from gradattr.storage.run_json import create_run
from gradattr.storage.verify import verify_run
from tests.fault_proxy import FaultProxy, Request, random_faults
from tests.s3_servers import S3Server

from .conftest import SmallRun

Make = Callable[..., SmallRun]
SEED = 20261122


BOTH = pytest.mark.parametrize("server", ["moto", "rclone"], indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> S3Server:
    """rclone, unless a test asks for both kinds (with and without conditional PUT)."""
    running: S3Server = request.getfixturevalue(getattr(request, "param", "rclone"))
    return running


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of requests is what is tested, not how long the client waits in between."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.01)


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as running:
        yield running


@pytest.fixture
def store(server: S3Server, proxy: FaultProxy) -> ObjectStore:
    """A store that is reached through the proxy."""
    return open_store(server.store(endpoint=proxy.endpoint))


def rows_of(store: ObjectStore, run: SmallRun) -> list[int]:
    commit = commit_run(store, run.json)
    assert verify_run(store, run.run_id).ok
    rows: list[int] = read_table(store, commit, "predictions")["row"].to_pylist()
    return rows


def finish(store: ObjectStore, run: SmallRun) -> None:
    """What running the same command again does."""
    create_run(store, run.json)
    for _, key in missing_shards(store, run.json):
        run.write_shard(store, int(key))
    assert rows_of(store, run) == list(range(12))


def data_objects(store: ObjectStore, run: SmallRun) -> list[str]:
    prefix = RunPaths(run.run_id).data
    return [item.key for item in store.list(prefix) if "/part-" in item.key]


def test_503_three_times_changes_nothing(
    store: ObjectStore, proxy: FaultProxy, small_run: Make
) -> None:
    run = small_run()
    proxy.fault = lambda request: "503" if request.number in (1, 2, 3) else None
    finish(store, run)
    assert len(data_objects(store, run)) == 9


@BOTH
def test_503_for_long_fails_with_few_requests_and_resumes(
    store: ObjectStore, proxy: FaultProxy, small_run: Make
) -> None:
    run = small_run()
    create_run(store, run.json)
    run.write_shard(store, 0)
    before = len(proxy.requests)
    proxy.fault = lambda request: "503"
    with pytest.raises(StoreError, match=r"request rate|Unavailable|503"):
        run.write_shard(store, 1)
    assert len(proxy.requests) - before <= 2 * ATTEMPTS
    proxy.fault = lambda request: None
    assert missing_shards(store, run.json) == [("attribute", "00001"), ("attribute", "00002")]
    finish(store, run)


@pytest.mark.parametrize("kind", ["reset", "delay"])
def test_resets_and_latency(
    store: ObjectStore, proxy: FaultProxy, small_run: Make, kind: str
) -> None:
    proxy.delay_s = 0.1
    proxy.fault = lambda request: kind if request.number % 9 == 4 else None
    finish(store, small_run())


@BOTH
def test_a_lost_reply_counts_one_object(
    store: ObjectStore, proxy: FaultProxy, small_run: Make
) -> None:
    """Every first PUT of an object loses its reply; the client sends it again."""
    seen: set[str] = set()

    def lose(request: Request) -> str | None:
        if request.method != "PUT" or request.path in seen:
            return None
        seen.add(request.path)
        return "lost"

    run = small_run(shards=1)
    proxy.fault = lose
    create_run(store, run.json)
    record = run.write_shard(store, 0)
    proxy.fault = lambda request: None
    assert len(data_objects(store, run)) == len(record.files()) == 3
    assert rows_of(store, run) == list(range(4))


@BOTH
def test_every_reply_lost_is_settled_by_looking(store: ObjectStore, proxy: FaultProxy) -> None:
    proxy.fault = lambda request: "lost" if request.method == "PUT" else None
    assert store.put_new("a", b"one")
    assert not store.put_new("a", b"two")
    assert store.get("a") == b"one"


def test_a_torn_upload_leaves_nothing(
    store: ObjectStore, proxy: FaultProxy, small_run: Make
) -> None:
    run = small_run()
    proxy.fault = lambda request: "reset" if "/data/maps/" in request.path else None
    with pytest.raises(StoreError):
        run.write_shard(store, 0)
    proxy.fault = lambda request: None
    assert not any("/maps/" in key for key in data_objects(store, run))
    finish(store, run)


@BOTH
def test_late_duplicates_of_writes_change_nothing(
    store: ObjectStore, proxy: FaultProxy, small_run: Make
) -> None:
    run = small_run()
    proxy.fault = lambda request: "twice" if request.method == "PUT" else None
    finish(store, run)
    commit = store.get(RunPaths(run.run_id).commit)
    proxy.settle()
    assert store.get(RunPaths(run.run_id).commit) == commit
    assert verify_run(store, run.run_id).ok
    assert len(data_objects(store, run)) == 9


def test_cut_downloads_are_read_again(
    store: ObjectStore, proxy: FaultProxy, small_run: Make
) -> None:
    run = small_run()
    finish(store, run)
    numbers = iter(range(10_000))
    proxy.fault = lambda r: "cut" if r.method == "GET" and next(numbers) % 3 == 0 else None
    finish(store, run)
    key = RunPaths(run.run_id).run_json
    options = S3Options.from_store(store.spec)
    assert read_bytes(store.url(key), options) == store.get(key)


def test_downloads_that_are_always_cut_fail(store: ObjectStore, proxy: FaultProxy) -> None:
    store.put_new("a", b"x" * 1000)
    proxy.fault = lambda request: "cut" if request.method == "GET" else None
    before = len(proxy.requests)
    with pytest.raises(StoreError, match="/a"):
        store.get("a")
    assert len(proxy.requests) - before <= 3


@pytest.mark.parametrize("kind", ["expired", "403"])
def test_expired_credentials_stop_at_once_and_resume(
    store: ObjectStore, proxy: FaultProxy, small_run: Make, kind: str
) -> None:
    run = small_run()
    create_run(store, run.json)
    run.write_shard(store, 0)
    proxy.fault = lambda request: kind
    before, start = len(proxy.requests), time.monotonic()
    with pytest.raises(StoreError, match=r"access denied|expired|Bad Request"):
        run.write_shard(store, 1)
    assert time.monotonic() - start < 5
    assert len(proxy.requests) - before <= 2
    proxy.fault = lambda request: None
    assert ("attribute", "00000") not in missing_shards(store, run.json)
    finish(store, run)


def test_a_read_only_prefix_is_found_by_the_probe(store: ObjectStore, proxy: FaultProxy) -> None:
    proxy.fault = lambda request: "403" if request.method == "PUT" else None
    start = time.monotonic()
    with pytest.raises(StoreError, match="access denied"):
        store.probe()
    assert time.monotonic() - start < 10


def test_a_service_that_hangs_is_found_by_the_probe(
    store: ObjectStore, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradattr.storage.objects.PROBE_SECONDS", 1.0)
    proxy.delay_s = 30.0
    proxy.fault = lambda request: "delay"
    start = time.monotonic()
    with pytest.raises(StoreError, match="no answer within 1 s"):
        store.probe()
    # Far from the service's answer, however busy the machine is.
    assert time.monotonic() - start < 15


def test_nothing_that_counts_is_found_by_listing(
    store: ObjectStore, proxy: FaultProxy, small_run: Make
) -> None:
    """A LIST that omits new objects cannot matter: none is asked for."""
    run = small_run()
    finish(store, run)
    with open_query(store, run.run_id) as opened:
        assert opened.sql("SELECT count(*) AS n FROM maps").to_pylist() == [{"n": 24}]
    assert not [request for request in proxy.requests if "list-type" in request.path]


@BOTH
def test_random_faults_never_change_the_rows(
    store: ObjectStore, proxy: FaultProxy, small_run: Make
) -> None:
    run = small_run()
    proxy.fault = random_faults(SEED, 0.12, ("503", "reset", "lost", "cut", "twice"))
    for _ in range(20):
        try:
            finish(store, run)
            break
        except StoreError:
            continue
    proxy.fault = lambda request: None
    proxy.settle()
    finish(store, run)
