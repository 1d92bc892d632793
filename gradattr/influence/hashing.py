"""Uniform numbers that are a function of two integers alone, for whole tensors at once."""

from __future__ import annotations

from torch import Tensor

#: Seeds are cut to what an int64 holds without its sign.
MASK = 2**63 - 1


def uniform(first: Tensor, second: Tensor) -> Tensor:
    """U[0, 1) in float64 of two int64 tensors that broadcast, made of operators that
    ``torch.func.vmap`` knows."""
    mixed = _scrambled(_scrambled(first) + _scrambled(second + 1))
    return (mixed & (2**53 - 1)).double() / 2.0**53


def _scrambled(numbers: Tensor) -> Tensor:
    """The finaliser of SplitMix64, on wrapping integers: every bit depends on every bit."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, by: int) -> Tensor:
    """Logical shift to the right."""
    return (numbers >> by) & ((1 << (64 - by)) - 1)
