"""NPZ: lazily by ranges where the file allows it, and never a pickled object."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
import torch

from gradattr.data import index_data
from gradattr.data.npz import NpzReader
from gradattr.errors import DataError


class Payload:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.fixture
def fails(make_spec, tmp_path):
    def fails(text: str, arrays=None, **spec):
        file = tmp_path / "bad.npz"
        if arrays is not None:
            np.savez(file, **arrays)
        with pytest.raises(DataError, match=text):
            index_data(make_spec({"format": "npz", "file": str(file), **spec}))

    return fails


@pytest.mark.parametrize(
    "dtype, scale",
    [
        (np.uint8, 255),
        (np.uint16, None),
        (np.float32, 1),
        (np.float64, 1),
        (np.bool_, 1),
        (">f4", 1),
    ],
)
def test_types_of_pixels(dtype, scale, tmp_path, make_spec, read_rows):
    values = np.random.default_rng(0).random((6, 5, 4))
    if scale is None:
        array = (values * 65535).astype(np.uint16)
        expected = (array >> 8) / np.float32(255)
    else:
        array = (values * scale > 0.5) if dtype == np.bool_ else (values * scale).astype(dtype)
        expected = array.astype(np.float32) / np.float32(scale)
    np.savez(tmp_path / "a.npz", x=array)
    spec = {"format": "npz", "file": str(tmp_path / "a.npz"), "images": "x", "labels": None}
    got = read_rows(make_spec(spec))
    assert torch.equal(got.x[:, 0], torch.from_numpy(expected.astype(np.float32)))


def test_uncompressed_arrays_are_read_by_ranges(library, read_rows, monkeypatch):
    names = []
    original = NpzReader._array
    monkeypatch.setattr(
        NpzReader, "_array", lambda self, *args: names.append(args[0]) or original(self, *args)
    )
    read_rows(library["npz"], shard_rows=3)
    assert set(names) == {"labels"}


def test_fortran_order(tmp_path, make_spec, read_rows, pixels):
    np.savez(tmp_path / "a.npz", images=np.asfortranarray(pixels))
    spec = make_spec({"format": "npz", "file": str(tmp_path / "a.npz"), "labels": None})
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    assert torch.equal(read_rows(spec, shard_rows=7).x, expected)


def test_labels_as_a_column(tmp_path, make_spec, read_rows, pixels, labels):
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels[:, None].astype(np.uint8))
    assert read_rows(make_spec({"format": "npz", "file": str(tmp_path / "a.npz")})).labels == (
        labels.tolist()
    )


def test_pickled_objects_are_refused_and_not_loaded(fails, tmp_path, pixels):
    objects = np.array([Payload()] * 40, dtype=object)
    fails("never loaded", {"images": pixels, "labels": objects})
    fails("never loaded", {"images": objects}, labels=None)
    (tmp_path / "bad.npz").write_bytes(pickle.dumps(Payload()))
    fails("neither .npz nor .npy")


def test_wrong_shapes_types_and_names(fails, pixels, labels):
    fails("no array 'images'; there are 'x', 'labels'", {"x": pixels, "labels": labels})
    fails("no array 'y'", {"images": pixels}, labels="y")
    fails("has shape", {"images": labels}, labels=None)
    fails("pixels are int64", {"images": pixels.astype(np.int64)}, labels=None)
    fails("39 labels for 40 images", {"images": pixels, "labels": labels[:-1]})
    fails("expected n integers", {"images": pixels, "labels": labels / 2})
    fails("more than max_pixels", {"images": pixels}, labels=None, max_pixels=1000)
    fails("out of range", {"images": pixels, "labels": labels}, classes=["a", "b"])
    fails("out of range", {"images": pixels, "labels": labels - 3})
    fails("empty", {"images": pixels[:0], "labels": labels[:0]})


def test_missing_empty_and_truncated_files(fails, tmp_path, pixels):
    fails("no such file")
    (tmp_path / "bad.npz").write_bytes(b"")
    fails("neither")
    np.savez(tmp_path / "good.npz", images=pixels)
    data = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "bad.npz").write_bytes(data[: len(data) // 2])
    fails("truncated or damaged", labels=None)
    np.save(tmp_path / "good.npy", pixels)
    (tmp_path / "bad.npz").write_bytes((tmp_path / "good.npy").read_bytes()[:-10])
    fails("truncated or damaged")


def test_a_damaged_compressed_member(fails, tmp_path, pixels, labels):
    np.savez_compressed(tmp_path / "bad.npz", images=pixels, labels=labels)
    with zipfile.ZipFile(tmp_path / "bad.npz") as archive:
        at = archive.getinfo("labels.npy").header_offset + 60
    data = bytearray((tmp_path / "bad.npz").read_bytes())
    data[at : at + 40] = b"\xff" * 40
    (tmp_path / "bad.npz").write_bytes(data)
    fails("cannot be read|truncated|damaged")


def test_a_row_with_nan_is_an_error_and_the_others_are_not(tmp_path, make_spec, read_rows):
    array = np.full((5, 4, 4), 0.5, np.float32)
    array[1, 2, 2] = np.nan
    array[4, 0, 0] = np.inf
    np.savez(tmp_path / "a.npz", images=array)
    got = read_rows(make_spec({"format": "npz", "file": str(tmp_path / "a.npz"), "labels": None}))
    assert got.rows == [0, 2, 3]
    assert [(error.row, error.status) for error in got.errors] == [
        (1, "decode_error"),
        (4, "decode_error"),
    ]
    assert got.x.unique().tolist() == [0.5]
