"""Small data sets of every format, made on the fly from the same forty images."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
from PIL import Image
from pydantic import TypeAdapter

from gradattr.data import DataIndex, index_data, make_shards, read_shard
from gradattr.data.cache import shared
from gradattr.manifest.data import DataSpec, Preprocess

ROWS = 40
SIDE = 32
_SPEC: TypeAdapter[Any] = TypeAdapter(DataSpec)


@dataclass
class Rows:
    """Everything that was read of a data set, in row order."""

    x: torch.Tensor
    labels: list[int]
    rows: list[int]
    ids: list[str]
    errors: list[Any]
    batches: int


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    shared.clear()
    yield
    shared.clear()


@pytest.fixture(scope="session")
def make_spec() -> Callable[[Any], Any]:
    """A dict (or short form) of a manifest to its checked spec."""
    return _SPEC.validate_python


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """(40, 32, 32, 3) uint8: smooth images with some noise."""
    rng = np.random.default_rng(7)
    low = rng.integers(0, 200, (ROWS, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    return (low + rng.integers(0, 56, (ROWS, SIDE, SIDE, 3))).astype(np.uint8)


@pytest.fixture(scope="session")
def labels() -> np.ndarray:
    return np.arange(ROWS, dtype=np.int64) * 7 % 10


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """An array (or a PIL image) as the bytes of an image file."""

    def encode(image: Any, kind: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        if not isinstance(image, Image.Image):
            image = Image.fromarray(image)
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def write_idx() -> Callable[..., str]:
    """Write an array of bytes as IDX, gzip if the name says so."""

    def write(path: Path, array: np.ndarray) -> str:
        data = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        data += array.astype(np.uint8).tobytes()
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        return str(path)

    return write


@pytest.fixture(scope="session")
def write_folder() -> Callable[..., str]:
    """Write {relative path: bytes} below a folder."""

    def write(root: Path, files: dict[str, bytes]) -> str:
        for name, data in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return str(root)

    return write


@pytest.fixture(scope="session")
def write_parquet() -> Callable[..., str]:
    """Write encoded images as Hugging Face does: struct<bytes, path> and a ClassLabel."""

    def write(
        path: Path,
        images: list[bytes | None],
        labels: Any,
        *,
        names: list[str] | None = None,
        group: int = 8,
        **columns: Any,
    ) -> str:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        structs = [{"bytes": data, "path": f"{row}.png"} for row, data in enumerate(images)]
        table = pa.table({"image": pa.array(structs, kind), "label": labels, **columns})
        if names is not None:
            features = {"label": {"names": names, "_type": "ClassLabel"}}
            meta = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": meta})
        pq.write_table(table, path, row_group_size=group, write_page_checksum=True)
        return str(path)

    return write


@pytest.fixture(scope="session")
def write_tar() -> Callable[..., str]:
    """Write (name, bytes) members in order."""

    def write(path: Path, members: list[tuple[str, bytes]]) -> str:
        with tarfile.open(path, "w") as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return str(path)

    return write


@pytest.fixture(scope="session")
def read_rows() -> Callable[..., Rows]:
    """Read a whole data set (or some shards) through the public door."""

    def read(
        spec: Any,
        preprocess: Preprocess | None = None,
        *,
        shard_rows: int = 1000,
        batch_size: int = 16,
        shards: Any = None,
    ) -> Rows:
        shards = make_shards(index_data(spec), shard_rows) if shards is None else shards
        out = Rows(torch.empty(0), [], [], [], [], 0)
        parts = []
        for shard in shards:
            for batch in read_shard(spec, shard, preprocess or Preprocess(), batch_size=batch_size):
                assert batch.x.dtype == torch.float32 and len(batch.x) == len(batch)
                parts.append(batch.x)
                out.labels += batch.labels.tolist()
                out.rows += batch.rows
                out.ids += batch.sample_ids
                out.errors += batch.errors
                out.batches += 1
        out.x = torch.cat(parts)
        return out

    return read


@pytest.fixture(scope="session")
def library(
    tmp_path_factory: pytest.TempPathFactory,
    make_spec: Callable[[Any], Any],
    pixels: np.ndarray,
    labels: np.ndarray,
    encode: Callable[..., bytes],
    write_idx: Callable[..., str],
    write_folder: Callable[..., str],
    write_parquet: Callable[..., str],
    write_tar: Callable[..., str],
) -> dict[str, Any]:
    """The forty images as every format: name to spec. Colour images unless the name says gray."""
    root = tmp_path_factory.mktemp("library")
    pngs = [encode(image) for image in pixels]
    gray = pixels[..., 0]
    files = {f"c{labels[row]}/{row:03d}.png": pngs[row] for row in range(ROWS)}
    nchw = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    records = np.concatenate([labels[:, None].astype(np.uint8), nchw.reshape(ROWS, -1)], axis=1)
    (root / "one.bin").write_bytes(records[:25].tobytes())
    (root / "two.bin").write_bytes(records[25:].tobytes())
    svhn = {"X": pixels.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
    scipy.io.savemat(root / "svhn.mat", svhn, do_compression=True)
    np.savez(root / "plain.npz", images=pixels, labels=labels)
    np.savez_compressed(root / "zipped.npz", images=nchw, labels=labels)
    np.save(root / "array.npy", gray)
    members = [
        member
        for row in range(ROWS)
        for member in ((f"{row:04d}.png", pngs[row]), (f"{row:04d}.cls", b"%d" % labels[row]))
    ]
    raw = pa.FixedShapeTensorArray.from_numpy_ndarray(nchw)
    pq.write_table(
        pa.table({"image": raw, "label": labels}), root / "raw.parquet", row_group_size=16
    )
    pq.write_table(
        pa.table({"image": pa.array(list(nchw.reshape(ROWS, -1))), "label": labels}),
        root / "lists.parquet",
        row_group_size=9,
    )
    specs: dict[str, Any] = {
        "digits": {"format": "digits", "limit": ROWS},
        "idx-gray": {
            "format": "idx",
            "images": write_idx(root / "images-idx3-ubyte", gray),
            "labels": write_idx(root / "labels-idx1-ubyte", labels),
        },
        "idx-gz": {
            "format": "idx",
            "images": write_idx(root / "images-idx4-ubyte.gz", pixels),
            "labels": write_idx(root / "labels-idx1-ubyte.gz", labels),
        },
        "cifar10": {
            "format": "cifar10",
            "files": [str(root / "one.bin"), str(root / "two.bin")],
        },
        "svhn": {"format": "svhn", "file": str(root / "svhn.mat")},
        "folder": {"format": "folder", "url": write_folder(root / "folder", files)},
        "parquet": {
            "format": "parquet",
            "files": [
                write_parquet(root / "a.parquet", pngs[:22], labels[:22]),
                write_parquet(root / "b.parquet", pngs[22:], labels[22:], group=100),
            ],
        },
        "parquet-raw": {"format": "parquet", "files": [str(root / "raw.parquet")]},
        "parquet-lists": {
            "format": "parquet",
            "files": [str(root / "lists.parquet")],
            "shape": [3, SIDE, SIDE],
        },
        "npz": {"format": "npz", "file": str(root / "plain.npz")},
        "npz-zipped": {"format": "npz", "file": str(root / "zipped.npz"), "layout": "nchw"},
        "npy-gray": {"format": "npz", "file": str(root / "array.npy"), "labels": None},
        "webdataset": {
            "format": "webdataset",
            "files": [
                write_tar(root / "a.tar", members[:30]),
                write_tar(root / "b.tar", members[30:]),
            ],
        },
    }
    return {name: make_spec(spec) for name, spec in specs.items()}


@pytest.fixture(scope="session")
def index_of() -> Callable[[Any], DataIndex]:
    return index_data
