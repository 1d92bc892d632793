"""The table of an audit's run: which runs its jobs are."""

from __future__ import annotations

import pyarrow as pa

from gradattr.storage.table_spec import TableSpec

JOBS = TableSpec(
    "jobs",
    1,
    "one row per job of an audit: the run that it is, and what that run has committed",
    ("job",),
    (
        ("job", pa.string(), False, "the job's name in the manifest; its schema in SQL"),
        ("kind", pa.string(), False, "kind of the job's manifest"),
        ("run_id", pa.string(), False, "the job's own run, in the same store"),
        ("fingerprint", pa.string(), False, "fingerprint of that run"),
        ("commit_sha256", pa.string(), False, "sha256 of that run's _COMMIT.json"),
        ("rows", pa.int64(), False, "what the job is about: input rows; of kind tfa queries"),
        ("unit", pa.string(), False, "'rows' or 'queries': what is counted there"),
        ("bad_rows", pa.int64(), False, "those without a result (the job's table 'errors')"),
        ("tables", pa.list_(pa.string()), False, "names of the job's tables"),
        ("bytes", pa.int64(), False, "bytes of its tables' files"),
        ("uri", pa.string(), False, "its folder, from the store's root"),
    ),
)
