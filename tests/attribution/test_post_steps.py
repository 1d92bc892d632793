"""Steps on a finished map, against numpy one map at a time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradattr.attribution import method_request
from gradattr.attribution.post_steps import PostStep, apply_steps
from gradattr.manifest.method_base import PostStep as ManifestStep

MAPS = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _largest_channel(one: np.ndarray) -> np.ndarray:
    out = np.zeros((1, *one.shape[1:]))
    for place in np.ndindex(one.shape[1:]):
        values = one[(slice(None), *place)]
        out[(0, *place)] = values[np.argmax(np.abs(values))]
    return out


EXPECTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "abs": np.abs,
    "square": lambda m: m**2,
    "relu": lambda m: np.maximum(m, 0),
    "negate": lambda m: -m,
    "channel_sum": lambda m: m.sum(0, keepdims=True),
    "channel_mean": lambda m: m.mean(0, keepdims=True),
    "channel_max": _largest_channel,
    "channel_l2": lambda m: np.sqrt((m**2).sum(0, keepdims=True)),
    "normalize_max": lambda m: m / np.abs(m).max(),
    "normalize_sum": lambda m: m / np.abs(m).sum(),
    "normalize_range": lambda m: (m - m.min()) / (m.max() - m.min()),
}


def test_manifests_know_the_same_steps() -> None:
    assert PostStep == ManifestStep
    assert set(EXPECTED) == set(PostStep.__args__)


@given(st.lists(st.sampled_from(sorted(EXPECTED)), max_size=4))
def test_each_map_on_its_own_and_in_order(steps: list[PostStep]) -> None:
    found = apply_steps(MAPS, steps)
    for one, after in zip(MAPS.numpy(), found.numpy(), strict=True):
        for step in steps:
            with np.errstate(invalid="ignore"):
                one = np.nan_to_num(EXPECTED[step](one), nan=0.0)
        np.testing.assert_allclose(after, one, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("step", sorted(EXPECTED))
def test_a_map_of_zeros_stays_one(step: PostStep) -> None:
    assert not apply_steps(torch.zeros(2, 3, 4, 4), [step]).any()


def test_a_step_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="post: 'cubed' given, expected one of abs, square"):
        method_request("saliency", post=["cubed"])  # type: ignore[list-item]
