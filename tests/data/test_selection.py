"""Ingest of some classes and some rows, and of masks: the rows that were meant, and no others."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.data import index_data, ingest, load_all
from gradattr.data.registry import index_rows
from gradattr.data.selection import select
from gradattr.errors import ConflictError, DataError, UsageError
from gradattr.manifest.data import Preprocess
from gradattr.manifest.data_base import Patch

FORMATS = ("digits", "idx-gray", "cifar10", "svhn", "folder", "parquet", "npz", "webdataset")


def load(spec, steps=None):
    return load_all(spec, index_data(spec), steps or Preprocess())


@pytest.fixture
def ingested(tmp_path, make_spec):
    """Ingest, and what is read of it then."""

    def run(spec, *, shard_rows=4, steps=None, **selection):
        to = str(tmp_path / "out")
        index = ingest(spec, to, shard_rows=shard_rows, preprocess=steps, **selection)
        mask = "mask" if spec.has_masks else None
        after = make_spec({"format": "parquet", "files": [to], "mask": mask})
        return index, load(after)

    return run


@pytest.mark.parametrize("name", FORMATS)
def test_only_some_classes_with_new_labels(name, library, ingested):
    before = load(library[name])
    index, after = ingested(library[name], only=[8, 1, 5])
    at = torch.isin(before.labels, torch.tensor([8, 1, 5])).nonzero().flatten()
    assert torch.equal(after.x, before.x[at])
    assert after.sample_ids == [before.sample_ids[row] for row in at]
    assert [[8, 1, 5][label] for label in after.labels] == before.labels[at].tolist()
    assert {file.rows for file in index.files[:-1]} == {4}
    names = index_data(library[name]).class_names
    expected = ("8", "1", "5") if names is None else (names[8], names[1], names[5])
    assert (index.num_classes, index.class_names) == (3, expected)


def test_classes_by_name(library, ingested):
    index, after = ingested(library["cifar10"], only=["dog", "ship", "automobile"])
    assert index.class_names == ("dog", "ship", "automobile")
    before = load(library["cifar10"])
    assert torch.equal(after.x[after.labels == 0], before.x[before.labels == 5])


@settings(max_examples=30, deadline=None)
@given(
    only=st.none() | st.lists(st.integers(0, 9), min_size=1, max_size=10, unique=True),
    rows=st.tuples(st.integers(0, 39), st.integers(1, 40)).filter(lambda r: r[0] < r[1]),
    shard_rows=st.integers(1, 41),
)
def test_any_selection_is_what_a_filter_would_take(
    only, rows, shard_rows, library, make_spec, tmp_path_factory
):
    before = load(library["npz"])
    wanted = [row for row in range(*rows) if only is None or int(before.labels[row]) in only]
    to = str(tmp_path_factory.mktemp("ingest"))
    if not wanted:
        with pytest.raises(DataError, match="the selection is empty"):
            ingest(library["npz"], to, shard_rows=shard_rows, only=only, rows=rows)
        return
    index = ingest(library["npz"], to, shard_rows=shard_rows, only=only, rows=rows)
    assert {file.rows for file in index.files[:-1]} <= {shard_rows}
    after = load(make_spec({"format": "parquet", "files": [to]}))
    assert torch.equal(after.x, before.x[wanted])
    labels = before.labels[wanted].tolist()
    assert after.labels.tolist() == (labels if only is None else [only.index(n) for n in labels])


def test_the_whole_by_other_words_is_the_same_files(library, tmp_path):
    ingest(library["npz"], str(tmp_path / "out"), shard_rows=10)
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    ingest(library["npz"], str(tmp_path / "out"), shard_rows=10, rows=(None, 40), only=[])
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == files


def test_another_selection_is_another_data_set(library, tmp_path):
    to = str(tmp_path / "out")
    first = ingest(library["npz"], to, shard_rows=10, only=[1, 2])
    assert ingest(library["npz"], to, shard_rows=10, only=["1", "2"]).digest() == first.digest()
    for other in ({"only": [2, 1]}, {"only": [1, 2], "rows": (0, 39)}, {}):
        with pytest.raises(ConflictError, match="not of this data set"):
            ingest(library["npz"], to, shard_rows=10, **other)


@pytest.mark.parametrize(
    ("name", "fields", "error", "reason"),
    [
        ("cifar10", {"only": ["dgo"]}, DataError, "only: .* 'dgo'; did you mean 'dog'"),
        ("npz", {"only": [10]}, DataError, "no class 10; the data has classes 0 to 9"),
        ("npz", {"only": ["dog"]}, DataError, "no names of its classes"),
        ("npy-gray", {"only": [1]}, DataError, "this data has no labels"),
        ("npz", {"only": [1, "1"]}, UsageError, "stands there twice: 1, 1"),
        ("npz", {"only": [0], "rows": (1, 5)}, DataError, "no row from 1 to 4 is of class 0"),
        ("npz", {"rows": (5, 5)}, UsageError, "rows 5:5 were asked for; .* <= 40"),
        ("npz", {"rows": (0, 41)}, UsageError, "rows 0:41"),
        ("npz", {"rows": (-3, None)}, UsageError, "rows -3:40"),
    ],
)
def test_selections_that_are_refused(name, fields, error, reason, library, tmp_path):
    with pytest.raises(error, match=reason):
        ingest(library[name], str(tmp_path / "out"), shard_rows=10, **fields)
    assert not (tmp_path / "out").exists()


def test_labels_that_are_not_known_beforehand(make_spec):
    index = index_rows(make_spec({"format": "theory"}))
    with pytest.raises(DataError, match="does not tell its labels before its images are read"):
        select(index, ["+1"]).rows(index)


@pytest.mark.parametrize("name", ["npz", "folder", "digits"])
@pytest.mark.parametrize("steps", [None, Preprocess(resize=24, crop=20)])
def test_a_patch_and_its_mask_are_ingested(name, steps, library, ingested):
    patch = Patch.model_validate({"class": 1, "fraction": 0.5, "size": 7, "colour": [255, 0, 0]})
    spec = library[name].model_copy(update={"patch": patch})
    before = load(spec, steps)
    _, after = ingested(spec, steps=steps, shard_rows=15)
    assert before.masks.any()
    assert torch.equal(after.x, before.x) and torch.equal(after.masks, before.masks)
    assert after.sample_ids == before.sample_ids


def test_a_patch_survives_a_selection(library, ingested):
    patch = Patch.model_validate({"class": 5, "fraction": 0.5, "size": 3})
    before = load(library["cifar10"].model_copy(update={"patch": patch}))
    spec = library["cifar10"].model_copy(update={"patch": patch})
    _, after = ingested(spec, only=["ship", "dog"])
    of_both = (before.labels == 5) | (before.labels == 8)
    assert torch.equal(after.x, before.x[of_both])
    assert torch.equal(after.masks, before.masks[of_both])
    assert int(after.masks.any(2).any(1).sum()) == 2


def test_masks_of_their_own_are_ingested(make_spec, ingested):
    spec = make_spec({"format": "blockmnist", "limit": 30})
    before = load(spec)
    _, after = ingested(spec, only=["1"])
    of_one = before.labels == 1
    assert torch.equal(after.x, before.x[of_one])
    assert torch.equal(after.masks, before.masks[of_one])


def test_encoded_masks_stay_encoded(encode, make_spec, ingested, tmp_path):
    masks = np.random.default_rng(0).random((5, 6, 7)) < 0.5
    pngs = [encode(mask.astype(np.uint8) * np.uint8(255)) for mask in masks]
    columns = {
        "image": pa.array([*pngs, b"no image"], pa.binary()),
        "where": pa.array([*pngs[:4], None, pngs[4]], pa.binary()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    fields = {"format": "parquet", "files": [str(tmp_path / "a.parquet")], "label": None}
    spec = make_spec({**fields, "mask": "where", "limit": 5})
    _, after = ingested(spec)
    assert torch.equal(after.masks[:4], torch.from_numpy(masks[:4]))
    assert not after.masks[4].any()
    (first, *_) = sorted((tmp_path / "out").iterdir())
    row = pq.read_table(first).to_pylist()[0]
    assert row["image"]["bytes"] == pngs[0] and row["mask"]["bytes"][:4] == b"\x89PNG"
