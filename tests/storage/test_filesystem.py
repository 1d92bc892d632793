"""URLs: which are allowed, and what they read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gradattr.errors import UsageError
from gradattr.manifest.operation import Store
from gradattr.storage.filesystem import (
    S3Options,
    expand,
    file_info,
    open_filesystem,
    read_bytes,
    sha256_of,
    split_url,
)
from gradattr.storage.objects import open_store


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.org/x", "scheme"),
        ("https://example.org/x", "scheme"),
        ("zip://a::s3://b/c", "chained"),
        ("simplecache::s3://b/c", "chained"),
        ("s3://bucket/../other", r"\.\."),
        ("../secret", r"\.\."),
        ("s3://key:secret@bucket/x", "credentials"),
        ("s3:///", "bucket"),
        ("memory://x", "scheme"),
        ("", "character"),
    ],
)
def test_urls_that_are_refused(url: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        open_filesystem(url)


def test_schemes() -> None:
    assert split_url("a/b") == ("file", "a/b")
    assert split_url("file:///a/b") == ("file", "/a/b")
    assert split_url("S3://bucket/k") == ("s3", "bucket/k")


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("az", "adlfs")])
def test_a_missing_package_is_named(scheme: str, package: str) -> None:
    with pytest.raises(UsageError, match=package):
        open_filesystem(f"{scheme}://bucket/k")


def _fill(store: Store) -> tuple[str, S3Options]:
    objects = open_store(store)
    for name in ("d/b.bin", "d/a.bin", "d/sub/c.bin", "d/_hidden", "d/.hid/x"):
        objects.put(name, name.encode())
    return objects.url("d"), S3Options.from_store(objects.spec)


@pytest.mark.parametrize("kind", ["local", "moto", "rclone"])
def test_reading(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    spec = Store(url=str(tmp_path)) if kind == "local" else request.getfixturevalue(f"s3_{kind}")
    folder, options = _fill(spec)
    assert read_bytes(f"{folder}/a.bin", options) == b"d/a.bin"
    size, etag = file_info(f"{folder}/a.bin", options)
    assert size == 7
    assert (etag is None) == (kind == "local")
    assert sha256_of(f"{folder}/a.bin", options) == hashlib.sha256(b"d/a.bin").hexdigest()
    names = [url.removeprefix(folder) for url in expand(folder, options)]
    assert names == ["/a.bin", "/b.bin", "/sub/c.bin"]
    assert expand(f"{folder}/*.bin", options) == [f"{folder}/a.bin", f"{folder}/b.bin"]
    assert expand(f"{folder}/a.bin", options) == [f"{folder}/a.bin"]
    for call in (read_bytes, file_info, sha256_of, expand):
        with pytest.raises(UsageError, match="nothing"):
            call(f"{folder}/nothing", options)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for call in (read_bytes, file_info, sha256_of):
        with pytest.raises(UsageError, match="is a folder"):
            call(str(tmp_path))


def test_options_hold_names_not_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "hush")
    options = S3Options.from_store(
        Store(url="s3://b/k", access_key="${MY_KEY}", secret_key="${MY_SECRET}")
    )
    assert options.secret_key_env == "MY_SECRET"
    assert "hush" not in repr(options)
    with pytest.raises(UsageError, match="MY_KEY is not set"):
        open_filesystem("s3://b/k", options)
    monkeypatch.setenv("MY_KEY", "key")
    with pytest.raises(UsageError, match="go together"):
        open_filesystem("s3://b/k", S3Options(access_key_env="MY_KEY"))


def test_the_endpoint_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1234")
    assert open_filesystem("s3://b/k")[0].endpoint_url == "http://127.0.0.1:1234"
    chosen = open_filesystem("s3://b/k", S3Options(endpoint_url="http://127.0.0.1:99"))[0]
    assert chosen.endpoint_url == "http://127.0.0.1:99"
