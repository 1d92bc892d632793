"""Commands about what stands in a store: ls, status, show, query, verify, gc."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradattr.cli.audit import print_jobs, print_progress
from gradattr.cli.evaluation import print_evaluation
from gradattr.cli.locate import locate, open_root
from gradattr.cli.output import human_bytes, number, print_json, print_table
from gradattr.cli.patching import print_patching
from gradattr.cli.scores import print_scores
from gradattr.cli.training import print_training
from gradattr.errors import IntegrityError, UsageError

#: What one query may take.
QUERY_BYTES = 4 * 2**30

if TYPE_CHECKING:
    from gradattr.storage.runs import RunSummary


def list_store(store: str, endpoint_url: str | None, as_json: bool) -> None:
    from gradattr.storage.runs import list_runs

    runs = list_runs(open_root(store, endpoint_url))
    if as_json:
        print_json([asdict(run) for run in runs])
        return
    if not runs:
        print(f"No runs under {store}.")
        return
    print_table(
        f"Runs under {store}",
        ["run", "kind", "state", "rows", "bytes", "changed (UTC)"],
        [[r.run_id, r.kind, _state(r), r.rows, human_bytes(r.bytes), _time(r)] for r in runs],
        right=["rows", "bytes"],
    )


def _state(run: RunSummary) -> str:
    if run.problem:
        return f"damaged: {run.problem}"
    return "committed" if run.committed else "incomplete"


def _time(run: RunSummary) -> str:
    if not run.modified:
        return ""
    return f"{datetime.fromtimestamp(run.modified, UTC):%Y-%m-%d %H:%M}"


def show_status(run: str, store: str, endpoint_url: str | None, as_json: bool) -> None:
    from gradattr.storage.run_json import read_run
    from gradattr.storage.runs import progress

    root, run_id = locate(run, store, endpoint_url)
    report = progress(root, read_run(root, run_id))
    if as_json:
        print_json(asdict(report))
        return
    state = "committed" if report.committed else "incomplete: the same `gradattr run` goes on"
    print(f"Run {run_id}: {state}")
    if report.jobs:
        print_progress(report)
        return
    print_table(
        "",
        ["stage", "shards done", "shards", "rows done", "rows"],
        [[s.stage, s.shards_done, s.shards, s.rows_done, s.rows] for s in report.stages],
        right=["shards done", "shards", "rows done", "rows"],
    )


def show_run(
    run: str, store: str, endpoint_url: str | None, as_json: bool, png: str | None
) -> None:
    from gradattr.report.results import Run
    from gradattr.report.summary import summarise

    opened = Run(*locate(run, store, endpoint_url))
    summary = summarise(opened)
    if png is not None and summary["patching"]:
        raise UsageError(f"--png: run {opened.run_id} is of kind 'patching' and has no pictures")
    if png is not None and summary["jobs"]:
        runs = ", ".join(job["run_id"] for job in summary["jobs"])
        raise UsageError(
            f"--png: run {opened.run_id} is an audit and has no pictures of its own; name the run "
            f"of one of its jobs: {runs}"
        )
    if png is not None and summary["diffroar"]:
        from gradattr.report.curves import panels_of, plot_curves

        plot_curves(panels_of(opened), png)
    elif png is not None and summary["tfa"]:
        from gradattr.report.training_images import TrainingImages

        TrainingImages(opened).plot(0, png)
    elif png is not None and summary["evaluation"]:
        from gradattr.report.metric_figures import plot_evaluation

        plot_evaluation(opened, "metrics", png)
    elif png is not None:
        from gradattr.report.contact_sheet import contact_sheet

        contact_sheet(opened, png)
    if as_json:
        print_json(summary)
        return
    _print_summary(summary)
    if png is not None:
        drawn = {"diffroar": "Curves", "tfa": "Query 0", "evaluate": "Metrics"}
        print(f"{drawn.get(summary['kind'], 'Contact sheet')}: {png}")


def _print_summary(summary: dict[str, Any]) -> None:
    size = summary["bytes"] + sum(job["bytes"] for job in summary["jobs"])
    print(f"Run {summary['run_id']}: {_size(summary)}, {human_bytes(size)}")
    if summary["accuracy"] is not None:
        data = "the query data" if summary["tfa"] else "this data"
        print(f"Accuracy of the model on {data}: {summary['accuracy']:.2%}")
    for line in summary["notes"]:
        print(line)
    if summary["methods"]:
        print_table(
            "Methods",
            ["method", "rows", "bad", "mean |score|", "mean sum", "median gap", "evaluations"],
            [
                [
                    m["method"],
                    m["rows"],
                    m["bad"],
                    number(m["mean_abs"]),
                    number(m["mean_total"]),
                    "" if m["median_gap"] is None else f"{m['median_gap']:.2%}",
                    m["evaluations"],
                ]
                for m in summary["methods"]
            ],
            right=["rows", "bad", "mean |score|", "mean sum", "median gap", "evaluations"],
        )
        print(
            "gap: |sum of the map - (score - score at the baseline)| / |score - score at the "
            "baseline|, where a method promises completeness"
        )
    if summary["training"]:
        _print_training(summary["training"])
    print_scores(summary)
    print_training(summary)
    print_patching(summary)
    print_evaluation(summary)
    print_jobs(summary)


def _size(summary: dict[str, Any]) -> str:
    if summary["tfa"]:
        return ", ".join(f"{summary['tfa'][what]} {what}" for what in ("queries", "pairs", "maps"))
    units = {"diffroar": "trials", "audit": "jobs"}
    return f"{summary['rows']} {units.get(summary['kind'], 'rows')}"


def _print_training(rows: list[dict[str, Any]]) -> None:
    columns = ["epochs", "loss", "accuracy", "test_accuracy"]
    if any(row["robust_test_accuracy"] is not None for row in rows):
        columns.append("robust_test_accuracy")
    titles = [column.replace("_", " ") for column in columns]
    print_table(
        "Training",
        ["model", *titles],
        [[row["model"], row["epochs"], *(number(row[c]) for c in columns[1:])] for row in rows],
        right=titles,
    )


def query_run(
    run: str,
    sql: str,
    store: str,
    endpoint_url: str | None,
    as_json: bool,
    timeout: float,
    limit: int,
) -> None:
    from gradattr.report.results import Run

    opened = Run(*locate(run, store, endpoint_url))
    # One row more than is shown tells whether there are more.
    with _bounded_memory():
        table = opened.sql(sql, timeout_s=timeout, max_rows=limit + 1)
    rows = table.slice(0, limit).to_pylist()
    if as_json:
        print_json(rows)
    else:
        right = [
            field.name
            for field in table.schema
            if not str(field.type).startswith(("string", "bool"))
        ]
        cells = [[_cell(value) for value in row.values()] for row in rows]
        print_table("", table.column_names, cells, right=right)
    if table.num_rows > limit:
        sys.stderr.write(f"(the first {limit} rows; --limit shows more)\n")


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let this process grow by QUERY_BYTES at most: DuckDB's own limit does not cover what a
    single function call makes, and SELECT list_aggregate(range(1000000000), 'sum')
    asks for 8 GB."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # not Linux: no cheap way to know what is in use
        yield
        return
    pages = int(statm.read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = pages * resource.getpagesize() + QUERY_BYTES
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _cell(value: object) -> object:
    if isinstance(value, float):
        return number(value, 6)
    if isinstance(value, list) and len(value) > 8:
        return f"[{', '.join(str(_cell(v)) for v in value[:4])}, ... {len(value)} values]"
    return value


def verify_stored(run: str, store: str, endpoint_url: str | None, as_json: bool) -> None:
    from gradattr.storage.verify import verify_run

    root, run_id = locate(run, store, endpoint_url)
    report = verify_run(root, run_id)
    if as_json:
        print_json(asdict(report))
    elif report.ok:
        print(
            f"Run {run_id} is whole: {report.files} files, {human_bytes(report.bytes)}, "
            f"{_counts(report.rows)}; every byte is as committed."
        )
    if not report.ok:
        raise IntegrityError(f"run {run_id} is damaged:\n  " + "\n  ".join(report.problems))


def _counts(rows: dict[str, int]) -> str:
    """'1797 predictions, 16173 attributions, ...'"""
    return ", ".join(f"{count} {table}" for table, count in sorted(rows.items()) if count)


def collect_garbage(
    store: str,
    endpoint_url: str | None,
    grace_hours: float,
    delete: bool,
    abandoned: bool,
    as_json: bool,
) -> None:
    from gradattr.storage.gc import collect

    report = collect(open_root(store, endpoint_url), grace_hours, not delete, abandoned=abandoned)
    if as_json:
        print_json(asdict(report))
        return
    for problem in report.problems:
        sys.stderr.write(f"left alone: {problem}\n")
    verb = "Deleted" if delete else "Would delete"
    print(f"{verb} {len(report.deleted)} files, {human_bytes(report.bytes)}.")
    for key in report.deleted[:20]:
        print(f"  {key}")
    if len(report.deleted) > 20:
        print(f"  and {len(report.deleted) - 20} more")
    if report.deleted and not delete:
        print("Nothing was deleted; --delete does it.")
