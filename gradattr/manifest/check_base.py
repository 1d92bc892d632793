"""What every check has in common: what is asked of a number, and how it is found in a table."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from gradattr.manifest.base import Spec

Op = Literal[">=", ">", "<=", "<"]

#: Key of a bound -> what the number must be to it.
_BOUNDS: dict[str, Op] = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}

#: Measures whose direction is known, of tables with a row per image, prompt or query.
BETTER = {
    "accuracy": True,
    "loss": False,
    "not_ok": False,
    "completeness_gap_relative": False,
    "path_spearman": True,
    "recall": True,
    "ranked_recall": True,
    "l2": False,
    "relative_l2": False,
    "spearman": True,
    "test_accuracy": True,
    "test_loss": False,
    "robust_test_accuracy": True,
}

#: Keys of which a check needs one or more, of every kind of check.
DEMANDS = (*_BOUNDS, "not_worse_than")


class CheckBase(Spec):
    """One number of a committed run, and what it must be."""

    check: str
    """What is looked at: a table, or 'sql'."""
    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """What the check is called in tables and reports. Default: what it asks, in words."""
    at_least: float | None = None
    """The number must be this or higher."""
    above: float | None = None
    """The number must be higher than this."""
    at_most: float | None = None
    """The number must be this or lower."""
    below: float | None = None
    """The number must be lower than this."""
    not_worse_than: Annotated[str, Field(pattern=r"^(last|run:[A-Za-z0-9._-]+)$")] | None = None
    """The same number of an earlier run of this store: 'last' (committed before, of the same name
    and kind; the check passes where there is none), or 'run:<run id>'."""
    by: Annotated[float, Field(ge=0)] = 0.0
    """How much worse than in that run it may be, in its unit."""
    by_interval: bool = False
    """Fail only if the whole interval of the mean is worse than that, so that chance alone seldom
    fails the check."""
    higher_is_better: bool | None = None
    """Which way is worse, for 'not_worse_than', where nothing else tells."""

    #: Keys of which one or more must be there.
    demands: ClassVar[tuple[str, ...]] = DEMANDS
    #: Whether its number has an interval.
    has_interval: ClassVar[bool] = True
    #: Whether the table that the number stands in says which way is better.
    table_knows_better: ClassVar[bool] = False

    @property
    def bounds(self) -> list[tuple[Op, float]]:
        """Each bound with its relation: the number must be ``>= 0.5``."""
        found = [(op, getattr(self, key)) for key, op in _BOUNDS.items()]
        return [(op, bound) for op, bound in found if bound is not None]

    @property
    def table(self) -> str | None:
        """The table that the number stands in; None: any."""
        raise NotImplementedError

    @property
    def rows(self) -> dict[str, Any]:
        """Columns and values of the rows that the number is of."""
        return {}

    @property
    def number(self) -> tuple[str, str, str]:
        """What the number is called: measure, of what, statistic; '' where there is none."""
        raise NotImplementedError

    @property
    def known_better(self) -> bool | None:
        """Whether higher is better, where the number's meaning tells."""
        return None

    @property
    def is_mean(self) -> bool:
        """Whether the number is a mean that has an interval."""
        return self.has_interval and self.number[2] == "mean"

    @model_validator(mode="after")
    def _asks_something(self) -> CheckBase:
        if not any(getattr(self, key) is not None for key in self.demands):
            keys = ", ".join(self.demands[:-1])
            raise ValueError(f"nothing is asked of the number; state {keys} or {self.demands[-1]}")
        for one, other in (("at_least", "above"), ("at_most", "below")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"{other}: {one} stands there too; one of them is enough")
        lows = [bound for op, bound in self.bounds if op in (">=", ">")]
        highs = [bound for op, bound in self.bounds if op in ("<=", "<")]
        if lows and highs:
            apart = highs[0] - lows[0]
            if apart < 0 or (apart == 0 and (self.above is not None or self.below is not None)):
                raise ValueError(
                    f"no number is {self.bounds[0][0]} {lows[0]:g} and {self.bounds[1][0]} "
                    f"{highs[0]:g}; is one of the bounds meant the other way?"
                )
        self._check_comparison()
        return self

    def _check_comparison(self) -> None:
        if self.not_worse_than is None:
            told = {"by": self.by, "by_interval": self.by_interval}
            told["higher_is_better"] = self.higher_is_better is not None
            for key, value in told.items():
                if value:
                    raise ValueError(
                        f"{key}: it belongs to a comparison with an earlier run; state "
                        "not_worse_than, or leave it out"
                    )
            return
        if self.by_interval and not self.is_mean:
            raise ValueError(
                "by_interval: only a mean has an interval; leave 'statistic' at 'mean'"
            )
        known = self.known_better
        if known is None and self.higher_is_better is None and not self.table_knows_better:
            raise ValueError(
                "not_worse_than: nothing tells which way is worse; state higher_is_better: true "
                "or false"
            )
        if known is not None and self.higher_is_better not in (None, known):
            raise ValueError(
                f"higher_is_better: {self.number[0]} is better if it is "
                f"{'higher' if known else 'lower'}; leave the key out"
            )


class RowCheck(CheckBase):
    """A check of the rows that its own keys choose."""

    #: Keys that are columns: they choose the rows.
    chosen_by: ClassVar[tuple[str, ...]] = ()

    @property
    def table(self) -> str | None:
        return self.check

    @property
    def rows(self) -> dict[str, Any]:
        found = {key: getattr(self, key) for key in self.chosen_by}
        return {key: value for key, value in found.items() if value is not None}

    @property
    def whom(self) -> str:
        """Whose number it is, in words."""
        words = [str(v) if isinstance(v, str) else f"{k} {v:g}" for k, v in self.rows.items()]
        return ", ".join(words)


class SummarisedCheck(RowCheck):
    """A check of a table that has a row for each mean."""

    statistic: str = "mean"

    #: The mean's column.
    mean_column: ClassVar[str] = "mean"

    @property
    def column(self) -> str:
        """The number's column."""
        return self.mean_column if self.statistic == "mean" else self.statistic


class IntervalCheck(SummarisedCheck):
    """A check of a mean, or of its interval."""

    statistic: Literal["mean", "low", "high"] = "mean"
    """The mean, or an end of its 95 % interval: 'low' with at_least, 'high' with at_most ask that
    the whole interval keeps the bound."""


class SampledCheck(RowCheck):
    """A check of a table that has a row for each image, prompt or query."""

    measure: str
    """What is looked at in every row."""
    statistic: Literal["mean", "low", "high", "median", "minimum", "maximum"] = "mean"
    """Of the measure, over the rows that have it; 'low' and 'high': ends of the mean's 95 %
    interval (Student's t)."""

    @property
    def number(self) -> tuple[str, str, str]:
        return self.measure, self.whom or "the model", self.statistic

    @property
    def known_better(self) -> bool | None:
        return BETTER.get(self.measure)
