"""The object store's promises, on local disk, moto and rclone."""

from __future__ import annotations

import errno
import os
import pickle
import threading
import time
from pathlib import Path

import pytest

from gradattr.errors import StoreError, UsageError
from gradattr.manifest.operation import Store
from gradattr.storage.objects import ObjectStore, open_store
from tests.s3_servers import KEY_VARIABLE, S3Server


def test_put_new_keeps_the_first_bytes(any_store: ObjectStore) -> None:
    assert any_store.put_new("a/b", b"first")
    assert any_store.put_new("a/b", b"first"), "the same bytes are there: ours"
    assert not any_store.put_new("a/b", b"other")
    assert any_store.get("a/b") == b"first"


def test_reading_listing_and_deleting(any_store: ObjectStore) -> None:
    before = time.time()
    any_store.put_unique("x/one", b"1")
    any_store.put("x/deep/two", b"22")
    any_store.put("x/deep/two", b"222")
    assert any_store.get("x/none") is None
    assert any_store.head("x/none") is None
    assert any_store.head("x/deep") is None
    info = any_store.head("x/deep/two")
    assert info is not None
    assert info.bytes == 3
    assert abs(info.modified - before) < 60
    assert sorted(item.key for item in any_store.list("x/")) == ["x/deep/two", "x/one"]
    assert [item.key for item in any_store.list("x/o")] == ["x/one"]
    assert list(any_store.children("x/")) == ["deep", "one"]
    assert list(any_store.children("nothing/")) == []
    with any_store.open("x/deep/two") as file:
        assert file.read() == b"222"
    any_store.delete("x/one")
    any_store.delete("x/one")
    assert any_store.head("x/one") is None


def test_a_store_pickles_without_secrets(any_store: ObjectStore) -> None:
    any_store.put_new("k", b"v")
    pickled = pickle.dumps(any_store)
    assert b"must-never-be-stored" not in pickled
    assert pickle.loads(pickled).get("k") == b"v"


def test_probe_tells_what_the_store_can_do(any_store: ObjectStore) -> None:
    answer = any_store.probe()
    assert answer["writable"] is True
    is_rclone = any_store.spec.endpoint_url is not None and not answer["conditional_put"]
    assert answer["conditional_put"] or is_rclone
    assert list(any_store.list("probe/")) == []


def test_conditional_put_is_seen_where_it_is(s3_moto: Store, s3_rclone: Store) -> None:
    assert open_store(s3_moto).probe()["conditional_put"] is True
    assert open_store(s3_rclone).probe()["conditional_put"] is False


@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_a_missing_bucket_is_reported_and_not_created(
    server: str, request: pytest.FixtureRequest
) -> None:
    running: S3Server = request.getfixturevalue(server)
    store = open_store(running.store(bucket="no-such-bucket"))
    for _ in range(2):
        start = time.monotonic()
        with pytest.raises(StoreError, match=r"no-such-bucket.*never creates"):
            store.probe()
        assert time.monotonic() - start < 10
    with pytest.raises(StoreError, match="no such bucket"):
        store.put_new("k", b"v")


def test_a_wrong_secret_is_refused_at_once(
    rclone: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG_SECRET", "wrong")
    store = open_store(rclone.store().model_copy(update={"secret_key": "${WRONG_SECRET}"}))
    start = time.monotonic()
    with pytest.raises(StoreError, match="access denied"):
        store.probe()
    with pytest.raises(StoreError, match="access denied"):
        store.get("k")
    assert time.monotonic() - start < 5


def test_an_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch, moto: S3Server) -> None:
    spec = moto.store()
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(UsageError, match=KEY_VARIABLE):
        open_store(spec)


def test_no_server_is_an_error_within_ten_seconds() -> None:
    spec = Store(
        url="s3://bucket/x", endpoint_url="http://127.0.0.1:9", access_key="${HOME}",
        secret_key="${HOME}",
    )  # fmt: skip
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9"):
        open_store(spec).probe()
    assert time.monotonic() - start < 10


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="file"):
        open_store(str(tmp_path / "file")).probe()


def test_of_racing_writers_exactly_one_wins(local: ObjectStore) -> None:
    results: dict[int, bool] = {}
    start = threading.Barrier(8)

    def race(number: int) -> None:
        start.wait()
        results[number] = local.put_new("race", b"%d" % number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for number, won in results.items() if won]
    assert len(winners) == 1
    assert local.get("race") == b"%d" % winners[0]


@pytest.mark.parametrize("method", ["put_new", "put", "put_unique"])
def test_a_full_disk_leaves_no_partial_file(
    local: ObjectStore, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="disk is full"):
        getattr(local, method)("a/b", b"x" * 1000)
    assert list(local.list("")) == []
    monkeypatch.undo()
    getattr(local, method)("a/b", b"x" * 1000)
    assert local.get("a/b") == b"x" * 1000


def test_a_file_system_without_links_still_works(
    local: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert local.put_new("a", b"1")
    assert not local.put_new("a", b"2")
    assert local.get("a") == b"1"
    assert local.backend.conditional is False


def test_relative_roots_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store(Store(url="results"))
    monkeypatch.chdir("/")
    store.put_new("k", b"v")
    assert (tmp_path / "results" / "k").read_bytes() == b"v"
    assert store.spec.url == str(tmp_path / "results")
