"""A folder of images: one sub-folder per class, or no classes at all."""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from gradattr.canonical import digest_bytes
from gradattr.data.decode import SUFFIXES, BadImage, check_encoded_bytes, image_size
from gradattr.data.files import Files, changed, facts, quick_digest, reading
from gradattr.data.raw import Fault, RawRows
from gradattr.data.types import DataIndex, FileRef, RowKeys, ShardRef
from gradattr.errors import DataError
from gradattr.manifest.data import FolderData

_THREADS = 16


class FolderReader:
    """Rows in the order of relative paths, which are the sample ids.

    Files whose name does not end like an image's are not rows. A file that ends so and is none
    is a row with status 'decode_error'.
    """

    def __init__(self, spec: FolderData, files: Files) -> None:
        self.spec = spec
        self.files = files

    def index(self) -> DataIndex:
        found = self._list()
        names = self._class_names([name for name, _ in found])
        if self.spec.limit is not None:
            found = found[: self.spec.limit]
        digests = self._digests(found)
        shape = self._first_shape([name for name, _ in found])
        lookup = {name: number for number, name in enumerate(names or ())}
        hashed = self.spec.digest == "content"
        refs = []
        for row, ((name, info), digest) in enumerate(zip(found, digests, strict=True)):
            label = lookup[name.split("/", 1)[0]] if names else -1
            extra = {"id": name, "label": label, "image": shape, "hashed": hashed}
            refs.append(FileRef(self._url(name), int(info["size"]), digest, row, 1, extra))
        classes = len(names) if names else None
        keys = RowKeys(
            np.array([ref.extra["label"] for ref in refs], dtype=np.int64),
            lambda: [ref.extra["id"] for ref in refs],
        )
        return DataIndex("folder", len(refs), tuple(refs), classes, names, 3, None, keys)

    def read(self, shard: ShardRef, batch_size: int) -> Iterator[RawRows]:
        for at in range(0, len(shard.files), batch_size):
            refs = shard.files[at : at + batch_size]
            images: list[bytes | None] = []
            faults: dict[int, Fault] = {}
            for position, ref in enumerate(refs):
                try:
                    check_encoded_bytes(ref.bytes, self.spec.max_pixels)
                    images.append(self._read(ref))
                except BadImage as error:
                    faults[position] = (error.status, error.text)
                    images.append(None)
            labels = np.array([ref.extra["label"] for ref in refs], dtype=np.int64)
            ids = [ref.extra["id"] for ref in refs]
            yield RawRows(refs[0].first_row, ids, labels, images, faults)

    def _read(self, ref: FileRef) -> bytes:
        data = self.files.read(ref.url)
        if len(data) != ref.bytes:
            raise DataError(changed(ref.url, f"{ref.bytes} bytes were planned, {len(data)} came"))
        if ref.extra["hashed"] and digest_bytes(data) != ref.digest:
            raise DataError(changed(ref.url, "its content is another"))
        return data

    def _list(self) -> list[tuple[str, dict[str, Any]]]:
        """(relative path, fsspec info) of every image, sorted."""
        system, root = self.files.locate(self.spec.url)
        root = root.rstrip("/")
        with reading(self.spec.url):
            infos = system.find(root, detail=True, withdirs=False)
            local = system.protocol[0] == "file" and root not in infos
            for link in self._linked_folders(root) if local else ():
                infos.update(system.find(link, detail=True))
        if not infos or root in infos:
            what = "is a file, expected a folder" if root in infos else "no such folder, or empty"
            raise DataError(f"{self.spec.url}: {what}")
        found = {}
        for path, info in infos.items():
            name = path[len(root) + 1 :]
            if not name.lower().endswith(SUFFIXES) or _hidden(name):
                continue
            if any(part in ("..", ".", "") for part in name.split("/")):
                raise DataError(f"{self.spec.url}: the name {name!r} leads out of its folder")
            if info.get("islink"):
                self._check_link(root, path)
                info = {**info, "size": Path(path).stat().st_size, "type": "file"}
            found[name] = info
        if not found:
            raise DataError(
                f"{self.spec.url}: {len(infos)} files, none of them ends in {' '.join(SUFFIXES)}"
            )
        return sorted(found.items())

    def _linked_folders(self, root: str) -> list[str]:
        """Links to folders directly below the root (fsspec does not follow them)."""
        if not Path(root).is_dir():
            return []
        links = [
            path for path in sorted(Path(root).iterdir()) if path.is_symlink() and path.is_dir()
        ]
        for link in links:
            self._check_link(root, str(link))
        return [str(link) for link in links]

    def _check_link(self, root: str, path: str) -> None:
        if not Path(path).resolve().is_relative_to(Path(root).resolve()):
            raise DataError(
                f"{path}: is a link out of {self.spec.url}; nothing outside a data set's folder "
                "is read. Copy the files, or name the folder that holds them"
            )

    def _class_names(self, names: list[str]) -> tuple[str, ...] | None:
        folders = sorted({name.split("/", 1)[0] for name in names if "/" in name})
        loose = [name for name in names if "/" not in name]
        if not folders:
            return None
        if loose:
            raise DataError(
                f"{self.spec.url}: {len(loose)} images ({loose[0]!r}, ...) stand beside the class "
                f"folders ({folders[0]!r}, ...); move them into one"
            )
        if self.spec.classes is None:
            return tuple(folders)
        for folder in folders:
            if folder not in self.spec.classes:
                near = difflib.get_close_matches(folder, self.spec.classes, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise DataError(f"{self.spec.url}: folder {folder!r} is not in 'classes'{hint}")
        return tuple(self.spec.classes)

    def _digests(self, found: list[tuple[str, dict[str, Any]]]) -> list[str]:
        def one(entry: tuple[str, dict[str, Any]]) -> str:
            name, info = entry
            size, etag = facts(info, name)
            if self.spec.digest == "quick":
                return quick_digest(name, size, etag)
            return self.files.content_digest(self._url(name), size, etag)

        if self.spec.digest == "quick":
            return [one(entry) for entry in found]
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(one, found))

    def _first_shape(self, names: list[str]) -> list[int]:
        for name in names:
            try:
                return [3, *image_size(self.files.read(self._url(name)))]
            except BadImage:
                continue
        raise DataError(f"{self.spec.url}: none of its {len(names)} images can be read")

    def _url(self, name: str) -> str:
        _, root = self.files.locate(self.spec.url)
        scheme, separator, _ = self.spec.url.partition("://")
        prefix = f"{scheme.lower()}://" if separator and scheme.lower() != "file" else ""
        return prefix + posixpath.join(root, name)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part != ".." for part in name.split("/"))
