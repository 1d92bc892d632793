"""What commands print of an audit: a line for each of its jobs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gradattr.cli.output import human_bytes, human_seconds, print_table

if TYPE_CHECKING:
    from gradattr.storage.runs import Progress


def print_jobs(summary: dict[str, Any]) -> None:
    """Of ``gradattr show``: every job with its run, and what it has found."""
    if not summary["jobs"]:
        return
    print_table(
        "Jobs",
        ["job", "kind", "run", "rows", "bad", "bytes", "tables"],
        [
            [
                job["job"],
                job["kind"],
                job["run_id"],
                _size(job),
                job["bad_rows"],
                human_bytes(job["bytes"]),
                ", ".join(job["tables"]),
            ]
            for job in summary["jobs"]
        ],
        right=["rows", "bad", "bytes"],
    )
    print_table(
        "What they found",
        ["job", ""],
        [
            [job["job"] if place == 0 else "", line]
            for job in summary["jobs"]
            for place, line in enumerate(job["headlines"])
        ],
    )
    first = summary["jobs"][0]
    root = summary["uri"].removesuffix(summary["run_id"])
    print(f"More of a job:  gradattr show {root}{first['run_id']}")
    schema = first["job"] if re.fullmatch("[a-z][a-z0-9]*", first["job"]) else f'"{first["job"]}"'
    question = f"SELECT * FROM {schema}.{_example(first['tables'])}"
    print(f"Over all jobs:  gradattr query {summary['uri']} '{question}'")


def _size(job: dict[str, Any]) -> str:
    unit = "trials" if job["kind"] == "diffroar" else job["unit"]
    return str(job["rows"]) if unit == "rows" else f"{job['rows']} {unit}"


def _example(tables: list[str]) -> str:
    """The table that a person is most likely to ask for."""
    wanted = ("summary", "diffroar", "tfa_pairs", "faithfulness", "predictions", "training")
    return next((name for name in wanted if name in tables), tables[0])


def print_progress(report: Progress) -> None:
    """Of ``gradattr status``: how far every job is, and all of them together."""
    if not report.jobs:
        return
    rows: list[list[object]] = []
    for job in report.jobs:
        state = "committed" if job.committed else "incomplete" if job.begun else "not begun"
        for place, stage in enumerate(job.stages):
            name = [job.job, state] if place == 0 else ["", ""]
            rows.append([*name, stage.stage, stage.shards_done, stage.shards, *_rows(stage)])
    stages = [stage for job in report.jobs for stage in job.stages]
    committed = sum(job.committed for job in report.jobs)
    rows.append(
        [
            "all",
            f"{committed} of {len(report.jobs)} committed",
            "",
            sum(stage.shards_done for stage in stages),
            sum(stage.shards for stage in stages),
            *("", ""),
        ]
    )
    columns = ["job", "state", "stage", "shards done", "shards", "rows done", "rows"]
    print_table("", columns, rows, right=columns[3:])


def _rows(stage: Any) -> tuple[int, int]:
    return stage.rows_done, stage.rows


def print_sum(report: dict[str, Any]) -> None:
    """Of ``gradattr plan``: a line per job, and the sum."""
    columns = ["job", "kind", "run", "shards", "done", "model evaluations", "estimated time"]
    print_table(
        "Jobs, one after the other",
        columns,
        [
            [
                line["job"] or "all",
                line["kind"],
                f"{line['run_id']}{' (complete)' if line['committed'] and line['job'] else ''}",
                line["shards"],
                line["done"],
                f"{line['evaluations']:,}" if line["evaluations"] else "",
                "" if line["seconds"] is None else human_seconds(line["seconds"]),
            ]
            for line in report["sum"]
        ],
        right=columns[3:],
    )
    for note in report["notes"]:
        print(f"Note: {note}")
