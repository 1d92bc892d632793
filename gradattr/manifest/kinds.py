"""The kinds of manifest. A later kind is one more module and one more line in ``JOB_KINDS``, or
here if audits cannot have it as a job."""

from __future__ import annotations

from gradattr.manifest.audit import AuditManifest
from gradattr.manifest.job_kinds import JOB_KINDS, JobManifest

Manifest = JobManifest | AuditManifest

KINDS: dict[str, type[Manifest]] = {**JOB_KINDS, "audit": AuditManifest}
