"""torchvision's data sets: as arrays where they keep one, else image by image. No download."""

from __future__ import annotations

import pytest
import torch
import torchvision.datasets as tv

from gradattr.data import index_data
from gradattr.errors import DataError
from gradattr.manifest.data import Preprocess


@pytest.fixture
def mnist(tmp_path, write_idx, pixels, labels):
    """A root with MNIST's raw files, of our images."""
    raw = tmp_path / "root/FashionMNIST/raw"
    raw.mkdir(parents=True)
    for kind in ("train", "t10k"):
        write_idx(raw / f"{kind}-images-idx3-ubyte", pixels[..., 0])
        write_idx(raw / f"{kind}-labels-idx1-ubyte", labels)
    return str(tmp_path / "root")


def test_an_array_data_set(mnist, make_spec, read_rows, pixels, labels):
    spec = make_spec({"format": "torchvision", "name": "FashionMNIST", "root": mnist})
    index = index_data(spec)
    assert (index.rows, index.num_classes, index.channels, index.size) == (40, 10, 1, (32, 32))
    assert index.class_names == tuple(tv.FashionMNIST.classes)
    got = read_rows(spec, shard_rows=7)
    assert torch.equal(got.x[:, 0], torch.from_numpy(pixels[..., 0]) / 255)
    assert got.labels == labels.tolist()
    assert got.ids[-1] == "00000039"


def test_the_digest_follows_the_content(mnist, make_spec, write_idx, tmp_path, pixels):
    from gradattr.data.cache import shared

    spec = make_spec({"format": "torchvision", "name": "FashionMNIST", "root": mnist})
    before = index_data(spec).digest()
    assert index_data(spec).digest() == before
    shared.clear()
    write_idx(tmp_path / "root/FashionMNIST/raw/t10k-images-idx3-ubyte", pixels[::-1, ..., 0])
    assert index_data(spec).digest() != before


class Pictures(tv.VisionDataset):
    """A data set that gives PIL images, one of them broken."""

    classes = ("cat", ("dog", "hound"))

    def __init__(self, root, split="train", transform=None):
        super().__init__(root, transform=transform)
        self.split = split

    def __len__(self):
        return 6

    def __getitem__(self, row):
        from PIL import Image

        if row == 3:
            raise OSError("image file is truncated\nsecond line")
        mode = ("RGB", "L", "P", "CMYK", "RGBA", "1")[row]
        return Image.new(mode, (10 + row, 12)), row % 2


def test_a_data_set_of_pictures(monkeypatch, make_spec, read_rows, tmp_path):
    monkeypatch.setattr(tv, "Flowers102", Pictures)
    spec = make_spec({"format": "torchvision", "name": "Flowers102", "root": str(tmp_path)})
    index = index_data(spec)
    assert index.class_names == ("cat", "dog, hound")
    got = read_rows(spec, Preprocess(resize=[8, 8]), shard_rows=4)
    assert got.rows == [0, 1, 2, 4, 5] and got.labels == [0, 1, 0, 0, 1]
    assert [(error.row, error.status) for error in got.errors] == [(3, "decode_error")]
    assert "second" not in got.errors[0].error


def test_the_splits_own_names(monkeypatch, make_spec, tmp_path):
    monkeypatch.setattr(tv, "Places365", Pictures)
    seen = []
    original = Pictures.__init__

    def record(self, root, split="train", transform=None):
        seen.append(split)
        original(self, root, split, transform)

    monkeypatch.setattr(Pictures, "__init__", record)
    for split in ("train", "test"):
        index_data(
            make_spec(
                {
                    "format": "torchvision",
                    "name": "Places365",
                    "root": str(tmp_path),
                    "split": split,
                }
            )
        )
    assert seen == ["train-standard", "val"]


def test_fake_data_needs_no_files(make_spec, read_rows):
    spec = make_spec("torchvision:FakeData").model_copy(update={"limit": 3})
    assert read_rows(spec, Preprocess(crop=8)).x.shape == (3, 3, 8, 8)


@pytest.mark.parametrize(
    "name, text",
    [
        ("Cifar10", "did you mean 'CIFAR10'"),
        ("VisionDataset", "has no data set"),
        ("CIFAR10", "put its files there, or set download: true"),
        ("MNIST", "put its files there, or set download: true"),
    ],
)
def test_what_is_not_there(name, text, make_spec, tmp_path):
    spec = make_spec({"format": "torchvision", "name": name, "root": str(tmp_path)})
    with pytest.raises(DataError, match=text):
        index_data(spec)


def test_roots_are_local(make_spec):
    spec = make_spec({"format": "torchvision", "name": "MNIST", "root": "s3://bucket/x"})
    with pytest.raises(DataError, match="local folders only"):
        index_data(spec)
