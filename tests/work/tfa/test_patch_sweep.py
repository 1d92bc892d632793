"""The shortcut that is known: a patch in the training images of one class, found in the images that
are said to have done harm. In small: three digits, a patch of 2 x 2 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.small_tfa import digits_npz
from tests.tfa_oracle import Oracle, map_values

CLASSES = [3, 8, 9]
AREA = 4 / 64
#: The derivative of the product of gradients: the cosine is flat on what two images share.
MAP = {"map": "tfa", "of": "grad_dot", "samples": 1, "sigma": 0.0}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Training and test images of three digits, as class 0, 1 and 2."""
    target = load_digits().target
    rows = [int(row) for row in np.flatnonzero(np.isin(target, CLASSES))]
    folder: Path = tmp_path_factory.mktemp("sweep")
    data = []
    for name, some in (
        ("train", [row for at, row in enumerate(rows) if at % 3]),
        ("test", rows[::3]),
    ):
        labels = [CLASSES.index(target[row]) for row in some]
        data.append(digits_npz(folder / f"{name}.npz", some, labels=labels))
    return data


@pytest.fixture(scope="module")
def swept(tfa: Any, digits: Any) -> Any:
    """Train with a patch in a share of the threes; ask for eights that all have it."""

    def make(fraction: float, seed: int) -> Oracle:
        train, test = digits
        patch = {"size": 2, "corner": "bottom_right"}
        recipe = {"epochs": 10, "lr": 0.05, "batch_size": 64, "seed": seed}
        return Oracle(
            tfa(
                name=f"sweep-{round(100 * fraction)}",
                seed=seed,
                data={**train, "patch": {**patch, "class": 0, "fraction": fraction}},
                queries={"data": {**test, "patch": patch}, "classes": [1], "count": 5},
                model={"arch": "mlp", "hidden": [32], "train": recipe},
                maps=[MAP],
                top=10,
                shard_rows=1000,
            )
        )

    return make


def harmful_maps(oracle: Oracle) -> dict[tuple[Any, ...], np.ndarray]:
    pairs = oracle.run.table("tfa_pairs").to_pylist()
    harmful = {(p["query"], p["train_row"]) for p in pairs if p["side"] == "harmful"}
    maps = map_values(oracle.run.table("tfa_maps"))
    return {key: values for key, values in maps.items() if (key[0], key[2]) in harmful}


def share_in_the_corner(values: np.ndarray) -> float:
    """Of the 10 % highest pixels, those where the patch would stand."""
    order = np.argsort(-np.abs(values).mean(axis=0).ravel(), kind="stable")[:6]
    rows, columns = order // 8, order % 8
    return float(((rows >= 6) & (columns >= 6)).mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_patch_is_found_where_it_was_a_shortcut(swept: Any, seed: int) -> None:
    shares, fooled = {}, {}
    for fraction in (0.0, 0.9):
        oracle = swept(fraction, seed)
        maps = harmful_maps(oracle)
        assert len(maps) == 5 * 10
        shares[fraction] = np.mean([share_in_the_corner(values) for values in maps.values()])
        said = oracle.run.table("queries")["predicted"].to_pylist()
        fooled[fraction] = said.count(0)
        harm = [p for p in oracle.run.table("tfa_pairs").to_pylist() if p["side"] == "harmful"]
        marked = [pair["marked_area"] for pair in harm]
        if fraction:
            assert {pair["train_label"] for pair in harm} == {0}
            assert set(marked) <= {0.0, AREA}
            assert np.mean(marked) > 0.5 * AREA
            rows = oracle.run.sql(
                "SELECT marked_share FROM tfa_map_scores WHERE side = 'harmful' "
                "AND marked_share IS NOT NULL"
            )
            assert np.mean(rows["marked_share"].to_pylist()) > 5 * AREA
        else:
            assert set(marked) == {0.0}
            found = oracle.run.table("tfa_map_scores")["marked_share"].to_pylist()
            assert set(found) == {None}
    assert shares[0.9] > 5 * AREA
    assert shares[0.0] < 2 * AREA
    assert fooled[0.9] == 5
    assert fooled[0.0] <= 2
