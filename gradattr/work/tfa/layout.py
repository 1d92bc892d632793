"""Stages of a run of kind tfa, the keys of their tasks, and how queries are cut into blocks."""

from __future__ import annotations

from gradattr.manifest.scores import AnyScore, InfluenceScore, score_id
from gradattr.manifest.tfa import TfaManifest

PREDICT_STAGE = "predict"
SELECT_STAGE = "select"
CURVATURE_STAGE = "curvature"
TDA_STAGE = "tda"
#: In place of it, where an index is asked.
LOOKUP_STAGE = "lookup"
PAIR_STAGE = "pair"
MAP_STAGE = "map"
SUMMARY_STAGE = "summary"

#: Names of the data sets in the context.
TRAIN_DATA, QUERY_DATA = "data", "queries"


def blocks(manifest: TfaManifest) -> list[range]:
    """Numbers of the queries that are scored together; as many as there may be at most."""
    bound, size = manifest.queries.bound, manifest.query_block
    return [range(first, min(first + size, bound)) for first in range(0, bound, size)]


def chunks(manifest: TfaManifest) -> list[tuple[int, range]]:
    """(block, numbers of queries) whose pairs are mapped together."""
    size = manifest.map_queries
    return [
        (number, range(first, min(first + size, block.stop)))
        for number, block in enumerate(blocks(manifest))
        for first in range(block.start, block.stop, size)
    ]


def block_key(block: int) -> str:
    """Key of a task that is there for a whole block."""
    return f"{block:04d}"


def tda_key(block: int, shard: int) -> str:
    """Key of the task that scores a shard of the training data for a block."""
    return f"{block:04d}-{shard:05d}"


def chunk_key(queries: range) -> str:
    """Key of the task that maps the pairs of these queries."""
    return f"{queries.start:06d}"


def kept_extremes(manifest: TfaManifest) -> int:
    """How many scores of either side each scoring task hands on for the merge."""
    wanted = [manifest.top, kept_top(manifest)]
    if manifest.index is not None and manifest.index.recall_queries:
        wanted.append(manifest.index.recall_top)
    return max(wanted)


def kept_top(manifest: TfaManifest) -> int:
    """k of 'top:<k>', else 0."""
    kind, _, number = manifest.keep.partition(":")
    return int(number) if kind == "top" else 0


def kept_above(manifest: TfaManifest) -> float | None:
    """Magnitude from which on scores are kept as they come: 0 of 'full', None for another rule."""
    kind, _, number = manifest.keep.partition(":")
    if kind == "full":
        return 0.0
    return float(number) if kind == "above" else None


def ekfac_key(score: InfluenceScore) -> str:
    """Key of the task that estimates a curvature: scores that differ in damping share it."""
    return f"ekfac-{score.examples or 'all'}"


def solve_key(manifest: TfaManifest, label: str, block: int) -> str:
    """Key of the task that solves for a block of queries by conjugate gradients."""
    # By number: labels that differ in case alone would be one file on some file systems.
    number = [score_id(score) for score in manifest.scores].index(label)
    return f"cg-{number:02d}-{block:04d}"


def needs_ekfac(score: AnyScore) -> bool:
    return isinstance(score, InfluenceScore) and score.inverse == "ekfac"


def needs_solution(score: AnyScore) -> bool:
    """Whether inverse times query is computed once for a block and kept."""
    return (
        isinstance(score, InfluenceScore) and score.inverse == "cg" and score.score == "influence"
    )
