"""Whether a path method's map depends on its number of steps, and how complete it is.

A Riemann sum over few steps is not the integral. UNI's claim is that a straight path of monotone
confidence needs few: its maps at B = 1 and 15 are like that at 30.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradattr.attribution.baselines import Normalization
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.passes import attribute
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.result import Attribution
from gradattr.errors import MethodError, UsageError
from gradattr.metrics.map_change import MapChange, join_changes, map_change, stack_changes
from gradattr.metrics.repeated_maps import check_images

STEPS = (1, 15, 30)


class Stability(NamedTuple):
    """Of one method: k numbers of steps, ascending, the last one the reference."""

    steps: tuple[int, ...]
    change: MapChange
    """Fields (n, k): the map at so many steps against that at the most; the last column compares
    the reference with itself. Save for ``l2``, higher is more stable. NaN where a map is constant,
    as that of Blur IG in one step is (it lies at x, where a blur of 0 changes nothing)."""
    completeness_gap: Tensor | None
    """(n, k) float64: sum of map - (score - baseline score), in units of the score; 0 is best.
    None for a method that claims nothing of the kind."""


class Completeness(NamedTuple):
    """Of one method on n images."""

    relative: Tensor
    """(n,) float64: |gap| / |score - baseline score|, 0 is best; NaN where the gap is not finite
    or the scores are equal."""
    mean_gap: float
    """Mean of |gap| over the images where it is finite; NaN where there are none."""
    median_relative: float
    """Median of ``relative`` over the images where it is not NaN; NaN where there are none."""
    largest_relative: float
    known: int
    """Images where ``relative`` is not NaN."""


def riemann_stability(
    evaluator: Evaluator,
    x: Tensor,
    requests: Sequence[MethodRequest],
    *,
    seeds: Sequence[int],
    steps: Sequence[int] = STEPS,
    top: int | None = None,
    labels: Tensor | None = None,
    normalization: Normalization | None = None,
    batch_size: int = 64,
) -> list[Stability]:
    """Every method's map of x (n, c, h, w) at each number of steps against that at the most steps.

    All numbers of steps are one call, so that a baseline is found once; ``top`` is that of
    ``map_change``, the other arguments those of ``attribute``. A rule that does not exist for a
    number of steps raises ValueError, as it does there.

    Raises MethodError for a method without steps, UsageError for arguments that do not fit.
    """
    check_images(x, seeds, requests)
    counts = tuple(sorted(set(steps)))
    if len(counts) < 2 or counts[0] < 1:
        raise UsageError(f"steps {list(steps)}: expected two numbers or more, each 1 or more")
    asked = [with_steps(request, count) for request in requests for count in counts]
    parts: list[list[tuple[MapChange, Tensor | None]]] = []
    for first in range(0, len(x), batch_size):
        rows = slice(first, first + batch_size)
        made = attribute(
            evaluator,
            x[rows],
            asked,
            seeds=list(seeds)[rows],
            labels=None if labels is None else labels[rows],
            normalization=normalization,
            batch_size=batch_size,
        )
        k = len(counts)
        parts.append([_compared(made[at : at + k], top) for at in range(0, len(made), k)])
    return [
        Stability(
            counts,
            join_changes([part[number][0] for part in parts]),
            _joined([part[number][1] for part in parts]),
        )
        for number in range(len(requests))
    ]


def with_steps(request: MethodRequest, steps: int) -> MethodRequest:
    """The request with another number of steps along its path. Raises MethodError without one."""
    source: Any = request.source
    if not hasattr(source, "steps"):
        raise MethodError(f"method '{request.id}' has no path that is walked in a number of steps")
    return replace(request, source=replace(source, steps=steps))


def completeness(result: Attribution) -> Completeness | None:
    """How far the maps are from adding up to score - baseline score; None for a method that does
    not claim to."""
    if result.completeness_gap is None or result.baseline_score is None:
        return None
    gap = result.completeness_gap.double().abs().cpu()
    change = (result.score.double() - result.baseline_score.double()).abs().cpu()
    relative = gap / change
    relative = relative.masked_fill(~torch.isfinite(relative) | (change == 0), torch.nan)
    finite, known = gap[torch.isfinite(gap)], relative[~relative.isnan()]
    return Completeness(
        relative,
        float(finite.mean()),
        float(known.quantile(0.5)) if len(known) else float("nan"),
        float(known.max()) if len(known) else float("nan"),
        len(known),
    )


def _compared(made: Sequence[Attribution], top: int | None) -> tuple[MapChange, Tensor | None]:
    """One method at ascending numbers of steps."""
    reference = made[-1].maps
    changes = stack_changes([map_change(reference, one.maps, top=top) for one in made])
    gaps = [one.completeness_gap for one in made]
    known = [gap.double().cpu() for gap in gaps if gap is not None]
    return changes, torch.stack(known, 1) if len(known) == len(gaps) else None


def _joined(gaps: Sequence[Tensor | None]) -> Tensor | None:
    known = [gap for gap in gaps if gap is not None]
    return torch.cat(known) if known else None
