"""How maps of training images are judged: overlap with the marked region, agreement with the
manifest's first map."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gradattr.attribution.agreement import agreement
from gradattr.metrics.leakage import leakage
from gradattr.work.context import RunContext
from gradattr.work.tfa.pairs import PairImages
from gradattr.work.tfa.training_maps import PairMaps

_ERRORS = {
    "undefined": "a gradient is zero, so the score has no derivative",
    "non_finite": "the map has a NaN or an infinity",
}


def map_score_columns(
    context: RunContext, pairs: PairImages, maps: PairMaps, first: PairMaps | None
) -> dict[str, Any]:
    """Columns of ``tfa_map_scores`` besides those that name pair and map; null where a map is not
    'ok'. ``first``: the maps that these are compared with, None for the first themselves."""
    good = [status == "ok" for status in maps.statuses]
    columns: dict[str, Any] = {
        "status": maps.statuses,
        "error": [_ERRORS.get(status) for status in maps.statuses],
        "total": maps.values.double().sum((1, 2, 3)).tolist(),
        "abs_total": maps.values.double().abs().sum((1, 2, 3)).tolist(),
    }
    if pairs.images.masks is not None:
        masks = pairs.images.masks[pairs.of_pairs]
        found = leakage(maps.values, masks, [context.tfa_manifest.localisation_level])
        marked = masks.flatten(1).any(1).tolist()
        columns["marked_area"] = found.region_share.tolist()
        columns["marked_share"] = _where(found.shares[:, 0].tolist(), marked)
        columns["mass_ratio"] = _where(found.mass_ratio.tolist(), marked)
    if first is not None:
        known = [status == "ok" for status in first.statuses]
        compared = agreement(_summed(first.values), _summed(maps.values))
        columns["spearman"] = _where(compared.spearman.tolist(), known)
        columns["top_overlap"] = _where(compared.top_overlap.tolist(), known)
    fixed = ("status", "error", "marked_area")
    return {
        name: values if name in fixed else _where(values, good) for name, values in columns.items()
    }


def _summed(maps: Tensor) -> Tensor:
    """|map| summed over channels, so that maps of pixels and of layers can be compared."""
    return torch.nan_to_num(maps.abs().sum(1, keepdim=True))


def _where(values: list[float | None], there: list[bool]) -> list[float | None]:
    return [
        value if good and value is not None and math.isfinite(value) else None
        for value, good in zip(values, there, strict=True)
    ]
