"""``python -m jobs.reproduce_uni``: UNI's tables on given models, beside the published values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradattr.errors import GradattrError
from jobs import reproduce_uni

MANIFEST = """
version: 1
kind: evaluate
name: small
data: {format: digits, split: test, limit: 40}
preprocess: {mean: [0.305], std: [0.376]}
model:
  arch: mlp
  hidden: [32]
  train: {data: {format: digits, split: train}, lr: 0.05, batch_size: 64, epochs: 10}
target: prob_pred
methods:
  - {name: METHODS}
  - {name: integrated_gradients, steps: 8, rule: right}
  - random
metrics: [{metric: deletion, steps: 4}, {metric: insertion, steps: 4}, path_monotonicity, baseline]
runtime: {address: inline}
store: STORE
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    text = MANIFEST.replace("METHODS", "uni, steps: 8, eps: 1.0")
    path.write_text(text.replace("STORE", str(tmp_path / "store")))
    return path


def test_tables_and_claims(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = reproduce_uni.main([str(manifest)])
    out = capsys.readouterr().out
    for words in ("table 1 Faithfulness", "table 3 Paths", "deletion_auc", "claims of UNI"):
        assert words in out
    # Not judged: nobody asked for these metrics.
    assert "attack_spearman" not in out and "4 Riemann" not in out
    assert code == (1 if " NO" in out else 0)


def test_a_run_for_each_model(manifest: Path, tmp_path: Path) -> None:
    reproduce_uni.main([str(manifest), "--models", "mlp", "--set", "data.limit=10"])
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "store/runs").iterdir()] == [
        "uni-mlp"
    ]


def test_published_values_stand_beside_a_model_that_has_them() -> None:
    row = {"mean": 0.5, "low": None, "high": None, "rank": 1}
    cells: dict[tuple[str, str], dict[str, Any]] = {("uni", "insertion_auc"): row}
    assert "(0.71)" in reproduce_uni.cell(cells, "uni", "insertion_auc", "vit_b_16")
    assert "(" not in reproduce_uni.cell(cells, "uni", "insertion_auc", "resnet20")
    assert reproduce_uni.cell(cells, "random", "insertion_auc", "vit_b_16") == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--method", "other"], "no method 'other'"),
        (["--set", "kind=attribute"], "unknown key|expected 'evaluate'|metrics"),
    ],
)
def test_what_it_cannot_do_is_refused(manifest: Path, changes: list[str], words: str) -> None:
    with pytest.raises(GradattrError, match=words):
        reproduce_uni.main([str(manifest), *changes])
