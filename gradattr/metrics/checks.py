"""Does a number keep the bound that a team has set for it? Numbers in, verdicts out.

A check names a number (a statistic of a metric of a method) and says what it must be: above or
below a bound, or not worse than it was in an earlier run. A number that does not exist (NaN, or
not there at all) passes no check: a check that cannot be made must not look as if it held.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gradattr.errors import UsageError
from gradattr.metrics.statistics import Summary

Op = Literal["<", "<=", ">", ">="]

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class NumberName(NamedTuple):
    """What a number is called."""

    metric: str
    method: str
    """'': of nothing in particular."""
    statistic: str
    """A field of `Summary`, such as 'mean' or 'low', or any other name; '': none."""

    def __str__(self) -> str:
        whose = f" of {self.method}" if self.method else ""
        return f"{self.metric}{whose}{f', {self.statistic}' if self.statistic else ''}"


@dataclass(frozen=True)
class Check:
    """``statistic`` of ``metric`` for ``method`` must be ``op`` ``bound``.

    A bound on 'low' (with '>') or 'high' (with '<') asks for more than one on 'mean': that the
    whole interval keeps it. Raises UsageError for another op, or a bound that is not finite.
    """

    metric: str
    method: str
    statistic: str
    op: Op
    bound: float

    def __post_init__(self) -> None:
        if self.op not in _OPERATORS:
            raise UsageError(f"check: {self.op!r} was given, expected {', '.join(_OPERATORS)}")
        if not math.isfinite(self.bound):
            raise UsageError(f"check: bound {self.bound} was given, expected a finite number")

    @property
    def name(self) -> NumberName:
        return NumberName(self.metric, self.method, self.statistic)

    def __str__(self) -> str:
        return f"{self.name} {self.op} {self.bound:g}"


@dataclass(frozen=True)
class NotWorse:
    """A mean, or another statistic, must not be worse than it was earlier by more than ``delta``.

    Worse is lower if ``higher_is_better``, else higher. ``by_interval``: fails only if the whole
    interval of the mean is worse than that, so that chance alone seldom fails it; without, the
    mean decides. Raises UsageError for a delta below 0.
    """

    metric: str
    method: str
    delta: float
    """In the metric's unit; 0 or more."""
    higher_is_better: bool
    by_interval: bool = False
    statistic: str = "mean"
    """What is compared."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delta) and self.delta >= 0):
            raise UsageError(f"check: delta {self.delta} was given, expected 0 or more")

    def __str__(self) -> str:
        worse = "below" if self.higher_is_better else "above"
        what = "interval" if self.by_interval else self.statistic
        earlier = "mean" if self.statistic == "mean" else "number"
        name = NumberName(self.metric, self.method, what)
        return f"{name} not {worse} the earlier {earlier} by more than {self.delta:g}"


class Verdict(NamedTuple):
    """What became of a check."""

    check: str
    """What was asked, in words; the same in every run."""
    group: str
    """The metric: what reports are ordered by."""
    passed: bool
    value: float
    """The number that decided; NaN where there is none."""
    text: str
    """Why it passed or failed, in words, with the numbers."""
    made: bool = True
    """False: there was nothing to compare with yet, so that nothing could fail."""


def judge(check: Check, numbers: Mapping[NumberName, float]) -> Verdict:
    """The verdict on one check, from the numbers of a run by their names."""
    value = numbers.get(check.name)
    if value is None:
        others = sorted(
            name.method for name in numbers if name[::2] == (check.metric, check.statistic)
        )
        known = f"; there is one for {', '.join(others)}" if others else ""
        text = f"there is no number {check.name}{known}"
        return Verdict(str(check), check.metric, False, math.nan, text)
    if math.isnan(value):
        text = f"{check.name} has no value (NaN)"
        return Verdict(str(check), check.metric, False, value, text)
    passed = bool(_OPERATORS[check.op](value, check.bound))
    text = f"{check.name} is {value:.6g}, {'as' if passed else 'not as'} asked: {check.op} "
    return Verdict(str(check), check.metric, passed, value, text + f"{check.bound:g}")


def judge_not_worse(check: NotWorse, now: Summary | None, earlier: Summary | None) -> Verdict:
    """The verdict on one comparison with an earlier run; None where a run has no such summary.

    The fields ``mean`` are the numbers that are compared, whatever statistic it is.
    """

    def verdict(passed: bool, value: float, text: str) -> Verdict:
        return Verdict(str(check), check.metric, passed, value, text)

    other = "" if check.statistic == "mean" else check.statistic
    name = NumberName(check.metric, check.method, other)
    if now is None or earlier is None:
        run = "this run" if now is None else "the earlier run"
        return verdict(False, math.nan, f"{run} has no {name}")
    if math.isnan(now.mean) or math.isnan(earlier.mean):
        run = "this run" if math.isnan(now.mean) else "the earlier run"
        return verdict(False, math.nan, f"{name} has no value (NaN) in {run}")
    sign = 1 if check.higher_is_better else -1
    bound = earlier.mean - sign * check.delta
    value = now.mean
    if check.by_interval:
        # The end that is better: if even that is beyond the bound, the whole interval is.
        value = now.high if check.higher_is_better else now.low
        if math.isnan(value):
            text = f"{name} has no interval: {now.n} image(s) have a value"
            return verdict(False, value, text)
    change = now.mean - earlier.mean
    ends = "" if math.isnan(now.low) else f" [{now.low:.6g}, {now.high:.6g}]"
    said = f"{name} is {now.mean:.6g}{ends}, was {earlier.mean:.6g}"
    passed = sign * (value - bound) >= 0
    limit = f"{'at least' if check.higher_is_better else 'at most'} {bound:.6g}"
    what = "end of the interval" if check.by_interval else check.statistic
    asked = f"{what} {limit}".lstrip()
    text = f"{said}: changed by {change:+.6g}, {'as' if passed else 'not as'} asked: {asked}"
    return verdict(passed, value, text)


def nothing_earlier(check: NotWorse, now: Summary | None, text: str) -> Verdict:
    """The verdict where there is no earlier run: passed, and said not to have been made; failed
    where this run has no such number either."""
    value = math.nan if now is None else now.mean
    name = NumberName(check.metric, check.method, check.statistic)
    if math.isnan(value):
        said = f"this run has no {name}, and {text}"
        return Verdict(str(check), check.metric, False, value, said)
    said = f"{name} is {value:.6g}; {text}"
    return Verdict(str(check), check.metric, True, value, said, made=False)
