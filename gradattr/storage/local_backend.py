"""A store in a local (or mounted) folder: temporary file, fsync, link to the final name."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gradattr.storage.backend import Created, ObjectInfo
from gradattr.storage.filesystem import remote_errors
from gradattr.storage.layout import new_nonce

#: Unfinished files begin with this; nothing but ``gc`` looks at them.
TEMPORARY = ".tmp-"

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class LocalBackend:
    """Objects are files below ``root``, which is created by the first write."""

    kind = "local"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conditional: bool | None = True

    def create(self, key: str, data: bytes) -> Created:
        path = self._path(key)
        with remote_errors(str(path)):
            temporary = self._write_temporary(path, data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return "exists"
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self._create_without_links(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
        return "created"

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with remote_errors(str(path)):
            temporary = self._write_temporary(path, data)
            try:
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            with remote_errors(str(path)):
                return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return None

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            with remote_errors(str(path)):
                status = path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return ObjectInfo(key, status.st_size, status.st_mtime)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = self.root / prefix.rpartition("/")[0]
        with remote_errors(str(folder)):
            for path in _walk(folder):
                key = path.relative_to(self.root).as_posix()
                if not key.startswith(prefix):
                    continue
                info = self.head(key)
                if info is not None:
                    yield info

    def children(self, prefix: str) -> Iterator[str]:
        folder = self.root / prefix
        with remote_errors(str(folder)):
            if folder.is_dir():
                yield from sorted(path.name for path in folder.iterdir())

    def delete(self, key: str) -> None:
        path = self._path(key)
        with remote_errors(str(path)):
            path.unlink(missing_ok=True)

    def open(self, key: str) -> IO[bytes]:
        with remote_errors(str(self._path(key))):
            return self._path(key).open("rb")

    def url(self, key: str) -> str:
        return str(self._path(key))

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    def _path(self, key: str) -> Path:
        return self.root / key

    def _write_temporary(self, path: Path, data: bytes) -> Path:
        """A complete, synced file beside ``path``; nothing is left if that fails."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY}{new_nonce()}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _create_without_links(self, temporary: Path, path: Path) -> Created:
        """For file systems without hard links: not atomic between two writers."""
        self.conditional = False
        if path.exists():
            return "exists"
        temporary.replace(path)
        return "created"


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, in the order of their names."""
    if not folder.is_dir():
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.is_file():
            yield Path(entry.path)


def _sync_folder(folder: Path) -> None:
    """Make a new name durable, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
