"""Which run is meant: by id, by the beginning of an id, by URL, or by its manifest."""

from __future__ import annotations

import re

from gradattr.errors import UsageError
from gradattr.manifest.operation import Store
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.runs import list_runs

_RUN_URL = re.compile(r"^(?P<root>.+?)/runs/(?P<run>[^/]+)/?$")


def open_root(store: str, endpoint_url: str | None) -> ObjectStore:
    """The store at a URL that was given on the command line."""
    from pydantic import ValidationError

    try:
        spec = Store(url=store, endpoint_url=endpoint_url)
    except ValidationError as error:
        raise UsageError(f"--store {store}: {error.errors()[0]['msg']}") from None
    return open_store(spec)


def locate(run: str, store: str, endpoint_url: str | None) -> tuple[ObjectStore, str]:
    """The store and the full id of the run that ``run`` names. Raises UsageError."""
    match = _RUN_URL.match(run)
    if match:
        return open_root(match["root"], endpoint_url), match["run"]
    if run.endswith((".yaml", ".yml")):
        return _of_manifest(run)
    root = open_root(store, endpoint_url)
    ids = [summary.run_id for summary in list_runs(root)]
    if run in ids:
        return root, run
    # 'weekly' means weekly-0123abcd rather than the runs of its jobs, weekly-quality-4567cdef.
    found = [run_id for run_id in ids if run_id.rpartition("-")[0] == run]
    found = found or [run_id for run_id in ids if run_id.startswith(run)]
    if len(found) == 1:
        return root, found[0]
    if found:
        raise UsageError(f"run {run!r} is ambiguous under {store}: {', '.join(found[:8])}")
    known = f"there are: {', '.join(ids[:8])}" if ids else "there are none"
    raise UsageError(f"no run {run!r} under {store}; {known}. Is --store right?")


def _of_manifest(path: str) -> tuple[ObjectStore, str]:
    from gradattr.work.manifests import load_manifest
    from gradattr.work.planning.prepare import prepare

    manifest = load_manifest(path)
    store = open_store(manifest.store)
    return store, prepare(manifest, store).plan.run_id
