"""Ingest: any format to native Parquet, the same rows, resumable, complete or refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from gradattr.data import index_data, ingest
from gradattr.errors import ConflictError, DataError, UsageError
from gradattr.manifest.data import Preprocess

FORMATS = ("digits", "idx-gray", "idx-gz", "folder", "parquet", "npz-zipped", "webdataset")


@pytest.mark.parametrize("name", FORMATS)
def test_ingested_data_is_the_same_data(name, library, make_spec, read_rows, tmp_path):
    source = index_data(library[name])
    index = ingest(library[name], str(tmp_path / "out"), shard_rows=15)
    assert index.rows == source.rows
    assert len(index.files) == 3
    assert index.num_classes == source.num_classes
    assert index.class_names == source.class_names
    spec = make_spec({"format": "parquet", "files": [str(tmp_path / "out")]})
    before, after = read_rows(library[name]), read_rows(spec, shard_rows=7)
    assert torch.equal(before.x, after.x)
    assert (before.labels, before.ids) == (after.labels, after.ids)


def test_encoded_images_are_kept_byte_for_byte(library, tmp_path):
    ingest(library["folder"], str(tmp_path / "out"), shard_rows=100)
    (file,) = (tmp_path / "out").iterdir()
    row = pq.read_table(file).to_pylist()[0]
    source = Path(library["folder"].url) / row["sample_id"]
    assert row["image"] == {"bytes": source.read_bytes(), "path": row["sample_id"]}


def test_the_same_command_again_writes_only_what_is_missing(library, tmp_path):
    to = tmp_path / "out"
    first = ingest(library["npz"], str(to), shard_rows=10)
    files = sorted(to.iterdir())
    stamps = [file.stat().st_mtime_ns for file in files]
    content = files[2].read_bytes()
    files[2].unlink()
    told = []
    again = ingest(library["npz"], str(to), shard_rows=10, on_part=lambda *part: told.append(part))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert again.digest() == first.digest()
    assert files[2].read_bytes() == content
    kept = [stamp for at, stamp in enumerate(stamps) if at != 2]
    assert [f.stat().st_mtime_ns for at, f in enumerate(files) if at != 2] == kept
    assert sorted(to.iterdir()) == files


def test_an_incomplete_ingest_is_not_a_smaller_data_set(library, make_spec, tmp_path):
    to = tmp_path / "out"
    ingest(library["npz"], str(to), shard_rows=10)
    sorted(to.iterdir())[1].unlink()
    with pytest.raises(DataError, match="3 of 4 files of this ingested data set"):
        index_data(make_spec({"format": "parquet", "files": [str(to)]}))


def test_a_folder_with_other_data_is_refused(library, tmp_path):
    to = tmp_path / "out"
    ingest(library["npz"], str(to), shard_rows=10)
    before = sorted(to.iterdir())
    with pytest.raises(ConflictError, match="not of this data set"):
        ingest(library["npz"], str(to), shard_rows=20)
    assert sorted(to.iterdir()) == before


def test_preprocessing_at_ingest_equals_preprocessing_at_reading(
    library, make_spec, read_rows, tmp_path
):
    steps = Preprocess(resize=24, crop=[20, 16])
    index = ingest(library["folder"], str(tmp_path / "out"), shard_rows=15, preprocess=steps)
    assert (index.channels, index.size) == (3, (20, 16))
    got = read_rows(make_spec({"format": "parquet", "files": [str(tmp_path / "out")]}))
    assert torch.equal(got.x, read_rows(library["folder"], steps).x)


def test_normalising_at_ingest_is_refused(library, tmp_path):
    with pytest.raises(UsageError, match="belong to the model"):
        ingest(
            library["npz"],
            str(tmp_path),
            shard_rows=10,
            preprocess=Preprocess(mean=[0.5], std=[0.5]),
        )


@pytest.mark.parametrize("steps", [None, Preprocess(crop=16)])
def test_bad_rows_keep_their_place(
    steps, make_spec, read_rows, write_folder, pixels, encode, tmp_path
):
    good = encode(pixels[0])
    files = {"a.png": good, "b.png": b"no image", "c.png": good[:200], "d.png": good}
    spec = make_spec({"format": "folder", "url": write_folder(tmp_path / "in", files)})
    ingest(spec, str(tmp_path / "out"), shard_rows=3, preprocess=steps)
    got = read_rows(make_spec({"format": "parquet", "files": [str(tmp_path / "out")]}))
    assert got.ids == ["a.png", "d.png"]
    assert [(e.row, e.sample_id, e.status) for e in got.errors] == [
        (1, "b.png", "decode_error"),
        (2, "c.png", "decode_error"),
    ]


def test_nothing_but_finished_files_is_left(library, tmp_path, monkeypatch):
    import gradattr.data.files as files

    def torn(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", torn)
    with pytest.raises(Exception, match="disk is full") as caught:
        ingest(library["npz"], str(tmp_path / "out"), shard_rows=10)
    assert caught.value.exit_code == 3
    assert list((tmp_path / "out").iterdir()) == []
