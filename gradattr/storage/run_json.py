"""``run.json``: what was asked and planned; the first thing of a run that is written, once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from gradattr.canonical import canonical_json
from gradattr.errors import ConflictError, IntegrityError, UsageError
from gradattr.plan import without_checks
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore


def run_bytes(run_json: Mapping[str, Any]) -> bytes:
    """``run.json`` as it is stored."""
    return canonical_json(dict(run_json)) + b"\n"


def create_run(store: ObjectStore, run_json: Mapping[str, Any]) -> Literal["created", "exists"]:
    """Claim the run directory. ConflictError if it belongs to another fingerprint.

    An existing ``run.json`` stays as it is: of equal fingerprint, it can differ in checks alone.
    """
    key = RunPaths(run_json["run_id"]).run_json
    data = store.get(key)
    if data is None and store.put_new(key, run_bytes(run_json)):
        return "created"
    data = data or store.get(key)
    if data is None:
        raise ConflictError(f"{store.url(key)}: appeared and vanished again; is 'gc' running?")
    if _fingerprint(data) != run_json["fingerprint"]:
        raise ConflictError(
            f"{store.url(key)}: the run directory belongs to another manifest, model or data set "
            "(or run.json was edited); nothing was written. Change the manifest's 'name' or the "
            "store's URL"
        )
    return "exists"


def _fingerprint(data: bytes) -> str | None:
    try:
        value = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError):
        return None
    return value.get("fingerprint") if isinstance(value, dict) else None


def read_run(store: ObjectStore, run_id: str) -> dict[str, Any]:
    """``run.json``. UsageError if there is no such run, IntegrityError if it is damaged."""
    key = RunPaths(run_id).run_json
    data = store.get(key)
    if data is None:
        raise UsageError(f"{store.url(key)}: there is no such run; 'gradattr ls' lists runs")
    try:
        value = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise IntegrityError(f"{store.url(key)}: is damaged ({error})") from None
    if not isinstance(value, dict) or value.get("run_id") != run_id:
        raise IntegrityError(f"{store.url(key)}: is not the plan of the run {run_id}")
    return value


def stored_run(store: ObjectStore, run_json: Mapping[str, Any]) -> bytes:
    """``run.json`` as the first driver wrote it: this one's checks may be others."""
    data = store.get(RunPaths(run_json["run_id"]).run_json)
    own = run_bytes(run_json)
    if data is None or data == own:
        return own
    try:
        stored = json.loads(data)
        same = _but_for_checks(stored) == _but_for_checks(json.loads(own))
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError):
        same = False
    return data if same else own


def _but_for_checks(run_json: Mapping[str, Any]) -> dict[str, Any]:
    return {**run_json, "manifest": without_checks(run_json["manifest"])}
