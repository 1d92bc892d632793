"""Verification finds every way in which an answer can be wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradattr.attribution.evaluator import PlainEvaluator
from gradattr.attribution.tuning.verification import (
    CLOSE,
    EXACT,
    as_it_is,
    difference,
    in_float64,
    make_probe,
    rows_are_independent,
)


class Altered(nn.Module):
    """A network whose logits or gradients can be made wrong."""

    def __init__(self, alter: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.alter = alter

    def forward(self, x: Tensor) -> Tensor:
        return self.alter(self.body(x), x)


def fine(y: Tensor, x: Tensor) -> Tensor:
    return y


def fails(y: Tensor, x: Tensor) -> Tensor:
    raise IndexError("no such thing")


WRONG: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "logits": (lambda y, x: y + 1e-6, "logits differ"),
    "gradient alone": (lambda y, x: y + (x - x.detach()) @ torch.ones(6, 3).to(x), "a gradient"),
    "gradient's length": (lambda y, x: y.detach() + 1.01 * (y - y.detach()), "a gradient"),
    "one row": (lambda y, x: y + torch.tensor([[0.0], [1e-6]]).to(y), "logits differ"),
    "nan": (lambda y, x: y * float("nan"), "logits differ"),
    "shape": (lambda y, x: y[:, :2], "logits have shape"),
    "an exception": (fails, "IndexError: no such thing"),
}


@pytest.mark.parametrize(("alter", "text"), WRONG.values(), ids=WRONG.keys())
def test_finds_what_is_wrong(alter: Callable[[Tensor, Tensor], Tensor], text: str) -> None:
    question = in_float64(as_it_is(Altered(fine), torch.randn(2, 6)))
    assert question.x.dtype == torch.float64
    problem = difference(question, PlainEvaluator(Altered(alter).double()), EXACT)
    assert problem is not None
    assert text in problem


def test_accepts_rounding() -> None:
    question = as_it_is(Altered(fine), torch.randn(2, 6))
    rounded = PlainEvaluator(Altered(lambda y, x: y * (1 + 1e-6)))
    assert difference(question, rounded, CLOSE) is None
    assert difference(in_float64(question), PlainEvaluator(Altered(fine).double()), EXACT) is None


def test_zero_gradients_agree() -> None:
    model = nn.Linear(4, 2)
    nn.init.zeros_(model.weight)
    question = as_it_is(model, torch.randn(2, 4))
    assert difference(question, PlainEvaluator(model), EXACT) is None


def test_rows_that_mix() -> None:
    x = torch.randn(2, 6)
    assert rows_are_independent(as_it_is(Altered(fine), x))
    mixing = Altered(lambda y, x: y - y.mean(0))
    assert not rows_are_independent(as_it_is(mixing, x))


def test_probe_has_two_different_rows_and_is_a_copy() -> None:
    example = torch.randn(1, 5)
    probe = make_probe(example)
    assert probe.shape == (2, 5)
    assert not torch.equal(probe[0], probe[1])
    probe.zero_()
    assert example.any()
