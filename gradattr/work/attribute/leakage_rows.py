"""Columns of the table 'leakage': for each image all levels, one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor

from gradattr.metrics.leakage import leakage

T = TypeVar("T")


def per_level(values: Sequence[T], levels: Sequence[float]) -> list[T]:
    """Each of n values once per level: n * levels rows, a value's rows adjacent."""
    return [value for value in values for _ in levels]


def leakage_columns(
    levels: Sequence[float],
    statuses: Sequence[str],
    maps: Tensor | None,
    masks: Tensor | None,
    signal_on_top: Tensor | None,
) -> dict[str, Any]:
    """Columns of n images with these statuses; the numbers are null without ``maps`` (n, c, h, w)
    and ``masks`` (n, h, w), and where a map is not finite or ranks nothing."""
    count = len(statuses)
    status = list(statuses)
    numbers: dict[str, list[float | None]] = {}
    if maps is not None and masks is not None:
        found = leakage(maps.detach().cpu(), masks, levels)
        numbers = {
            "share": _null_for_nan(found.shares.flatten().tolist()),
            "region_share": per_level(found.region_share.tolist(), levels),
            "mass_ratio": per_level(_null_for_nan(found.mass_ratio.tolist()), levels),
        }
        for at, ratio in enumerate(found.mass_ratio.tolist()):
            if math.isnan(ratio) and status[at] == "ok":
                status[at] = "zero_map"
    top = [None] * count if signal_on_top is None else signal_on_top.tolist()
    return {
        "level": list(levels) * count,
        "signal_on_top": per_level(top, levels),
        "status": per_level(status, levels),
        **numbers,
    }


def _null_for_nan(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]
