"""Does a rearranged model still give the answer of the untouched one? Asked on an example.

The question is the logits and the input gradient of a scalar in which every logit has a share. In
float64 the two answers agree to rounding. In float32 a value near 0 can pass a ReLU on one side and
not on the other, which changes single gradients: there the direction of each gradient is compared.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradattr.attribution.evaluator import Evaluator, PlainEvaluator
from gradattr.errors import MethodError


class Answer(NamedTuple):
    """Logits (2, classes) and gradients (2, ...) of two probe rows."""

    logits: Tensor
    gradient: Tensor


class Limits(NamedTuple):
    """Largest relative difference of logits, and of 1 - cosine of a row's gradients."""

    logits: float
    turn: float


EXACT = Limits(1e-9, 1e-12)
CLOSE = Limits(1e-3, 1e-3)
MIXED = Limits(1e-3, 1e-2)


@dataclass(frozen=True)
class Question:
    """A model as it came, the probe x (2, ...) and the right answer."""

    model: nn.Module
    x: Tensor
    answer: Answer
    limits: Limits


def make_probe(example: Tensor) -> Tensor:
    """Two different rows like the example's: enough to see rows that mix."""
    if example.dim() < 2 or len(example) == 0 or not example.is_floating_point():
        raise MethodError(
            f"tune was given an example of shape {tuple(example.shape)}, {example.dtype}; "
            "expected floating point (n, ...) with n >= 1"
        )
    rows = example.detach()[:2]
    if len(rows) == 1:
        rows = torch.cat([rows, 0.5 * rows.flip(-1) + 0.1])
    return rows.clone()


def ask(evaluator: Evaluator, x: Tensor) -> Answer:
    """The evaluator's answer at x."""
    index = torch.zeros(len(x), dtype=torch.long, device=x.device)
    _, gradient, logits = evaluator.gradients(evaluator.stem(x), index, _mixture)
    return Answer(logits, evaluator.pullback(gradient, x.shape))


def check_model(model: nn.Module, x: Tensor) -> None:
    """Raise MethodError unless the model maps x (n, ...) to differentiable logits (n, classes)."""
    name = f"the model {type(model).__name__}"
    leaf = x.clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            logits = model(leaf.clone())
    except Exception as error:  # a user's forward can raise anything
        raise MethodError(
            f"{name} failed on an input of shape {tuple(x.shape)}, {x.dtype}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(logits, Tensor):
        raise MethodError(
            f"{name} returns a {type(logits).__name__}; expected one tensor of logits "
            "(n, classes): wrap it in a module that picks that tensor"
        )
    if logits.dim() != 2 or len(logits) != len(x) or not logits.is_floating_point():
        raise MethodError(
            f"{name} returns a tensor of shape {tuple(logits.shape)}, {logits.dtype}; expected "
            f"floating point logits (n, classes) with n = {len(x)}"
        )
    if not logits.requires_grad:
        raise MethodError(
            f"{name} gives logits that are no differentiable function of its input; remove "
            "torch.no_grad() or detach() from its forward"
        )
    try:
        torch.autograd.grad(logits.sum(), leaf)
    except RuntimeError as error:
        raise MethodError(f"{name} cannot be differentiated: {error}") from error


def as_it_is(model: nn.Module, x: Tensor) -> Question:
    """The question in the model's own dtype."""
    return Question(model, x, ask(PlainEvaluator(model), x), CLOSE)


def in_float64(question: Question) -> Question:
    """The question in float64, or as it was if the model insists on its own dtype."""
    model, x = question.model, question.x
    floating = {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()}
    if floating - {x.dtype} or x.device.type == "mps":
        return question
    try:
        twin, x = copy.deepcopy(model).double(), x.double()
        answer = ask(PlainEvaluator(twin), x)
    except (RuntimeError, ValueError, TypeError):
        return question
    return Question(twin, x, answer, EXACT) if answer.logits.dtype == x.dtype else question


def rows_are_independent(question: Question) -> bool:
    """Whether a row's logits are the same without the other row."""
    alone = ask(PlainEvaluator(question.model), question.x[:1])
    return _relative(alone.logits, question.answer.logits[:1]) <= CLOSE.logits


def difference(question: Question, evaluator: Evaluator, limits: Limits) -> str | None:
    """How the evaluator's answer differs from the right one, or None if it does not."""
    try:
        answer = ask(evaluator, question.x)
    except Exception as error:  # whatever a rearranged model raises: it does not do
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    if answer.logits.shape != question.answer.logits.shape:
        return f"logits have shape {tuple(answer.logits.shape)}"
    logits = _relative(answer.logits, question.answer.logits)
    if not logits <= limits.logits:
        return f"logits differ by {logits:.1e} (relative), more than {limits.logits:.0e}"
    turn = _turn(answer.gradient, question.answer.gradient)
    if not turn <= limits.turn:
        return f"a gradient differs by {turn:.1e} (1 - cosine), more than {limits.turn:.0e}"
    return None


def _mixture(logits: Tensor, index: Tensor) -> Tensor:
    classes = logits.shape[1]
    return logits @ torch.linspace(1.0, -0.5, classes, dtype=logits.dtype, device=logits.device)


def _relative(a: Tensor, b: Tensor) -> float:
    scale = b.abs().max().clamp_min(torch.finfo(b.dtype).tiny)
    return float((a - b).abs().max() / scale)


def _turn(a: Tensor, b: Tensor) -> float:
    """The largest 1 - cosine, or relative difference of lengths, of a row."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    lengths = torch.stack([a.norm(dim=1), b.norm(dim=1)])
    short, long = lengths.min(dim=0).values, lengths.max(dim=0).values
    same = (a == b).all(dim=1)
    cosine = (a * b).sum(dim=1) / (short * long)
    worst = torch.maximum(1 - cosine, (1 - short / long) ** 2)
    return float(torch.where(same, torch.zeros_like(worst), worst).max())
