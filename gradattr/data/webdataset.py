"""WebDataset tar shards: KEY.jpg with KEY.cls, or KEY.json with a 'label'.

Members are read where they lie; nothing is ever extracted. A tar becomes several FileRefs, each a
range of bytes with whole samples in it, so that a shard reads its own part of a large tar.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from gradattr.canonical import digest_bytes
from gradattr.data.decode import BadImage, image_size
from gradattr.data.files import Files, changed, quick_digest
from gradattr.data.raw import Fault, RawRows, check_labels, count_classes
from gradattr.data.types import DataIndex, FileRef, RowKeys, ShardRef
from gradattr.errors import DataError
from gradattr.manifest.data import WebDatasetData

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm")
_LABELS = ("cls", "json")
#: A range ends after this many samples or bytes.
_RANGE_ROWS = 256
_RANGE_BYTES = 32 << 20
_BLOCK = 512


@dataclass
class Sample:
    """One key: where its members' bytes are, counted from the start of what was scanned."""

    key: str
    start: int
    """Of its first member's header."""
    end: int = 0
    """After its last member's padding."""
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Extension to (offset, bytes)."""


class WebDatasetReader:
    """Rows in the order of tars, then of keys; a key (with its folders) is the sample id."""

    def __init__(self, spec: WebDatasetData, files: Files) -> None:
        self.spec = spec
        self.files = files
        self._hashed = spec.digest == "content"

    def index(self) -> DataIndex:
        refs: list[FileRef] = []
        labels: list[int] = []
        keys: dict[str, str] = {}
        shape: list[int] | None = None
        for url in self.files.expand(self.spec.files, (".tar",)):
            if self.spec.limit is not None and len(labels) >= self.spec.limit:
                break
            size, etag = self.files.info(url)
            with self.files.open(url) as file:
                samples = [s for s in scan(file, url, size) if _image_part(s) is not None]
                _add_keys(keys, samples, url)
                for group in _ranges(samples):
                    start, end = group[0].start, group[-1].end
                    file.seek(start)
                    data = file.read(end - start)
                    for sample in group:
                        labels.append(self._label(sample, data, start)[0])
                        shape = shape or _shape(sample, data, start)
                    digest = (
                        hashlib.sha256(data).hexdigest()
                        if self._hashed
                        else quick_digest(f"{url.rsplit('/', 1)[-1]}:{start}", size, etag)
                    )
                    extra = {"start": start, "file_bytes": size, "hashed": self._hashed}
                    first = len(labels) - len(group)
                    refs.append(FileRef(url, end - start, digest, first, len(group), extra))
        if labels and shape is None:
            raise DataError(f"{self.spec.files[0]}: none of the {len(labels)} images can be read")
        for ref in refs:
            ref.extra["image"] = shape
        names = tuple(self.spec.classes) if self.spec.classes else None
        array = np.array(labels, dtype=np.int64)
        check_labels(array, len(names) if names else None, self.spec.files[0])
        classes = count_classes(array, names)
        row_keys = RowKeys(array, lambda: list(keys))
        return DataIndex("webdataset", len(labels), tuple(refs), classes, names, 3, None, row_keys)

    def read(self, shard: ShardRef, batch_size: int) -> Iterator[RawRows]:
        for ref in shard.files:
            self.files.check_unchanged(ref.url, ref.extra["file_bytes"])
            start = ref.extra["start"]
            data = self.files.read(ref.url, start, start + ref.bytes)
            if ref.extra["hashed"] and digest_bytes(data) != ref.digest:
                raise DataError(changed(ref.url, "its content is another"))
            samples = [
                s
                for s in scan(io.BytesIO(data), ref.url, len(data), whole=False)
                if _image_part(s) is not None
            ]
            begin = max(shard.start - ref.first_row, 0)
            end = min(shard.start + shard.rows - ref.first_row, ref.rows)
            yield self._rows(samples[begin:end], data, ref.first_row + begin)

    def _rows(self, samples: list[Sample], data: bytes, first: int) -> RawRows:
        labels = np.empty(len(samples), dtype=np.int64)
        images: list[bytes | None] = []
        faults: dict[int, Fault] = {}
        for position, sample in enumerate(samples):
            labels[position], text = self._label(sample, data, 0)
            if text is not None:
                faults[position] = ("label_error", text)
            part = _image_part(sample)
            images.append(None if part is None else data[part[0] : part[0] + part[1]])
        return RawRows(first, [sample.key for sample in samples], labels, images, faults)

    def _label(self, sample: Sample, data: bytes, shift: int) -> tuple[int, str | None]:
        """(label or -1, what is wrong with it). No label at all is not wrong."""
        for extension in _LABELS:
            if extension not in sample.parts:
                continue
            offset, size = sample.parts[extension]
            text = data[offset - shift : offset - shift + size]
            try:
                value = text.decode().strip()
                if extension == "json":
                    content = json.loads(value)
                    if "label" not in content:
                        continue
                    value = str(content["label"])
                if self.spec.classes and value in self.spec.classes:
                    return self.spec.classes.index(value), None
                return int(value), None
            except (ValueError, TypeError, RecursionError):
                shown = text[:60].decode(errors="replace")
                return -1, f"{sample.key}.{extension}: {shown!r} is no label: expected an integer"
        return -1, None


def scan(file: IO[bytes], url: str, size: int, *, whole: bool = True) -> list[Sample]:
    """The samples of a tar (or of a range of one: ``whole`` false), without reading their bytes.

    DataError: no tar, truncated, members that are links or whose names lead out of the archive.
    """
    samples: list[Sample] = []
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                _check_member(member, url, size)
                if member.isfile():
                    _add_member(samples, member, end)
    except tarfile.TarError as error:
        zipped = "; compressed tars are not supported, unpack it" if url.endswith("gz") else ""
        raise DataError(f"{url}: not a readable tar file ({error}){zipped}") from None
    if whole:
        file.seek(end)
        if file.read(_BLOCK) != b"\0" * _BLOCK:
            raise DataError(
                f"{url}: ends after {end} bytes without the mark that closes a tar; truncated"
            )
    return samples


def _check_member(member: tarfile.TarInfo, url: str, size: int) -> None:
    name = member.name
    if name.startswith("/") or ".." in name.replace("\\", "/").split("/"):
        raise DataError(f"{url}: member {name!r} leads out of the archive; it is refused")
    if not (member.isfile() or member.isdir()):
        raise DataError(f"{url}: member {name!r} is a link or a device; only files are read")
    if member.offset_data + member.size > size:
        raise DataError(f"{url}: truncated in member {name!r}; get the file again")


def _add_member(samples: list[Sample], member: tarfile.TarInfo, end: int) -> None:
    folder, slash, base = member.name.removeprefix("./").rpartition("/")
    stem, dot, extension = base.partition(".")
    if not dot or not stem:
        return
    key = folder + slash + stem
    if not samples or samples[-1].key != key:
        samples.append(Sample(key, member.offset))
    samples[-1].parts[extension.lower()] = (member.offset_data, member.size)
    samples[-1].end = end


def _image_part(sample: Sample) -> tuple[int, int] | None:
    return next((sample.parts[e] for e in IMAGES if e in sample.parts), None)


def _shape(sample: Sample, data: bytes, shift: int) -> list[int] | None:
    part = _image_part(sample)
    if part is None:
        return None
    try:
        return [3, *image_size(data[part[0] - shift : part[0] - shift + part[1]])]
    except BadImage:
        return None


def _add_keys(keys: dict[str, str], samples: list[Sample], url: str) -> None:
    for sample in samples:
        if sample.key in keys:
            where = keys[sample.key]
            raise DataError(
                f"{url}: sample ids are not unique: key {sample.key!r} stands also in {where}"
                f"{' (members of one key must be adjacent)' if where == url else ''}"
            )
        keys[sample.key] = url


def _ranges(samples: list[Sample]) -> Iterator[list[Sample]]:
    """Runs of samples of bounded length and bytes."""
    group: list[Sample] = []
    for sample in samples:
        if group and (len(group) >= _RANGE_ROWS or sample.end - group[0].start > _RANGE_BYTES):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group
