"""Canonical JSON: equal values have equal bytes, different values have different ones."""

from __future__ import annotations

import hashlib
import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradattr.canonical import canonical_json, digest_bytes, digest_json

_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
_KEYS = st.text(st.characters(codec="utf-8"), max_size=6)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


def test_golden_bytes() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"é": "x\n", "z": 1e-7}}
    assert canonical_json(value) == ('{"a":{"z":1e-07,"é":"x\\n"},"b":[1,2.5,null,true]}'.encode())
    assert digest_json({}) == hashlib.sha256(b"{}").hexdigest()
    assert digest_bytes(b"") == hashlib.sha256(b"").hexdigest()


def _shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, list):
        return [_shuffled(item, rng) for item in value]
    if not isinstance(value, dict):
        return value
    keys = list(value)
    rng.shuffle(keys)
    return {key: _shuffled(value[key], rng) for key in keys}


@given(_VALUES, st.randoms())
def test_the_order_of_keys_does_not_matter(value: Any, rng: random.Random) -> None:
    assert canonical_json(_shuffled(value, rng)) == canonical_json(value)


@given(_VALUES)
def test_it_reads_back_and_is_stable(value: Any) -> None:
    data = canonical_json(value)
    again = json.loads(data)
    assert again == value
    assert canonical_json(again) == data
    assert digest_json(value) == digest_bytes(data) == digest_bytes(memoryview(data))


@given(_VALUES, _VALUES)
def test_different_values_have_different_digests(first: Any, second: Any) -> None:
    same = canonical_json(first) == canonical_json(second)
    assert (digest_json(first) == digest_json(second)) == same
    if same:
        assert first == second


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [1, math.nan], {"a": math.inf}])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_sets_and_objects_are_refused() -> None:
    for value in ({1}, object(), b"bytes"):
        with pytest.raises(TypeError):
            canonical_json(value)
