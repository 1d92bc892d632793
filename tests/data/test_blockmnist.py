"""BlockMNIST: where digit and null block stand, and that nothing but the seed decides it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

from gradattr.data import index_data, load_all
from gradattr.data.blockmnist import compose, enlarged, null_block
from gradattr.errors import DataError
from gradattr.manifest.data import Preprocess


@pytest.fixture
def read_all(make_spec):
    def read(value="blockmnist", preprocess=None):
        spec = make_spec(value)
        return load_all(spec, index_data(spec), preprocess or Preprocess())

    return read


@pytest.fixture
def mnist(tmp_path, write_idx):
    """Thirty 28x28 images of the labels 0 to 4 as IDX: the arrays, and the fields of a spec."""
    images = np.random.default_rng(3).integers(1, 256, (30, 28, 28)).astype(np.uint8)
    labels = np.arange(30) * 7 % 5
    fields = {
        "format": "blockmnist",
        "images": write_idx(tmp_path / "images-idx3-ubyte.gz", images),
        "labels": write_idx(tmp_path / "labels-idx1-ubyte", labels),
    }
    return images, labels, fields


def test_the_bitmap_of_the_null_block():
    block = null_block()
    assert hashlib.sha256(block.tobytes()).hexdigest() == (
        "3c4cb2b42f71492df7fd72bd39f5589c6ecd759f37598e8bbd600ace40ddb2fd"
    )
    assert (block == block.T).all() and (block == block[::-1]).all()
    assert block.sum() == 88 * 255  # 4 * 15 on the square, 2 * 14 on the diagonals inside it


def test_the_square_of_the_null_block_may_be_larger(make_spec, read_all):
    block = null_block(2)
    assert block[2, 2:26].all() and block[2:26, 25].all() and block.sum() == 136 * 255
    fields = {"format": "blockmnist", "inset": 2, "signal": "top", "limit": 3}
    lower = read_all(fields).x[:, 0, 28:]
    assert torch.equal(lower, torch.from_numpy(block).float().div(255).expand(3, -1, -1))
    assert (
        index_data(make_spec(fields)).digest()
        != index_data(make_spec({**fields, "inset": 3})).digest()
    )


def test_digit_and_null_block_stand_where_the_data_says(read_all):
    batch = read_all()
    blocks = batch.x.view(-1, 2, 28, 28)
    signal = torch.where(batch.signal_on_top, 0, 1)
    rows = torch.arange(len(batch))
    null = torch.from_numpy(null_block()).float() / 255
    assert torch.equal(blocks[rows, 1 - signal], null.expand(len(batch), -1, -1))
    numbers = torch.tensor([int(sample_id) for sample_id in batch.sample_ids])
    digits = enlarged(load_digits().images[numbers, None].astype(np.float32) / 16)
    assert torch.equal(blocks[rows, signal], torch.from_numpy(digits).float() / 255)
    assert batch.labels.tolist() == load_digits().target[numbers].tolist()
    masks = batch.masks.view(-1, 2, 28 * 28)
    assert masks[rows, 1 - signal].all() and not masks[rows, signal].any()


def test_the_place_of_the_signal_is_a_fair_coin_independent_of_the_class(read_all):
    on_top, labels = (read_all().signal_on_top.float(), read_all().labels)
    for part in (on_top, on_top[labels == 0], on_top[labels == 1]):
        assert abs(part.mean() - 0.5) < 3 * 0.5 / len(part) ** 0.5
    other = read_all({"format": "blockmnist", "seed": 1}).signal_on_top
    assert 0.3 < (other == on_top.bool()).float().mean() < 0.7


def test_signal_on_top(read_all):
    assert read_all({"format": "blockmnist", "signal": "top"}).signal_on_top.all()


@settings(max_examples=15, deadline=None)
@given(shard_rows=st.integers(1, 400), batch_size=st.integers(1, 90))
def test_any_sharding_gives_the_same_rows(make_spec, read_rows, shard_rows, batch_size):
    spec = make_spec("blockmnist")
    whole = read_rows(spec)
    got = read_rows(spec, shard_rows=max(shard_rows, 9), batch_size=batch_size)
    assert torch.equal(got.x, whole.x)
    assert (got.labels, got.ids, got.rows) == (whole.labels, whole.ids, whole.rows)


def test_the_splits_share_ids_and_places(read_all):
    whole, test = read_all(), read_all({"format": "blockmnist", "split": "test"})
    places = dict(zip(whole.sample_ids, whole.signal_on_top.tolist(), strict=True))
    assert 60 < len(test) < 90
    assert [places[sample_id] for sample_id in test.sample_ids] == test.signal_on_top.tolist()


def test_other_digits_keep_ids_and_places(read_all):
    few, many = read_all(), read_all({"format": "blockmnist", "digits": [7, 1, 0]})
    found = {sample_id: at for at, sample_id in enumerate(many.sample_ids)}
    at = [found[sample_id] for sample_id in few.sample_ids]
    assert torch.equal(many.x[at], few.x)
    assert torch.equal(many.labels[at], 2 - few.labels)
    assert many.labels.unique().tolist() == [0, 1, 2]


def test_digits_from_idx_files(mnist, read_all):
    images, labels, fields = mnist
    batch = read_all({**fields, "digits": [3, 1]})
    chosen = np.flatnonzero(np.isin(labels, [1, 3]))
    assert batch.sample_ids == [f"{row:08d}" for row in chosen]
    assert batch.labels.tolist() == [0 if labels[row] == 3 else 1 for row in chosen]
    expected, masks = compose(images[chosen], batch.signal_on_top.numpy(), null_block())
    assert torch.equal(batch.x, torch.from_numpy(expected).float() / 255)
    assert torch.equal(batch.masks, torch.from_numpy(masks))


def test_what_identifies_the_data(mnist, make_spec):
    _, _, fields = mnist
    variants = [fields, {**fields, "seed": 1}, {**fields, "signal": "top"}]
    variants += [{**fields, "digits": [1, 0]}, {**fields, "digits": [0, 2]}]
    digests = {index_data(make_spec(value)).digest() for value in variants}
    assert len(digests) == len(variants)
    index = index_data(make_spec(fields))
    assert (index.class_names, index.size) == (("0", "1"), (56, 28))
    assert type(index).from_json(index.to_json()) == index


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"digits": [1, 9]}, "no image is labelled 9"),
        ({"classes": ["zero"]}, "1 names in 'classes' for 2 digits"),
    ],
)
def test_what_does_not_fit_is_told(change, reason, mnist, make_spec):
    with pytest.raises(DataError, match=reason):
        index_data(make_spec({**mnist[2], **change}))


def test_images_of_another_size_are_refused(tmp_path, write_idx, make_spec):
    images = write_idx(tmp_path / "images", np.zeros((4, 32, 28)))
    labels = write_idx(tmp_path / "labels", np.arange(4) % 2)
    spec = make_spec({"format": "blockmnist", "images": images, "labels": labels})
    with pytest.raises(DataError, match=r"images of 28x32 pixels; .* made of digits of 28x28"):
        index_data(spec)


def test_files_that_changed_since_the_plan(mnist, make_spec, read_rows, write_idx, tmp_path):
    spec = make_spec(mnist[2])
    index = index_data(spec)
    write_idx(tmp_path / "images-idx3-ubyte.gz", np.zeros((30, 28, 28)))
    with pytest.raises(DataError, match="changed since the plan"):
        load_all(spec, index, Preprocess())


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_enlarging_is_bilinear(seed):
    digit = np.random.default_rng(seed).integers(0, 17, (8, 8)).astype(np.float64)
    expected = zoom(digit, 3, order=1, grid_mode=True, mode="nearest") / 16 * 255
    got = enlarged((digit / 16).astype(np.float32)[None, None])
    assert np.abs(got[0, 2:26, 2:26] - expected).max() <= 0.5 + 1e-6
    assert got.sum() == got[0, 2:26, 2:26].sum()
