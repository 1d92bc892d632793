"""What the shards of a run must satisfy together before they are committed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gradattr.errors import CheckError, IntegrityError
from gradattr.manifest.attributing import AttributingManifest
from gradattr.manifest.kinds import Manifest
from gradattr.manifest.patching import PatchingManifest
from gradattr.manifest.tfa import TfaManifest

#: What a task reports besides its files: the ``extra`` of its record.
Extra = dict[str, Any]


def bad_rows_allowed(manifest: Manifest, rows: int) -> float:
    """``errors.max`` as a number of rows: up to 1 it is a share, above 1 a count."""
    if not isinstance(manifest, AttributingManifest | TfaManifest | PatchingManifest):
        return 0.0
    limit = manifest.errors.max
    return limit * rows if limit <= 1 else limit


def check_bad_rows(manifest: Manifest, rows: int, extras: Sequence[Extra]) -> None:
    """CheckError, with counts by kind and examples, if more rows are bad than are allowed."""
    bad = sum(int(extra.get("bad_rows", 0)) for extra in extras)
    # Where several stages read rows of their own, each of them says how many.
    rows = sum(int(extra.get("input_rows", 0)) for extra in extras) or rows
    allowed = bad_rows_allowed(manifest, rows)
    if bad <= allowed:
        return
    statuses: dict[str, int] = {}
    for extra in extras:
        for status, count in extra.get("statuses", {}).items():
            statuses[status] = statuses.get(status, 0) + count
    kinds = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    examples = [example for extra in extras for example in extra.get("examples", [])][:3]
    raise CheckError(
        f"{bad} of {rows} rows are bad ({kinds}), {allowed:g} allowed by errors.max; the run is "
        "not committed.\n"
        + "".join(f"  {example}\n" for example in examples)
        # 1 would stand for all rows.
        + f"Mend the data, or allow so many rows: --set errors.max={max(bad, 2)}"
    )


def check_one_model(run_url: str, shards: Iterable[tuple[str, Extra]]) -> None:
    """IntegrityError if shards were computed with different weights: a trained model was damaged
    and trained anew between two attempts. ``shards`` are (key, extra)."""
    first: dict[str, tuple[str, str]] = {}
    for key, extra in shards:
        for role, digest in extra.get("models", {}).items():
            shard, known = first.setdefault(role, (key, digest))
            if digest != known:
                raise IntegrityError(
                    f"{run_url}: shards {shard} and {key} were computed with different weights of "
                    "the trained model (it was damaged, and trained anew, between two attempts). "
                    "Delete this run's folder and run the same command again"
                )
