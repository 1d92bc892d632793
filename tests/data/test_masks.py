"""Masks follow their images through joining, resizing, cropping, and rows that fail."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.data import index_data, load_all, make_shards, read_shard
from gradattr.data.raw import RawRows, join, rebatch, row_ids
from gradattr.errors import DataError
from gradattr.manifest.data import Preprocess

SIDE = 6


@pytest.fixture
def masks() -> np.ndarray:
    return np.random.default_rng(1).random((9, SIDE, SIDE)) < 0.4


@pytest.fixture
def images(masks) -> np.ndarray:
    """Images that are their own masks: 255 inside."""
    return masks.astype(np.uint8) * np.uint8(255)


@pytest.fixture
def read_all(make_spec):
    def read(fields, preprocess=None):
        spec = make_spec(fields)
        assert spec.has_masks
        return load_all(spec, index_data(spec), preprocess or Preprocess())

    return read


def _pngs(encode, arrays):
    return [encode(array.astype(np.uint8) * np.uint8(255)) for array in arrays]


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    size=st.integers(1, 7),
    ragged=st.booleans(),
)
def test_rebatching_keeps_masks_and_attributes(lengths, size, ragged):
    total = sum(lengths)
    masks = np.arange(total * 4).reshape(total, 2, 2) % 3 == 0
    top = np.arange(total) % 2 == 0
    pieces = []
    at = 0
    for length in lengths:
        part = slice(at, at + length)
        own = [None if n % 3 == 0 else masks[n] for n in range(at, at + length)]
        images = np.zeros((length, 1, 2, 2), np.uint8)
        labels = np.zeros(length, np.int64)
        chosen = own if ragged else masks[part]
        ids = row_ids(at, length)
        pieces.append(RawRows(at, ids, labels, images, {}, chosen, top[part], ~top[part]))
        at += length
    got = list(rebatch(pieces, size))
    if not got:
        return
    whole = join(got)
    assert whole.signal_on_top.tolist() == top.tolist()
    assert whole.patched.tolist() == (~top).tolist()
    assert len(whole.masks) == total
    for n, mask in enumerate(whole.masks):
        assert mask is None if ragged and n % 3 == 0 else (mask == masks[n]).all()


def test_data_without_masks_has_none(make_spec):
    spec = make_spec({"format": "digits", "limit": 5})
    batch = load_all(spec, index_data(spec), Preprocess())
    assert batch.masks is None and batch.signal_on_top is None and batch.patched is None
    assert not spec.has_masks


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.float32])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_masks_of_npz(kind, save, tmp_path, read_all, images, masks):
    save(tmp_path / "a.npz", images=images, where=masks.astype(kind) * kind(3))
    fields = {"format": "npz", "file": str(tmp_path / "a.npz"), "labels": None, "masks": "where"}
    batch = read_all(fields)
    assert batch.masks.dtype == torch.bool
    assert torch.equal(batch.masks, torch.from_numpy(masks))


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (np.zeros((9, 6, 7), bool), r"expected booleans or numbers of shape \(9, 6, 6\)"),
        (np.zeros((8, 6, 6), bool), r"of shape \(8, 6, 6\); expected"),
        (np.full((9, 6, 6), "x"), "are <U1"),
    ],
)
def test_masks_of_npz_that_do_not_fit(where, reason, tmp_path, make_spec, images):
    np.savez(tmp_path / "a.npz", images=images, where=where)
    fields = {"format": "npz", "file": str(tmp_path / "a.npz"), "labels": None, "masks": "where"}
    with pytest.raises(DataError, match=reason):
        index_data(make_spec(fields))
    with pytest.raises(DataError, match="no array 'wear'"):
        index_data(make_spec({**fields, "masks": "wear"}))


@pytest.fixture
def parquet(tmp_path):
    """Write columns as Parquet; the fields of a spec."""

    def write(**columns):
        pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=4)
        return {"format": "parquet", "files": [str(tmp_path / "a.parquet")], "label": None,
                "mask": "where"}  # fmt: skip

    return write


def test_encoded_masks_of_parquet(parquet, read_all, encode, images, masks):
    where = pa.array(_pngs(encode, masks), pa.binary())
    batch = read_all(parquet(image=pa.array(_pngs(encode, images), pa.binary()), where=where))
    assert torch.equal(batch.masks, torch.from_numpy(masks))


@pytest.mark.parametrize("stored", ["flat", "nested", "tensor"])
def test_raw_masks_of_parquet(stored, parquet, read_all, images, masks):
    where = {
        "flat": pa.array(list(masks.reshape(9, -1))),
        "nested": pa.array(masks.tolist()),
        "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(masks.astype(np.uint8)),
    }[stored]
    pixels = pa.FixedShapeTensorArray.from_numpy_ndarray(images.reshape(9, 1, SIDE, SIDE))
    batch = read_all(parquet(image=pixels, where=where))
    assert torch.equal(batch.masks, torch.from_numpy(masks))


def test_a_null_marks_nothing(parquet, read_all, encode, images, masks):
    encoded = [None if n % 2 else png for n, png in enumerate(_pngs(encode, masks))]
    raw = [None if n % 2 else mask for n, mask in enumerate(masks.reshape(9, -1))]
    expected = torch.from_numpy(masks).clone()
    expected[1::2] = False
    pngs = pa.array(_pngs(encode, images), pa.binary())
    batch = read_all(parquet(image=pngs, where=pa.array(encoded, pa.binary())))
    assert torch.equal(batch.masks, expected)
    pixels = pa.FixedShapeTensorArray.from_numpy_ndarray(images.reshape(9, 1, SIDE, SIDE))
    batch = read_all(parquet(image=pixels, where=pa.array(raw, pa.list_(pa.bool_()))))
    assert torch.equal(batch.masks, expected)


def test_bad_masks_are_rows_with_a_status(parquet, make_spec, encode, images, masks):
    encoded = _pngs(encode, masks)
    encoded[2] = b"no image"
    encoded[5] = encode(np.zeros((SIDE, SIDE + 1), np.uint8))
    pngs = pa.array(_pngs(encode, images), pa.binary())
    spec = make_spec(parquet(image=pngs, where=pa.array(encoded, pa.binary())))
    (shard,) = make_shards(index_data(spec), 100)
    (batch,) = read_shard(spec, shard, Preprocess(), batch_size=100)
    assert [(e.row, e.status) for e in batch.errors] == [(2, "decode_error"), (5, "shape_error")]
    assert batch.errors[0].error.startswith("mask: ")
    assert batch.errors[1].error == "the mask is 7x6, its image 6x6"
    kept = [0, 1, 3, 4, 6, 7, 8]
    assert torch.equal(batch.masks, torch.from_numpy(masks[kept]))


def test_raw_masks_need_raw_images(parquet, make_spec, encode, images, masks):
    fields = parquet(
        image=pa.array(_pngs(encode, images), pa.binary()),
        where=pa.FixedShapeTensorArray.from_numpy_ndarray(masks.astype(np.uint8)),
    )
    with pytest.raises(DataError, match=r"raw masks, .* encoded images; encode the masks too"):
        index_data(make_spec(fields))
    with pytest.raises(DataError, match=r"no column 'were'.*did you mean 'where'"):
        index_data(make_spec({**fields, "mask": "were"}))


@settings(max_examples=25, deadline=None)
@given(
    resize=st.sampled_from([None, SIDE * 2, SIDE * 3, [SIDE * 2, SIDE]]),
    crop=st.sampled_from([None, 4, 5, 20]),
)
def test_masks_are_resized_and_cropped_as_images(resize, crop, tmp_path_factory, make_spec):
    """Nearest resizing of an image that is its own mask gives the mask again."""
    masks = np.random.default_rng(2).random((4, SIDE, SIDE)) < 0.5
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    np.savez(path, images=masks, where=masks)
    spec = make_spec({"format": "npz", "file": str(path), "labels": None, "masks": "where"})
    index = index_data(spec)
    near = load_all(spec, index, Preprocess(resize=resize, crop=crop, interpolation="nearest"))
    smooth = load_all(spec, index, Preprocess(resize=resize, crop=crop, color="rgb"))
    assert torch.equal(near.masks, near.x[:, 0] > 0.5)
    assert torch.equal(smooth.masks, near.masks)


def test_images_of_many_sizes(parquet, make_spec, encode):
    sizes = [(6, 9), (12, 6), (6, 9), (8, 8)]
    arrays = [np.eye(h, w, dtype=bool) for h, w in sizes]
    fields = parquet(
        image=pa.array(_pngs(encode, arrays), pa.binary()),
        where=pa.array(_pngs(encode, arrays), pa.binary()),
    )
    spec = make_spec(fields)
    steps = Preprocess(resize=[6, 6], interpolation="nearest", color="gray")
    batch = load_all(spec, index_data(spec), steps)
    assert torch.equal(batch.masks, batch.x[:, 0] > 0.5)
