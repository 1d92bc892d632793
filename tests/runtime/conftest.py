"""Fixtures of whole runs."""

from tests.small_audits import audit
from tests.small_runs import make_manifest, one_thread, table_of, weights

__all__ = ["audit", "make_manifest", "one_thread", "table_of", "weights"]
