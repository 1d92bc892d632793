"""Fixtures of whole runs of kind tfa."""

from tests.small_runs import one_thread
from tests.small_tfa import tfa, tfa_store

__all__ = ["one_thread", "tfa", "tfa_store"]
