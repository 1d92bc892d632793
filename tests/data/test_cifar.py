"""CIFAR-10: the binary version, and the Python version without running its pickle."""

from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import pytest
import torch

from gradattr.data import index_data
from gradattr.data.cifar_pickle import read_python_batch
from gradattr.errors import DataError


@pytest.fixture
def batch(pixels, labels):
    data = pixels.transpose(0, 3, 1, 2).reshape(40, 3072)
    return {b"batch_label": b"x", b"labels": labels.tolist(), b"data": data, b"filenames": [b"f"]}


def python2_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """Byte for byte what Python 2's cPickle wrote: str opcodes, numpy.core.multiarray."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    data = images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
        + b"("
        + number(0)
        + b"t"
        + text(b"b")
        + b"tR"
        + b"("
        + number(1)
        + b"("
        + b"".join(map(number, images.shape))
        + b"t"
        + b"cnumpy\ndtype\n("
        + text(b"u1")
        + number(0)
        + number(1)
        + b"tR"
        + b"("
        + number(3)
        + text(b"|")
        + b"NNN"
        + number(-1)
        + number(-1)
        + number(0)
        + b"tb"
        + b"I00\n"
        + text(data)
        + b"tb"
    )
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"labels") + listed + text(b"data") + array + b"u."


def test_binary_records(library, read_rows, labels):
    got = read_rows(library["cifar10"], shard_rows=7)
    assert got.labels == labels.tolist()
    assert got.ids[24:26] == ["00000024", "00000025"]
    assert index_data(library["cifar10"]).class_names[:2] == ("airplane", "automobile")


@pytest.mark.parametrize("protocol", [2, 4, "python2"])
def test_the_python_version_gives_the_same(
    protocol, batch, tmp_path, make_spec, library, read_rows, labels
):
    data = (
        python2_pickle(batch[b"data"], labels.tolist())
        if protocol == "python2"
        else pickle.dumps(batch, protocol=protocol)
    )
    (tmp_path / "batch").write_bytes(data)
    got = read_rows(
        make_spec({"format": "cifar10", "files": [str(tmp_path / "batch")]}), shard_rows=9
    )
    expected = read_rows(library["cifar10"])
    assert torch.equal(got.x, expected.x)
    assert (got.labels, got.ids) == (expected.labels, expected.ids)


class Run:
    """A pickle that runs a command."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("call", [(os.system, "touch"), (eval, "1"), (np.load, "x"), (getattr, 1)])
def test_a_payload_is_refused_and_never_runs(call, protocol, batch, tmp_path, make_spec):
    mark = tmp_path / "mark"
    arguments = (f"touch {mark}",) if call[1] == "touch" else call[1:]
    for content in (Run(call[0], *arguments), {**batch, b"x": Run(call[0], *arguments)}):
        (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(DataError, match="not allowed"):
            index_data(make_spec({"format": "cifar10", "files": [str(tmp_path / "batch")]}))
    assert not mark.exists()


def test_numpys_own_reconstructor_is_not_called(batch, monkeypatch):
    """The pickle names it; what runs is an inert record."""
    data = pickle.dumps(batch, protocol=2)
    assert b"_reconstruct" in data

    def called(*arguments):
        raise AssertionError("numpy's unpickling code was called")

    monkeypatch.setattr(np._core.multiarray, "_reconstruct", called)
    images, _ = read_python_batch(data, "x")
    assert images.shape == (40, 3, 32, 32)


def test_newer_pickles_that_name_other_functions_are_refused(batch):
    with pytest.raises(DataError, match=r"_frombuffer, which is not allowed"):
        read_python_batch(pickle.dumps(batch, protocol=5), "file")


@pytest.mark.parametrize(
    "change",
    [
        {b"data": np.zeros((40, 3072), np.float32)},
        {b"data": np.zeros((40, 3071), np.uint8)},
        {b"data": np.array([{}] * 40, dtype=object)},
        {b"data": "text"},
        {b"labels": None},
        {b"labels": [0] * 39},
    ],
)
def test_what_is_no_batch_is_refused(change, batch):
    with pytest.raises(DataError):
        read_python_batch(pickle.dumps({**batch, **change}, protocol=2), "file")


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.99])
def test_a_truncated_pickle_is_refused(share, batch):
    data = pickle.dumps(batch, protocol=2)
    with pytest.raises(DataError):
        read_python_batch(data[: max(1, int(len(data) * share))], "file")


def test_binary_files_that_are_wrong(tmp_path, make_spec):
    def fails(data: bytes, text: str, **spec) -> None:
        (tmp_path / "b.bin").write_bytes(data)
        with pytest.raises(DataError, match=text):
            index_data(make_spec({"format": "cifar10", "files": [str(tmp_path / "b.bin")], **spec}))

    fails(b"", "empty")
    fails(bytes(3073 * 2 - 1), "no multiple of 3073")
    fails(bytes(3074 * 2), "CIFAR-100")
    fails(b"\x0b" + bytes(3072), "out of range.*11 in row 0")
    fails(b"\x02" + bytes(3072), "out of range", classes=["a", "b"])


def test_missing_files_and_files_named_twice(tmp_path, make_spec):
    url = str(tmp_path / "b.bin")
    with pytest.raises(DataError, match="no such file"):
        index_data(make_spec({"format": "cifar10", "files": [url]}))
    (tmp_path / "b.bin").write_bytes(bytes(3073))
    with pytest.raises(DataError, match="named twice"):
        index_data(make_spec({"format": "cifar10", "files": [url, url]}))
