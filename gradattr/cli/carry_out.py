"""``gradattr run``: progress on a terminal, plain lines elsewhere, JSON on demand."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from gradattr.cli.check import asked_by, print_verdicts, raise_if_failed
from gradattr.cli.output import clean, human_seconds, print_json
from gradattr.manifest.kinds import Manifest
from gradattr.metrics.checks import Verdict
from gradattr.report.results import Run
from gradattr.report.verdicts import check_with_jobs, verdict_json
from gradattr.runtime.driver import RunResult, run
from gradattr.runtime.progress import Event, Listener
from gradattr.storage.objects import open_store
from gradattr.work.manifests import load_manifest

#: Seconds between two plain progress lines.
LINE_EVERY = 10.0

#: What the result says anyway.
_SAID_AT_THE_END = ("commit", "complete")


def run_manifest(path: str, overrides: list[str], as_json: bool) -> None:
    manifest = load_manifest(path, overrides=overrides)
    with _listener(as_json) as listener:
        result = run(manifest, listener=listener)
    verdicts = _verdicts(manifest, result.run_id)
    if as_json:
        print_json({**asdict(result), "checks": [verdict_json(one) for one in verdicts]})
    else:
        _print_result(result)
        if verdicts:
            print_verdicts(verdicts)
    raise_if_failed(result.run_id, verdicts)


def _verdicts(manifest: Manifest, run_id: str) -> list[Verdict]:
    """What becomes of the manifest's checks, once the run is committed."""
    asked = asked_by(manifest)
    return check_with_jobs(Run(open_store(manifest.store), run_id), asked) if asked else []


def _print_result(result: RunResult) -> None:
    if result.already_complete:
        print(
            f"Run {result.run_id} is already complete: {result.rows} {result.unit}. Nothing to do."
        )
    else:
        of = "of them" if result.unit == "rows" else "rows"
        where = "tables 'errors' of its jobs" if result.unit == "jobs" else "see table 'errors'"
        bad = f", {result.bad_rows} {of} bad ({where})" if result.bad_rows else ""
        print(f"Committed {result.run_id}: {result.rows} {result.unit}{bad}.")
    print(f"  {result.uri}")
    print(f"  gradattr show {result.uri}")


@contextmanager
def _listener(as_json: bool) -> Iterator[Listener]:
    if as_json or not sys.stderr.isatty():
        yield _Lines()
        return
    with _bar() as listener:
        yield listener


class _Lines:
    """One line per thing worth knowing, on standard error."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event.kind in _SAID_AT_THE_END:
            return
        if event.kind == "shard":
            complete = event.rows_done >= event.rows_total
            if not complete and now - self._last < LINE_EVERY:
                return
            self._last = now
            sys.stderr.write(_progress_text(event) + "\n")
        else:
            sys.stderr.write(clean(event.message) + "\n")
        sys.stderr.flush()


def _progress_text(event: Event) -> str:
    parts = [f"{event.stage}: {event.rows_done}/{event.rows_total} rows"]
    if event.rows_per_second:
        speed = event.rows_per_second
        parts.append(f"{speed:.1f} rows/s" if speed >= 1 else f"{60 * speed:.2g} rows/min")
    if event.seconds_left is not None and event.rows_done < event.rows_total:
        parts.append(f"{human_seconds(event.seconds_left)} left")
    if event.bad_rows:
        parts.append(f"{event.bad_rows} bad rows")
    return ", ".join(parts)


@contextmanager
def _bar() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(stderr=True),
    )
    bars: dict[str, TaskID] = {}

    def listener(event: Event) -> None:
        if event.kind in ("stage", "shard"):
            if event.stage not in bars:
                bars[event.stage] = progress.add_task(event.stage, total=event.rows_total, text="")
            progress.update(
                bars[event.stage],
                completed=event.rows_done,
                text=_progress_text(event).partition(": ")[2],
            )
        elif event.kind == "beat":
            progress.update(bars[event.stage], text=event.message.partition(": ")[2])
        elif event.kind not in _SAID_AT_THE_END:
            progress.console.print(clean(event.message), markup=False, highlight=False)

    with progress:
        yield listener
