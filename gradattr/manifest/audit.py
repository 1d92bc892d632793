"""``kind: audit`` -- several jobs, and what is checked of them, under one name and one run.

A job is a manifest of another kind, without what the audit says for all of them. Validation makes
each a whole manifest, called ``<audit>-<job>``: that is what is planned, run and stored.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.base import Slug, Spec
from gradattr.manifest.common import ManifestBase
from gradattr.manifest.data import DataSpec, Preprocess
from gradattr.manifest.evaluate import STAND_INS, EvaluateManifest
from gradattr.manifest.job_kinds import JOB_KINDS, JobManifest
from gradattr.manifest.method_base import Target
from gradattr.manifest.methods import MethodSpec
from gradattr.manifest.model import ModelSpec
from gradattr.manifest.operation import Errors

JobName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$")]
"""Part of the job's run id, and the name of its schema in SQL."""

_SLUG = re.compile(get_args(Slug)[1].metadata[0].pattern)

#: Longest name of a run, and so of '<audit>-<job>'.
LONGEST_NAME = 40

#: Names that SQL has a meaning for already.
_TAKEN_IN_SQL = ("main", "memory", "system", "temp")

#: What a job has from its audit, key by key, where it states nothing itself.
SHARED_PARTS = ("runtime", "engine", "store")

#: Keys that a kind has under the same name with another meaning.
_OTHER_MEANING = {"patching": ("data", "model", "methods")}


class Common(Spec):
    """Keys of every job that does not state them itself and whose kind has them (kind patching has
    data, model and methods of another sort, and takes none of these)."""

    data: DataSpec | None = None
    """The data set."""
    test: DataSpec | None = None
    """The test set, of kind diffroar."""
    model: ModelSpec | None = None
    """The model."""
    preprocess: Preprocess | Literal["weights"] | None = None
    """From pixels to model input."""
    methods: Annotated[list[MethodSpec], Field(min_length=1, max_length=64)] | None = None
    """Attribution methods."""
    target: Target | None = None
    """The scalar that is differentiated."""
    shard_rows: Annotated[int, Field(gt=0, le=100_000)] | None = None
    """Rows per task."""
    errors: Errors | None = None
    """How many bad rows a job may have."""


_COMMON: TypeAdapter[Common] = TypeAdapter(Common)


class AuditManifest(ManifestBase):
    """Several jobs under one name: each a run of its own, and the audit one that names them."""

    kind: Literal["audit"]
    common: Common | None = Field(default=None, exclude=True)
    """Keys that every job has unless it states them itself."""
    jobs: dict[JobName, Annotated[JobManifest, Field(discriminator="kind")]] = Field(
        min_length=1, max_length=64
    )
    """What is done, in this order: manifests of other kinds by name, without name. Their seed,
    engine and runtime are the audit's where they state none; their store is the audit's (of which
    they may state other 'maps'). A check of the audit that names a 'job' is a check of that job;
    one that names none is SQL over the tables of all jobs, '<job>.<table>'."""

    @model_validator(mode="before")
    @classmethod
    def _whole_jobs(cls, value: Any) -> Any:
        """Make every job a whole manifest; 'common' is then said and done."""
        if not isinstance(value, dict) or not isinstance(value.get("jobs"), dict):
            return value
        jobs = {name: _whole(value, name, job) for name, job in value["jobs"].items()}
        whole = {**value, "jobs": jobs}
        if isinstance(value.get("checks"), list):
            whole["checks"] = _own_checks(value["checks"], jobs)
        if _all_said(value.get("common"), value["jobs"]):
            whole.pop("common", None)
        return whole

    @model_validator(mode="after")
    def _one_audit(self) -> AuditManifest:
        if self.common is not None:
            named = sorted(self.common.model_fields_set)
            known = set().union(*(taken_keys(job.kind, (), named) for job in self.jobs.values()))
            unknown = next(key for key in named if key not in known)
            raise ValueError(f"common.{unknown}: no job here is of a kind that has this key")
        for at, check in enumerate(self.checks):
            if check.table is not None:
                jobs = " or ".join(f"'job: {name}'" for name in self.jobs)
                raise ValueError(
                    f"checks.{at}: the audit itself has no table '{check.table}', its jobs may; "
                    f"state {jobs} beside it"
                )
        for name, job in self.jobs.items():
            self._check_attributions(name, job)
            if name in _TAKEN_IN_SQL:
                raise ValueError(
                    f"jobs.{name}: a job's name is its schema in SQL, where '{name}' has a meaning "
                    "already; use another"
                )
            length = len(f"{self.name}-{name}")
            if length > LONGEST_NAME:
                raise ValueError(
                    f"jobs.{name}: the job's run is called '{self.name}-{name}': {length} "
                    f"characters, {LONGEST_NAME} at most; shorten the name of the audit "
                    f"({len(self.name)}) or of the job ({len(name)})"
                )
            if job.name != job_run_name(self.name, name):
                raise ValueError(
                    f"jobs.{name}.name: a job has no name of its own: its run is called "
                    f"'{self.name}-{name}'"
                )
            if job.store.model_copy(update={"maps": self.store.maps}) != self.store:
                raise ValueError(
                    f"jobs.{name}.store: all jobs stand in the audit's store; state it at the top "
                    "level (a job may state store.maps alone)"
                )
            if job.runtime.address != self.runtime.address:
                raise ValueError(
                    f"jobs.{name}.runtime.address: all jobs run on the audit's cluster; state it "
                    "at the top level"
                )
        return self

    def _check_attributions(self, name: str, job: JobManifest) -> None:
        """ValueError if a job judges the maps of a job that is not there, or makes none."""
        if not isinstance(job, EvaluateManifest) or not (job.attributions or "").startswith("job:"):
            return
        other = str(job.attributions).removeprefix("job:")
        earlier = list(self.jobs)[: list(self.jobs).index(name)]
        kinds = [label for label in earlier if isinstance(self.jobs[label], AttributeManifest)]
        if other not in kinds:
            known = f"such are {', '.join(kinds)}" if kinds else "there is none"
            raise ValueError(
                f"jobs.{name}.attributions: '{other}' is no earlier job of kind attribute, whose "
                f"maps could be judged; {known}"
            )


def job_run_name(audit: str, job: str) -> str:
    """First part of a job's run id; 'job' where the names do not allow one (which is an error that
    is told in other words)."""
    name = f"{audit}-{job}"
    return name if _SLUG.match(name) else "job"


def taken_keys(kind: object, own: Collection[str], common: Collection[str]) -> list[str]:
    """Which keys of 'common' a job of this kind takes that has these keys of its own."""
    model = JOB_KINDS.get(str(kind))
    if model is None:
        return []
    other = (*own, *_OTHER_MEANING.get(str(kind), ()))
    if "attributions" in own:
        other = (*other, *STAND_INS, "preprocess", "target")
    return [key for key in common if key in model.model_fields and key not in other]


def _whole(audit: dict[str, Any], name: object, job: Any) -> Any:
    """A job with everything that the audit says for it."""
    if not isinstance(job, dict):
        return job
    whole = {"name": job_run_name(str(audit.get("name")), str(name)), **job}
    if "seed" in audit and "attributions" not in job:
        whole.setdefault("seed", audit["seed"])
    for part in SHARED_PARTS:
        if part not in audit:
            continue
        shared = {"url": audit[part]} if isinstance(audit[part], str) else audit[part]
        own = job.get(part, {})
        if isinstance(shared, dict) and isinstance(own, dict):
            whole[part] = {**shared, **own}
    common = audit.get("common")
    if isinstance(common, dict):
        for key in taken_keys(job.get("kind"), job, common):
            whole[key] = common[key]
    return whole


def _own_checks(checks: list[Any], jobs: dict[str, Any]) -> list[Any]:
    """The audit's checks without those that name a job, which become that job's."""
    own = []
    for at, check in enumerate(checks):
        if not isinstance(check, dict) or "job" not in check:
            own.append(check)
            continue
        job = jobs.get(check["job"]) if isinstance(check["job"], str) else None
        if job is None:
            raise ValueError(f"checks.{at}.job: {no_such_job(check['job'], jobs)}")
        if isinstance(job, dict) and isinstance(job.get("checks", []), list):
            rest = {key: value for key, value in check.items() if key != "job"}
            job["checks"] = [*job.get("checks", []), rest]
    return own


def no_such_job(name: object, jobs: Collection[str]) -> str:
    """What is said of a job's name that is none."""
    return f"there is no job '{name}'; expected {', '.join(jobs)}"


def _all_said(common: Any, jobs: dict[str, Any]) -> bool:
    """Whether nothing is left to be said about 'common': it is sound, and every key is of use."""
    try:
        _COMMON.validate_python(common or {})
    except ValidationError:
        return False
    kinds = [job.get("kind") for job in jobs.values() if isinstance(job, dict)]
    return all(any(taken_keys(kind, (), [key]) for kind in kinds) for key in common or {})
