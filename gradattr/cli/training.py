"""Runs of kind tfa: the tables of ``gradattr show``, and the figures of ``gradattr plot``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradattr.cli.output import console, number, print_table, print_text
from gradattr.cli.scores import EDGE, abreast
from gradattr.errors import UsageError

if TYPE_CHECKING:
    from gradattr.report.results import Run

#: Queries of each score that are printed.
SHOWN = 20
#: Training images of either side that are drawn, if nothing else is asked for.
DRAWN = 5
#: Characters of a level.
_LEVEL = 5


def plot_training(
    run: Run,
    output: str | None,
    *,
    query: int | None = None,
    method: str | None = None,
    map_method: str | None = None,
    top: int | None = None,
) -> None:
    """Draw every query, and the insertion tests if there are any, into a folder; or one query, or
    the insertion tests alone (a file called insertion), into a file."""
    from gradattr.report.insertion_curves import has_insertion, plot_insertion
    from gradattr.report.training_images import TrainingImages

    target = Path(output or run.run_id)
    if target.suffix and target.stem == "insertion" and query is None:
        print(f"Insertion test: {plot_insertion(run, target)}")
        return
    images = TrainingImages(run, method=method, map_method=map_method, top=top or DRAWN)
    if target.suffix and not target.is_dir():
        if query is None:
            raise UsageError(
                f"{target}: a figure shows one query; choose it by --query, or give a folder for "
                f"all {len(images.queries)}"
            )
        print(f"Figure: {images.plot(query, target)}")
        return
    wanted = list(images.queries) if query is None else [query]
    if not wanted:
        raise UsageError(f"run {run.run_id} has no queries to draw")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{target}: cannot be made ({error.strerror})") from None
    for one in wanted:
        images.plot(one, target / f"query-{one:04d}.png")
    drawn = f"{len(wanted)} quer{'ies' if len(wanted) != 1 else 'y'}"
    if query is None and has_insertion(run):
        plot_insertion(run, target / "insertion.png")
        drawn += ", insertion.png"
    print(f"Figures: {target} ({drawn})")


def print_training(summary: dict[str, Any]) -> None:
    """What kind tfa has to show."""
    found = summary["tfa"]
    if not found:
        return
    names = summary["class_names"] or []
    methods = list(dict.fromkeys(entry["method"] for entry in found["strongest"]))
    for method in methods:
        _print_strongest(method, [e for e in found["strongest"] if e["method"] == method], names)
    if found["judged"]:
        _print_judged(found["judged"])
    if found["insertion"]:
        _print_insertion(found["insertion"])
    if found["recall"]:
        _print_recall(found["recall"])


def _print_strongest(method: str, entries: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    def name(index: int | None) -> str:
        if index is None:
            return ""
        return names[index] if index < len(names) else str(index)

    def cells(side: dict[str, Any] | None) -> list[str]:
        if side is None:
            return ["", "", ""]
        taken = side["train_predicted"] != side["train_label"]
        said = f" (taken for {name(side['train_predicted'])})" if taken else ""
        return [side["train_id"], f"{name(side['train_label'])}{said}", f"{side['score']:+.4g}"]

    print_table(
        f"{method}: most helpful and most harmful training image of each query",
        ["#", "query", "label", "predicted", "helpful", "label ", "score", "harmful", "label  ",
         "score "],
        [
            [
                entry["query"],
                entry["query_id"],
                name(entry["query_label"]),
                name(entry["query_predicted"]),
                *cells(entry["helpful"]),
                *cells(entry["harmful"]),
            ]
            for entry in entries[:SHOWN]
        ],
        right=["#", "score", "score "],
    )  # fmt: skip
    if len(entries) > SHOWN:
        print_text(f"The first {SHOWN} of {len(entries)} queries; the table 'tfa_pairs' has all.")


def _print_judged(rows: Sequence[dict[str, Any]]) -> None:
    marked = any(row["marked"] for row in rows)
    compared = any(row["spearman"] is not None for row in rows)
    titles = ["score", "side", "map", "maps", "bad"]
    if marked:
        titles += ["marked images", "share in the region", "by chance", "times"]
    if compared:
        titles += ["Spearman", "same top 10 %"]
    print_table("Maps", titles, [_judged(row, marked, compared) for row in rows], right=titles[3:])
    if marked:
        print_text(
            "share in the region: of the highest-ranked pixels, mean over images with a marked "
            "region; by chance: the region's share of all pixels"
        )
    if compared:
        print_text("Spearman, same top 10 %: compared with the manifest's first map")


def _judged(row: dict[str, Any], marked: bool, compared: bool) -> list[object]:
    cells: list[object] = [row[key] for key in ("method", "side", "map_method", "maps", "bad")]
    if marked:
        share, area = row["marked_share"], row["marked_area"]
        cells += [row["marked"], _percent(share), _percent(area)]
        cells.append(f"{share / area:.2f}" if row["marked"] and area else "")
    if compared:
        cells += [number(row["spearman"]), _percent(row["top_overlap"])]
    return cells


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _print_insertion(rows: Sequence[dict[str, Any]]) -> None:
    keys = ("test", "side", "steps")
    for panel in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        own = [row for row in rows if tuple(row[key] for key in keys) == panel]
        test, side, steps = panel
        lines = list(dict.fromkeys((row["method"], row["map_method"]) for row in own))
        cells = {(r["method"], r["map_method"], r["level"]): _interval(r) for r in own}
        title = (
            f"{test.capitalize()}, {side} images, {steps} step{'s' if steps != 1 else ''} of SGD: "
            "change of the query's loss, pixels by the map - at random; n = "
            f"{max(row['n'] for row in own)} pairs"
        )
        levels = sorted({row["level"] for row in own})
        columns = {
            f"{method}, {map_method}": [cells.get((method, map_method, k), "") for k in levels]
            for method, map_method in lines
        }
        widths = {name: max(map(len, (name, *texts))) for name, texts in columns.items()}
        for part in abreast(widths, console().width - EDGE - _LEVEL):
            print_table(
                title,
                ["k", *part],
                [
                    [f"{100 * level:g} %", *(columns[name][place] for name in part)]
                    for place, level in enumerate(levels)
                ],
                right=["k"],
            )
            title = ""
    print_text("Mean and 95 % interval over pairs, in nats. k: share of the pixels " + _which(rows))
    if any(row["test"] == "insertion" for row in rows):
        print_text(
            "Insertion: below 0 on helpful images, and above 0 on harmful ones, the map finds "
            "the pixels that matter better than chance does."
        )


def _which(rows: Sequence[dict[str, Any]]) -> str:
    words = {"insertion": "that are kept", "deletion": "that are removed"}
    return " or ".join(words[name] for name in words if any(r["test"] == name for r in rows))


def _interval(row: dict[str, Any]) -> str:
    """'-0.0091 [-0.011, -0.0067]'."""
    if row["low"] is None:
        return f"{row['difference']:+.3g}"
    return f"{row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]"


def _print_recall(rows: Sequence[dict[str, Any]]) -> None:
    top, candidates = rows[0]["top"], rows[0]["candidates"]
    print_table(
        f"Index: share of the {top} strongest training images that it finds",
        ["score", "side", "queries", f"among {candidates} candidates", f"among {top} estimates"],
        [
            [
                row["method"],
                row["side"],
                row["queries"],
                _percent(row["recall"]),
                _percent(row["ranked_recall"]),
            ]
            for row in rows
        ],
        right=["queries", f"among {candidates} candidates", f"among {top} estimates"],
    )
