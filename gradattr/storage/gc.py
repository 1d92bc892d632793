"""Removing what failed attempts left behind.

Deleted is only what no commit names *and* what is older than a grace period by the store's own
clock. Of a run without a commit, everything that its records name stays (the run may be resumed)
unless ``abandoned`` is asked for and nothing of the run has changed within the grace period.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradattr.errors import IntegrityError, StoreError, UsageError
from gradattr.storage.audits import audit_jobs
from gradattr.storage.commit import find_commit
from gradattr.storage.layout import MODELS, PROBES, RUNS, TRAINED_FORMAT, RunPaths, probe_key
from gradattr.storage.local_backend import TEMPORARY
from gradattr.storage.objects import ObjectInfo, ObjectStore
from gradattr.storage.run_json import read_run
from gradattr.storage.sealed import unseal
from gradattr.storage.shards import parse_record
from gradattr.storage.verify import model_files

_HOUR = 3600.0


@dataclass(frozen=True)
class GcReport:
    """What was deleted (or would be), and what could not be judged."""

    deleted: list[str]
    """Keys from the store's root, sorted."""
    bytes: int
    kept: int
    """Objects that stay."""
    problems: list[str]
    """Runs that were left alone because their commit is damaged."""
    dry_run: bool


def collect(
    store: ObjectStore,
    grace_hours: float = 24.0,
    dry_run: bool = False,
    *,
    abandoned: bool = False,
) -> GcReport:
    """Delete the leftovers of all runs, trained models and probes in a store.

    ``abandoned``: also whole runs without a commit of which nothing is younger than the grace
    period, unless an audit names them as its jobs. UsageError: a negative grace period.
    """
    if not grace_hours >= 0:
        raise UsageError(f"gc: grace of {grace_hours} hours, expected 0 or more")
    before = store_clock(store) - grace_hours * _HOUR
    garbage: list[ObjectInfo] = []
    problems: list[str] = []
    named: set[str] = set()
    kept = 0
    in_use = _jobs_in_use(store, before) if abandoned else set()
    for run_id in list(store.children(f"{RUNS}/")):
        # Listed first, judged after: what is named later than this stays.
        objects = list(store.list(f"{RUNS}/{run_id}/"))
        try:
            whole = abandoned and run_id not in in_use
            leftovers = list(_run_leftovers(store, run_id, objects, before, whole, named))
        except (IntegrityError, UsageError) as error:
            problems.append(str(error))
            leftovers = []
        garbage += leftovers
        kept += len(objects) - len(leftovers)
    for objects, leftovers in _elsewhere(store, before, named):
        garbage += leftovers
        kept += len(objects) - len(leftovers)
    if not dry_run:
        for leftover in garbage:
            store.delete(leftover.key)
    return GcReport(
        deleted=sorted(leftover.key for leftover in garbage),
        bytes=sum(leftover.bytes for leftover in garbage),
        kept=kept,
        problems=problems,
        dry_run=dry_run,
    )


def _jobs_in_use(store: ObjectStore, before: float) -> set[str]:
    """Runs that audits name as their jobs: of those that are committed, or still under way. One
    whose own commit is gone can be made whole from its shards."""
    found: set[str] = set()
    for run_id in list(store.children(f"{RUNS}/")):
        try:
            jobs = audit_jobs(read_run(store, run_id))
        except (IntegrityError, UsageError, KeyError, TypeError):
            continue
        if jobs and (
            store.head(RunPaths(run_id).commit) is not None
            or any(item.modified >= before for item in store.list(f"{RUNS}/{run_id}/"))
        ):
            found.update(job.run_id for job in jobs)
    return found


def store_clock(store: ObjectStore) -> float:
    """Seconds since 1970 by the clock that stamps the store's objects."""
    key = probe_key()
    store.put_unique(key, b"clock")
    info = store.head(key)
    store.delete(key)
    if info is None:
        raise StoreError(f"{store.url(key)}: vanished at once; gc cannot tell the store's time")
    return info.modified


def _run_leftovers(
    store: ObjectStore,
    run_id: str,
    objects: list[ObjectInfo],
    before: float,
    abandoned: bool,
    named: set[str],
) -> Iterator[ObjectInfo]:
    """Old objects of a run that nothing names. Adds the model files of its commit to ``named``."""
    paths = RunPaths(run_id)
    commit = find_commit(store, run_id)
    if commit is None and abandoned and all(item.modified < before for item in objects):
        yield from objects
        return
    if commit is not None:
        keep = {paths.absolute(key) for key in commit.all_files()}
        named.update(file.key for file in model_files(commit))
    else:
        keep = _named_by_records(store, paths, objects)
    for item in objects:
        if item.modified >= before:
            continue
        temporary = item.key.rpartition("/")[2].startswith(TEMPORARY)
        unnamed = item.key.startswith(paths.data) and item.key not in keep
        # A driver that is just committing may be about to name compacted files.
        compacted = commit is None and "/all-" in item.key
        if temporary or (unnamed and not compacted):
            yield item


def _named_by_records(store: ObjectStore, paths: RunPaths, objects: list[ObjectInfo]) -> set[str]:
    keep: set[str] = set()
    for item in objects:
        if item.key.startswith(paths.shards):
            record = parse_record(store.get(item.key) or b"")
            keep.update(paths.absolute(file.key) for file in (record.files() if record else []))
    return keep


def _elsewhere(
    store: ObjectStore, before: float, named: set[str]
) -> Iterator[tuple[list[ObjectInfo], list[ObjectInfo]]]:
    """Trained models: what neither their record, their checkpoint pointer nor a commit names. The
    pointer counts while there is no model: a training may resume from it."""
    probes = list(store.list(f"{PROBES}/"))
    yield probes, [item for item in probes if item.modified < before]
    for digest in list(store.children(f"{MODELS}/")):
        folder = f"{MODELS}/{digest}/"
        objects = list(store.list(folder))
        pointers = [f"{folder}record.json", f"{folder}checkpoint.json"]
        texts = [store.get(key) or b"" for key in pointers]
        if _is_trained(texts[0], objects):
            del pointers[1], texts[1]
        old = [item for item in objects if item.modified < before and item.key not in named]
        yield objects, [item for item in old if not _mentioned(item.key, pointers, texts)]


def _is_trained(record: bytes, objects: list[ObjectInfo]) -> bool:
    """Is a trained model's record whole, and every file that it names there?"""
    try:
        value = unseal(record, TRAINED_FORMAT)
        named = {value["weights"]: value["bytes"]}
        named |= {kept["key"]: kept["bytes"] for kept in value.get("kept", [])}
    except (ValueError, KeyError, TypeError):
        return False
    sizes = {item.key: item.bytes for item in objects}
    return all(sizes.get(key) == size for key, size in named.items())


def _mentioned(key: str, pointers: list[str], texts: list[bytes]) -> bool:
    name = key.rpartition("/")[2].encode()
    return key in pointers or any(name in text for text in texts)
