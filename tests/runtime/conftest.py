"""Fixtures of whole runs."""

from tests.disturbed import asks, everything, undisturbed_answer, undisturbed_tfa
from tests.small_audits import audit
from tests.small_bundles import bundle
from tests.small_runs import make_manifest, one_thread, table_of, weights
from tests.small_tfa import tfa, tfa_store

__all__ = [
    "asks",
    "audit",
    "bundle",
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
