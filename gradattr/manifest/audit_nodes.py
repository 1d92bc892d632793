"""Where the parts of an audit's jobs were written: in the job, under 'common', or at the top."""

from __future__ import annotations

from collections.abc import Iterable

from gradattr.manifest.audit import SHARED_PARTS, no_such_job, taken_keys
from gradattr.manifest.hints import nearest
from gradattr.manifest.nodes import Fault, MappingNode, Node, ScalarNode, SequenceNode


def with_shared_keys(root: MappingNode) -> MappingNode:
    """The tree as validation sees it: every job with the keys that it has from the audit, each at
    the place where it was written."""
    jobs = root.values.get("jobs")
    if not isinstance(jobs, MappingNode):
        return root
    whole = {name: _whole(root, job) for name, job in jobs.values.items()}
    values = root.values | {"jobs": MappingNode(jobs.place, whole, jobs.keys)}
    checks = root.values.get("checks")
    if isinstance(checks, SequenceNode):
        own = [item for item in checks.items if not _hand_on(item, whole)]
        values["checks"] = SequenceNode(checks.place, own)
    return MappingNode(root.place, values, root.keys)


def _hand_on(check: Node, jobs: dict[str, Node]) -> bool:
    """Give a check to the job that it names; whether it names one."""
    if not isinstance(check, MappingNode) or "job" not in check.values:
        return False
    name = check.values["job"]
    job = jobs.get(name.text) if isinstance(name, ScalarNode) else None
    if isinstance(job, MappingNode):
        there = job.values.get("checks", SequenceNode(check.place))
        if isinstance(there, SequenceNode):
            values = {key: value for key, value in check.values.items() if key != "job"}
            given = MappingNode(check.place, values, check.keys)
            place = job.keys.get("checks", check.place)
            job.put("checks", SequenceNode(there.place, [*there.items, given]), place)
    return True


def checks_of_no_job(root: MappingNode) -> tuple[MappingNode, list[Fault]]:
    """The tree without the checks that name a job which is none, and what is said of these."""
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
    values = root.values | {"checks": SequenceNode(checks.place, kept)}
    return MappingNode(root.place, values, root.keys), faults


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


def told_once(faults: Iterable[Fault]) -> list[Fault]:
    """Without what several jobs have from one place, but for the first that is told of it."""
    listed = list(faults)
    shared = {fault.place for fault in listed if not _of_a_job(fault)}
    found: dict[tuple[object, str], Fault] = {}
    for fault in listed:
        if _of_a_job(fault) and fault.place in shared:
            continue
        found.setdefault((fault.place, fault.message), fault)
    return list(found.values())


def _of_a_job(fault: Fault) -> bool:
    return len(fault.path) > 1 and fault.path[0] == "jobs"
