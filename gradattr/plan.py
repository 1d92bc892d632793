"""What will be done: stages of tasks, each with its shard's key, known before anything starts.

Pure data and pure functions: nothing here reads a file, a clock or an environment variable.
``run.json`` is this plan written down; its fingerprint is the run's identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradattr.canonical import digest_json

#: Changes when the meaning of stored bytes changes; part of every fingerprint.
PROTOCOL_VERSION = 1

#: Manifest parts that say where and how fast, not what: no part of the fingerprint.
_NOT_IDENTITY = ("runtime", "errors")

#: Written into run.json, but no part of the fingerprint: what is asked of the numbers changes none.
_ASKED_AFTERWARDS = "checks"


@dataclass(frozen=True)
class Task:
    """One unit of work: one Ray call, one shard. ``payload`` is JSON and small."""

    stage: str
    key: str
    rows: int
    payload: dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """An ordered step of a plan. A stage starts when the one before it is complete.

    ``expected_rows`` says how many rows each of the stage's tables holds in all (a table that may
    have any number, such as ``errors``, is not named).
    """

    name: str
    tasks: tuple[Task, ...]
    tables: tuple[str, ...]
    expected_rows: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """The whole run. ``inputs`` holds the digests of data and model."""

    run_id: str
    fingerprint: str
    manifest: dict[str, Any]
    inputs: dict[str, Any]
    stages: tuple[Stage, ...]

    @property
    def rows(self) -> int:
        """Rows of the last stage's tasks."""
        return sum(task.rows for task in self.stages[-1].tasks)

    def run_json(self) -> dict[str, Any]:
        """The content of ``run.json``: no clock, host or user in it."""
        return {
            "format": "gradattr/run",
            "protocol": PROTOCOL_VERSION,
            "run_id": self.run_id,
            "fingerprint": self.fingerprint,
            "manifest": self.manifest,
            "inputs": self.inputs,
            "stages": [
                {
                    "name": stage.name,
                    "tables": list(stage.tables),
                    "expected_rows": stage.expected_rows,
                    "shards": [[task.key, task.rows] for task in stage.tasks],
                }
                for stage in self.stages
            ],
        }


def public_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest as it may be written down: where the store is, and who may write there, left
    out, so that the same manifest has the same fingerprint on a laptop and on S3."""
    public = {key: value for key, value in manifest.items() if key not in _NOT_IDENTITY}
    public["store"] = {"maps": manifest["store"]["maps"]}
    engine = dict(manifest["engine"])
    engine.pop("batch_size", None)
    public["engine"] = engine
    if manifest["kind"] == "audit":
        public["jobs"] = {name: public_manifest(job) for name, job in manifest["jobs"].items()}
    return public


def without_checks(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest without its checks, and those of its jobs where it has jobs."""
    kept = {key: value for key, value in manifest.items() if key != _ASKED_AFTERWARDS}
    if isinstance(kept.get("jobs"), dict):
        kept["jobs"] = {name: without_checks(job) for name, job in kept["jobs"].items()}
    return kept


def assemble(manifest: dict[str, Any], inputs: dict[str, Any], stages: tuple[Stage, ...]) -> Plan:
    """Put stages under a fingerprint and a run id (``<name>-<first 8 of the fingerprint>``)."""
    public = public_manifest(manifest)
    fingerprint = digest_json(
        {
            "protocol": PROTOCOL_VERSION,
            "manifest": without_checks(public),
            "inputs": inputs,
            "shards": [[stage.name, [[t.key, t.rows] for t in stage.tasks]] for stage in stages],
        }
    )
    run_id = f"{manifest['name']}-{fingerprint[:8]}"
    return Plan(run_id, fingerprint, public, inputs, stages)
