"""Where every random number comes from: a hash of names, never of order.

A seed is a function of (the manifest's ``seed``, what it is for, which sample), so noise does not
depend on the shard a sample stands in, the batch it is computed in, the worker that computes it,
or the attempt. The run's fingerprint is deliberately *not* an ingredient: it contains the shard
plan, and the law "any sharding gives the same maps" would not hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

SeedPart = str | int | float | bool | None

#: Seeds stay below 2**63 so that every generator (torch, numpy, Python) takes them.
_SEED_BITS = 63


def derive_seed(*parts: SeedPart) -> int:
    """Return a seed in [0, 2**63) that depends on every part and on their order.

    >>> derive_seed(0, "noise", "img-1") == derive_seed(0, "noise", "img-1")
    True
    >>> derive_seed(0, "noise", "img-1") == derive_seed(0, "noise", "img-2")
    False
    """
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


def sample_seeds(seed: int, purpose: str, sample_ids: Iterable[str]) -> list[int]:
    """One seed per sample: ``derive_seed(seed, purpose, sample_id)`` for each id, in order."""
    return [derive_seed(seed, purpose, sample_id) for sample_id in sample_ids]
