"""``gradattr compare A B``: two committed runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradattr.cli.locate import locate
from gradattr.cli.output import number, print_json, print_table, print_text
from gradattr.errors import UsageError

if TYPE_CHECKING:
    from gradattr.report.compare.asked import Asked
    from gradattr.report.compare.sections import Section

#: Keys of the manifests that are printed.
_SHOWN_KEYS = 20


def compare_stored(
    a: str, b: str, store: str, endpoint_url: str | None, as_json: bool, png: str | None
) -> None:
    """Print what differs between two runs. UsageError if they are of different kinds."""
    from gradattr.report.compare.runs import compare_runs
    from gradattr.report.results import Run

    runs = [Run(*locate(name, store, endpoint_url)) for name in (a, b)]
    found = compare_runs(*runs)
    if png is not None:
        from gradattr.report.compare.figure import plot_comparison

        plot_comparison(found, png)
    if as_json:
        print_json(found.to_json())
        return
    for name, run in zip("AB", runs, strict=True):
        print_text(f"{name}: {run.run_id} ({run.uri})")
    print_text(found.about)
    _print_asked(found.asked)
    if not any(section.rows for section in found.sections):
        raise UsageError(f"{runs[0].run_id} and {runs[1].run_id} have no number in common")
    for section in found.sections:
        _print_section(section)
    if any(section.kind == "differences" and section.rows for section in found.sections):
        print_text(
            "Differences are B - A with their 95 % interval; p after Holm's correction over the "
            "table. Above 0: B has the higher number, which need not be the better one."
        )
    if png is not None:
        print(f"Figure: {png}")


def _print_asked(asked: Sequence[Asked]) -> None:
    from gradattr.report.compare.asked import shown

    if not asked:
        return
    rows = [[one.key, shown(one.a), shown(one.b)] for one in asked[:_SHOWN_KEYS]]
    print_table("", ["key", "A", "B"], rows)
    if len(asked) > _SHOWN_KEYS:
        print_text(f"and {len(asked) - _SHOWN_KEYS} more keys; --json has them all")


def _print_section(section: Section) -> None:
    if section.rows:
        titles, cells = _cells(section)
        names = [name.replace("_", " ") for name in section.names]
        rows = [[*(row[name] for name in section.names), *cells(row)] for row in section.rows]
        print_table(section.title, [*names, *titles], rows, right=titles)
    else:
        print_text(f"{section.title}: nothing that both runs have")
    for note in section.notes:
        print_text(note)
    print()


def _cells(section: Section) -> tuple[list[str], Any]:
    """Titles of the columns with numbers, and the cells of a row."""
    if section.kind == "likeness":
        return ["n", "mean", "95 % interval"], _likeness
    return ["n", "A", "B", "B - A", "95 % interval", "p"], _difference


def _likeness(row: dict[str, Any]) -> list[str]:
    return [str(row["n"]), number(row["mean"]), _interval(row, "")]


def _difference(row: dict[str, Any]) -> list[str]:
    return [
        str(row["n"]),
        number(row["a"]),
        number(row["b"]),
        _signed(row["difference"]),
        _interval(row, "+"),
        number(row["p_corrected"], 2),
    ]


def _interval(row: dict[str, Any], sign: str) -> str:
    if row["low"] is None or row["high"] is None:
        return ""
    return f"[{_end(row['low'], sign)}, {_end(row['high'], sign)}]"


def _end(value: float, sign: str) -> str:
    return f"{value:{sign}.3g}" if value else "0"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4g}" if value else "0"
