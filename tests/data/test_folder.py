"""Image folders: order, classes, and each bad file by itself."""

from __future__ import annotations

import shutil

import pytest
import torch

from gradattr.data import index_data, make_shards
from gradattr.errors import DataError
from gradattr.manifest.data import Preprocess


@pytest.fixture
def folder(tmp_path, write_folder, make_spec):
    """Make a folder of {name: bytes} and give its spec."""

    def folder(files: dict[str, bytes], **spec):
        url = write_folder(tmp_path / "images", files)
        return make_spec({"format": "folder", "url": url, **spec})

    return folder


@pytest.fixture
def png(encode, pixels):
    return encode(pixels[0])


def test_rows_are_sorted_paths_and_ids_are_relative(folder, read_rows, png):
    names = ["b/2.png", "a/10.png", "a/9.JPG", "b/deep/1.png"]
    got = read_rows(folder(dict.fromkeys(names, png)))
    assert got.ids == sorted(names)
    assert got.labels == [0, 0, 1, 1]


def test_without_sub_folders_there_are_no_labels(folder, read_rows, png):
    spec = folder({"b.png": png, "a.png": png})
    assert read_rows(spec).labels == [-1, -1]
    assert index_data(spec).num_classes is None


def test_classes_give_the_order(folder, read_rows, png):
    spec = folder({"cat/1.png": png, "dog/1.png": png}, classes=["dog", "bird", "cat"])
    assert read_rows(spec).labels == [2, 0]
    assert index_data(spec).class_names == ("dog", "bird", "cat")


def test_other_files_are_no_rows(folder, png):
    spec = folder(
        {"a/1.png": png, "a/._1.png": png, ".hidden/1.png": png, "README.txt": b"", "a/x.json": b""}
    )
    assert index_data(spec).rows == 1


def test_bad_files_are_rows_with_a_status(folder, read_rows, png, encode, pixels):
    files = {
        "1.png": png,
        "2.png": b"",
        "3.jpg": b"not an image",
        "4.png": png[:300],
        "5.png": encode(pixels[0].repeat(4, 0).repeat(4, 1)),
        "6.png": encode(pixels[0][:16]),
        "7.png": png,
    }
    got = read_rows(folder(files, max_pixels=128 * 64), batch_size=3)
    assert got.ids == ["1.png", "7.png"]
    assert [(error.row, error.sample_id, error.status) for error in got.errors] == [
        (1, "2.png", "decode_error"),
        (2, "3.jpg", "decode_error"),
        (3, "4.png", "decode_error"),
        (4, "5.png", "too_large"),
        (5, "6.png", "shape_error"),
    ]
    assert all(error.error for error in got.errors)


def test_which_size_counts_does_not_depend_on_the_shard(folder, read_rows, encode, pixels):
    small, large = encode(pixels[0][:8]), encode(pixels[0])
    spec = folder({"1.png": b"", "2.png": large, "3.png": small, "4.png": small, "5.png": large})
    whole, parts = read_rows(spec), read_rows(spec, shard_rows=1)
    assert whole.ids == parts.ids == ["2.png", "5.png"]
    assert whole.errors == parts.errors


def test_images_of_many_sizes_become_one(folder, read_rows, encode, pixels):
    sizes = [(32, 20), (20, 32), (32, 32), (32, 32), (9, 9), (9, 9)]
    files = {f"{n}.png": encode(pixels[n][:h, :w]) for n, (h, w) in enumerate(sizes)}
    spec = folder(files)
    together = read_rows(spec, Preprocess(resize=16, crop=12), batch_size=6)
    alone = read_rows(spec, Preprocess(resize=16, crop=12), batch_size=1)
    assert together.x.shape == (6, 3, 12, 12)
    assert torch.equal(together.x, alone.x)


def test_a_resize_that_explodes_is_too_large(folder, read_rows, encode, pixels):
    spec = folder({"a.png": encode(pixels[0]), "b.png": encode(pixels[0][:1])}, max_pixels=300_000)
    got = read_rows(spec, Preprocess(resize=256, crop=224))
    assert got.ids == ["a.png"]
    assert [error.status for error in got.errors] == ["too_large"]


def test_names_pass_through_untouched(folder, read_rows, png):
    name = "<b>x&y</b>/<img src=x onerror=alert(1)>'\"; ${HOME} :: %2e%2e.png"
    name = name.replace("</b>", "<b>")
    spec = folder({name: png})
    assert read_rows(spec).ids == [name]
    assert index_data(spec).class_names == ("<b>x&y<b>",)


@pytest.mark.parametrize(
    "files, text",
    [
        ({}, "no such folder, or empty"),
        ({"a.txt": b"x"}, "1 files, none of them ends in"),
        ({"a.png": b"x", "b.png": b""}, "none of its 2 images can be read"),
        ({"a.png": b"x", "c/b.png": b"x"}, "stand beside the class folders"),
    ],
)
def test_folders_that_are_no_data_set(files, text, folder, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=text):
        index_data(folder(files))


def test_a_missing_folder_and_a_file(tmp_path, make_spec, png):
    with pytest.raises(DataError, match="no such"):
        index_data(make_spec({"format": "folder", "url": str(tmp_path / "nothing")}))
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(DataError, match="is a file"):
        index_data(make_spec({"format": "folder", "url": str(tmp_path / "a.png")}))


def test_a_folder_that_is_no_class(folder, png):
    with pytest.raises(DataError, match="folder 'cats' is not in 'classes'; did you mean 'cat'"):
        index_data(folder({"cats/1.png": png}, classes=["cat", "dog"]))


def test_links_out_of_the_folder_are_refused(folder, tmp_path, png):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(png)
    spec = folder({"a/1.png": png})
    link = tmp_path / "images" / "a" / "2.png"
    link.symlink_to(outside / "secret.png")
    with pytest.raises(DataError, match="link out of"):
        index_data(spec)
    link.unlink()
    (tmp_path / "images" / "b").symlink_to(outside)
    with pytest.raises(DataError, match="link out of"):
        index_data(spec)


def test_links_inside_the_folder_are_rows(folder, tmp_path, png, read_rows):
    spec = folder({"a/1.png": png})
    (tmp_path / "images" / "a" / "2.png").symlink_to(tmp_path / "images" / "a" / "1.png")
    assert read_rows(spec).ids == ["a/1.png", "a/2.png"]


def test_a_changed_or_removed_file_is_told(folder, tmp_path, read_rows, png, encode, pixels):
    spec = folder({"1.png": png, "2.png": png})
    shards = make_shards(index_data(spec), 2)
    target = tmp_path / "images" / "2.png"
    target.write_bytes(png[:-1] + b"\0")
    with pytest.raises(DataError, match=r"2\.png.*changed since the plan"):
        read_rows(spec, shards=shards)
    target.unlink()
    with pytest.raises(DataError, match="no such file"):
        read_rows(spec, shards=shards)


def test_a_quick_index_can_be_read_by_a_content_spec(folder, read_rows, png):
    """Reports index quickly and read with the run's own spec."""
    spec = folder({"1.png": png})
    index = index_data(spec.model_copy(update={"digest": "quick"}))
    assert read_rows(spec, shards=make_shards(index, 1)).ids == ["1.png"]


def test_the_digest_follows_content_and_not_place(folder, tmp_path, make_spec, png, encode, pixels):
    spec = folder({"a/1.png": png, "a/2.png": png})
    shutil.copytree(tmp_path / "images", tmp_path / "copy")
    copy = make_spec({"format": "folder", "url": f"file://{tmp_path}/copy"})
    assert index_data(copy).digest() == index_data(spec).digest()
    (tmp_path / "copy/a/2.png").write_bytes(encode(pixels[1]))
    assert index_data(copy).digest() != index_data(spec).digest()
