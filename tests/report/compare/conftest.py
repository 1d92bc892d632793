"""Tiny runs of every kind, in pairs."""

from __future__ import annotations

from tests.small_diffroar import audit
from tests.small_evaluations import evaluation
from tests.small_language import adder, make_patching
from tests.small_runs import make_manifest, one_thread, weights
from tests.small_tfa import tfa, tfa_store

__all__ = [
    "adder",
    "audit",
    "evaluation",
    "make_manifest",
    "make_patching",
    "one_thread",
    "tfa",
    "tfa_store",
    "weights",
]
