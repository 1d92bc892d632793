"""Fixtures of whole runs."""

from tests.small_runs import make_manifest, one_thread, table_of, weights

__all__ = ["make_manifest", "one_thread", "table_of", "weights"]
