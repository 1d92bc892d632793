"""What an audit costs: what its jobs cost, and the sum."""

from __future__ import annotations

from typing import Any

from gradattr.storage.commit import find_commit
from gradattr.storage.objects import ObjectStore
from gradattr.work.planning.estimate import estimate
from gradattr.work.planning.prepared import Prepared


def estimate_audit(prepared: Prepared, store: ObjectStore, *, probe: bool) -> dict[str, Any]:
    """JSON: the plan of every job with its costs, a line per job, and their sum."""
    plan = prepared.plan
    jobs = {name: estimate(job, store, probe=probe) for name, job in prepared.jobs.items()}
    kinds = {name: job.plan.manifest["kind"] for name, job in prepared.jobs.items()}
    lines = [_line(name, kinds[name], report) for name, report in jobs.items()]
    return {
        "run_id": plan.run_id,
        "fingerprint": plan.fingerprint,
        "rows": plan.rows,
        "committed": find_commit(store, plan.run_id) is not None,
        "jobs": jobs,
        "sum": [*lines, _sum(lines)],
        "notes": _trained_once(prepared),
    }


def _trained_once(prepared: Prepared) -> list[str]:
    """What the sum counts more often than it is done."""
    jobs: dict[str, list[str]] = {}
    for name, job in prepared.jobs.items():
        for digest in {ref.digest for ref in job.context.models if ref.trained}:
            jobs.setdefault(digest, []).append(name)
    shared = dict.fromkeys(tuple(names) for names in jobs.values() if len(names) > 1)
    return [
        f"Jobs {', '.join(names)} need the same training: the first does it, and the others find "
        "the model in the store. Its time is counted for each of them."
        for names in shared
    ]


def _line(name: str, kind: str, report: dict[str, Any]) -> dict[str, Any]:
    stages = report["stages"]
    seconds = [stage["seconds"] for stage in stages if stage["seconds"] is not None]
    return {
        "job": name,
        "kind": kind,
        "run_id": report["run_id"],
        "committed": report["committed"],
        "shards": sum(stage["shards"] for stage in stages),
        "done": sum(stage["done"] for stage in stages),
        "evaluations": sum(stage["evaluations"] for stage in stages),
        "seconds": sum(seconds) if seconds else None,
    }


def _sum(lines: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [line["seconds"] for line in lines if line["seconds"] is not None]
    total = {key: sum(line[key] for line in lines) for key in ("shards", "done", "evaluations")}
    committed = all(line["committed"] for line in lines)
    names = {"job": "", "kind": "", "run_id": "", "committed": committed}
    return names | total | {"seconds": sum(seconds) if seconds else None}
