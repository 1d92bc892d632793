"""The published pattern of BlockMNIST (Shah et al. 2021), on the embedded digits, whole runs.

A standard model's gradient lies on both blocks; an adversarially trained one's on the signal alone;
and so does a standard one's where the signal is always on top: it leaks to where the signal may be
in other images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import gradattr

LEVEL = 0.05


@pytest.fixture
def leak(make_manifest: Callable[..., Any]) -> Callable[..., dict[str, float]]:
    """Train, attribute and commit; by method the mean leakage at 5 %, and the accuracy."""

    def measure(signal: str, **train: Any) -> dict[str, float]:
        data = {"format": "blockmnist", "signal": signal}
        recipe = {"data": {**data, "split": "train"}, "lr": 0.05, "batch_size": 64, **train}
        manifest = make_manifest(
            data={**data, "split": "test"},
            model={"arch": "mlp", "hidden": [64, 64], "train": recipe},
            methods=["saliency", "random"],
            leakage_levels=[LEVEL],
            store={**make_manifest().store.model_dump(), "maps": "none"},
        )
        run = gradattr.open_run(gradattr.run(manifest).uri)
        rows = run.sql("SELECT method, avg(share) AS share FROM leakage GROUP BY 1").to_pylist()
        found = {row["method"]: row["share"] for row in rows}
        (right,) = run.sql("SELECT avg(correct::int) AS a FROM predictions").to_pylist()
        return found | {"accuracy": right["a"]}

    return measure


def test_the_published_pattern(leak: Callable[..., dict[str, float]]) -> None:
    standard = leak("random", epochs=40)
    top = leak("top", epochs=40)
    adversary = {"norm": "l2", "eps": 2.0}
    robust = leak("random", epochs=40, adversary=adversary)
    found = {"standard": standard, "top": top, "robust": robust}
    assert all(one["accuracy"] > 0.97 for one in found.values()), found
    assert all(abs(one["random"] - 0.5) < 0.03 for one in found.values()), found
    assert standard["saliency"] > 0.25, found
    assert robust["saliency"] < 0.1, found
    assert top["saliency"] < 0.1, found
