"""IDX: damage is told at index time, and a gzip file is decompressed once per worker."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from gradattr.data import index_data, make_shards
from gradattr.data.idx import IdxReader
from gradattr.errors import DataError


@pytest.fixture
def files(tmp_path, write_idx, pixels, labels):
    """Paths of good gray images and labels."""
    return {
        "images": write_idx(tmp_path / "images", pixels[..., 0]),
        "labels": write_idx(tmp_path / "labels", labels),
    }


@pytest.fixture
def fails(make_spec):
    def fails(text: str, **spec):
        with pytest.raises(DataError, match=text) as caught:
            index_data(make_spec({"format": "idx", **spec}))
        assert caught.value.exit_code == 2

    return fails


def test_gzip_and_plain_are_the_same(tmp_path, make_spec, read_rows, write_idx, files, pixels):
    zipped = write_idx(tmp_path / "images.gz", pixels[..., 0])
    plain = read_rows(make_spec({"format": "idx", "images": files["images"]}))
    got = read_rows(make_spec({"format": "idx", "images": zipped}), shard_rows=7)
    assert torch.equal(got.x, plain.x)
    assert set(got.labels) == {-1}


def test_four_dimensions_have_the_colour_last_or_second(
    tmp_path, make_spec, read_rows, write_idx, pixels
):
    last = write_idx(tmp_path / "last", pixels)
    second = write_idx(tmp_path / "second", pixels.transpose(0, 3, 1, 2))
    one, two = (read_rows(make_spec({"format": "idx", "images": url})) for url in (last, second))
    assert torch.equal(one.x, two.x) and one.x.shape == (40, 3, 32, 32)


def test_a_gzip_file_is_decompressed_once_per_worker(library, read_rows, monkeypatch):
    calls = []
    original = IdxReader._values
    monkeypatch.setattr(
        IdxReader, "_values", lambda self, *args: calls.append(args[0]) or original(self, *args)
    )
    read_rows(library["idx-gz"], shard_rows=3)
    assert len(calls) == 2  # the images and the labels, for fourteen shards


def test_a_plain_file_is_read_by_ranges(library, read_rows, monkeypatch):
    monkeypatch.setattr(IdxReader, "_whole", None)
    assert len(read_rows(library["idx-gray"], shard_rows=3).rows) == 40


def test_missing_files(fails, tmp_path, files):
    fails("no such file", images=str(tmp_path / "nothing"))
    fails("no such file", images=files["images"], labels=str(tmp_path / "nothing"))
    fails("folder", images=str(tmp_path))


@pytest.mark.parametrize("data", [b"", b"\0\0", b"<html>not found</html>", b"PK\x03\x04" * 9])
def test_what_is_no_idx_file(data, fails, tmp_path):
    (tmp_path / "bad").write_bytes(data)
    fails("not an IDX file|header", images=str(tmp_path / "bad"))


def test_truncated_and_overlong_files(fails, tmp_path, files):
    data = Path(files["images"]).read_bytes()
    for name, content in (("short", data[:-1]), ("long", data + b"\0"), ("head", data[:9])):
        (tmp_path / name).write_bytes(content)
        fails("truncated|damaged", images=str(tmp_path / name))
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        fails("truncated|damaged", images=str(tmp_path / f"{name}.gz"))


def test_damaged_gzip(fails, tmp_path, files):
    data = bytearray(gzip.compress(Path(files["images"]).read_bytes()))
    (tmp_path / "cut.gz").write_bytes(data[:-900])
    fails("gzip data is truncated or damaged", images=str(tmp_path / "cut.gz"))
    data[-6] ^= 0xFF  # the checksum
    (tmp_path / "crc.gz").write_bytes(data)
    fails("gzip data is truncated or damaged", images=str(tmp_path / "crc.gz"))


def test_a_header_that_promises_the_moon_costs_nothing(fails, tmp_path):
    head = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 28, 28)
    (tmp_path / "moon.gz").write_bytes(gzip.compress(head + b"\0" * 1000))
    fails("truncated", images=str(tmp_path / "moon.gz"))
    head = struct.pack(">BBBB3I", 0, 0, 8, 3, 1, 2**16, 2**16)
    (tmp_path / "wide.gz").write_bytes(gzip.compress(head))
    fails("truncated|max_pixels", images=str(tmp_path / "wide.gz"))


def test_labels_that_do_not_fit(fails, tmp_path, write_idx, files, labels):
    short = write_idx(tmp_path / "short", labels[:-1])
    fails("39 labels for 40 images", images=files["images"], labels=short)
    fails("swapped", images=files["images"], labels=files["images"])
    fails("images are", images=files["labels"])
    fails(
        r"12 of 40 labels are out of range.*0 to 6 \(7 classes\)",
        images=files["images"],
        labels=files["labels"],
        classes=list("abcdefg"),
    )


def test_an_empty_data_set(fails, tmp_path, write_idx):
    empty = write_idx(tmp_path / "empty", np.zeros((0, 28, 28)))
    fails("empty", images=empty)


def test_data_that_changed_since_the_plan_is_not_read(tmp_path, make_spec, read_rows, write_idx):
    url = write_idx(tmp_path / "images", np.zeros((9, 4, 4)))
    spec = make_spec({"format": "idx", "images": url})
    shards = make_shards(index_data(spec), 4)
    write_idx(tmp_path / "images", np.zeros((8, 4, 4)))
    with pytest.raises(DataError, match="changed since the plan"):
        read_rows(spec, shards=shards)
