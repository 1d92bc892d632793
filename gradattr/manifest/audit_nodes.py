"""Where the parts of an audit's jobs were written: in the job, under 'common', or at the top."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gradattr.manifest.audit import SHARED_PARTS, no_such_job, taken_keys
from gradattr.manifest.hints import nearest
from gradattr.manifest.nodes import (
    Fault,
    MappingNode,
    Node,
    Path,
    Place,
    Scalar,
    ScalarNode,
    SequenceNode,
)

#: Where a check is validated -> where it stands in the file.
Moved = dict[Path, Path]


def with_shared_keys(root: MappingNode) -> tuple[MappingNode, Moved]:
    """The tree as validation sees it: every job with the keys that it has from the audit, each at
    the place where it was written; and which checks stand elsewhere than there."""
    moved: Moved = {}
    jobs = root.values.get("jobs")
    if not isinstance(jobs, MappingNode):
        return root, moved
    whole = {name: _whole(root, job) for name, job in jobs.values.items()}
    values = root.values | {"jobs": MappingNode(jobs.place, whole, jobs.keys)}
    checks = root.values.get("checks")
    if isinstance(checks, SequenceNode):
        own: list[Node] = []
        for at, check in enumerate(checks.items):
            path = _hand_on(check, whole)
            if path == ():
                path = ("checks", len(own))
                own.append(check)
            if path is not None:
                moved[path] = ("checks", at)
        values["checks"] = SequenceNode(checks.place, own)
    return MappingNode(root.place, values, root.keys), moved


def _hand_on(check: Node, jobs: dict[str, Node]) -> Path | None:
    """Give a check to the job that it names, and return its path there; None if it has no place
    there, () if it names no job."""
    if not isinstance(check, MappingNode) or "job" not in check.values:
        return ()
    name = check.values["job"]
    job = jobs.get(name.text) if isinstance(name, ScalarNode) else None
    if not isinstance(job, MappingNode):
        return None
    there = job.values.get("checks", SequenceNode(check.place))
    if not isinstance(there, SequenceNode):
        return None
    values = {key: value for key, value in check.values.items() if key != "job"}
    given = MappingNode(check.place, values, check.keys)
    place = job.keys.get("checks", check.place)
    job.put("checks", SequenceNode(there.place, [*there.items, given]), place)
    assert isinstance(name, ScalarNode)
    return ("jobs", name.text, "checks", len(there.items))


def checks_of_no_job(root: MappingNode) -> tuple[MappingNode, list[Fault]]:
    """The tree with a sound check in place of each that names a job which is none, so that other
    faults are told too, at the right numbers; and what is said of these."""
    checks, jobs = root.values.get("checks"), root.values.get("jobs")
    if not isinstance(checks, SequenceNode) or not isinstance(jobs, MappingNode):
        return root, []
    kept: list[Node] = []
    faults = []
    for at, check in enumerate(checks.items):
        name = check.values.get("job") if isinstance(check, MappingNode) else None
        if name is None or (isinstance(name, ScalarNode) and name.value in jobs.values):
            kept.append(check)
            continue
        text = name.text if isinstance(name, ScalarNode) else "..."
        meant = nearest(text, jobs.values)
        hint = f"; did you mean '{meant}'?" if meant else ""
        message = no_such_job(text, jobs.values) + hint
        faults.append(Fault(name.place, ("checks", at, "job"), message))
        kept.append(_sound_check(name.place))
    values = root.values | {"checks": SequenceNode(checks.place, kept)}
    return MappingNode(root.place, values, root.keys), faults


def _sound_check(place: Place) -> MappingNode:
    words: dict[str, Scalar] = {"check": "sql", "name": "x", "sql": "SELECT 1", "above": 0}
    values: dict[str, Node] = {k: ScalarNode(place, v, str(v)) for k, v in words.items()}
    return MappingNode(place, values, dict.fromkeys(words, place))


def _whole(root: MappingNode, job: Node) -> Node:
    if not isinstance(job, MappingNode):
        return job
    whole = MappingNode(job.place, dict(job.values), dict(job.keys))
    for key in ("seed", *SHARED_PARTS):
        shared, own = root.values.get(key), job.values.get(key)
        if shared is not None and own is None:
            whole.put(key, shared, root.keys[key])
        elif isinstance(shared, MappingNode) and isinstance(own, MappingNode):
            both = MappingNode(own.place, shared.values | own.values, shared.keys | own.keys)
            whole.put(key, both, job.keys[key])
    common, kind = root.values.get("common"), job.values.get("kind")
    if isinstance(common, MappingNode) and isinstance(kind, ScalarNode):
        for key in taken_keys(kind.value, job.values, common.values):
            whole.put(key, common.values[key], common.keys[key])
    return whole


def told_once(faults: Iterable[Fault], moved: Moved) -> list[Fault]:
    """Without what several jobs have from one place, but for the first that is told of it; and
    with the paths that checks have in the file."""
    listed = [_as_written(fault, moved) for fault in faults]
    shared = {fault.place for fault in listed if not _of_a_job(fault)}
    found: dict[tuple[object, str], Fault] = {}
    for fault in listed:
        if _of_a_job(fault) and fault.place in shared:
            continue
        found.setdefault((fault.place, fault.message), fault)
    return list(found.values())


def _as_written(fault: Fault, moved: Moved) -> Fault:
    for length in (2, 4):
        if fault.path[:length] in moved:
            written = moved[fault.path[:length]]
            return replace(fault, path=(*written, *fault.path[length:]))
    return fault


def _of_a_job(fault: Fault) -> bool:
    return len(fault.path) > 1 and fault.path[0] == "jobs"
