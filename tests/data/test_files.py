"""Data on S3: every format that is more than one local file, on two servers; and faults."""

from __future__ import annotations

import posixpath
from pathlib import Path

import fsspec
import pytest
import torch

from gradattr.data import Batch, index_data, ingest, load_all, make_shards, read_shard
from gradattr.data.files import Files
from gradattr.errors import DataError, StoreError
from gradattr.manifest.data import Preprocess
from gradattr.storage.filesystem import S3Options, open_filesystem

FORMATS = ("idx-gray", "idx-gz", "cifar10", "svhn", "folder", "parquet", "npz", "webdataset")


@pytest.fixture(params=["s3_moto", "s3_rclone"])
def store(request):
    return request.getfixturevalue(request.param)


def upload(store, spec):
    """Copy a spec's files to the store; the same spec with S3 URLs."""
    options = S3Options.from_store(store)
    system, root = open_filesystem(store.url, options)
    local = fsspec.filesystem("file")

    def move(url: str) -> str:
        for path in local.find(url):
            key = posixpath.join(root, "in", path.strip("/"))
            system.pipe_file(key, Path(path).read_bytes())
        return posixpath.join(store.url, "in", url.strip("/"))

    fields = {
        name: [move(url) for url in value] if isinstance(value, list) else move(value)
        for name, value in spec
        if name in ("file", "files", "url")
        or (spec.format == "idx" and name in ("images", "labels"))
    }
    return spec.model_copy(update=fields), options


def read_all(spec, options, index, shard_rows=13) -> list[Batch]:
    return [
        batch
        for shard in make_shards(index, shard_rows)
        for batch in read_shard(spec, shard, Preprocess(), batch_size=8, options=options)
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_data_on_s3_is_the_same_data(name, store, library):
    spec, options = upload(store, library[name])
    index, local = index_data(spec, options=options), index_data(library[name])
    assert index.digest() == local.digest()
    assert all(file.url.startswith("s3://") for file in index.files)
    batches = read_all(spec, options, index)
    expected = load_all(library[name], local, Preprocess())
    assert torch.equal(torch.cat([batch.x for batch in batches]), expected.x)
    assert [i for batch in batches for i in batch.sample_ids] == expected.sample_ids


def test_ingest_to_s3(store, library):
    options = S3Options.from_store(store)
    to = posixpath.join(store.url, "set")
    index = ingest(library["folder"], to, shard_rows=15, options=options)
    again = ingest(library["folder"], to, shard_rows=15, options=options)
    assert index.digest() == again.digest()
    assert [file.rows for file in index.files] == [15, 15, 10]


def test_etags_make_digests_cheap_and_follow_changes(s3_moto, library, monkeypatch):
    spec, options = upload(s3_moto, library["folder"])
    cache: dict[str, str] = {}
    first = index_data(spec, cache=cache, options=options)
    assert len(cache) == 40
    monkeypatch.setattr(Files, "_sha256", None)
    assert index_data(spec, cache=cache, options=options).digest() == first.digest()
    monkeypatch.undo()
    system, root = open_filesystem(spec.url, options)
    name = posixpath.join(root, first.files[0].extra["id"])
    system.pipe_file(name, system.cat_file(name) + b"\0")
    assert index_data(spec, cache=cache, options=options).digest() != first.digest()


def test_local_files_have_no_etag_and_are_hashed_each_time(library):
    cache: dict[str, str] = {}
    index_data(library["idx-gray"], cache=cache)
    assert cache == {}


def test_missing_objects_and_buckets(store, make_spec):
    options = S3Options.from_store(store)
    for url in (posixpath.join(store.url, "nothing"), "s3://no-such-bucket-here/x"):
        for spec in (
            {"format": "npz", "file": url},
            {"format": "folder", "url": url},
            {"format": "parquet", "files": [url]},
            {"format": "webdataset", "files": [url]},
        ):
            with pytest.raises(DataError, match=r"no such|no file"):
                index_data(make_spec(spec), options=options)


def test_ingest_never_creates_a_bucket(s3_moto, library):
    options = S3Options.from_store(s3_moto)
    with pytest.raises(StoreError):
        ingest(library["npz"], "s3://no-such-bucket-here/set", shard_rows=10, options=options)
    with pytest.raises(DataError):
        Files(options).info("s3://no-such-bucket-here/set")


def test_a_server_that_is_not_there_is_a_store_error(make_spec, monkeypatch):
    options = S3Options(endpoint_url="http://127.0.0.1:9")
    spec = make_spec({"format": "npz", "file": "s3://bucket/x.npz"})
    with pytest.raises(StoreError) as caught:
        index_data(spec, options=options)
    assert caught.value.exit_code == 3


def test_ranges_that_are_not_there_are_told(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    files = Files()
    assert files.read(str(tmp_path / "a"), 1, 4) == b"234"
    with pytest.raises(DataError, match="truncated or has changed"):
        files.read(str(tmp_path / "a"), 3, 9)


def test_file_urls_and_paths_are_the_same(tmp_path, library, make_spec):
    spec = library["parquet"]
    urls = make_spec({"format": "parquet", "files": [f"file://{url}" for url in spec.files]})
    assert index_data(urls).digest() == index_data(spec).digest()
