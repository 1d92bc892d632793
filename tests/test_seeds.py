"""Seeds are functions of names: same names, same seed; other names or order, another seed."""

from __future__ import annotations

import os
import random
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from gradattr.seeds import derive_seed, sample_seeds

_PARTS = st.one_of(
    st.text(max_size=12),
    st.integers(),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False),
)


GOLDEN = (2858069222894195974, 4681286849831685866, 6833514598594933191)


def test_golden_values() -> None:
    """These numbers stand behind every stored map: they never change."""
    assert derive_seed() == GOLDEN[0]
    assert derive_seed(0, "noise", "img-1") == GOLDEN[1]
    assert derive_seed(1, "é", None, True, 0.5) == GOLDEN[2]


@given(st.lists(_PARTS, max_size=5))
def test_in_range_and_repeatable(parts: list[str | int | float | bool | None]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert seed == derive_seed(*parts)


@given(st.lists(st.text(max_size=6), max_size=4), st.lists(st.text(max_size=6), max_size=4))
def test_other_names_other_seed(first: list[str], second: list[str]) -> None:
    assert (derive_seed(*first) == derive_seed(*second)) == (first == second)


def test_text_and_number_differ() -> None:
    assert len({derive_seed(1), derive_seed("1"), derive_seed(True), derive_seed(1.0)}) == 4


@given(st.integers(0, 2**40), st.lists(st.text(max_size=8), max_size=20), st.randoms())
def test_a_samples_seed_does_not_depend_on_its_neighbours(
    seed: int, ids: list[str], rng: random.Random
) -> None:
    together = dict(zip(ids, sample_seeds(seed, "noise", ids), strict=True))
    shuffled = list(ids)
    rng.shuffle(shuffled)
    assert together == dict(zip(shuffled, sample_seeds(seed, "noise", shuffled), strict=True))
    assert all(together[one] == derive_seed(seed, "noise", one) for one in ids)


def test_seeds_are_spread_evenly() -> None:
    seeds = sample_seeds(0, "noise", (str(n) for n in range(20_000)))
    assert len(set(seeds)) == len(seeds)
    for bit in range(63):
        ones = sum(seed >> bit & 1 for seed in seeds)
        assert 9_600 < ones < 10_400, f"bit {bit}"


def test_another_process_derives_the_same() -> None:
    code = "from gradattr.seeds import derive_seed; print(derive_seed(0, 'noise', 'img-1'))"
    for hash_seed in ("1", "2"):
        path = os.pathsep.join(entry for entry in sys.path if entry)
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        )
        assert int(done.stdout) == derive_seed(0, "noise", "img-1")
