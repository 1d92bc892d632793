"""Bytes of data files from any URL, with errors that name the file."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fsspec import AbstractFileSystem

from gradattr.canonical import digest_bytes, digest_json
from gradattr.errors import DataError, StoreError, UsageError
from gradattr.storage.filesystem import (
    S3Options,
    expand,
    open_filesystem,
    remote_errors,
)

_REMOTE = ("s3", "gs", "az")
_CHUNK = 8 << 20

#: Remembered content digests: "url|bytes|etag" -> sha256.
DigestCache = MutableMapping[str, str]


class Files:
    """Reads files by URL. One per reader; file systems are opened once per scheme."""

    def __init__(
        self, options: S3Options | None = None, digests: DigestCache | None = None
    ) -> None:
        self.options = options
        self._digests = digests
        self._systems: dict[str, AbstractFileSystem] = {}

    def locate(self, url: str) -> tuple[AbstractFileSystem, str]:
        """The file system of ``url`` and the path in it.

        The path is not checked again: a manifest's URLs were, and the name of a file that was
        found below one may hold anything.
        """
        scheme, separator, rest = url.partition("://")
        if url.startswith("/"):
            scheme, path = "file", url
        elif separator and scheme.lower() in _REMOTE:
            scheme, path = scheme.lower(), rest
        else:
            scheme, path = "file", str(Path(rest if separator else url).absolute())
        if scheme not in self._systems:
            with data_errors():
                root = "/" if scheme == "file" else f"{scheme}://{path.split('/', 1)[0]}"
                self._systems[scheme] = open_filesystem(root, self.options)[0]
        return self._systems[scheme], path

    def open(self, url: str, *, ranges: bool = False) -> IO[bytes]:
        """Open for reading; seekable. DataError if there is no such file.

        ``ranges``: the caller asks for large ranges itself, nothing is read ahead.
        """
        system, path = self.locate(url)
        local = system.protocol[0] == "file"
        with reading(url):
            file: IO[bytes] = system.open(
                path, "rb", **({"cache_type": "none"} if ranges and not local else {})
            )
            return file

    def read(self, url: str, start: int | None = None, end: int | None = None) -> bytes:
        """All bytes, or those in [start, end). DataError if they are not all there."""
        system, path = self.locate(url)
        with reading(url):
            data: bytes = system.cat_file(path, start=start, end=end)
        if start is not None and end is not None and len(data) != end - start:
            raise DataError(
                f"{url}: bytes {start} to {end} were expected, the file ends {len(data)} bytes "
                "after the first of them; it is truncated or has changed since it was planned"
            )
        return data

    def names(self, url: str) -> list[str]:
        """Names of the files directly in a folder, sorted; none if it does not exist."""
        system, path = self.locate(url)
        try:
            with remote_errors(url):
                found = system.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(name).rsplit("/", 1)[-1] for name in found)

    def write(self, url: str, data: bytes) -> None:
        """Write a file that is there whole or not at all. Never creates a bucket.

        StoreError if it cannot be written.
        """
        system, path = self.locate(url)
        with remote_errors(url):
            if system.protocol[0] == "file":
                _write_local(Path(path), data)
                return
            try:
                system.pipe_file(path, data)
            except FileNotFoundError:
                raise StoreError(f"{url}: the bucket does not exist; create it first") from None

    def info(self, url: str) -> tuple[int, str | None]:
        """(bytes, etag or None). DataError if there is no such file, or it is a folder."""
        system, path = self.locate(url)
        with reading(url):
            return facts(system.info(path), url)

    def digest(self, url: str, how: str, name: str | None = None) -> tuple[int, str]:
        """(bytes, digest) of a file.

        ``how`` is 'content' (sha256 of every byte) or 'quick' (sha256 of name, size and ETag).
        """
        size, etag = self.info(url)
        if how == "quick":
            return size, quick_digest(name or url.rsplit("/", 1)[-1], size, etag)
        return size, self.content_digest(url, size, etag)

    def content_digest(self, url: str, size: int, etag: str | None) -> str:
        """sha256 of a file, remembered where the store vouches for its version by an ETag."""
        key = f"{url}|{size}|{etag}"
        if self._digests is not None and etag is not None and key in self._digests:
            return self._digests[key]
        digest = self._sha256(url, size)
        if self._digests is not None and etag is not None:
            self._digests[key] = digest
        return digest

    def _sha256(self, url: str, size: int) -> str:
        if size <= _CHUNK:
            return digest_bytes(self.read(url))
        digest = hashlib.sha256()
        with self.open(url) as file, reading(url):
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def expand(self, urls: list[str], suffixes: tuple[str, ...] = ()) -> list[str]:
        """Files, patterns and folders to files; of a folder's files those with a suffix.

        DataError if nothing is left, or if a file is named twice.
        """
        found: list[str] = []
        for url in urls:
            with data_errors():
                matches = expand(url, self.options)
            if len(matches) > 1 or matches[0].rstrip("/") != self._plain(url):
                matches = [match for match in matches if match.endswith(suffixes or ("",))]
            if not matches:
                raise DataError(f"{url}: no file there ends in {' or '.join(suffixes)}")
            found += matches
        seen: set[str] = set()
        for url in found:
            if url in seen:
                raise DataError(f"{url}: named twice in the data set; name each file once")
            seen.add(url)
        return found

    def _plain(self, url: str) -> str:
        scheme, separator, rest = url.partition("://")
        if separator and scheme.lower() in _REMOTE:
            return f"{scheme.lower()}://{rest}".rstrip("/")
        return str(Path(rest if separator else url).absolute())

    def check_unchanged(self, url: str, size: int) -> None:
        """DataError if the file's size is not the planned one."""
        now, _ = self.info(url)
        if now != size:
            raise DataError(changed(url, f"{size} bytes were planned, {now} are there"))


def changed(url: str, what: str) -> str:
    """The text of the error for data that is not what was planned."""
    return f"{url}: the data changed since the plan ({what}); plan again to make a new run"


def quick_digest(name: str, size: int, etag: str | None) -> str:
    """Digest of what a listing tells about a file."""
    return digest_json(["quick", name, size, etag])


def facts(info: dict[str, Any], url: str) -> tuple[int, str | None]:
    """(bytes, etag or None) out of an fsspec info."""
    if info["type"] == "directory":
        raise DataError(f"{url}: is a folder, expected a file")
    etag = info.get("ETag") or info.get("etag")
    return int(info["size"]), etag.strip('"') if etag else None


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot: unfinished files are invisible to whoever lists the folder.
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def data_errors() -> Iterator[None]:
    """UsageError of the storage floor as DataError: here it is always about data."""
    try:
        yield
    except DataError:
        raise
    except UsageError as error:
        raise DataError(str(error)) from None


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Missing files as DataError, trouble on the way as StoreError."""
    try:
        with remote_errors(url):
            yield
    except FileNotFoundError:
        raise DataError(f"{url}: there is no such file (or bucket)") from None
    except IsADirectoryError:
        raise DataError(f"{url}: is a folder, expected a file") from None
