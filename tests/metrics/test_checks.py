"""Checks: bounds, earlier runs, numbers that are not there; JUnit XML parsed back."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradattr.errors import UsageError
from gradattr.metrics.checks import (
    Check,
    NotWorse,
    NumberName,
    Verdict,
    judge,
    judge_not_worse,
    nothing_earlier,
)
from gradattr.metrics.junit import junit_xml
from gradattr.metrics.statistics import Summary

numbers = st.floats(-100, 100)


def _summary(mean: float, half: float = 0.1) -> Summary:
    return Summary(50, 0, mean, 1.0, mean - half, mean + half)


def named_numbers(summaries: dict[tuple[str, str], Summary]) -> dict[NumberName, float]:
    """Every field of every summary by its name, for summaries by (metric, method)."""
    return {
        NumberName(metric, method, field): float(value)
        for (metric, method), summary in summaries.items()
        for field, value in summary._asdict().items()
    }


@given(numbers, numbers, st.sampled_from(["<", "<=", ">", ">="]))
def test_a_bound_holds_as_python_says(value: float, bound: float, op: Any) -> None:
    name = NumberName("deletion", "ig", "mean")
    found = judge(Check("deletion", "ig", "mean", op, bound), {name: value})
    holds = {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}
    assert found.passed is holds[op]
    assert found.value == value
    assert found.group == "deletion"


def test_texts_say_what_was_asked_and_what_was_found() -> None:
    values = named_numbers({("deletion", "ig"): _summary(0.25)})
    passed = judge(Check("deletion", "ig", "mean", "<", 0.3), values)
    failed = judge(Check("deletion", "ig", "high", "<", 0.3), values)
    assert passed.check == "deletion of ig, mean < 0.3"
    assert passed.text == "deletion of ig, mean is 0.25, as asked: < 0.3"
    assert failed.text == "deletion of ig, high is 0.35, not as asked: < 0.3"
    assert passed.passed and not failed.passed


def test_a_number_that_does_not_exist_passes_nothing() -> None:
    values = named_numbers({("auc", "ig"): Summary(1, 0, 0.5, math.nan, math.nan, math.nan)})
    for op in ("<", "<=", ">", ">="):
        found = judge(Check("auc", "ig", "low", op, 0.0), values)
        assert not found.passed
        assert found.text == "auc of ig, low has no value (NaN)"
        found = judge(Check("auc", "uni", "mean", op, 0.0), values)
        assert not found.passed
        assert math.isnan(found.value)
        assert found.text == "there is no number auc of uni, mean; there is one for ig"
    nothing = judge(Check("auc", "ig", "mean", "<", 1.0), {})
    assert nothing.text == "there is no number auc of ig, mean"


@pytest.mark.parametrize(
    ("now", "higher_is_better", "by_mean", "by_interval"),
    [
        (0.70, True, True, True),
        (0.46, True, True, True),  # lower by less than delta
        (0.40, True, False, True),  # by more, but the interval reaches 0.45
        (0.34, True, False, False),
        (0.34, False, True, True),
        (0.54, False, True, True),
        (0.60, False, False, True),
        (0.66, False, False, False),
    ],
)
def test_not_worse_than_earlier(
    now: float, higher_is_better: bool, by_mean: bool, by_interval: bool
) -> None:
    earlier = _summary(0.5)
    for over, expected in ((False, by_mean), (True, by_interval)):
        check = NotWorse("auc", "ig", 0.05, higher_is_better, over)
        found = judge_not_worse(check, _summary(now), earlier)
        assert found.passed is expected, found.text
        assert f"changed by {now - 0.5:+.6g}" in found.text


@given(numbers, numbers, st.floats(0, 10), st.booleans())
def test_laws_of_not_worse(now: float, earlier: float, delta: float, by_interval: bool) -> None:
    """The opposite direction on the opposite numbers; the interval fails less than the mean."""
    here, there = _summary(now), _summary(earlier)
    found = judge_not_worse(NotWorse("m", "a", delta, True, by_interval), here, there)
    turned = [Summary(50, 0, -one.mean, 1.0, -one.high, -one.low) for one in (here, there)]
    other = judge_not_worse(NotWorse("m", "a", delta, False, by_interval), *turned)
    assert found.passed == other.passed
    assert found.value == -other.value
    if found.passed:
        assert judge_not_worse(NotWorse("m", "a", delta, True, True), here, there).passed


def test_what_cannot_be_compared_fails() -> None:
    check = NotWorse("auc", "ig", 0.1, True, by_interval=True)
    here = _summary(0.5)
    gone = Summary(0, 9, math.nan, math.nan, math.nan, math.nan)
    one = Summary(1, 0, 0.5, math.nan, math.nan, math.nan)
    texts = {
        "this run has no auc of ig": (None, here),
        "the earlier run has no auc of ig": (here, None),
        "auc of ig has no value (NaN) in this run": (gone, here),
        "auc of ig has no value (NaN) in the earlier run": (here, gone),
        "auc of ig has no interval: 1 image(s) have a value": (one, here),
    }
    for text, (now, earlier) in texts.items():
        found = judge_not_worse(check, now, earlier)
        assert not found.passed
        assert math.isnan(found.value)
        assert found.text == text
    assert judge_not_worse(NotWorse("auc", "ig", 0.1, True), one, one).passed


def test_nothing_earlier_passes_and_says_so() -> None:
    check = NotWorse("auc", "ig", 0.1, True)
    found = nothing_earlier(check, _summary(0.5), "there is no earlier run")
    assert found.passed
    assert not found.made
    assert found.text == "auc of ig, mean is 0.5; there is no earlier run"
    for missing in (None, Summary(0, 9, *[math.nan] * 4)):
        found = nothing_earlier(check, missing, "there is no earlier run")
        assert not found.passed
        assert found.text == "this run has no auc of ig, mean, and there is no earlier run"


def test_other_statistics_and_numbers_of_nothing() -> None:
    name = NumberName("worst", "", "")
    found = judge(Check("worst", "", "", ">", 1.0), {name: 2.0})
    assert (found.check, found.text) == ("worst > 1", "worst is 2, as asked: > 1")
    here, there = (Summary(0, 0, value, *[math.nan] * 3) for value in (0.4, 0.5))
    found = judge_not_worse(NotWorse("gap", "ig", 0, True, statistic="median"), here, there)
    assert not found.passed
    assert found.check == "gap of ig, median not below the earlier number by more than 0"
    assert found.text == (
        "gap of ig, median is 0.4, was 0.5: changed by -0.1, not as asked: median at least 0.5"
    )
    found = judge_not_worse(NotWorse("worst", "", 0.2, True, statistic=""), here, there)
    assert found.text.endswith("changed by -0.1, as asked: at least 0.3")


def test_what_does_not_fit() -> None:
    wrong: Any = "=="
    with pytest.raises(UsageError, match="'==' was given"):
        Check("auc", "ig", "mean", wrong, 1.0)
    with pytest.raises(UsageError, match="bound nan"):
        Check("auc", "ig", "mean", "<", math.nan)
    with pytest.raises(UsageError, match="delta -1"):
        NotWorse("auc", "ig", -1, True)


#: Everything that a Python string can hold, lone surrogates and control characters too.
texts = st.text(st.characters(exclude_categories=()), max_size=20)
verdicts_of_all_sorts = st.builds(
    Verdict, texts, texts, st.booleans(), numbers, texts, st.booleans()
)


@given(st.lists(verdicts_of_all_sorts, max_size=5), texts)
def test_xml_says_what_the_verdicts_say(verdicts: list[Verdict], suite: str) -> None:
    root = ElementTree.fromstring(junit_xml(verdicts, suite).encode())
    (parent,) = root
    failed = sum(not verdict.passed for verdict in verdicts)
    for each in (root, parent):
        assert (each.get("tests"), each.get("failures")) == (str(len(verdicts)), str(failed))
        skipped = sum(verdict.passed and not verdict.made for verdict in verdicts)
        assert each.get("skipped") == str(skipped)
    assert parent.get("name") == _readable(suite)
    for case, verdict in zip(parent, verdicts, strict=True):
        assert case.get("name") == _readable(verdict.check)
        assert case.get("classname") == _readable(f"{suite}.{verdict.group}")
        (said,) = case
        if verdict.passed and not verdict.made:
            assert said.tag == "skipped"
            assert said.get("message") == _readable(verdict.text)
        elif verdict.passed:
            assert said.tag == "system-out"
            # A parser reads every end of a line as "\n".
            expected = _readable(verdict.text).replace("\r\n", "\n").replace("\r", "\n")
            assert (said.text or "") == expected
        else:
            assert said.tag == "failure"
            assert said.get("message") == _readable(verdict.text)


def _readable(text: str) -> str:
    kept = []
    for one in text:
        try:
            ElementTree.fromstring(f"<a>&#{ord(one)};</a>")
            kept.append(one)
        except ElementTree.ParseError:
            kept.append(f"\\x{ord(one):02x}")
    return "".join(kept)


def test_xml_of_an_example() -> None:
    values = named_numbers({("deletion <0>", "ig & co"): _summary(0.25)})
    verdicts = [judge(Check("deletion <0>", "ig & co", "mean", "<", b), values) for b in (0.3, 0.2)]
    assert junit_xml(verdicts, "nightly") == (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<testsuites tests="2" failures="1" errors="0" skipped="0">\n'
        '  <testsuite name="nightly" tests="2" failures="1" errors="0" skipped="0">\n'
        '    <testcase classname="nightly.deletion &lt;0&gt;" '
        'name="deletion &lt;0&gt; of ig &amp; co, mean &lt; 0.3">\n'
        "      <system-out>deletion &lt;0&gt; of ig &amp; co, mean is 0.25, as asked: &lt; 0.3"
        "</system-out>\n"
        "    </testcase>\n"
        '    <testcase classname="nightly.deletion &lt;0&gt;" '
        'name="deletion &lt;0&gt; of ig &amp; co, mean &lt; 0.2">\n'
        '      <failure type="CheckError" '
        'message="deletion &lt;0&gt; of ig &amp; co, mean is 0.25, not as asked: &lt; 0.2" />\n'
        "    </testcase>\n"
        "  </testsuite>\n"
        "</testsuites>\n"
    )
