"""``checks:`` -- what they may ask, what they are told, and that they are no part of a run's
identity."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.manifest.kinds import KINDS
from gradattr.manifest.loading import parse_manifest
from gradattr.plan import assemble, without_checks
from tests.manifest.test_schema import BASE, models_accept, schema_accepts

Fault = Callable[..., str]


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("{check: predictions}", "checks[0]: nothing is asked of the number; state at_least,"),
        ("{predictions: accuracy}", "write 'check: predictions', with its parameters beside it"),
        ("{check: prediction, above: 1}", "did you mean 'predictions'?"),
        ("{check: predictions, atleast: 1}", "unknown key; did you mean 'at_least'?"),
        ("{check: predictions, min: 1}", "unknown key; did you mean 'at_least'?"),
        ("{check: predictions, not_worse_than: last, margin: 1}", "did you mean 'by'?"),
        ("{check: predictions, level: 0.1, above: 0}", "it is a key of 'diffroar', 'tfa_summary'"),
        ("{check: leakage, method: a, level: 10, above: 0}", "as a share, 10 percent is 0.1"),
        ("{check: predictions, at_least: 90%}", "write 90 percent as a share: 0.9"),
        ("predictions", "'predictions' is not a mapping; write 'check: predictions'"),
        ("{check: sql, sql: select 1, above: 0}", "the required key 'name' is missing"),
        ("{check: predictions, not_worse_than: latest}", "is not 'last' or a run of this store"),
        ("{check: predictions, at_least: 1, at_most: 0}", "no number is >= 1 and <= 0"),
        ("{check: predictions, above: 1, at_most: 1}", "no number is > 1 and <= 1"),
        ("{check: predictions, above: 1, at_least: 1}", "one of them is enough"),
        ("{check: predictions, by: 0.1, at_least: 1}", "a comparison with an earlier run"),
        ("{check: predictions, higher_is_better: false, above: 1}", "a comparison with an earlier"),
        ("{check: predictions, not_worse_than: last, by: -1}", "a number of at least 0"),
        (
            "{check: leakage, method: a, level: 0.1, not_worse_than: last}",
            "nothing tells which way is worse; state higher_is_better",
        ),
        (
            "{check: predictions, not_worse_than: last, higher_is_better: false}",
            "accuracy is better if it is higher",
        ),
        (
            "{check: predictions, statistic: median, not_worse_than: last, by_interval: true}",
            "only a mean has an interval",
        ),
        (
            "{check: summary, metric: m, method: a, better_than: a}",
            "it is the method itself; name another one",
        ),
        ("{check: summary, metric: m, method: a}", "not_worse_than or better_than"),
    ],
)
def test_what_a_check_cannot_ask(fault: Fault, minimal: str, check: str, expected: str) -> None:
    assert expected in fault(f"{minimal}checks:\n  - {check}\n")


@pytest.mark.parametrize(
    "checks",
    [
        [{"check": "predictions"}],
        [{"check": "predictions", "at_least": None}],
        ["predictions"],
        [{"check": "summary", "metric": "m", "method": "a"}],
        [{"check": "sql", "sql": "SELECT 1", "at_least": 1}],
        {"check": "predictions", "at_least": 1},
    ],
)
def test_the_schema_refuses_what_the_models_refuse(checks: Any) -> None:
    value = {**BASE, "checks": checks}
    assert not models_accept(value)
    assert not schema_accepts(value)


def test_numbers_are_called_by_what_they_are() -> None:
    text = json.dumps(
        {
            **BASE,
            "checks": [
                {"check": "summary", "metric": "m", "method": "a", "better_than": "b"},
                {
                    "check": "diffroar",
                    "scheme": "a/uni",
                    "level": 0.1,
                    "statistic": "low",
                    "above": 0,
                },
                {"check": "predictions", "above": 0},
                {"check": "sql", "name": "worst", "sql": "SELECT 1", "above": 0},
            ],
        }
    )
    summary, diffroar, predictions, sql = parse_manifest(text).checks
    assert summary.number == ("m", "a", "mean")
    assert summary.bounds == []
    assert diffroar.number == ("diffroar", "a/uni, level 0.1", "low")
    assert diffroar.rows == {"scheme": "a/uni", "level": 0.1}
    assert diffroar.bounds == [(">", 0.0)]
    assert predictions.number == ("accuracy", "the model", "mean")
    assert sql.number == ("worst", "", "")
    assert sql.table is None


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_checks_change_no_fingerprint(valid_manifests: Any, data: st.DataObject) -> None:
    value = data.draw(valid_manifests)
    manifest = KINDS[value["kind"]].model_validate(value)
    without = manifest.model_copy(update={"checks": []})
    plans = [assemble(m.model_dump(mode="json"), {"data": 1}, ()) for m in (manifest, without)]
    assert plans[0].fingerprint == plans[1].fingerprint
    assert "checks" not in plans[1].manifest
    assert plans[0].manifest.get("checks", []) == manifest.model_dump(mode="json").get("checks", [])


def test_a_bound_is_set_on_the_command_line() -> None:
    checks = [
        {"check": "predictions", "at_least": 0.5},
        {"check": "predictions", "name": "mine", "above": 0},
    ]
    text = json.dumps({**BASE, "checks": checks})
    given = ["checks.0.at_least=0.6", "checks.mine.above=0.1"]
    found = parse_manifest(text, overrides=given).checks
    assert [check.bounds for check in found] == [[(">=", 0.6)], [(">", 0.1)]]


def test_checks_of_jobs_are_no_identity_either() -> None:
    jobs = {"a": {"kind": "train", "checks": [1]}, "b": {"kind": "train"}}
    found = without_checks({"name": "x", "jobs": jobs, "checks": [2]})
    assert found == {"name": "x", "jobs": {"a": {"kind": "train"}, "b": {"kind": "train"}}}
