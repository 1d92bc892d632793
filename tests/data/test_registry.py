"""Laws that every format keeps: any sharding and any batch size give the same rows."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.data import (
    DataIndex,
    FileRef,
    ShardRef,
    index_data,
    input_shape,
    load_all,
    make_shards,
    read_shard,
    sample_shards,
)
from gradattr.errors import DataError
from gradattr.manifest.data import Preprocess

FORMATS = (
    "digits",
    "idx-gray",
    "idx-gz",
    "cifar10",
    "svhn",
    "folder",
    "parquet",
    "parquet-raw",
    "parquet-lists",
    "npz",
    "npz-zipped",
    "npy-gray",
    "webdataset",
)
COLOUR = tuple(name for name in FORMATS if name not in ("digits", "idx-gray", "npy-gray"))


@pytest.mark.parametrize("name", COLOUR)
def test_every_format_gives_the_same_pixels_and_labels(name, library, read_rows, pixels, labels):
    got = read_rows(library[name], batch_size=7)
    order = np.argsort(labels, kind="stable") if name == "folder" else np.arange(len(labels))
    expected = torch.from_numpy(pixels[order]).permute(0, 3, 1, 2) / 255
    assert torch.equal(got.x, expected)
    assert got.labels == labels[order].tolist()
    assert got.rows == list(range(40))
    assert len(set(got.ids)) == 40
    assert got.errors == []


@pytest.mark.parametrize("name", ["idx-gray", "npy-gray"])
def test_gray_formats_keep_one_channel(name, library, read_rows, pixels):
    got = read_rows(library[name])
    assert torch.equal(got.x[:, 0], torch.from_numpy(pixels[..., 0]) / 255)
    assert index_data(library[name]).channels == 1


@pytest.mark.parametrize("name", FORMATS)
def test_an_index_tells_rows_classes_and_shape(name, library):
    index = index_data(library[name])
    assert index.rows == 40
    assert index.num_classes == (None if name == "npy-gray" else 10)
    shape = input_shape(library[name], index, Preprocess())
    assert shape[0] == index.channels
    assert index.size in (None, shape[1:])
    assert sum(file.rows for file in index.files) == 40
    assert [file.first_row for file in index.files] == list(
        np.cumsum([0, *(file.rows for file in index.files)])[:-1]
    )


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_any_sharding_and_batch_size_give_the_same(name, data, library, read_rows):
    spec = library[name]
    index = index_data(spec)
    preprocess = Preprocess(resize=[20, 17], crop=16)
    whole = read_rows(spec, preprocess, shards=make_shards(index, 40), batch_size=40)
    shards = make_shards(index, data.draw(st.integers(1, 41)))
    size = data.draw(st.integers(1, 41))
    got = read_rows(spec, preprocess, shards=shards, batch_size=size)
    assert torch.equal(got.x, whole.x)
    assert (got.labels, got.rows, got.ids) == (whole.labels, whole.rows, whole.ids)
    assert got.batches == sum(-(-shard.rows // size) for shard in shards)


@pytest.mark.parametrize("name", FORMATS)
def test_a_shard_survives_json(name, library, read_rows):
    shards = make_shards(index_data(library[name]), 11)
    again = [ShardRef.from_json(json.loads(json.dumps(s.to_json()))) for s in shards]
    got, expected = (read_rows(library[name], shards=s) for s in (again, shards))
    assert torch.equal(got.x, expected.x)
    assert got.ids == expected.ids


@pytest.mark.parametrize("name", FORMATS)
def test_load_all_equals_reading(name, library, read_rows):
    spec = library[name]
    batch = load_all(spec, index_data(spec), Preprocess())
    got = read_rows(spec)
    assert torch.equal(batch.x, got.x)
    assert (batch.labels.tolist(), batch.rows, batch.sample_ids) == (got.labels, got.rows, got.ids)


@pytest.mark.parametrize("name", FORMATS)
def test_the_limit_takes_the_first_rows(name, library, read_rows):
    spec = library[name].model_copy(update={"limit": 13})
    index = index_data(spec)
    assert index.rows == sum(file.rows for file in index.files) == 13
    whole, part = read_rows(library[name]), read_rows(spec, shard_rows=5)
    assert part.ids == whole.ids[:13]
    assert torch.equal(part.x, whole.x[:13])


@pytest.mark.parametrize("name", FORMATS)
def test_sampled_rows_are_rows_of_the_data_set(name, library, read_rows):
    index = index_data(library[name])
    shards = sample_shards(index, 9, seed=3)
    assert shards == sample_shards(index, 9, seed=3)
    assert shards != sample_shards(index, 9, seed=4)
    whole, got = read_rows(library[name]), read_rows(library[name], shards=shards)
    assert got.rows == sorted(set(got.rows)) and len(got.rows) == 9
    assert torch.equal(got.x, whole.x[got.rows])
    assert got.ids == [whole.ids[row] for row in got.rows]


def test_sampling_more_than_there_is_takes_all(library):
    shards = sample_shards(index_data(library["npz"]), 1000, seed=0)
    assert [(shard.start, shard.rows) for shard in shards] == [(0, 40)]


@pytest.mark.parametrize("name", FORMATS)
def test_the_digest_is_stable_and_does_not_contain_the_place(name, library):
    first, second = (index_data(library[name]).digest() for _ in range(2))
    assert first == second
    quick = index_data(library[name].model_copy(update={"digest": "quick"}))
    assert quick.rows == 40 and (name == "digits" or quick.digest() != first)


def test_ten_thousand_shards_of_many_files_take_no_time():
    files = tuple(FileRef(f"f{row}", 1, "0", row, 1) for row in range(100_000))
    index = DataIndex("folder", len(files), files, None, None, 3, None)
    start = time.process_time()
    shards = make_shards(index, 10)
    assert time.process_time() - start < 2
    assert len(shards) == 10_000
    assert all(len(shard.files) == 10 for shard in shards)


def test_a_shard_names_only_the_files_it_needs(library):
    shards = make_shards(index_data(library["cifar10"]), 10)
    assert [[f.url[-7:] for f in s.files] for s in shards] == [
        ["one.bin"],
        ["one.bin"],
        ["one.bin", "two.bin"],
        ["two.bin"],
    ]


def test_reading_is_lazy(library):
    spec = library["folder"]
    (shard,) = make_shards(index_data(spec), 40)
    batch = next(iter(read_shard(spec, shard, Preprocess(), batch_size=4)))
    assert batch.rows == [0, 1, 2, 3]


def test_mean_of_another_channel_count_is_refused(library):
    index = index_data(library["npz"])
    with pytest.raises(DataError, match=r"mean has 2 numbers, the images have 3 channels"):
        input_shape(library["npz"], index, Preprocess(mean=[0.1, 0.2], std=[1.0, 1.0]))
