"""Runs of kind evaluate: the tables of ``gradattr show``, and the figures of ``gradattr plot``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradattr.cli.output import console, number, print_table, print_text
from gradattr.cli.scores import EDGE, abreast
from gradattr.errors import UsageError

if TYPE_CHECKING:
    from gradattr.report.results import Run

#: From so many metrics on, a matrix of all comes first.
_MATRIX = 4
#: A matrix alone where a table per metric would be longer than this.
_LINES = 60
#: Digits after the point, at most; smaller numbers are written as powers of ten.
_DECIMALS = 6
#: Methods that are named as tied with one.
_NAMED = 3
#: Metrics that are named as lacking the same values.
_NAMED_METRICS = 4
_BEST, _AS_GOOD, _NO_VALUE = "*", "~", "none"
_BETTER = {True: "higher", False: "lower", None: ""}

Metric = Mapping[str, Any]


def plot_metrics(run: Run, output: str | None, figure: str | None) -> None:
    """Draw all figures of a run into a folder, or the one that is named into a file or folder."""
    from gradattr.report.metric_figures import FIGURES, missing_figures, plot_evaluation

    if figure is not None and figure not in FIGURES:
        raise UsageError(f"--figure {figure}: expected {', '.join(FIGURES)}")
    target = Path(output or (f"{figure}.png" if figure else run.run_id))
    if target.suffix and not target.is_dir():
        if figure is None:
            raise UsageError(
                f"{target}: a file shows one figure; choose it by --figure {', '.join(FIGURES)}, "
                "or give a folder for all of them"
            )
        print(f"Figure: {plot_evaluation(run, figure, target)}")
        return
    missing = missing_figures(run)
    wanted = [name for name in FIGURES if name not in missing] if figure is None else [figure]
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{target}: cannot be made ({error.strerror})") from None
    for name in wanted:
        plot_evaluation(run, name, target / f"{name}.png")
    print(f"Figures: {target} ({', '.join(f'{name}.png' for name in wanted) or 'none'})")
    for name, why in missing.items() if figure is None else ():
        print(f"No figure '{name}': {why}")


def print_evaluation(summary: dict[str, Any]) -> None:
    """What kind evaluate has to show."""
    found = summary["evaluation"]
    if found is None:
        return
    metrics, methods = found["metrics"], found["methods"]
    lines = sum(len(metric["methods"]) for metric in metrics)
    if len(metrics) >= _MATRIX:
        _print_matrix(metrics, methods)
    if len(metrics) < _MATRIX or lines <= _LINES:
        for metric in metrics:
            _print_metric(metric)
        _print_reading(metrics)
    else:
        print_text(
            f'Intervals, ranks and ties: gradattr query {summary["run_id"]} "SELECT metric, '
            'method, mean, low, high, rank, tied_with FROM summary" --limit '
            f"{lines}, or gradattr plot {summary['run_id']}"
        )
    chance = [metric["metric"] for metric in metrics if _won_by_chance(metric)]
    if chance:
        print_text(
            f"Random maps are the best, or not told apart from them, in: {', '.join(chance)}. "
            "These alone recommend no method."
        )
    if found["unused"]:
        print_text(f"Applies to none of the methods: {', '.join(found['unused'])}")
    for line in missing_notes(metrics):
        print_text(line)
    _print_agreement(found["agreement"], methods)
    if found["curves"]:
        print_text(
            f"Curves: {', '.join(found['curves'])}; gradattr plot {summary['run_id']} draws them"
        )


def _print_metric(metric: Metric) -> None:
    rows, ranked = metric["methods"], metric["higher_is_better"] is not None
    better = _BETTER[metric["higher_is_better"]] or "neither direction"
    meaning = f": {metric['meaning']}" if metric["meaning"] else ""
    images = f"{metric['images']:,} image{'s' if metric['images'] != 1 else ''}"
    columns = {
        "method": [row["method"] for row in rows],
        "mean [95 % interval]": [_interval(row) for row in rows],
    }
    if ranked:
        columns |= {
            "rank": ["" if row["rank"] is None else str(row["rank"]) for row in rows],
            "mean rank": [number(row["mean_rank"], 3) for row in rows],
        }
        room = _room(columns)
        if room < len("tied with"):
            del columns["mean rank"]
            room = _room(columns)
        columns["tied with"] = _tied_cells(rows, room)
    print_table(
        f"{metric['metric']} ({better} is better; {images}){meaning}",
        list(columns),
        list(zip(*columns.values(), strict=True)),
        right=["rank", "mean rank"],
    )


def _room(columns: Mapping[str, Sequence[str]]) -> int:
    """Characters that these columns leave for another one."""
    widths = [max(map(len, (name, *cells))) for name, cells in columns.items()]
    return console().width - EDGE - sum(widths) - 3 * len(widths)


def _tied_cells(rows: Sequence[Mapping[str, Any]], room: int) -> list[str]:
    """Names of methods, as many as there is room for; the number of the others."""
    for named in range(_NAMED, 0, -1):
        cells = [_tied(row["tied_with"] or [], named) for row in rows]
        if max(map(len, cells)) <= room:
            return cells
    return [_tied(row["tied_with"] or [], 0) for row in rows]


def _tied(names: Sequence[str], named: int) -> str:
    more = len(names) - named
    if more <= 0:
        return ", ".join(names)
    return f"{', '.join(names[:named])} and {more} more" if named else f"{more} methods"


def _interval(row: Mapping[str, Any]) -> str:
    """'0.172 [0.160, 0.185]'."""
    if row["mean"] is None:
        return _NO_VALUE
    mean, low, high = row["mean"], row["low"], row["high"]
    if low is None:
        return number(mean)
    width = high - low
    # Two digits of the interval's width: what is beyond them means nothing.
    decimals = max(0, 1 - math.floor(math.log10(width))) if width > 0 else _DECIMALS + 1
    if decimals > _DECIMALS:
        return f"{number(mean)} [{number(low)}, {number(high)}]"
    return f"{mean:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def _print_reading(metrics: Sequence[Metric]) -> None:
    print_text(
        "Mean over images and its 95 % bootstrap interval. The intervals of two methods may "
        "overlap although the methods are told apart: they are compared image by image."
    )
    if any(metric["higher_is_better"] is not None for metric in metrics):
        print_text(
            "rank: by the mean, over the images for which every method has a value, of the "
            "method's rank on that image; a few very bad images cost a method its mean, and "
            "little of its rank. tied with: the means are not told apart (sign-flip test, "
            "corrected p of 0.05 or more)."
        )


def _print_matrix(metrics: Sequence[Metric], methods: Sequence[str]) -> None:
    """A line per metric, a column per method."""
    columns: dict[str, list[str]] = {method: [] for method in methods}
    for metric in metrics:
        rows = {row["method"]: row for row in metric["methods"]}
        best = next((row for row in metric["methods"] if row["rank"] == 1), None)
        for method in methods:
            columns[method].append(_cell(rows.get(method), best))
    better = [_BETTER[metric["higher_is_better"]] for metric in metrics]
    names = [metric["metric"] for metric in metrics]
    widths = {method: max(map(len, (method, *cells))) for method, cells in columns.items()}
    room = console().width - EDGE - max(map(len, names)) - len("better") - EDGE
    title = "Means over images"
    for part in abreast(widths, room):
        print_table(
            title,
            ["metric", "better", *part],
            [
                [name, direction, *(columns[method][place] for method in part)]
                for place, (name, direction) in enumerate(zip(names, better, strict=True))
            ],
            right=part,
        )
        title = ""
    text = (
        f"{_BEST}: rank 1 of the metric, the best mean rank over images; {_AS_GOOD}: its mean is "
        "not told apart from that one's. Empty: the metric does not apply to the method."
    )
    if any(_NO_VALUE in cells for column in columns.values() for cells in column):
        text += f" {_NO_VALUE}: it has no value on any image."
    print_text(text)


def _cell(row: Mapping[str, Any] | None, best: Mapping[str, Any] | None) -> str:
    """'0.172*'; a blank where the mark would stand, so that figures stand below each other."""
    if row is None:
        return ""
    if row["mean"] is None:
        return _NO_VALUE
    mark = " "
    if best is not None and row["rank"] == 1:
        mark = _BEST
    elif best is not None and row["method"] in (best["tied_with"] or ()):
        mark = _AS_GOOD
    return f"{number(row['mean'], 3)}{mark}"


def _won_by_chance(metric: Metric) -> bool:
    """Whether the method 'random' has the first rank, or is tied with what has it."""
    best = [row for row in metric["methods"] if row["rank"] == 1]
    return any(row["method"] == "random" or "random" in row["tied_with"] for row in best)


def missing_notes(metrics: Sequence[Metric]) -> list[str]:
    """How many images have no value, and why; metrics that lack the same ones on one line."""
    lacking: dict[tuple[str, ...], list[str]] = {}
    for metric in metrics:
        parts = tuple(_lacking(metric))
        if parts:
            lacking.setdefault(parts, []).append(metric["metric"])
    return [f"No value: {_some(names)}: {'; '.join(parts)}" for parts, names in lacking.items()]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_METRICS
    return ", ".join(names[:_NAMED_METRICS]) + (f" and {more} more metrics" if more > 0 else "")


def _lacking(metric: Metric) -> Iterator[str]:
    """'saliency 1 of 60 (non_finite)' for every method that lacks some."""
    for row in metric["methods"]:
        if not row["missing"]:
            continue
        why = {
            one["status"]: one["n"] for one in metric["missing"] if one["method"] == row["method"]
        }
        rest = row["missing"] - sum(why.values())
        if rest > 0:
            why["not judged"] = rest
        if len(why) == 1:
            reasons = next(iter(why))
        else:
            reasons = ", ".join(f"{status} {count}" for status, count in why.items())
        yield f"{row['method']} {row['missing']} of {row['n'] + row['missing']} ({reasons})"


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}".replace("-0.00", "0.00")


def _print_agreement(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> None:
    means = {
        frozenset((row["first"], row["second"])): row["mean"]
        for row in rows
        if row["measure"] == "spearman"
    }
    if not means:
        return
    cells = {
        column: [
            "1.00" if line == column else _two(means.get(frozenset((line, column))))
            for line in methods
        ]
        for column in methods
    }
    widths = {method: max(map(len, (method, *column))) for method, column in cells.items()}
    title = "How alike maps are: Spearman's correlation of the pixels' values, mean over images"
    for part in abreast(widths, console().width - EDGE - max(map(len, methods))):
        print_table(
            title,
            ["", *part],
            [[line, *(cells[c][place] for c in part)] for place, line in enumerate(methods)],
            right=part,
        )
        title = ""
    print_text("Agreement is no evidence that any of them is right.")
