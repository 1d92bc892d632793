"""Insertion and deletion tests of pairs: from the manifest to rows of ``tfa_insertion``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gradattr.attribution.microbatch import halve_on_oom
from gradattr.errors import MethodError
from gradattr.influence import pixel_order, random_order, step_tests
from gradattr.influence.stepping import Steps
from gradattr.manifest.training_maps import AnyMap, StepTest, StepTestName, TwoStepMap, map_id
from gradattr.seeds import derive_seed
from gradattr.storage.schemas import make_table
from gradattr.work.context import RunContext
from gradattr.work.tfa.loaded import Loaded
from gradattr.work.tfa.pairs import PAIR_COLUMNS, PairImages
from gradattr.work.tfa.query_set import query_images
from gradattr.work.tfa.training_maps import PairMaps


def step_test_tables(
    context: RunContext, loaded: Loaded, pairs: PairImages, spec: AnyMap, maps: PairMaps
) -> Iterator[pa.Table]:
    """Rows of ``tfa_insertion`` of the pairs on the sides that are asked for, one table for each
    test and number of steps. Pairs without a map are left out."""
    asked = context.tfa_manifest.insertion
    assert asked is not None
    own = [
        at
        for at, row in enumerate(pairs.rows)
        if row["side"] in asked.sides and maps.statuses[at] == "ok"
    ]
    if not own:
        return
    rows = [pairs.rows[at] for at in own]
    images = pairs.of_pairs[own].to(pairs.x.device)
    queries = torch.tensor([pairs.places[at][1] for at in own], device=pairs.x.device)
    query_x, query_y = (
        part.to(pairs.x.device)[queries] for part in query_images(context, pairs.queries.rows)
    )
    orders = _orders(context, pairs, _evidence(pairs, spec, maps, own), own)
    size = Steps(loaded.products, asked.lr, 1).batch_size
    for test in asked.tests:
        for steps in asked.steps:

            def at(size: int, test: StepTestName = test, steps: int = steps) -> dict[str, Tensor]:
                return step_tests(
                    loaded.products,
                    pairs.x[images],
                    pairs.y[images],
                    query_x,
                    query_y,
                    orders,
                    levels=asked.levels,
                    fill=_fill(asked, context.shape[0]).to(pairs.x),
                    lr=asked.lr,
                    steps=steps,
                    test=test,
                    batch_size=size,
                )

            found, size = halve_on_oom(at, size)
            _check(found, rows, asked.lr, steps)
            levels = len(asked.levels)
            columns: dict[str, Any] = {
                name: np.repeat([row[name] for row in rows], levels) for name in PAIR_COLUMNS
            }
            columns |= {
                "map_method": [map_id(spec)] * (len(rows) * levels),
                "test": [test] * (len(rows) * levels),
                "steps": [steps] * (len(rows) * levels),
                "level": np.tile(asked.levels, len(rows)),
                "top": found["top"].double().flatten().cpu().numpy(),
                "random": found["random"].double().flatten().cpu().numpy(),
            }
            yield make_table("tfa_insertion", columns)


def _check(found: dict[str, Tensor], rows: list[dict[str, Any]], lr: float, steps: int) -> None:
    """MethodError if the steps have thrown the model off."""
    finite = torch.stack([torch.isfinite(values).all(1) for values in found.values()]).all(0)
    if not bool(finite.all()):
        row = rows[int((~finite).nonzero()[0])]
        raise MethodError(
            f"insertion: after {steps} steps of {lr:g} on training image {row['train_id']} the "
            f"loss of query {row['query']} is not finite; lower insertion.lr"
        )


def _evidence(pairs: PairImages, spec: AnyMap, maps: PairMaps, own: list[int]) -> Tensor:
    """Maps (p, c, h, w) whose highest pixels are said to act most in the direction of their side:
    the map, and minus the map of harmful images. A two-step map knows nothing of a direction; its
    pixels count by magnitude."""
    if isinstance(spec, TwoStepMap):
        return maps.values[own].abs()
    signs = torch.tensor([1.0 if pairs.rows[at]["side"] == "helpful" else -1.0 for at in own])
    return maps.values[own] * signs.view(-1, 1, 1, 1)


def _orders(
    context: RunContext, pairs: PairImages, values: Tensor, own: list[int]
) -> dict[str, Tensor]:
    """Pixels by these maps, and at random; the random order is a function of the pair, so that
    every map is tested against the same."""
    seeds = [
        derive_seed(
            context.manifest.seed,
            "insertion",
            pairs.rows[at]["query_id"],
            pairs.rows[at]["train_id"],
        )
        for at in own
    ]
    pixels = values.shape[2] * values.shape[3]
    return {"top": pixel_order(values, seeds), "random": random_order(pixels, seeds)}


def _fill(asked: StepTest, channels: int) -> Tensor:
    """(c,) in units of the model's input; the mean is 0 there."""
    given = asked.fill if isinstance(asked.fill, list) else [asked.fill or 0.0]
    return torch.tensor(given * channels if len(given) == 1 else given)
