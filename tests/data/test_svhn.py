"""SVHN .mat files."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io

from gradattr.data import index_data
from gradattr.errors import DataError


@pytest.fixture
def fails(make_spec, tmp_path):
    def fails(text: str, arrays=None, **spec):
        file = tmp_path / "x.mat"
        if arrays is not None:
            scipy.io.savemat(file, arrays)
        with pytest.raises(DataError, match=text):
            index_data(make_spec({"format": "svhn", "file": str(file), **spec}))

    return fails


@pytest.fixture
def arrays(pixels, labels):
    return {"X": pixels.transpose(1, 2, 3, 0), "y": labels[:, None]}


def test_label_ten_is_zero(library, read_rows, labels):
    stored = scipy.io.loadmat(library["svhn"].file)["y"]
    assert stored.max() == 10 and stored.min() == 1
    assert read_rows(library["svhn"], shard_rows=9).labels == labels.tolist()
    assert index_data(library["svhn"]).class_names == tuple("0123456789")


def test_wrong_content(fails, arrays):
    fails("expected arrays 'X' and 'y'; there are \\['X'\\]", {"X": arrays["X"]})
    fails("39 labels for 40 images", {**arrays, "y": arrays["y"][:-1]})
    fails("'X' is float64", {**arrays, "X": arrays["X"] / 255})
    fails(r"'X' is uint8 of shape \(32, 32, 3\)", {**arrays, "X": arrays["X"][..., 0]})
    fails("out of range.*12", {**arrays, "y": np.full((40, 1), 12)})
    fails("max_pixels", arrays, max_pixels=100)


def test_missing_truncated_and_foreign_files(fails, tmp_path, arrays):
    fails("no such file")
    for content in (b"", b"<html></html>" * 40, b"\x89HDF\r\n\x1a\n" + bytes(600)):
        (tmp_path / "x.mat").write_bytes(content)
        fails("not a readable .mat file")
    scipy.io.savemat(tmp_path / "x.mat", arrays)
    data = (tmp_path / "x.mat").read_bytes()
    (tmp_path / "x.mat").write_bytes(data[: len(data) // 2])
    fails("not a readable .mat file|expected arrays")
