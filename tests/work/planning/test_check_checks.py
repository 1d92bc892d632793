"""Checks that no run could pass are refused before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.errors import UsageError
from gradattr.manifest.kinds import KINDS, Manifest
from gradattr.storage.objects import open_store
from gradattr.work.planning.check_checks import check_checks

ATTRIBUTE: dict[str, Any] = {
    "kind": "attribute",
    "name": "tiny",
    "data": {"format": "digits", "limit": 20},
    "model": {"arch": "mlp", "weights": "w.pt"},
    "methods": ["saliency", {"name": "uni", "id": "mine"}],
}
TRAINED = {"arch": "mlp", "train": {"data": "digits", "epochs": 1}}
EVALUATE = {
    **ATTRIBUTE,
    "kind": "evaluate",
    "metrics": ["insertion", {"metric": "complexity", "images": 5}],
}
AUDIT: dict[str, Any] = {
    "kind": "diffroar",
    "name": "audit",
    "data": "digits",
    "test": {"format": "digits", "split": "test"},
    "models": {"standard": {"arch": "mlp", "train": {}}},
    "levels": [0.1, 1.0],
    "mask_only": False,
}
TFA: dict[str, Any] = {
    "kind": "tfa",
    "name": "why",
    "data": "digits",
    "preprocess": {"mean": [0.5], "std": [0.5]},
    "queries": {"data": {"format": "digits", "split": "test"}},
    "model": {"arch": "mlp", "train": {"epochs": 3}},
    "insertion": {"levels": [0.1, 0.5]},
}
PATCHING = {"kind": "patching", "name": "p", "data": {"file": "a.txt"}, "model": {"path": "gpt2"}}
STEP = {"check": "tfa_summary", "method": "grad_cos", "map_method": "tfa", "level": 0.1, "below": 0}
FINDS = {"check": "attributions", "measure": "abs_total", "above": 0}


def made(base: dict[str, Any], *checks: dict[str, Any], **changes: Any) -> Manifest:
    return KINDS[base["kind"]].model_validate({**base, "checks": list(checks), **changes})


Refused = Callable[[Manifest], str]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """What is said of a manifest's checks; '' where nothing is."""

    def ask(manifest: Manifest) -> str:
        try:
            check_checks(manifest, open_store(str(tmp_path / "store")))
        except UsageError as error:
            return str(error)
        return ""

    return ask


@pytest.mark.parametrize(
    ("base", "check"),
    [
        (ATTRIBUTE, {"check": "predictions", "above": 0, "not_worse_than": "last"}),
        (ATTRIBUTE, {**FINDS, "method": "mine"}),
        (ATTRIBUTE, {"check": "sql", "name": "n", "sql": "SELECT 1", "above": 0}),
        ({**ATTRIBUTE, "model": TRAINED}, {"check": "training", "measure": "loss", "below": 9}),
        (EVALUATE, {"check": "summary", "metric": "insertion_auc", "method": "mine", "above": 0}),
        (
            EVALUATE,
            {
                "check": "summary",
                "metric": "insertion_auc",
                "method": "mine",
                "better_than": "saliency",
            },
        ),
        (AUDIT, {"check": "diffroar", "scheme": "standard/saliency", "level": 0.1, "above": 0}),
        (AUDIT, {"check": "diffroar", "scheme": "linear", "level": 1, "above": 0}),
        (AUDIT, {"check": "training", "model": "standard", "measure": "loss", "below": 9}),
        (TFA, STEP),
        (TFA, {"check": "predictions", "above": 0}),
        (PATCHING, {"check": "faithfulness", "baseline": "uni", "measure": "l2", "below": 1}),
    ],
)
def test_what_can_be_asked(refused: Refused, base: Any, check: dict[str, Any]) -> None:
    assert refused(made(base, check)) == ""


@pytest.mark.parametrize(
    ("base", "check", "said"),
    [
        (ATTRIBUTE, {**FINDS, "method": "uni"}, ".method: 'uni' is not in this manifest; it has"),
        (ATTRIBUTE, {**FINDS, "method": "salency"}, "did you mean 'saliency'?"),
        (
            ATTRIBUTE,
            {"check": "summary", "metric": "m", "method": "mine", "above": 0},
            ".check: a run of this manifest (kind 'attribute') has no table 'summary'; it has "
            "'predictions', 'attributions'",
        ),
        (
            ATTRIBUTE,
            {"check": "leakage", "method": "mine", "level": 0.1, "above": 0},
            "has no table 'leakage' (its data has no masks)",
        ),
        (
            ATTRIBUTE,
            {"check": "training", "measure": "loss", "below": 1},
            "no table 'training' (it trains nothing)",
        ),
        (
            {**ATTRIBUTE, "model": TRAINED},
            {"check": "training", "measure": "test_loss", "below": 1},
            ".measure: 'test_loss' needs test data",
        ),
        (
            ATTRIBUTE,
            {"check": "sql", "name": "n", "sql": "DROP TABLE x", "above": 0},
            ".sql: SQL: a DROP statement is refused",
        ),
        (
            ATTRIBUTE,
            {"check": "predictions", "not_worse_than": "run:gone"},
            ".not_worse_than: there is no committed run 'gone'",
        ),
        (
            EVALUATE,
            {"check": "summary", "metric": "insertion", "method": "mine", "above": 0},
            ".metric: 'insertion' is not in this manifest; it has 'insertion_auc'",
        ),
        (
            EVALUATE,
            {
                "check": "summary",
                "metric": "complexity_entropy",
                "method": "mine",
                "better_than": "saliency",
            },
            "of 'complexity_entropy' neither direction is better",
        ),
        (
            EVALUATE,
            {
                "check": "summary",
                "metric": "complexity_entropy",
                "method": "mine",
                "not_worse_than": "last",
            },
            "neither direction is better; state higher_is_better",
        ),
        (
            EVALUATE,
            {
                "check": "summary",
                "metric": "complexity_entropy",
                "method": "mine",
                "statistic": "rank",
                "at_most": 1,
            },
            "so methods are not ranked by it",
        ),
        (
            AUDIT,
            {"check": "diffroar", "scheme": "saliency", "level": 0.1, "above": 0},
            "did you mean 'standard/saliency'?",
        ),
        (
            AUDIT,
            {"check": "diffroar", "scheme": "random", "level": 0.2, "above": 0},
            ".level: 0.2 is not in this manifest; it has 0.1, 1",
        ),
        (
            AUDIT,
            {
                "check": "diffroar",
                "scheme": "random",
                "level": 0.1,
                "variant": "mask_only",
                "above": 0,
            },
            ".variant: 'mask_only' is not in this manifest; it has 'retrain'",
        ),
        (TFA, {**STEP, "side": "harmful"}, ".side: 'harmful' is not in this manifest"),
        (TFA, {**STEP, "steps": 3}, ".steps: '3' is not in this manifest; it has '1'"),
        ({**TFA, "insertion": None}, STEP, "(it states no 'insertion')"),
        (
            {**PATCHING, "methods": ["attribution_patching"]},
            {"check": "faithfulness", "baseline": "uni", "measure": "l2", "below": 1},
            "it compares no estimate with 'activation_patching'",
        ),
    ],
)
def test_what_cannot_be_asked(
    refused: Refused, base: Any, check: dict[str, Any], said: str
) -> None:
    found = refused(made(base, {"check": "sql", "name": "n", "sql": "SELECT 1", "above": 0}, check))
    assert found.startswith("checks[1].")
    assert said in found


def test_every_fault_is_told_at_once(refused: Refused) -> None:
    checks = [{**FINDS, "method": "a"}, {**FINDS, "method": "mine"}, {**FINDS, "method": "b"}]
    lines = refused(made(ATTRIBUTE, *checks)).split("\n")
    assert [line[:17] for line in lines] == ["checks[0].method:", "checks[2].method:"]


def test_an_earlier_run_of_another_kind(tmp_path: Path) -> None:
    from tests.made_up_audits import MadeUpAudit

    store = open_store(str(tmp_path))
    run_id = MadeUpAudit(name="audit").write(store).run_id
    check = {"check": "predictions", "not_worse_than": f"run:{run_id}"}
    with pytest.raises(UsageError, match="of kind 'diffroar', this manifest of kind 'attribute'"):
        check_checks(made(ATTRIBUTE, check), store)
    sql = {"check": "sql", "name": "n", "sql": "SELECT 1", "higher_is_better": True}
    check_checks(made(ATTRIBUTE, {**sql, "not_worse_than": f"run:{run_id}"}), store)
