"""A patch is painted into the right images, at the right place, whatever the format and shards."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.data import ShardRef, index_data, load_all, make_shards, read_shard
from gradattr.data.patch import Painter, with_patch
from gradattr.errors import DataError
from gradattr.manifest.data import Preprocess
from gradattr.manifest.data_base import Patch

FORMATS = (
    "digits",
    "idx-gray",
    "idx-gz",
    "cifar10",
    "svhn",
    "folder",
    "parquet",
    "parquet-raw",
    "npz",
    "npz-zipped",
    "npy-gray",
    "webdataset",
)
PATCH = {"size": 5, "colour": [255, 0, 0]}


def patched(spec, **fields):
    """The same data set with a patch."""
    return spec.model_copy(update={"patch": Patch.model_validate({**PATCH, **fields})})


def load(spec, preprocess=None):
    return load_all(spec, index_data(spec), preprocess or Preprocess())


_TENSORS = ("x", "labels", "masks", "patched")


@pytest.fixture(scope="session")
def rows_of():
    """Everything that is read of some shards, as one: tensors, and the ids."""

    def read(spec, shards, size, preprocess=None):
        batches = [
            batch
            for shard in shards
            for batch in read_shard(spec, shard, preprocess or Preprocess(), batch_size=size)
        ]
        parts = [torch.cat([getattr(b, name) for b in batches]) for name in _TENSORS]
        return [*parts, [one for batch in batches for one in batch.sample_ids]]

    return read


@pytest.mark.parametrize("name", FORMATS)
def test_the_mask_is_what_changed(name, library):
    plain = load(library[name])
    # Colours that no image has: digits are in sixteenths, the others go up to 254.
    size, colour = (2, [76]) if name == "digits" else (5, [255])
    found = load(patched(library[name], fraction=0.5, size=size, colour=colour))
    changed = (found.x != plain.x).any(1)
    assert torch.equal(changed, found.masks)
    assert torch.equal(changed.flatten(1).sum(1) == size**2, found.patched)
    assert int(found.patched.sum()) == 20
    assert found.masks[found.patched][:, -size:, -size:].all()
    assert found.sample_ids == plain.sample_ids and torch.equal(found.labels, plain.labels)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "npy-gray"])
def test_only_the_class_is_patched_and_half_of_it(name, library):
    found = load(patched(library[name], **{"class": 7, "fraction": 0.5, "size": 1}))
    of_class = found.labels == 7
    assert int(found.patched[of_class].sum()) == math.floor(int(of_class.sum()) / 2 + 0.5) > 0
    assert not found.patched[~of_class].any() and not found.masks[~found.patched].any()


@settings(max_examples=40, deadline=None)
@given(
    fractions=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    seed=st.integers(0, 2**63 - 1),
    label=st.sampled_from([None, 0, 3]),
)
def test_a_larger_fraction_keeps_the_patched_ones_and_counts_exactly(
    fractions, seed, label, library
):
    spec = library["npz"]
    labels = np.arange(40) * 7 % 10
    count = 40 if label is None else int((labels == label).sum())
    before: set[int] = set()
    for fraction in sorted([0.0, *fractions, 1.0]):
        fields = {"class": label, "fraction": fraction, "seed": seed}
        painter = Painter.of(index_data(patched(spec, **fields)).files[0])
        now = set(np.flatnonzero(painter.chosen([f"{r:08d}" for r in range(40)], labels)).tolist())
        assert before <= now
        assert len(now) == math.floor(fraction * count + 0.5)
        before = now
    assert len(before) == count


@pytest.mark.parametrize("name", ["digits", "folder", "parquet", "npz-zipped", "webdataset"])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_any_sharding_and_batch_size_paint_the_same(name, data, library, rows_of):
    spec = patched(library[name], fraction=0.6, size=2)
    index = index_data(spec)
    steps = Preprocess(resize=[20, 17], crop=16)
    whole = rows_of(spec, make_shards(index, 40), 40, steps)
    shards = [
        ShardRef.from_json(json.loads(json.dumps(shard.to_json())))
        for shard in make_shards(index, data.draw(st.integers(1, 41)))
    ]
    got = rows_of(spec, shards, data.draw(st.integers(1, 41)), steps)
    assert all(torch.equal(a, b) for a, b in zip(whole[:-1], got[:-1], strict=True))
    assert whole[-1] == got[-1]


def test_the_seed_decides_and_the_id_not_the_row(library):
    spec = library["npz"]
    first = load(patched(spec, fraction=0.5)).patched
    assert torch.equal(first, load(patched(spec, fraction=0.5)).patched)
    assert not torch.equal(first, load(patched(spec, fraction=0.5, seed=1)).patched)
    # The same images in another format that has row numbers as ids, too.
    assert torch.equal(first, load(patched(library["cifar10"], fraction=0.5)).patched)


def test_the_share_is_of_the_rows_that_are_used(library):
    limited = library["npz"].model_copy(update={"limit": 13})
    found = load(patched(limited, fraction=0.4))
    assert len(found) == 13 and int(found.patched.sum()) == 5


def test_the_sources_own_pixels_stay_as_they_are(library):
    for name in ("npz-zipped", "digits", "svhn"):
        before = load(library[name]).x
        load(patched(library[name], size=2))
        assert torch.equal(load(library[name]).x, before)


def test_the_digest_follows_every_field_and_stays_without_a_patch(make_spec, library):
    digits = make_spec("digits")
    assert index_data(digits).digest() == (
        "316d80f0594c389470362a3695e57ca13d958a40a41486941f397c9ed5c62508"
    )
    fields = {"class": 3, "fraction": 0.5}
    changes = [
        {"class": "7"},
        {"class": None},
        {"fraction": 0.51},
        {"size": 4},
        {"colour": [255]},
        {"corner": "top_left"},
        {"margin": 1},
        {"seed": 1},
    ]
    specs = [digits, *(patched(digits, **{**fields, **change}) for change in [{}, *changes])]
    assert len({index_data(spec).digest() for spec in specs}) == len(specs)


@pytest.mark.parametrize(
    ("corner", "rows", "columns"),
    [
        ("bottom_right", (2, 5), (3, 6)),
        ("bottom_left", (2, 5), (1, 4)),
        ("top_left", (1, 4), (1, 4)),
        ("top_right", (1, 4), (3, 6)),
    ],
)
def test_corners_and_margins(corner, rows, columns, tmp_path, make_spec):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 6, 7, 3), np.uint8))
    patch = {"size": 3, "margin": 1, "corner": corner, "colour": [10, 20, 30]}
    file = str(tmp_path / "a.npz")
    found = load(make_spec({"format": "npz", "file": file, "labels": None, "patch": patch}))
    expected = np.zeros((2, 3, 6, 7), np.uint8)
    colour = np.array([10, 20, 30])[:, None, None]
    expected[:, :, rows[0] : rows[1], columns[0] : columns[1]] = colour
    assert torch.equal(found.x, torch.from_numpy(expected) / 255)
    assert torch.equal(found.masks, found.x[:, 0] > 0)


STEPS = [
    Preprocess(),
    Preprocess(color="gray"),
    Preprocess(resize=24, crop=[20, 16]),
    Preprocess(resize=[40, 28], interpolation="bicubic", mean=[0.5], std=[0.2]),
]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["folder", "parquet", "webdataset"])
def test_encoded_images_are_painted_as_arrays_are(name, steps, library, pixels, tmp_path):
    """Decode, paint, pre-process: the same pixels as painting the array by hand."""
    if name == "folder":  # its rows stand in the order of the classes
        pixels = pixels[np.argsort(np.arange(40) * 7 % 10, kind="stable")]
    found = load(patched(library[name], fraction=0.5), steps)
    by_hand = pixels.copy()
    by_hand[found.patched.numpy(), -5:, -5:] = [255, 0, 0]
    np.savez(tmp_path / "a.npz", images=by_hand, labels=np.zeros(40, int))
    spec = library["npz"].model_copy(update={"file": str(tmp_path / "a.npz")})
    assert torch.equal(found.x, load(spec, steps).x)


@settings(max_examples=20, deadline=None)
@given(
    resize=st.sampled_from([None, 64, 96, [64, 32]]),
    crop=st.sampled_from([None, 20, 29, 30, 40]),
    encoded=st.booleans(),
)
def test_the_mask_is_resized_and_cropped_with_its_patch(resize, crop, encoded, library):
    spec = patched(library["folder" if encoded else "npz"], fraction=0.5)
    steps = Preprocess(resize=resize, crop=crop, interpolation="nearest")
    found, plain = load(spec, steps), load(library[spec.format], steps)
    assert torch.equal(found.masks, (found.x != plain.x).any(1))
    assert found.patched.sum() == 20
    if resize is None and crop == 20:  # the crop has left the corner out
        assert not found.masks.any()


def test_grey_images_get_the_luma_or_the_one_number(library):
    for colour, value in (([255, 0, 0], 76), ([0, 255, 0], 150), ([9], 9), ([7, 7, 7], 7)):
        found = load(patched(library["idx-gray"], colour=colour, fraction=0.5))
        assert torch.equal(found.x[:, 0][found.masks], torch.full((20 * 25,), value) / 255)
        found = load(patched(library["digits"], colour=colour, size=2))
        assert torch.equal(found.x[:, 0][found.masks], torch.full((40 * 4,), value) / 255)


@pytest.mark.parametrize(
    ("channels", "colour", "expected"),
    [
        (3, [9], [9, 9, 9]),
        (1, [255, 0, 0], [76]),
        (2, [255, 0, 0], [76, 255]),
        (4, [1, 2, 3], [1, 2, 3, 255]),
        (5, [9], [9] * 5),
    ],
)
def test_colours_by_channels(channels, colour, expected):
    painter = Painter(Patch(size=1, colour=colour), None, 0)
    assert painter.values(np.zeros((1, channels, 2, 2), np.uint8)).tolist() == expected
    values = painter.values(np.zeros((1, channels, 2, 2), np.float32))
    assert values.dtype == np.float32
    assert values.tolist() == (np.array(expected, np.float32) / np.float32(255)).tolist()


def test_a_patch_that_no_image_can_have_is_refused(library, tmp_path, make_spec):
    with pytest.raises(DataError, match=r"33x33 pixels does not fit into an image of 32x32"):
        index_data(patched(library["npz"], size=33))
    with pytest.raises(DataError, match=r"30x30 pixels and a margin of 3 does not fit .* 32x32"):
        index_data(patched(library["folder"], size=30, margin=3))
    index_data(patched(library["npz"], size=32))
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 6, 7, 5), np.uint8))
    spec = make_spec({"format": "npz", "file": str(tmp_path / "a.npz"), "labels": None})
    with pytest.raises(DataError, match="colour has 3 numbers, the images have 5 channels"):
        index_data(patched(spec))


@pytest.mark.parametrize(
    ("name", "wanted", "reason"),
    [
        ("cifar10", "dgo", "patch.class: there is no class 'dgo'; did you mean 'dog'"),
        ("cifar10", 10, "there is no class 10; the data has classes 0 to 9"),
        ("folder", "zzz", "there is no class 'zzz'; there are 'c0', 'c1'"),
        ("npz", "dog", "no names of its classes; give the class's number, 0 to 9"),
        ("npy-gray", 3, "3 was given, but this data has no labels"),
    ],
)
def test_unknown_classes_are_refused(name, wanted, reason, library):
    with pytest.raises(DataError, match=reason):
        index_data(patched(library[name], **{"class": wanted}))


def test_a_class_by_name_is_the_class_by_number(library):
    by_name = load(patched(library["cifar10"], **{"class": "dog"}))
    by_number = load(patched(library["cifar10"], **{"class": 5}))
    assert torch.equal(by_name.x, by_number.x) and int(by_name.patched.sum()) == 4


def test_bad_rows_stay_rows_with_a_status(make_spec, write_folder, encode, tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    files = {
        "a.png": encode(image),
        "b.png": b"no image",
        "c.png": encode(image[:3]),
        "d.png": encode(np.zeros((9, 12, 3), np.uint8)),
    }
    spec = make_spec({"format": "folder", "url": write_folder(tmp_path / "in", files)})
    spec = patched(spec, size=4)
    (shard,) = make_shards(index_data(spec), 10)
    steps = Preprocess(resize=[8, 8], interpolation="nearest")
    (batch,) = read_shard(spec, shard, steps, batch_size=10)
    assert batch.sample_ids == ["a.png", "d.png"] and batch.patched.tolist() == [True, True]
    assert torch.equal(batch.masks, batch.x[:, 0] > 0.5)
    assert [(e.sample_id, e.status) for e in batch.errors] == [
        ("b.png", "decode_error"),
        ("c.png", "shape_error"),
    ]
    assert "4x4 pixels does not fit into an image of 8x3" in batch.errors[1].error


def test_images_of_unknown_labels_are_drawn_one_by_one(make_spec):
    index = replace(index_data(make_spec("digits")), keys=None)
    ids, labels = [f"{n:08d}" for n in range(1000)], np.arange(1000) % 2
    before: set[int] = set()
    for fraction in (0.0, 0.2, 0.5, 1.0):
        patch = Patch.model_validate({**PATCH, "class": 1, "fraction": fraction})
        painter = Painter.of(with_patch(index, patch).files[0])
        now = set(np.flatnonzero(painter.chosen(ids, labels)).tolist())
        assert before <= now and all(at % 2 for at in now)
        # 500 draws: five standard deviations are at most 56.
        assert abs(len(now) - fraction * 500) <= (56 if 0 < fraction < 1 else 0)
        before = now
