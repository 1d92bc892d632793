"""WebDataset tars: keys, labels, ranges, and members that must not be trusted."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from gradattr.data import index_data, make_shards
from gradattr.data.files import Files
from gradattr.errors import DataError


@pytest.fixture
def pngs(pixels, encode):
    return [encode(image) for image in pixels]


@pytest.fixture
def tar(tmp_path, make_spec, write_tar):
    """Members to a spec."""

    def tar(members, **spec):
        url = write_tar(tmp_path / "t.tar", members)
        return make_spec({"format": "webdataset", "files": [url], **spec})

    return tar


@pytest.fixture
def fails(tar):
    def fails(text: str, members, **spec):
        with pytest.raises(DataError, match=text):
            index_data(tar(members, **spec))

    return fails


def test_keys_and_both_kinds_of_label(tar, read_rows, pngs):
    members = [
        ("d/a.b/one.jpg", pngs[0]),
        ("d/a.b/one.cls", b"3\n"),
        ("d/a.b/two.json", b'{"label": 1, "caption": "x"}'),
        ("d/a.b/two.png", pngs[1]),
        ("./three.png", pngs[2]),
        ("four.seg.png", pngs[3]),
        ("five.txt", b"no image"),
        ("README", b""),
        ("<b>six</b>.PNG", pngs[3]),
        ("<b>six</b>.json", b'{"caption": "no label"}'),
    ]
    got = read_rows(tar(members))
    assert got.ids == ["d/a.b/one", "d/a.b/two", "three", "<b>six</b>"]
    assert got.labels == [3, 1, -1, -1]
    assert got.errors == []


def test_labels_by_name(tar, read_rows, pngs):
    members = [("a.png", pngs[0]), ("a.cls", b"dog"), ("b.png", pngs[1]), ("b.cls", b"0")]
    assert read_rows(tar(members, classes=["cat", "dog"])).labels == [1, 0]


def test_long_and_unicode_names(tmp_path, make_spec, read_rows, pngs):
    key = "ü" * 60 + "/" + "k" * 150
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "t.tar", "w", format=kind) as archive:
            for n in range(3):
                info = tarfile.TarInfo(f"{key}{n}.png")
                info.size = len(pngs[n])
                archive.addfile(info, io.BytesIO(pngs[n]))
        spec = make_spec({"format": "webdataset", "files": [str(tmp_path / "t.tar")]})
        assert read_rows(spec, shard_rows=2).ids == [f"{key}{n}" for n in range(3)]


def test_a_shard_reads_only_its_range(library, monkeypatch, read_rows):
    monkeypatch.setattr("gradattr.data.webdataset._RANGE_ROWS", 4)
    spec = library["webdataset"]
    index = index_data(spec)
    assert len(index.files) == 11  # 15 rows in fours, 25 rows in fours
    whole = read_rows(spec, shard_rows=40)
    ranges = []
    original = Files.read
    monkeypatch.setattr(
        Files,
        "read",
        lambda self, url, start=None, end=None: (
            ranges.append((url[-5:], end - start)) or original(self, url, start, end)
        ),
    )
    got = read_rows(spec, shards=make_shards(index, 4)[2:3])
    assert got.ids == whole.ids[8:12]
    assert [name for name, _ in ranges] == ["a.tar"]
    assert sum(size for _, size in ranges) == index.files[2].bytes


def test_bad_rows_are_rows_with_a_status(tar, read_rows, pngs):
    members = [
        *(("a.png", pngs[0]), ("a.cls", b"1")),
        *(("b.png", b""), ("b.cls", b"1")),
        *(("c.png", b"<html>"), ("c.cls", b"1")),
        *(("d.png", pngs[1]), ("d.cls", b"<b>one</b>")),
        *(("e.png", pngs[1]), ("e.json", b'{"label": [1]}')),
        *(("f.png", pngs[1]), ("f.json", b"{")),
        *(("g.png", pngs[1]), ("g.cls", b"\xff\xfe")),
        *(("h.png", pngs[1]), ("h.cls", b"0")),
    ]
    got = read_rows(tar(members), batch_size=3)
    assert got.ids == ["a", "h"]
    assert [(error.sample_id, error.status) for error in got.errors] == [
        ("b", "decode_error"),
        ("c", "decode_error"),
        *((key, "label_error") for key in "defg"),
    ]
    assert "<b>one</b>" in got.errors[2].error


def test_labels_out_of_range(fails, pngs):
    members = [("a.png", pngs[0]), ("a.cls", b"7")]
    fails(r"1 of 1 labels are out of range.*7 in row 0", members, classes=["x", "y"])


def test_duplicate_keys(fails, tmp_path, write_tar, make_spec, pngs):
    fails("'a' stands also in", [("a.png", pngs[0]), ("b.png", pngs[0]), ("a.png", pngs[1])])
    fails("adjacent", [("a.png", pngs[0]), ("b.png", pngs[0]), ("a.cls", b"1"), ("a.jpg", b"")])
    urls = [write_tar(tmp_path / f"{n}.tar", [("same.png", pngs[0])]) for n in (1, 2)]
    with pytest.raises(DataError, match=r"2\.tar.*'same' stands also in .*1\.tar"):
        index_data(make_spec({"format": "webdataset", "files": urls}))


@pytest.mark.parametrize("name", ["../../etc/a.png", "/etc/a.png", "x/../../a.png", "..\\a.png"])
def test_names_that_lead_out_are_refused(name, fails, pngs):
    fails("leads out of the archive", [("ok.png", pngs[0]), (name, pngs[1])])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind, tmp_path, make_spec):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DataError, match="link or a device"):
        index_data(make_spec({"format": "webdataset", "files": [str(tmp_path / "t.tar")]}))


def test_truncated_tars(library, make_spec, tmp_path):
    data = Path(library["webdataset"].files[0]).read_bytes()
    end = data.rstrip(b"\0")
    last = -(-len(end) // 512) * 512
    for size in (700, len(data) // 2, last - 600, last):
        (tmp_path / "t.tar").write_bytes(data[:size])
        with pytest.raises(DataError, match=r"truncated|not a readable"):
            index_data(make_spec({"format": "webdataset", "files": [str(tmp_path / "t.tar")]}))


@pytest.mark.parametrize("content", [b"", b"<html>" * 200, b"PK\x03\x04" + bytes(2000)])
def test_what_is_no_tar(content, tmp_path, make_spec):
    (tmp_path / "t.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"not a readable tar|truncated"):
        index_data(make_spec({"format": "webdataset", "files": [str(tmp_path / "t.tar")]}))


def test_compressed_tars_are_refused_with_the_reason(tmp_path, make_spec, write_tar, pngs):
    url = write_tar(tmp_path / "t.tar", [("a.png", pngs[0])])
    (tmp_path / "t.tar.gz").write_bytes(gzip.compress((tmp_path / "t.tar").read_bytes()))
    with pytest.raises(DataError, match="compressed tars are not supported"):
        index_data(make_spec({"format": "webdataset", "files": [f"{url}.gz"]}))


def test_tars_without_images(fails, pngs):
    fails("empty", [("a.txt", b"x")])
    fails("none of the 2 images can be read", [("a.png", b"x"), ("b.png", b"")])


def test_data_that_changed_since_the_plan(tar, read_rows, pngs):
    members = [("a.png", pngs[0]), ("b.png", pngs[1])]
    shards = make_shards(index_data(tar(members)), 1)
    spec = tar([("a.png", pngs[0][:-1] + b"\0"), ("b.png", pngs[1])])
    with pytest.raises(DataError, match="changed since the plan"):
        read_rows(spec, shards=shards)
