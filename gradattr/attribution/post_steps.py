"""Steps on a finished map: absolute values, aggregation of channels, normalisation.

Maps come with their sign and a value per channel; what is wanted of that is written down as steps,
in order, so that nobody has to guess which were taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

PostStep = Literal[
    "abs",
    "square",
    "relu",
    "negate",
    "channel_sum",
    "channel_mean",
    "channel_max",
    "channel_l2",
    "normalize_max",
    "normalize_sum",
    "normalize_range",
]


def apply_steps(maps: Tensor, steps: Sequence[PostStep]) -> Tensor:
    """Maps (n, c, ...) after the steps, one after the other.

    - abs, square, relu, negate: |m|, m^2, max(m, 0), -m of each value
    - channel_sum, channel_mean, channel_l2: over channels; (n, 1, ...)
    - channel_max: the channel's value that is largest in magnitude, with its sign; (n, 1, ...)
    - normalize_max: m / max |m|; normalize_sum: m / sum |m|; of each map, one of zeros stays
    - normalize_range: (m - min m) / (max m - min m), 0 to 1; a constant map becomes 0
    """
    for step in steps:
        maps = _STEPS[step](maps)
    return maps


def check_steps(steps: Sequence[str]) -> None:
    """Raise ValueError for a step that does not exist."""
    for step in steps:
        if step not in _STEPS:
            raise ValueError(f"post: '{step}' given, expected one of {', '.join(_STEPS)}")


def channels_after(steps: Sequence[str], channels: int) -> int:
    """Of a map of so many channels."""
    return 1 if any(step.startswith("channel_") for step in steps) else channels


def _channel_max(maps: Tensor) -> Tensor:
    return maps.gather(1, maps.abs().argmax(1, keepdim=True))


def _per_map(numbers: Tensor, maps: Tensor) -> Tensor:
    """(n,) shaped to go with maps; where it is 0, 1."""
    numbers = torch.where(numbers == 0, torch.ones_like(numbers), numbers)
    return numbers.view(-1, *[1] * (maps.dim() - 1))


def _normalize_range(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    low = flat.amin(1)
    above = maps - low.view(-1, *[1] * (maps.dim() - 1))
    return above / _per_map(flat.amax(1) - low, maps)


_STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "square": torch.square,
    "relu": torch.relu,
    "negate": torch.neg,
    "channel_sum": lambda maps: maps.sum(1, keepdim=True),
    "channel_mean": lambda maps: maps.mean(1, keepdim=True),
    "channel_max": _channel_max,
    "channel_l2": lambda maps: maps.norm(dim=1, keepdim=True),
    "normalize_max": lambda maps: maps / _per_map(maps.flatten(1).abs().amax(1), maps),
    "normalize_sum": lambda maps: maps / _per_map(maps.flatten(1).abs().sum(1), maps),
    "normalize_range": _normalize_range,
}
