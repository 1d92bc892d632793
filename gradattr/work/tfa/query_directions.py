"""Gradients of the queries, as the scores need them: plain, at checkpoints, times the inverse of
the curvature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradattr.errors import ModelError
from gradattr.influence import Directions, GradientProducts
from gradattr.manifest.scores import InfluenceScore, TracInScore, score_id
from gradattr.storage.objects import open_store
from gradattr.storage.parts import read_tensors, stage_records
from gradattr.work.context import RunContext
from gradattr.work.tfa.curvature import load_ekfac
from gradattr.work.tfa.layout import (
    CURVATURE_STAGE,
    blocks,
    needs_ekfac,
    needs_solution,
    solve_key,
)
from gradattr.work.tfa.loaded import Loaded
from gradattr.work.tfa.memory import within_memory
from gradattr.work.tfa.query_set import Row, query_images

#: Bytes of query gradients that are in memory at once; more queries take more passes.
DIRECTION_BYTES = 512 * 2**20


@dataclass(frozen=True)
class QueryDirections:
    """Directions in parameter space of some queries."""

    rows: list[Row]
    """Their rows of the table ``queries``."""
    plain: Directions
    """Gradients of the queries' loss."""
    solved: dict[str, Directions]
    """Of each influence score: the inverse times them."""
    checkpoints: dict[str, list[Directions]]
    """Of each TracIn score: the gradients at its checkpoints."""

    def __len__(self) -> int:
        return len(self.rows)


def direction_groups(
    context: RunContext, loaded: Loaded, rows: Sequence[Row]
) -> Iterator[QueryDirections]:
    """The queries' directions, as many at a time as memory allows.

    Where they fit at once they stay in memory for the process's next task.
    """
    size = queries_at_once(context, loaded)
    for first in range(0, len(rows), size):
        part = list(rows[first : first + size])
        key = ("directions", *(row["query"] for row in part))
        if key in loaded.kept:
            yield loaded.kept[key]
        else:
            yield loaded.remember(key, _directions(context, loaded, part))


def queries_at_once(context: RunContext, loaded: Loaded) -> int:
    """Queries whose directions fit into DIRECTION_BYTES."""
    scores = context.tfa_manifest.scores
    sets = 1 + sum(map(len, loaded.checkpoints.values()))
    sets += sum(isinstance(score, InfluenceScore) for score in scores)
    numbers = sum(shape.numel() for shape in loaded.products.parameter_shapes().values())
    return max(1, DIRECTION_BYTES // (4 * numbers * sets))


def _directions(context: RunContext, loaded: Loaded, rows: list[Row]) -> QueryDirections:
    manifest = context.tfa_manifest
    x, y = (part.to(loaded.device) for part in query_images(context, rows))
    target = manifest.queries.target

    def gradients(products: GradientProducts) -> Directions:
        return within_memory(loaded, x, y, lambda: products.directions(x, y, target))

    plain = gradients(loaded.products)
    _check(plain, rows, "at the model")
    solved = {}
    for score in manifest.scores:
        if needs_ekfac(score):
            assert isinstance(score, InfluenceScore)
            ekfac = load_ekfac(context, loaded, score)
            solved[score_id(score)] = ekfac.solve(plain, score.damping)
        elif needs_solution(score):
            solved[score_id(score)] = _read_solution(context, loaded, score_id(score), rows)
    checkpoints: dict[str, list[Directions]] = {}
    for score in manifest.scores:
        if isinstance(score, TracInScore):
            label = score_id(score)
            found = [gradients(products) for products, _ in loaded.checkpoints[label]]
            for directions in found:
                _check(directions, rows, f"at a checkpoint of '{label}'")
            checkpoints[label] = found
    return QueryDirections(rows, plain, solved, checkpoints)


def _check(directions: Directions, rows: list[Row], where: str) -> None:
    finite = torch.isfinite(directions.norms())
    if not bool(finite.all()):
        row = rows[int((~finite).nonzero()[0])]
        raise ModelError(
            f"query {row['query']} ({row['sample_id']}): its gradient {where} has a NaN or an "
            "infinity; leave it out (queries.ids), or look at the model's weights and the image"
        )


def _read_solution(context: RunContext, loaded: Loaded, label: str, rows: list[Row]) -> Directions:
    """The solutions that the curvature stage kept of these queries."""
    numbers = [row["query"] for row in rows]
    own = [at for at, block in enumerate(blocks(context.tfa_manifest)) if numbers[0] in block]
    store = open_store(context.manifest.store)
    records = stage_records(
        store,
        context.run_id,
        context.fingerprint,
        CURVATURE_STAGE,
        [solve_key(context.tfa_manifest, label, block) for block in own],
    )
    tensors: dict[str, Any] = read_tensors(store, records)
    values = {}
    for name in loaded.products.parameter_shapes():
        stacked = [torch.from_numpy(tensors[f"{number}/{name}"].copy()) for number in numbers]
        values[name] = torch.stack(stacked).to(loaded.device)
    return Directions(values)
