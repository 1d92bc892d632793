"""The task that maps the pairs of some queries: every map of every pair, its scores, its tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gradattr.manifest.tfa import TfaManifest
from gradattr.manifest.training_maps import AnyMap, TfaMap, map_id
from gradattr.plan import Task
from gradattr.storage.maps import encode_maps
from gradattr.storage.objects import open_store
from gradattr.storage.schemas import make_table, maps_schema
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.tfa.loaded import load_for
from gradattr.work.tfa.map_scores import map_score_columns
from gradattr.work.tfa.pairs import PAIR_COLUMNS, PairImages, chosen_pairs, pair_images
from gradattr.work.tfa.query_directions import direction_groups
from gradattr.work.tfa.query_set import query_set
from gradattr.work.tfa.step_tests import step_test_tables
from gradattr.work.tfa.training_maps import PairMaps, maps_of, precision_agreement


def map_pairs(context: RunContext, task: Task) -> dict[str, Any]:
    """Write ``tfa_maps``, ``tfa_layer_maps``, ``tfa_map_scores`` and ``tfa_insertion`` of the pairs
    of the queries ``payload['first']`` to ``payload['stop']``."""
    manifest = context.tfa_manifest
    loaded = load_for(context)
    store = open_store(manifest.store)
    numbers = range(task.payload["first"], task.payload["stop"])
    queries = query_set(context).within(numbers)
    rows = chosen_pairs(context, store, task.payload["block"], numbers) if queries else []
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    statuses: dict[str, int] = {}
    agreements: dict[str, Any] = {}
    for group in direction_groups(context, loaded, queries):
        pairs = pair_images(context, group, rows, loaded.device)
        if not pairs.rows:
            continue
        first: PairMaps | None = None
        for spec in manifest.maps:
            maps = maps_of(context, loaded, pairs, spec)
            name, mixed = map_id(spec), manifest.engine.precision == "mixed"
            if mixed and isinstance(spec, TfaMap) and name not in agreements:
                agreements[name] = precision_agreement(context, loaded, pairs, spec, maps)
            for status in maps.statuses:
                statuses[status] = statuses.get(status, 0) + 1
            if manifest.store.maps != "none":
                writer.append(*_map_table(context, pairs, spec, maps))
            columns = pair_columns(pairs, spec) | map_score_columns(context, pairs, maps, first)
            writer.append("tfa_map_scores", make_table("tfa_map_scores", columns))
            if manifest.insertion is not None:
                for table in step_test_tables(context, loaded, pairs, spec, maps):
                    writer.append("tfa_insertion", table)
            first = first or maps
    extra = {
        "rows": task.rows,
        "bad_rows": 0,
        "pairs": len(rows),
        "map_statuses": dict(sorted(statuses.items())),
        **({"agreement": agreements} if agreements else {}),
        "models": loaded.digests,
        "gradients": loaded.products.report,
        "tracin_epochs": loaded.epochs(),
        "device": loaded.device.type,
        "torch": torch.__version__,
    }
    # Its rows are queries: who looks for the maps of one opens the files of its shard alone.
    writer.finish(rows=task.rows, row_ids=numbers, extra=extra)
    return extra


def pair_columns(pairs: PairImages, spec: AnyMap) -> dict[str, Any]:
    """The columns that name a pair and its map."""
    columns = {name: [row[name] for row in pairs.rows] for name in PAIR_COLUMNS}
    return columns | {"map_method": [map_id(spec)] * len(pairs.rows)}


def is_layer_map(spec: AnyMap) -> bool:
    """Whether the map has one channel, in a table of its own."""
    return isinstance(spec, TfaMap) and spec.layer is not None


def map_tables(manifest: TfaManifest) -> list[str]:
    """The tables of maps that a run of this manifest has."""
    if manifest.store.maps == "none":
        return []
    layered = {is_layer_map(spec) for spec in manifest.maps}
    names = {False: "tfa_maps", True: "tfa_layer_maps"}
    return [names[kind] for kind in (False, True) if kind in layered]


def _map_table(
    context: RunContext, pairs: PairImages, spec: AnyMap, maps: PairMaps
) -> tuple[str, pa.Table]:
    choice = context.manifest.store.maps
    name = "tfa_layer_maps" if is_layer_map(spec) else "tfa_maps"
    _, channels, height, width = maps.values.shape
    shape = (channels, height, width)
    good = [status == "ok" for status in maps.statuses]
    kept: list[np.ndarray | None] = [
        values if there else None for values, there in zip(maps.values.numpy(), good, strict=True)
    ]
    columns = pair_columns(pairs, spec) | {"status": maps.statuses}
    columns |= encode_maps(kept, choice, shape)
    return name, make_table(name, columns, maps_schema(choice, shape, name))
