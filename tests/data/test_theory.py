"""The theory data: eq. 2 of the paper, number by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gradattr.data import index_data, load_all
from gradattr.manifest.data import Preprocess


@pytest.fixture(scope="session")
def read_all(make_spec):
    def read(**fields):
        spec = make_spec({"format": "theory", **fields})
        return load_all(spec, index_data(spec), Preprocess())

    return read


def test_the_distinct_points(read_all):
    batch = read_all()
    assert batch.x.shape == (10, 1, 10, 1)
    expected = torch.cat([-torch.eye(10)[:5], torch.eye(10)[:5]])
    assert torch.equal(batch.x[:, 0, :, 0], expected)
    assert batch.labels.tolist() == [0] * 5 + [1] * 5
    assert torch.equal(batch.masks[:, :, 0], expected == 0)
    assert batch.signal_on_top is None


@settings(max_examples=30, deadline=None)
@given(
    half=st.integers(1, 6),
    m=st.integers(1, 7),
    eta=st.sampled_from([0.0, 0.1, 0.7, 3.0]),
    seed=st.integers(0, 1000),
)
def test_one_block_holds_the_label_and_the_others_noise(half, m, eta, seed, read_all):
    batch = read_all(blocks=2 * half, block_dim=m, eta=eta, rows=50, seed=seed)
    x = batch.x[:, 0].double()
    assert x.shape == (50, 2 * half, m)
    signal = (~batch.masks[:, :, 0]).int()
    assert signal.sum(1).eq(1).all()
    assert signal.argmax(1).max() < half
    u = torch.full((m,), m**-0.5, dtype=torch.float64)
    y = 2 * batch.labels - 1
    noise = x - signal[:, :, None] * y[:, None, None] * u
    assert noise.norm(dim=2).max() <= eta + 1e-6
    if eta == 0:
        assert noise.abs().max() < 1e-6


def test_the_draws_are_uniform(read_all):
    batch = read_all(blocks=4, block_dim=2, eta=1.0, rows=4000, seed=5)
    assert abs(batch.labels.double().mean() - 0.5) < 0.03
    signal = (~batch.masks[:, :, 0]).int().argmax(1)
    assert abs(signal.double().mean() - 0.5) < 0.03
    radius = batch.x[:, 0, 3].norm(dim=1)
    # Uniform in a disc: the squared radius is uniform in [0, 1].
    assert np.abs(np.quantile(radius**2, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.04


def test_any_sharding_gives_the_same_rows(make_spec, read_rows):
    spec = make_spec({"format": "theory", "rows": 60, "eta": 0.2, "block_dim": 3})
    whole, pieces = read_rows(spec), read_rows(spec, shard_rows=7, batch_size=3)
    assert torch.equal(whole.x, pieces.x)
    assert (whole.labels, whole.ids) == (pieces.labels, pieces.ids)
    again = read_rows(make_spec({**spec.model_dump(), "seed": 1}))
    assert not torch.equal(whole.x, again.x)


def test_every_field_identifies_the_data(make_spec):
    base = {"format": "theory", "rows": 10, "eta": 0.5}
    changes = ({}, {"rows": 11}, {"eta": 0.4}, {"blocks": 8}, {"block_dim": 2}, {"seed": 3})
    found = {index_data(make_spec({**base, **change})).digest() for change in changes}
    found |= {index_data(make_spec({"format": "theory"})).digest()}
    assert len(found) == len(changes) + 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"blocks": 7}, "multiple of 2"),
        ({"eta": 0.1}, "say how many to draw"),
        ({"eta": -1}, "greater than or equal to 0"),
    ],
)
def test_what_makes_no_sense(fields, reason, make_spec):
    with pytest.raises(ValidationError, match=reason):
        make_spec({"format": "theory", **fields})
