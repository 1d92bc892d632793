"""Parquet: Hugging Face's convention, raw tensors, damage, labels and ids."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gradattr.data import index_data, make_shards
from gradattr.data.parquet import ParquetReader
from gradattr.errors import DataError, ShardError


@pytest.fixture
def pngs(pixels, encode):
    return [encode(image) for image in pixels]


@pytest.fixture
def spec_of(make_spec, tmp_path):
    """A table (or a path) to its spec."""

    def spec_of(table=None, **spec):
        file = tmp_path / "t.parquet"
        if isinstance(table, dict):
            table = pa.table(table)
        if table is not None:
            pq.write_table(table, file, row_group_size=8, write_page_checksum=True)
        return make_spec({"format": "parquet", "files": [str(file)], **spec})

    return spec_of


@pytest.fixture
def fails(spec_of):
    def fails(text: str, table=None, **spec):
        with pytest.raises(DataError, match=text):
            index_data(spec_of(table, **spec))

    return fails


def test_names_of_a_hugging_face_class_label(tmp_path, write_parquet, make_spec, pngs, labels):
    names = [f"<i>{name}</i>" for name in "abcdefghij"]
    url = write_parquet(tmp_path / "a.parquet", pngs, labels, names=names)
    index = index_data(make_spec({"format": "parquet", "files": [url]}))
    assert index.class_names == tuple(names)
    assert index.num_classes == 10
    other = make_spec({"format": "parquet", "files": [url], "classes": list("ABCDEFGHIJ")})
    assert index_data(other).class_names == tuple("ABCDEFGHIJ")


def test_folders_and_patterns(tmp_path, write_parquet, make_spec, read_rows, pngs, labels):
    (tmp_path / "set").mkdir()
    for n in range(3):
        write_parquet(tmp_path / f"set/{n}.parquet", pngs[n * 5 : n * 5 + 5], labels[:5])
    (tmp_path / "set/notes.txt").write_text("no data")
    by_folder = read_rows(make_spec({"format": "parquet", "files": [str(tmp_path / "set")]}))
    pattern = {"format": "parquet", "files": [f"file://{tmp_path}/set/*.parquet"]}
    assert torch.equal(by_folder.x, read_rows(make_spec(pattern), shard_rows=4).x)
    assert by_folder.ids == [f"{row:08d}" for row in range(15)]


def test_ids_from_a_column(spec_of, read_rows, pngs, labels):
    ids = [f"<script>alert({n})</script>" for n in range(40)]
    table = {"image": pngs, "label": labels, "sample_id": ids, "number": np.arange(100, 140)}
    assert read_rows(spec_of(table), shard_rows=9).ids == ids
    assert read_rows(spec_of(table, id="number")).ids == [str(n) for n in range(100, 140)]


def test_binary_images_and_null_labels(spec_of, read_rows, pngs, pixels):
    labels = pa.array([None, 3, *range(38)], pa.int32())
    got = read_rows(spec_of({"image": pngs, "label": labels}))
    assert got.labels[:3] == [-1, 3, 0]
    assert torch.equal(got.x, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)


def test_string_labels_are_named_in_classes(spec_of, fails, read_rows, pngs):
    names = ["cat", "dog"] * 20
    for column in (names, pa.array(names).dictionary_encode()):
        table = {"image": pngs, "label": column}
        assert read_rows(spec_of(table, classes=["dog", "cat"])).labels == [1, 0] * 20
    fails("list them in 'classes'", {"image": pngs, "label": names})
    fails(
        "'dog' .row 1 of the file, 20 rows in all. is not in 'classes'; did you mean 'dogs'",
        {"image": pngs, "label": names},
        classes=["cat", "dogs"],
    )


def test_labels_out_of_range_and_of_other_types(fails, pngs, labels):
    fails(
        r"4 of 40 labels are out of range, the first is 9 in row 7; expected 0 to 8",
        {"image": pngs, "label": labels},
        classes=list("abcdefghi"),
    )
    fails("out of range", {"image": pngs, "label": labels - 2})
    fails("labels are double", {"image": pngs, "label": labels / 2})


def test_columns_that_are_not_there(fails, pngs, labels):
    fails(
        "no column 'image'; there are 'img', 'label'; did you mean 'img'",
        {"img": pngs, "label": labels},
    )
    fails("no column 'label'.*null for none", {"image": pngs, "class": labels})
    fails("no column 'key'", {"image": pngs, "label": labels}, id="key")


def test_without_labels(spec_of, read_rows, pngs):
    spec = spec_of({"image": pngs}, label=None)
    assert set(read_rows(spec).labels) == {-1}
    assert index_data(spec).num_classes is None


def test_duplicate_and_null_ids(fails, pngs, labels):
    ids = [str(n // 2) for n in range(40)]
    table = {"image": pngs, "label": labels, "sample_id": ids}
    fails("not unique: '0' stands in 2 rows, 20 ids", table)
    fails("1 null sample ids", {**table, "sample_id": [None, *map(str, range(39))]})
    fails("strings or integers", {**table, "sample_id": [[1]] * 40})


def test_duplicate_ids_across_files(tmp_path, make_spec, write_parquet, pngs, labels):
    for name in "ab":
        write_parquet(
            tmp_path / f"{name}.parquet", pngs[:2], labels[:2], sample_id=[f"{name}", "same"]
        )
    with pytest.raises(DataError, match="'same' stands in 2 rows"):
        index_data(make_spec({"format": "parquet", "files": [str(tmp_path)]}))


def test_bad_rows_are_rows_with_a_status(tmp_path, make_spec, write_parquet, read_rows, pngs):
    images = [pngs[0], None, b"", b"<html>", pngs[1][:99], pngs[2]]
    url = write_parquet(tmp_path / "a.parquet", images, list(range(6)))
    got = read_rows(make_spec({"format": "parquet", "files": [url]}), batch_size=4)
    assert got.rows == [0, 5] and got.labels == [0, 5]
    assert [(error.row, error.status) for error in got.errors] == [
        (row, "decode_error") for row in (1, 2, 3, 4)
    ]
    assert "paths in a data set are not followed" in got.errors[0].error


def test_a_path_is_never_opened(tmp_path, spec_of, read_rows, pngs):
    secret = tmp_path / "secret.png"
    secret.write_bytes(pngs[0])
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": pngs[1], "path": "/etc/passwd"}, {"bytes": None, "path": str(secret)}]
    got = read_rows(spec_of({"image": pa.array(rows, kind)}, label=None))
    assert got.rows == [0] and got.errors[0].status == "decode_error"


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"<html>404</html>", b"PAR1" + bytes(99) + b"PAR1"]
)
def test_what_is_no_parquet_file(content, fails, tmp_path):
    (tmp_path / "t.parquet").write_bytes(content)
    fails("footer is truncated or damaged")


def test_a_truncated_file_is_told_at_index_time(fails, spec_of, tmp_path, pngs, labels):
    spec_of({"image": pngs, "label": labels})
    data = (tmp_path / "t.parquet").read_bytes()
    for size in (len(data) // 2, len(data) - 1, len(data) - 300):
        (tmp_path / "t.parquet").write_bytes(data[:size])
        fails("footer is truncated or damaged")


def test_missing_files_and_empty_data(fails, spec_of, tmp_path, make_spec):
    fails("no such file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.txt").write_text("x")
    with pytest.raises(DataError, match=r"no file there ends in \.parquet"):
        index_data(make_spec({"format": "parquet", "files": [str(tmp_path / "folder")]}))
    fails("empty", {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())})


def damage_group(path, group: int, column: str) -> None:
    """Flip bytes in the middle of one column chunk's data."""
    meta = pq.ParquetFile(path).metadata.row_group(group)
    names = [meta.column(n).path_in_schema for n in range(meta.num_columns)]
    chunk = meta.column(next(n for n, name in enumerate(names) if name.startswith(column)))
    data = bytearray(path.read_bytes())
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    at = begin + chunk.total_compressed_size // 2
    data[at : at + 8] = bytes(byte ^ 0x55 for byte in data[at : at + 8])
    path.write_bytes(data)


def test_a_corrupt_row_group_fails_its_shard_and_no_other(
    spec_of, read_rows, tmp_path, pngs, labels
):
    spec = spec_of({"image": pngs, "label": labels})
    damage_group(tmp_path / "t.parquet", 2, "image")
    shards = make_shards(index_data(spec), 8)
    for shard in shards:
        if shard.index == 2:
            with pytest.raises(
                ShardError, match=r"t\.parquet: row group 2 cannot be read"
            ) as error:
                read_rows(spec, shards=[shard])
            assert error.value.exit_code == 3
        else:
            assert len(read_rows(spec, shards=[shard]).rows) == 8


def test_a_corrupt_group_is_told_also_where_groups_are_streamed(
    spec_of, read_rows, tmp_path, pngs, labels, monkeypatch
):
    monkeypatch.setattr("gradattr.data.parquet._KEEP_GROUP", 0)
    spec = spec_of({"image": pngs, "label": labels})
    assert len(read_rows(spec, shard_rows=11).rows) == 40
    damage_group(tmp_path / "t.parquet", 1, "image")
    shards = make_shards(index_data(spec), 8)
    with pytest.raises(ShardError, match="row group 1"):
        read_rows(spec, shards=shards[1:2])
    assert len(read_rows(spec, shards=shards[2:]).rows) == 24


def test_a_corrupt_label_column_is_told_at_index_time(fails, spec_of, tmp_path, pngs, labels):
    spec_of({"image": pngs, "label": labels})
    damage_group(tmp_path / "t.parquet", 1, "label")
    fails("column 'label' cannot be read")


def test_large_groups_are_streamed_with_the_same_result(library, read_rows, monkeypatch):
    expected = read_rows(library["parquet"], shard_rows=7)
    monkeypatch.setattr("gradattr.data.parquet._KEEP_GROUP", 0)
    got = read_rows(library["parquet"], shard_rows=7)
    assert torch.equal(got.x, expected.x) and got.ids == expected.ids


def test_a_row_group_is_decoded_once_for_the_shards_in_it(library, read_rows, monkeypatch):
    reads = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, **rest: reads.append(group) or original(self, group, **rest),
    )
    read_rows(library["parquet"], shard_rows=2)
    assert len(reads) == 4  # of the two files' three groups and one


def test_only_the_needed_row_groups_are_read(library, read_rows, monkeypatch):
    reads = []
    original = ParquetReader._group
    monkeypatch.setattr(
        ParquetReader,
        "_group",
        lambda self, file, ref, group, *rest: (
            reads.append((ref.url[-9:], group)) or original(self, file, ref, group, *rest)
        ),
    )
    shards = make_shards(index_data(library["parquet"]), 4)
    read_rows(library["parquet"], shards=shards[3:4])
    assert reads == [("a.parquet", 1)]


RAW = np.arange(4 * 3 * 5 * 6, dtype=np.uint8).reshape(4, 3, 5, 6)


@pytest.mark.parametrize("dims", [["C", "H", "W"], ["H", "W", "C"], ["height", "width", "channel"]])
def test_tensor_types_say_their_axes(dims, spec_of, read_rows):
    stored = RAW if dims[0] == "C" else np.ascontiguousarray(RAW.transpose(0, 2, 3, 1))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), 90)
    kind = pa.fixed_shape_tensor(pa.uint8(), stored.shape[1:], dim_names=dims)
    spec = spec_of({"image": pa.ExtensionArray.from_storage(kind, flat)}, label=None)
    assert torch.equal(read_rows(spec).x, torch.from_numpy(RAW) / 255)
    assert index_data(spec).size == (5, 6)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.uint8()),
        pa.large_list(pa.uint8()),
        pa.list_(pa.uint8(), 90),
        pa.list_(pa.list_(pa.list_(pa.uint8()))),
        pa.list_(pa.list_(pa.list_(pa.uint8(), 6), 5), 3),
        pa.list_(pa.float32()),
        pa.list_(pa.float64()),
    ],
    ids=str,
)
def test_lists_of_every_nesting(kind, spec_of, read_rows):
    nested = str(kind).count("list") == 3
    floats = not str(kind).count("uint8")
    values = RAW / 255 if floats else RAW
    column = pa.array(
        [row.tolist() if nested else row.reshape(-1).tolist() for row in values], kind
    )
    got = read_rows(spec_of({"image": column}, label=None, shape=[3, 5, 6]), shard_rows=3)
    assert torch.allclose(got.x, torch.from_numpy(RAW) / 255, atol=1e-7)


def test_hugging_face_array3d(spec_of, read_rows):
    column = pa.array(RAW.tolist(), pa.list_(pa.list_(pa.list_(pa.uint8()))))
    feature = {"shape": [3, 5, 6], "dtype": "uint8", "_type": "Array3D"}
    meta = {"huggingface": json.dumps({"info": {"features": {"image": feature}}})}
    spec = spec_of(pa.table({"image": column}).replace_schema_metadata(meta), label=None)
    assert torch.equal(read_rows(spec).x, torch.from_numpy(RAW) / 255)


def test_bad_rows_of_raw_tensors(spec_of, read_rows):
    good = [0.5] * 4
    rows = [good, None, good[:3], [0.5, None, 0.5, 0.5], [0.5, float("nan"), 0.5, 0.5], good]
    column = pa.array(rows, pa.list_(pa.float32()))
    got = read_rows(spec_of({"image": column}, label=None, shape=[1, 2, 2]))
    assert got.rows == [0, 5] and got.x.unique().tolist() == [0.5]
    assert [(error.row, error.status) for error in got.errors] == [
        (1, "decode_error"),
        (2, "shape_error"),
        (3, "decode_error"),
        (4, "decode_error"),
    ]


def test_raw_tensors_that_do_not_say_enough(fails):
    lists = pa.array(RAW.reshape(4, -1).tolist(), pa.list_(pa.uint8()))
    fails("does not say their shape", {"image": lists}, label=None)
    ints = pa.array(RAW.reshape(4, -1).tolist(), pa.list_(pa.int64()))
    fails("pixels are int64", {"image": ints}, label=None, shape=[3, 5, 6])
    fails("expected struct<bytes, path>", {"image": [1, 2]}, label=None)
    strange = pa.array([{"data": b"x"}])
    fails("without a field 'bytes'", {"image": strange}, label=None)
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(RAW)
    fails("'shape' says", {"image": tensor}, label=None, shape=[3, 6, 5])


def test_files_with_other_images_are_refused(tmp_path, make_spec, write_parquet, pngs, labels):
    write_parquet(tmp_path / "a.parquet", pngs, labels)
    pq.write_table(pa.table({"image": pngs, "label": labels}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="one data set has one type of image"):
        index_data(make_spec({"format": "parquet", "files": [str(tmp_path)]}))


def test_data_that_changed_since_the_plan(spec_of, read_rows, pngs, labels):
    spec = spec_of({"image": pngs, "label": labels})
    shards = make_shards(index_data(spec), 8)
    spec_of({"image": pngs[:20], "label": labels[:20]})
    with pytest.raises(DataError, match="changed since the plan"):
        read_rows(spec, shards=shards)
