"""Stores behind fsspec: S3 with one request per operation, and Google and Azure in general."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from gradattr.errors import StoreError
from gradattr.storage.backend import Created, LostReply, ObjectInfo
from gradattr.storage.filesystem import remote_errors

#: How often a body that was cut short is read again.
_REREADS = 2
_CUT = ("ClientPayloadError", "IncompleteRead", "ResponseParserError", "IncompleteReadError")
#: Larger than any object that a run writes: one PUT, never a multipart upload.
_ONE_PUT = 1 << 30
_PRECONDITION_FAILED = 412
_UNSUPPORTED = (400, 501)
#: Answers in the 4xx range that do not say whether the write happened.
_UNCLEAR = (408, 409, 425, 429)


class RemoteBackend:
    """Any fsspec file system. Creating if absent is not atomic here."""

    def __init__(self, filesystem: Any, scheme: str, root: str) -> None:
        self.filesystem = filesystem
        self.kind = scheme
        self.root = root.strip("/")
        self.conditional: bool | None = False

    def create(self, key: str, data: bytes) -> Created:
        return "unsupported"

    def put(self, key: str, data: bytes) -> None:
        with self._write_errors(key):
            self.filesystem.pipe_file(self._path(key), data)

    def get(self, key: str) -> bytes | None:
        for attempt in range(1 + _REREADS):
            try:
                with self._errors(key):
                    return self._read(key)
            except FileNotFoundError:
                return None
            except StoreError as error:
                if attempt == _REREADS or type(error.__cause__).__name__ not in _CUT:
                    raise
        raise AssertionError("the loop returns or raises")

    def head(self, key: str) -> ObjectInfo | None:
        try:
            with self._errors(key):
                info = self.filesystem.info(self._path(key))
        except FileNotFoundError:
            return None
        return self._object(info) if info["type"] == "file" else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = prefix.rpartition("/")[0]
        with self._errors(prefix):
            for info in self.filesystem.find(self._path(folder), detail=True).values():
                found = self._object(info)
                if found.key.startswith(prefix):
                    yield found

    def children(self, prefix: str) -> Iterator[str]:
        try:
            with self._errors(prefix):
                paths = self.filesystem.ls(self._path(prefix).rstrip("/"), detail=False)
        except FileNotFoundError:
            return
        yield from sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def delete(self, key: str) -> None:
        try:
            with self._errors(key):
                self.filesystem.rm_file(self._path(key))
        except FileNotFoundError:
            return

    def open(self, key: str) -> IO[bytes]:
        with self._errors(key):
            file: IO[bytes] = self.filesystem.open(self._path(key), "rb")
            return file

    def url(self, key: str) -> str:
        return f"{self.kind}://{self._path(key)}"

    def local_path(self, key: str) -> Path | None:
        return None

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _object(self, info: dict[str, Any]) -> ObjectInfo:
        key = info["name"].removeprefix(self.root + "/")
        changed = info.get("LastModified") or info.get("updated") or info.get("last_modified")
        return ObjectInfo(key, int(info["size"]), _seconds(changed))

    def _read(self, key: str) -> bytes:
        data: bytes = self.filesystem.cat_file(self._path(key))
        return data

    def _errors(self, key: str) -> AbstractContextManager[None]:
        return remote_errors(self.url(key))

    @contextmanager
    def _write_errors(self, key: str) -> Iterator[None]:
        """As ``_errors``, but what leaves the outcome open becomes LostReply."""
        try:
            with self._errors(key):
                yield
        except FileNotFoundError:
            raise self._no_bucket() from None
        except StoreError as error:
            status = _status(error)
            refused = status is not None and 400 <= status < 500 and status not in _UNCLEAR
            if refused or isinstance(error.__cause__, PermissionError):
                raise
            raise LostReply(str(error)) from error.__cause__

    def _no_bucket(self) -> StoreError:
        bucket = self.root.partition("/")[0]
        return StoreError(
            f"{self.kind}://{bucket}: there is no such bucket; create it, or correct store.url "
            "(gradattr never creates buckets)"
        )


class S3Backend(RemoteBackend):
    """S3 and what speaks it. One request per operation, conditional PUT where the service can."""

    def __init__(self, filesystem: Any, root: str) -> None:
        super().__init__(filesystem, "s3", root)
        self.bucket, _, self.prefix = self.root.partition("/")
        self.conditional = None

    def create(self, key: str, data: bytes) -> Created:
        try:
            with self._write_errors(key):
                self._call("put_object", key, Body=data, IfNoneMatch="*")
        except FileExistsError:
            self.conditional = True
            return "exists"
        except StoreError as error:
            status = _status(error)
            if status == _PRECONDITION_FAILED:
                self.conditional = True
                return "exists"
            if status in _UNSUPPORTED:
                return "unsupported"
            raise
        return "created"

    def put(self, key: str, data: bytes) -> None:
        with self._write_errors(key):
            self._call("put_object", key, Body=data)

    def head(self, key: str) -> ObjectInfo | None:
        try:
            with self._errors(key):
                reply = self._call("head_object", key)
        except FileNotFoundError:
            return None
        return ObjectInfo(key, int(reply["ContentLength"]), _seconds(reply["LastModified"]))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for page in self._pages(prefix):
            for item in page.get("Contents", []):
                key = item["Key"][self._skip :]
                yield ObjectInfo(key, int(item["Size"]), _seconds(item["LastModified"]))

    def children(self, prefix: str) -> Iterator[str]:
        names: set[str] = set()
        for page in self._pages(prefix, Delimiter="/"):
            names.update(item["Prefix"] for item in page.get("CommonPrefixes", []))
            names.update(item["Key"] for item in page.get("Contents", []))
        yield from sorted(name.rstrip("/").rpartition("/")[2] for name in names)

    def delete(self, key: str) -> None:
        try:
            with self._errors(key):
                self._call("delete_object", key)
        except FileNotFoundError:
            return

    @property
    def _skip(self) -> int:
        return len(self.prefix) + 1 if self.prefix else 0

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _call(self, operation: str, key: str, **arguments: Any) -> dict[str, Any]:
        reply: dict[str, Any] = self.filesystem.call_s3(
            operation, Bucket=self.bucket, Key=self._key(key), **arguments
        )
        return reply

    def _pages(self, prefix: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        request = {"Bucket": self.bucket, "Prefix": self._key(prefix), **arguments}
        while True:
            try:
                with self._errors(prefix):
                    page = self.filesystem.call_s3("list_objects_v2", **request)
            except FileNotFoundError:
                raise self._no_bucket() from None
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _read(self, key: str) -> bytes:
        # One GET of the whole body: no HEAD before it, no ranges (some servers answer them with
        # the whole object).
        data: bytes = self.filesystem.cat_file(self._path(key), max_concurrency=1)
        return data


def _status(error: StoreError) -> int | None:
    """HTTP status behind a translated error."""
    cause: BaseException | None = error.__cause__
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return None if status is None else int(status)
        cause = cause.__cause__
    return None


def _seconds(moment: Any) -> float:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return float(moment.timestamp()) if isinstance(moment, datetime) else 0.0
