"""docs/calibration.md says what is so, and metrics keep what their definitions promise of a map's
reverse and of random maps."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest

from gradattr.report.results import Run
from tests.calibration import (
    LINES,
    MAP,
    PAGE,
    RANDOM,
    REVERSE,
    Line,
    calibrated,
    page,
    pair,
    scores,
)
from tests.small_runs import one_thread

__all__ = ["one_thread"]

_NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    return calibrated(tmp_path_factory.mktemp("calibration"))


@pytest.fixture(scope="module")
def values(runs: Mapping[str, Run]) -> dict[tuple[str, str], np.ndarray]:
    return scores(runs)


def test_the_page_is_what_is_found(runs: Mapping[str, Run]) -> None:
    """Word for word; numbers up to what another machine's training may change."""
    written, found = PAGE.read_text(encoding="utf-8"), page(runs)
    assert _NUMBER.sub("#", written) == _NUMBER.sub("#", found), "run: python -m tests.calibration"
    numbers = [[float(one) for one in _NUMBER.findall(text)] for text in (written, found)]
    assert numbers[1] == pytest.approx(numbers[0], rel=0.1, abs=0.03)


def test_every_number_of_the_runs_is_on_the_page(
    values: dict[tuple[str, str], np.ndarray],
) -> None:
    assert {metric for metric, _ in values} == {line.metric for line in LINES}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.metric)
def test_a_reverse_gives_what_the_definition_says(
    values: dict[tuple[str, str], np.ndarray], line: Line
) -> None:
    metric, law = line.metric, line.reverse
    good, reverse = values[metric, MAP], values[metric, REVERSE]
    chance = values.get((metric, RANDOM))
    if law in ("same", "path"):
        assert reverse == pytest.approx(good, rel=1e-5, abs=1e-6, nan_ok=True)
    elif law == "opposite":
        if metric != "road_score":
            assert reverse == pytest.approx(-good, abs=1e-6, nan_ok=True)
        # Equal pixels go in the same random order both times: a reverse on the mean only.
        assert np.nanmean(reverse) == pytest.approx(-np.nanmean(good), abs=0.02)
    elif law == "mirrored":
        assert chance is not None
        away = abs(good.mean() - chance.mean())
        assert away > 0.1
        assert (good.mean() + reverse.mean()) / 2 == pytest.approx(chance.mean(), abs=away / 4)
    else:
        assert law == "worse"
        assert reverse.mean() > 2 * good.mean()


def test_what_chance_gives(
    values: dict[tuple[str, str], np.ndarray], runs: Mapping[str, Run]
) -> None:
    for metric, expected in (
        ("mu_fidelity_spearman_signed", 0),
        ("mu_fidelity_pearson_signed", 0),
        ("road_score", 0),
        ("localisation_mass", 0.5),
        ("localisation_rank", 0.5),
        ("localisation_auc", 0.5),
        ("complexity_sparseness", 2**0.5 - 1),  # of the half-normal distribution
    ):
        found = values[metric, RANDOM]
        error = np.nanstd(found) / np.sqrt(np.isfinite(found).sum())
        assert np.nanmean(found) == pytest.approx(expected, abs=max(4 * error, 0.02)), metric
        assert abs(np.nanmean(values[metric, MAP]) - expected) > 5 * error, metric
    together = pair(runs, MAP, RANDOM)
    assert together["spearman"] == pytest.approx(0, abs=0.06)
    assert together["top_overlap"] == pytest.approx(0.1, abs=0.05)
    opposite = pair(runs, MAP, REVERSE)
    assert (opposite["spearman"], opposite["spearman_magnitude"]) == pytest.approx((-1, 1))


def test_deletion_is_insertion_into_the_fill_of_the_reverse(
    values: dict[tuple[str, str], np.ndarray],
) -> None:
    for first, second in ((MAP, REVERSE), (REVERSE, MAP)):
        gone, come = values["deletion_auc", first], values["insertion_from_mean_auc", second]
        assert gone == pytest.approx(come, abs=0.02)
