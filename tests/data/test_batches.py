"""From raw rows to batches: every row once, in rows or in errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.data import index_data, load_all
from gradattr.data.batches import make_batches
from gradattr.data.raw import RawRows, row_ids
from gradattr.errors import DataError
from gradattr.manifest.data import Preprocess


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["good", "small", "none", "text", "cut"]), max_size=30),
    size=st.integers(1, 9),
)
def test_each_row_stands_exactly_once_in_rows_or_errors(kinds, size, encode, pixels):
    good = encode(pixels[0])
    data = {"good": good, "small": encode(pixels[0][:9]), "none": None, "text": b"x"}
    data["cut"] = good[:200]
    images = [data[kind] for kind in kinds]
    raw = RawRows(100, row_ids(100, len(kinds)), np.arange(len(kinds)), images)
    batches = list(
        make_batches([raw], Preprocess(), (3, 32, 32), batch_size=size, max_pixels=10_000)
    )
    rows = [row for batch in batches for row in batch.rows]
    errors = [error for batch in batches for error in batch.errors]
    assert sorted(rows + [error.row for error in errors]) == list(range(100, 100 + len(kinds)))
    assert rows == [100 + at for at, kind in enumerate(kinds) if kind == "good"]
    assert [label for batch in batches for label in batch.labels] == [row - 100 for row in rows]
    status = {"small": "shape_error", "none": "decode_error", "text": "decode_error"}
    assert [error.status for error in errors] == [
        status.get(kind, "decode_error") for kind in kinds if kind != "good"
    ]
    assert all(batch.x.shape == (len(batch), 3, 32, 32) for batch in batches)


def test_large_images_are_resized_in_small_groups(encode, pixels, monkeypatch):
    images = [encode(image) for image in pixels[:9]]
    raw = RawRows(0, row_ids(0, 9), np.zeros(9, np.int64), images)
    steps, options = Preprocess(resize=20), {"batch_size": 9, "max_pixels": 10_000}
    (whole,) = make_batches([raw], steps, (3, 20, 20), **options)
    monkeypatch.setattr("gradattr.data.batches._TOGETHER", 2 * 32 * 32)
    (parts,) = make_batches([raw], steps, (3, 20, 20), **options)
    assert torch.equal(whole.x, parts.x)


def test_training_data_with_bad_rows_is_refused_with_their_names(
    make_spec, write_folder, tmp_path, encode, pixels
):
    files = {f"{n}.png": b"bad" for n in range(8)} | {"9.png": encode(pixels[0])}
    spec = make_spec({"format": "folder", "url": write_folder(tmp_path / "f", files)})
    with pytest.raises(
        DataError, match=r"8 of 9 rows cannot be used.*'0\.png': decode_error.*\.\.\."
    ):
        load_all(spec, index_data(spec), Preprocess())


def test_batches_own_their_memory(library, read_rows):
    """Writing into a batch must not change what the next reader of the cache sees."""
    first = read_rows(library["svhn"])
    kept = first.x.clone()
    first.x.zero_()
    assert torch.equal(read_rows(library["svhn"]).x, kept)
