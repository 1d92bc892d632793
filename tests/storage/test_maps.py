"""Laws of the six ways to keep a map."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradattr.errors import UsageError
from gradattr.storage.maps import decode_map, encode_maps, map_bytes_per_row, map_fields
from gradattr.storage.parquet import TableWriter, read_parquet, row_bytes
from gradattr.storage.schemas import make_table, maps_schema

CHOICES = ["float32", "float16", "int8", "pooled:3", "pooled:100", "topk:5", "topk:1000"]
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


def _values(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    numbers = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)
    return hnp.arrays(np.float32, shape, elements=numbers)


MAPS = SHAPES.flatmap(lambda shape: st.integers(1, 3).flatmap(lambda n: _values((n, *shape))))


def through_parquet(maps: list[np.ndarray | None], choice: str) -> list[np.ndarray | None]:
    """Encode, write, read with checksums, decode."""
    shape = next(one.shape for one in maps if one is not None)
    count = len(maps)
    columns = {
        "row": list(range(count)),
        "sample_id": [f"s{n}" for n in range(count)],
        "method": ["m"] * count,
        "status": ["ok"] * count,
        **encode_maps(maps, choice),
    }
    table = make_table("maps", columns, maps_schema(choice, shape))
    writer = TableWriter(table.schema, {}, row_bytes(table))
    files = [*writer.append(table), *writer.finish()]
    assert len(files) == 1
    back = read_parquet(files[0][0], "test")
    assert back.schema.equals(table.schema)
    return [decode_map(row, choice) for row in back.to_pylist()]


@given(MAPS, st.sampled_from(CHOICES))
def test_a_map_comes_back_as_near_as_promised(maps: np.ndarray, choice: str) -> None:
    for original, back in zip(maps, through_parquet(list(maps), choice), strict=True):
        assert back is not None
        assert back.dtype == np.float32
        assert back.shape == original.shape
        scale = float(np.abs(original).max())
        error = np.abs(back.astype(np.float64) - original)
        half = np.maximum(np.abs(original) * 2.0**-11, scale * 2.0**-25) * 1.001
        if choice == "float32":
            assert np.array_equal(back, original)
        elif choice in ("float16", "pooled:100"):
            assert (error <= half).all()
        elif choice == "int8":
            assert (error <= scale / 254 * 1.001).all()
        elif choice == "topk:1000":
            assert (error <= half).all()
        elif choice == "topk:5":
            kept = back != 0
            assert kept.sum() <= 5
            assert (error[kept] <= half[kept]).all()
            if kept.any() and not kept.all():
                assert np.abs(original[~kept]).max() <= np.abs(original[kept]).min() * 1.001 or (
                    np.abs(original[~kept]).max() <= scale * 2.0**-24
                )


@given(MAPS)
def test_pooling_keeps_the_mean_of_each_cell(maps: np.ndarray) -> None:
    (back,) = through_parquet([maps[0]], "pooled:3")
    assert back is not None
    scale = float(np.abs(maps[0]).max())
    _, height, width = maps[0].shape
    rows = np.arange(min(3, height) + 1) * height // min(3, height)
    columns = np.arange(min(3, width) + 1) * width // min(3, width)
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            cell = maps[0][:, top:bottom, left:right].astype(np.float64).mean(axis=(1, 2))
            kept = back[:, top:bottom, left:right]
            assert np.ptp(kept, axis=(1, 2)).max() == 0
            assert np.abs(kept[:, 0, 0] - cell).max() <= scale * 2.0**-11 * 1.01


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_null_and_never_zero(choice: str, bad: float) -> None:
    good = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    spoilt = good.copy()
    spoilt[0, 1, 1] = bad
    first, second, third, fourth = through_parquet([good, spoilt, None, good], choice)
    assert second is None
    assert third is None
    assert first is not None
    assert fourth is not None
    array = encode_maps(np.stack([good, spoilt]), choice)
    assert array["channels"].to_pylist() == [1, None]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_map_of_zeros_stays_zero(choice: str) -> None:
    (back,) = through_parquet([np.zeros((2, 3, 4), np.float32)], choice)
    assert back is not None
    assert not back.any()


def test_float16_survives_tiny_values() -> None:
    tiny = np.full((1, 2, 2), 1e-30, np.float32)
    (back,) = through_parquet([tiny], "float16")
    assert back is not None
    assert np.allclose(back, tiny, rtol=1e-3)


def test_ties_at_the_threshold_go_to_the_lower_index() -> None:
    columns = encode_maps(np.ones((1, 1, 3, 3), np.float32), "topk:4")
    assert columns["map_index"].to_pylist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("choice", [*CHOICES, "none"])
def test_bytes_per_row_are_those_of_the_columns(choice: str) -> None:
    shape = (3, 20, 20)
    maps = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    columns = encode_maps(maps, choice)
    names = {name for name, *_ in map_fields(choice, shape)}
    data = sum(columns[name].nbytes for name in names)
    overhead = 8 * 12 + 64
    assert abs(data - 8 * map_bytes_per_row(choice, shape)) <= overhead


def test_none_keeps_no_map() -> None:
    columns = encode_maps(np.ones((2, 1, 2, 2), np.float32), "none")
    assert set(columns) == {"channels", "height", "width"}
    row = {name: array[0].as_py() for name, array in columns.items()}
    assert decode_map(row, "none") is None


@pytest.mark.parametrize("choice", ["float64", "pooled", "pooled:0", "topk:x", "topk:-1", ""])
def test_unknown_choices(choice: str) -> None:
    with pytest.raises(UsageError, match="expected float16"):
        map_bytes_per_row(choice, (1, 2, 2))


def test_all_missing_needs_a_shape() -> None:
    with pytest.raises(UsageError, match="shape"):
        encode_maps([None, None], "float16")
    columns = encode_maps([None, None], "float16", (1, 2, 2))
    assert columns["map"].null_count == 2
    assert columns["map"].type == pa.fixed_shape_tensor(pa.float16(), (1, 2, 2))
