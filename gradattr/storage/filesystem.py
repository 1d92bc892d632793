"""From a URL to an fsspec file system: which schemes, which retries, which errors.

Everything that gradattr reads by URL (data, weights, manifests) and everything it keeps in a
store goes through ``open_filesystem``. Retries stand in one place: botocore's, bounded. A
denied or expired credential is never retried.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from pydantic import TypeAdapter, ValidationError

from gradattr.errors import StoreError, UsageError
from gradattr.manifest.base import Url
from gradattr.manifest.operation import Store

#: Requests of one operation at most: the first and three more, so three 503 in a row pass.
ATTEMPTS = 4
_CONNECT_SECONDS = 5
_READ_SECONDS = 60
_POOL = 32
_CHUNK = 1 << 20
_BLOCK = 8 << 20

_URL = TypeAdapter(Url)
_EXTRAS = {"gs": "gcsfs", "az": "adlfs"}
#: Modules whose exceptions mean "the other side", whatever their base class.
_REMOTE_MODULES = ("botocore", "aiobotocore", "aiohttp", "urllib3", "google", "gcsfs", "azure")


@dataclass(frozen=True)
class S3Options:
    """How to reach an S3 service. Holds names of environment variables, never secrets."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    access_key_env: str | None = None
    secret_key_env: str | None = None

    @classmethod
    def from_store(cls, store: Store) -> S3Options:
        return cls(
            endpoint_url=store.endpoint_url,
            region=store.region,
            profile=store.profile,
            access_key_env=_variable(store.access_key),
            secret_key_env=_variable(store.secret_key),
        )


def open_filesystem(url: str, options: S3Options | None = None) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL and the path in it.

    Schemes: none or ``file``, ``s3``, and ``gs``, ``az`` where gcsfs or adlfs is installed.
    UsageError: any other scheme, a chained URL, '..', credentials in the URL, a variable that is
    not set.
    """
    scheme, rest = split_url(url)
    if scheme == "file":
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem(), str(Path(rest).absolute())
    if scheme == "s3":
        # fsspec shares instances of equal arguments; the block size sets this one apart.
        filesystem = s3_filesystem(options or S3Options(), default_block_size=_BLOCK)
        # Bodies that are cut short are read once more; requests are botocore's business.
        filesystem.retries = 2
        return filesystem, rest
    return _extra_filesystem(scheme), rest


def split_url(url: str) -> tuple[str, str]:
    """(scheme, path) of an allowed URL; the scheme of a bare path is 'file'."""
    try:
        checked: str = _URL.validate_python(url)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"URL {url[:200]!r}: {reason}") from None
    scheme, separator, rest = checked.partition("://")
    if not separator:
        return "file", checked
    return scheme.lower(), rest


def s3_filesystem(options: S3Options, *, attempts: int = ATTEMPTS, **extra: Any) -> Any:
    """An S3FileSystem whose number of requests per operation is bounded by ``attempts``.

    s3fs retries on top of botocore; its layer is reduced to one try here.
    """
    import s3fs

    endpoint = (
        options.endpoint_url
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    config: dict[str, Any] = {
        "retries": {"total_max_attempts": attempts, "mode": "standard"},
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
        "max_pool_connections": _POOL,
        # Servers built on older checksum rules refuse or mangle the newer trailing checksums.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        **extra.pop("config", {}),
    }
    if endpoint:
        config["s3"] = {"addressing_style": "path"}
    arguments: dict[str, Any] = {
        "endpoint_url": endpoint,
        "config_kwargs": config,
        "use_listings_cache": False,
        **extra,
    }
    if options.region:
        arguments["client_kwargs"] = {"region_name": options.region}
    if options.profile:
        arguments["profile"] = options.profile
    if options.access_key_env or options.secret_key_env:
        arguments["key"] = _secret(options.access_key_env, "access_key")
        arguments["secret"] = _secret(options.secret_key_env, "secret_key")
    filesystem = s3fs.S3FileSystem(**arguments)
    filesystem.retries = 1
    return filesystem


def _extra_filesystem(scheme: str) -> AbstractFileSystem:
    import fsspec

    try:
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError:
        raise UsageError(
            f"{scheme}:// needs the package {_EXTRAS[scheme]!r}; install it beside gradattr"
        ) from None


def _variable(reference: str | None) -> str | None:
    return None if reference is None else reference.removeprefix("${").removesuffix("}")


def _secret(variable: str | None, key: str) -> str:
    if variable is None:
        raise UsageError("store: access_key and secret_key go together; one of them is missing")
    value = os.environ.get(variable)
    if not value:
        raise UsageError(f"store.{key}: the environment variable {variable} is not set")
    return value


@contextmanager
def remote_errors(what: str) -> Iterator[None]:
    """Turn what file systems and their clients raise into StoreError, with ``what`` named.

    FileNotFoundError, FileExistsError and IsADirectoryError pass: the caller knows their meaning.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, IsADirectoryError):
        raise
    except PermissionError as error:
        raise StoreError(
            f"{what}: access denied ({_reason(error)}); the credentials are missing, wrong, "
            "expired, or lack permission to read, write and list here"
        ) from error
    except Exception as error:
        if isinstance(error, OSError | TimeoutError) or _is_remote(error):
            raise StoreError(f"{what}: {_reason(error)}{_advice(error)}") from error
        raise


def _is_remote(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in _REMOTE_MODULES


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _advice(error: Exception) -> str:
    name = type(error).__name__
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or store.access_key"
    if isinstance(error, OSError) and error.errno == 28:
        return "; the disk is full: free space, then run the same command again"
    return "; the same command resumes"


def read_bytes(url: str, options: S3Options | None = None) -> bytes:
    """A whole file. UsageError if there is none, StoreError if it cannot be reached."""
    filesystem, path = open_filesystem(url, options)
    with _reading(url):
        data: bytes = filesystem.cat_file(path)
        return data


def file_info(url: str, options: S3Options | None = None) -> tuple[int, str | None]:
    """(bytes, etag or None) of a file."""
    filesystem, path = open_filesystem(url, options)
    with _reading(url):
        info = filesystem.info(path)
    if info["type"] == "directory":
        raise UsageError(f"{url}: is a folder, expected a file")
    etag = info.get("ETag") or info.get("etag")
    return int(info["size"]), etag.strip('"') if etag else None


def sha256_of(url: str, options: S3Options | None = None) -> str:
    """sha256 of a file, 64 hex digits, read in pieces."""
    filesystem, path = open_filesystem(url, options)
    digest = hashlib.sha256()
    with _reading(url), filesystem.open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def expand(url: str, options: S3Options | None = None) -> list[str]:
    """The URLs of files that a URL stands for, sorted.

    A pattern (``*``, ``?``, ``[...]``, ``**``): what it matches. A folder: every file below it
    whose name does not begin with '.' or '_'. A file: itself. UsageError if that is nothing.
    """
    filesystem, path = open_filesystem(url, options)
    scheme, _ = split_url(url)
    with _reading(url):
        if filesystem.isfile(path):
            found = [path]
        elif any(character in path for character in "*?["):
            found = [p for p, i in filesystem.glob(path, detail=True).items() if _is_file(i)]
        else:
            found = [p for p in filesystem.find(path) if not _hidden(p, path)]
    if not found:
        raise UsageError(f"{url}: there is no such file, and no file below or matching it")
    prefix = "" if scheme == "file" else f"{scheme}://"
    return sorted(prefix + name for name in found)


def _is_file(info: dict[str, Any]) -> bool:
    return bool(info["type"] == "file")


def _hidden(path: str, root: str) -> bool:
    parts = path[len(root) :].strip("/").split("/")
    return any(part.startswith((".", "_")) for part in parts)


@contextmanager
def _reading(url: str) -> Iterator[None]:
    try:
        with remote_errors(url):
            yield
    except FileNotFoundError:
        raise UsageError(f"{url}: there is no such file (or bucket)") from None
    except IsADirectoryError:
        raise UsageError(f"{url}: is a folder, expected a file") from None
