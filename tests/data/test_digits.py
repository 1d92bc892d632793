"""The embedded digits."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from gradattr.data import index_data


def test_pixels_are_sixteenths(make_spec, read_rows):
    got = read_rows(make_spec("digits"), shard_rows=100)
    expected = torch.from_numpy(load_digits().images).float() / 16
    assert torch.equal(got.x[:, 0], expected)
    assert (got.x.min(), got.x.max()) == (0, 1)
    assert got.labels == load_digits().target.tolist()


def test_the_splits_are_a_partition_with_the_same_ids(make_spec, read_rows):
    whole, train, test = (
        read_rows(make_spec({"format": "digits", "split": split}))
        for split in ("all", "train", "test")
    )
    assert sorted(train.ids + test.ids) == whole.ids
    assert (len(train.ids), len(test.ids)) == (1437, 360)
    assert train.rows == list(range(1437))
    numbers = np.array([int(sample_id) for sample_id in test.ids])
    assert (numbers % 5 == 0).all()
    assert torch.equal(test.x, whole.x[numbers])


def test_classes_are_named(make_spec):
    assert index_data(make_spec("digits")).class_names == tuple("0123456789")
    named = make_spec({"format": "digits", "classes": list("abcdefghij")})
    assert index_data(named).class_names == tuple("abcdefghij")
