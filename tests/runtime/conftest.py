"""Fixtures of whole runs."""

from tests.disturbed import asks, everything, undisturbed_answer, undisturbed_tfa
from tests.small_audits import audit_of_jobs
from tests.small_diffroar import audit
from tests.small_runs import make_manifest, one_thread, table_of, weights
from tests.small_tfa import tfa, tfa_store

__all__ = [
    "asks",
    "audit",
    "audit_of_jobs",
    "everything",
    "make_manifest",
    "one_thread",
    "table_of",
    "tfa",
    "tfa_store",
    "undisturbed_answer",
    "undisturbed_tfa",
    "weights",
]
