"""Does a committed run still hold the bytes that were committed? Reads every one of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from gradattr.canonical import digest_bytes
from gradattr.errors import IntegrityError, UsageError
from gradattr.storage.audits import audit_jobs
from gradattr.storage.commit import Commit, planned_shards, read_commit
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.parquet import check_parquet
from gradattr.storage.rowids import overlap
from gradattr.storage.run_json import read_run
from gradattr.storage.shards import FileEntry

#: Files in memory at once; each is smaller than 64 MB.
_THREADS = 4


@dataclass(frozen=True)
class VerifyReport:
    """What was looked at and what is wrong; each problem names a file."""

    ok: bool
    problems: list[str]
    files: int
    bytes: int
    rows: dict[str, int]
    """Rows by table, as committed."""


def verify_run(store: ObjectStore, run_id: str) -> VerifyReport:
    """Compare every file of a committed run with its commit; of an audit, its jobs' runs too.

    Checked: the commit's and the plan's digest, every planned shard once, row numbers disjoint, of
    each file the size, the sha256, the checksum of every Parquet page and the number of rows, and
    the model files that shards name in ``extra["files"]`` (``key``, ``bytes``, ``sha256``; keys
    from the store's root). UsageError if there is no such committed run.
    """
    try:
        commit = read_commit(store, run_id)
    except IntegrityError as error:
        return VerifyReport(False, [str(error)], 1, 0, {})
    problems = _check_plan(store, commit) + _check_sums(store, commit)
    paths = RunPaths(run_id)
    tables = {paths.absolute(key): file for key, file in commit.all_files().items()}
    others = {file.key: file for file in model_files(commit)}
    todo = [(key, file, True) for key, file in tables.items()]
    todo += [(key, file, False) for key, file in others.items() if key not in tables]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda item: _check_file(store, *item), todo)
        problems += [problem for problem in found if problem]
    report = VerifyReport(
        ok=not problems,
        problems=problems,
        files=len(todo) + 2,
        bytes=sum(file.bytes for _, file, _ in todo),
        rows={name: table.rows for name, table in commit.tables.items()},
    )
    return _with_jobs(store, run_id, report)


def _with_jobs(store: ObjectStore, run_id: str, report: VerifyReport) -> VerifyReport:
    """An audit's report with those of its jobs, whose tables are called '<job>.<table>'."""
    try:
        jobs = audit_jobs(read_run(store, run_id))
    except (IntegrityError, UsageError, KeyError, TypeError):
        return report  # its plan is damaged, as is told already
    for job in jobs:
        try:
            found = verify_run(store, job.run_id)
        except UsageError as error:
            found = VerifyReport(False, [str(error)], 0, 0, {})
        report = VerifyReport(
            ok=report.ok and found.ok,
            problems=report.problems + [f"job '{job.job}': {text}" for text in found.problems],
            files=report.files + found.files,
            bytes=report.bytes + found.bytes,
            rows=report.rows | {f"{job.job}.{name}": n for name, n in found.rows.items()},
        )
    return report


def model_files(commit: Commit) -> Iterable[FileEntry]:
    """Files outside the run directory that its shards name; keys from the store's root."""
    for record in commit.records:
        yield from record.outside_files()


def _check_plan(store: ObjectStore, commit: Commit) -> list[str]:
    key = RunPaths(commit.run_id).run_json
    data = store.get(key)
    if data is None:
        return [f"{store.url(key)}: is missing"]
    if digest_bytes(data) != commit.run_sha256:
        return [f"{store.url(key)}: is not the plan that was committed; it was altered"]
    planned = [(stage, shard) for stage, shard, _ in planned_shards(json.loads(data))]
    committed = [(record.stage, record.shard) for record in commit.records]
    if planned != committed:
        where = store.url(RunPaths(commit.run_id).commit)
        return [f"{where}: its shards are not those of run.json"]
    return []


def _check_sums(store: ObjectStore, commit: Commit) -> list[str]:
    where = store.url(RunPaths(commit.run_id).commit)
    problems = []
    for stage in commit.rows:
        own = [record for record in commit.records if record.stage == stage]
        shared = overlap((record.shard, record.row_ranges) for record in own)
        if shared:
            problems.append(f"{where}: shards {shared[0]}, {shared[1]} both have row {shared[2]}")
    for name, table in commit.tables.items():
        parts = sum(r.tables[name].rows for r in commit.records if name in r.tables)
        if not table.rows == parts == sum(file.rows for file in table.files):
            problems.append(f"{where}: table {name} has {table.rows} rows, its shards {parts}")
    return problems


def _check_file(store: ObjectStore, key: str, file: FileEntry, is_table: bool) -> str | None:
    url = store.url(key)
    data = store.get(key)
    if data is None:
        return f"{url}: is missing"
    if len(data) != file.bytes:
        return f"{url}: has {len(data)} bytes, expected {file.bytes}"
    if digest_bytes(data) != file.sha256:
        return f"{url}: has other bytes than were committed (sha256 differs)"
    if not is_table:
        return None
    try:
        rows = check_parquet(data, url)
    except IntegrityError as error:
        return str(error)
    return None if rows == file.rows else f"{url}: has {rows} rows, expected {file.rows}"
