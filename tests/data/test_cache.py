"""What a worker keeps: bounded, least recently used first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gradattr.data.cache import BoundedCache


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 60)), max_size=60))
def test_the_bound_holds_and_values_are_right(calls):
    cache = BoundedCache(100)
    sizes = dict(reversed(calls))
    for key, _ in calls:
        assert cache.get(key, lambda key=key: (key,), lambda _, key=key: sizes[key]) == (key,)
        assert cache.bytes <= 100 or len(cache) == 1


def test_the_least_recently_used_goes_first():
    cache, loads = BoundedCache(2), []

    def get(key):
        return cache.get(key, lambda: loads.append(key) or key, lambda _: 1)

    for key in "abacab":
        get(key)
    assert loads == ["a", "b", "c", "b"]


def test_a_value_larger_than_the_bound_is_kept_until_the_next():
    cache = BoundedCache(10)
    cache.get("big", lambda: "B", lambda _: 99)
    assert cache.get("big", lambda: "again", lambda _: 99) == "B"
    cache.get("small", lambda: "s", lambda _: 1)
    assert (len(cache), cache.bytes) == (1, 1)


def test_clearing():
    cache = BoundedCache(10)
    cache.get("a", lambda: 1, lambda _: 5)
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)
