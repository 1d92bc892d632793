"""``tune``: the same model, rearranged so that input gradients cost less.

Every step is checked against the untouched model on an example, and dropped if logits or input
gradients differ. What rearranges the computation is checked in float64, where rounding flips no
ReLU; what changes memory layout or kernels, in the model's own dtype.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from gradattr.attribution.evaluator import Choose, Explained
from gradattr.attribution.target import Objective
from gradattr.attribution.tuning.folding import fold_graph, fold_sequentials
from gradattr.attribution.tuning.mixed import FrozenConv2d, bfloat16_obstacle, install_backward
from gradattr.attribution.tuning.stem import Stem, split_stem
from gradattr.attribution.tuning.tracing import Untraceable, trace
from gradattr.attribution.tuning.verification import (
    CLOSE,
    MIXED,
    Question,
    as_it_is,
    check_model,
    difference,
    in_float64,
    make_probe,
    rows_are_independent,
)
from gradattr.errors import MethodError

Precision = Literal["fp32", "mixed"]


class TunedEvaluator:
    """An Evaluator made by ``tune``.

    ``report`` is plain data for the run record: the ``steps`` applied, in order; ``dropped``, step
    -> reason; ``layers``, step -> how many; the ``precision`` asked for and ``precision_used``;
    ``independent_rows``: false if the model mixes the examples of a batch (results then depend on
    the batch, tuned or not). ``network`` is a frozen copy of the model as it came.
    """

    def __init__(
        self,
        rest: nn.Module,
        *,
        network: nn.Module,
        stem: Stem | None = None,
        channels_last: bool = False,
        report: dict[str, Any] | None = None,
    ) -> None:
        self.rest = rest
        self.network = network
        self.front = stem
        self.channels_last = channels_last
        self.report = report or {}
        # A traced graph was made out of place; any other model may change its input.
        self._keeps_input = isinstance(rest, fx.GraphModule)

    def logits(self, x: Tensor) -> Tensor:
        """(n, ...) -> (n, classes), without a graph."""
        return self._rest_logits(self.stem(x))

    def stem(self, x: Tensor) -> Tensor:
        """(n, ...) -> (n, h): the affine part at the front, or x itself."""
        if self.front is None:
            return x
        with torch.no_grad():
            return self.front(self._laid_out(x))

    def pullback(self, grad_h: Tensor, x_shape: torch.Size) -> Tensor:
        """(n, h) -> (n, ...): the transposed linear part of the stem."""
        if self.front is None:
            return grad_h
        return self.front.pullback(self._laid_out(grad_h), x_shape)

    def gradients(
        self, h: Tensor, index: Tensor, objective: Objective
    ) -> tuple[Tensor, Tensor, Tensor]:
        """At m stem outputs: (values (m,), gradients of the values (m, h), logits (m, classes))."""
        logits, (explained,) = self.logits_and_gradients(h, [lambda _: (index, objective)])
        return explained.values, explained.grads, logits

    def logits_and_gradients(
        self, h: Tensor, choices: Sequence[Choose]
    ) -> tuple[Tensor, list[Explained]]:
        """One forward pass, and one backward pass for each choice of a scalar."""
        if not choices:
            return self._rest_logits(h), []
        leaf = self._laid_out(h).detach().requires_grad_(True)
        explained = []
        with torch.enable_grad():
            logits = self.rest(leaf if self._keeps_input else leaf.clone())
            for number, choose in enumerate(choices, start=1):
                index, objective = choose(logits.detach())
                values = objective(logits, index)
                keep = number < len(choices)
                (grad,) = torch.autograd.grad(values.sum(), leaf, retain_graph=keep)
                explained.append(Explained(index, values.detach(), grad))
        return logits.detach(), explained

    def _rest_logits(self, h: Tensor) -> Tensor:
        h = self._laid_out(h)
        with torch.no_grad():
            logits: Tensor = self.rest(h if self._keeps_input else h.clone())
        return logits

    def _laid_out(self, x: Tensor) -> Tensor:
        if self.channels_last and x.dim() == 4:
            return x.contiguous(memory_format=torch.channels_last)
        return x


@dataclass
class _Candidate:
    """A model on its way: its two parts, the steps applied, how many layers each changed."""

    rest: nn.Module
    stem: Stem | None = None
    layers: dict[str, int] = field(default_factory=dict)
    channels_last: bool = False

    def parts(self) -> list[nn.Module]:
        return [self.rest] if self.stem is None else [self.stem, self.rest]

    def evaluator(self, network: nn.Module, report: dict[str, Any] | None = None) -> TunedEvaluator:
        return TunedEvaluator(
            self.rest,
            network=network,
            stem=self.stem,
            channels_last=self.channels_last,
            report=report,
        )


def tune(
    model: nn.Module,
    example: Tensor,
    *,
    precision: Precision = "fp32",
    fold: bool = True,
    split: bool = True,
    channels_last: bool = True,
) -> TunedEvaluator:
    """A frozen, faster copy of ``model`` for inputs like ``example`` (n, ...), on its device.

    The steps: ``fold`` batch norm into convolutions, ``split`` off the affine front as a stem,
    ``channels_last`` memory.
    ``precision='mixed'`` keeps the forward float32 and makes the products of the backward bfloat16,
    or falls back to float32 and says why in the report. ``model`` itself is not changed.

    Raises MethodError if the model cannot be copied, does not run on the example, or does not
    return one differentiable tensor (n, classes).
    """
    if precision not in ("fp32", "mixed"):
        raise MethodError(f"precision '{precision}' was given; expected 'fp32' or 'mixed'")
    probe = make_probe(example)
    plain = _frozen_copy(model).to(probe.device)
    check_model(plain, probe)
    question = as_it_is(plain, probe)
    dropped: dict[str, str] = {}
    asked = {"trace": fold or split, "fold": fold, "stem": split}
    rearranged = _rearrange(question, [step for step in asked if asked[step]], dropped)
    layout = ["channels_last"] if channels_last else []
    layout += ["mixed"] if precision == "mixed" else []
    result = _lay_out(rearranged, question, layout, dropped)
    report = {
        "precision": precision,
        "precision_used": "mixed" if "mixed" in result.layers else "fp32",
        "steps": list(result.layers),
        "layers": dict(result.layers),
        "dropped": {step: why for step, why in dropped.items() if step not in result.layers},
        "independent_rows": rows_are_independent(question),
    }
    return result.evaluator(plain, report)


def _frozen_copy(model: nn.Module) -> nn.Module:
    try:
        duplicate = copy.deepcopy(model)
    except Exception as error:  # a user's module can hold anything
        raise MethodError(
            f"the model {type(model).__name__} cannot be copied ({type(error).__name__}: {error}); "
            "keep locks, open files and tensors with a graph out of its attributes"
        ) from error
    return duplicate.eval().requires_grad_(False)


def _attempts(wanted: Sequence[str]) -> list[list[str]]:
    """All steps; all but one; one alone. The first that holds is taken."""
    candidates = [list(wanted)]
    candidates += [[step for step in wanted if step != left_out] for left_out in reversed(wanted)]
    candidates += [[step] for step in wanted]
    return [c for place, c in enumerate(candidates) if c and c not in candidates[:place]]


def _rearrange(question: Question, wanted: Sequence[str], dropped: dict[str, str]) -> _Candidate:
    """Trace, fold, split: as many of ``wanted`` as leave the answer exactly as it was."""
    exact = in_float64(question)
    for steps in _attempts(wanted):
        candidate = _apply(copy.deepcopy(exact.model), steps, dropped)
        problem = difference(exact, candidate.evaluator(exact.model), exact.limits)
        if problem is None:
            for part in candidate.parts():
                part.to(question.x.dtype)
            return candidate
        dropped.update(dict.fromkeys(candidate.layers, problem))
    return _Candidate(copy.deepcopy(question.model))


def _apply(model: nn.Module, steps: Sequence[str], dropped: dict[str, str]) -> _Candidate:
    """The rearranging steps, on a model that may be changed."""
    candidate = _Candidate(model)
    graph: fx.GraphModule | None = None
    if "trace" in steps:
        try:
            candidate.rest = graph = trace(model)
            candidate.layers["trace"] = len(graph.graph.nodes)
        except Untraceable as reason:
            dropped["trace"] = str(reason)
    if "fold" in steps:
        folds = fold_sequentials(model) if graph is None else fold_graph(graph)
        if folds:
            candidate.layers["fold"] = folds
        else:
            dropped["fold"] = "no batch norm that directly follows a convolution"
    if "stem" in steps:
        parts = None if graph is None else split_stem(graph)
        if parts is not None:
            candidate.stem, candidate.rest = parts
            candidate.layers["stem"] = 1
        else:
            dropped["stem"] = (
                "needs a traced graph" if graph is None else "no affine layer at the front"
            )
    return candidate


def _lay_out(
    start: _Candidate, question: Question, layout: Sequence[str], dropped: dict[str, str]
) -> _Candidate:
    """Memory format and kernels: as many of ``layout`` as leave the answer close to what it was."""
    for steps in _attempts(layout):
        candidate = copy.deepcopy(start)
        _install(candidate, steps, question.x, dropped)
        limits = MIXED if "mixed" in candidate.layers else CLOSE
        problem = difference(question, candidate.evaluator(question.model), limits)
        if problem is None:
            _forget_layouts(candidate)
            return candidate
        dropped.update({s: problem for s in candidate.layers if s not in start.layers})
    return start


def _install(
    candidate: _Candidate, steps: Sequence[str], x: Tensor, dropped: dict[str, str]
) -> None:
    if "channels_last" in steps:
        count = sum(isinstance(m, nn.Conv2d) for part in candidate.parts() for m in part.modules())
        if count:
            for part in candidate.parts():
                part.to(memory_format=torch.channels_last)
            candidate.channels_last = True
            candidate.layers["channels_last"] = count
        else:
            dropped["channels_last"] = "no two-dimensional convolution"
    if "mixed" in steps:
        obstacle = _mixed_obstacle(x)
        count = 0 if obstacle else install_backward(candidate.rest, torch.bfloat16)
        if count:
            candidate.layers["mixed"] = count
        else:
            dropped["mixed"] = obstacle or "no convolution or linear layer behind the stem"


def _mixed_obstacle(x: Tensor) -> str | None:
    if x.dtype != torch.float32:
        return f"the model is {x.dtype}, expected torch.float32"
    return bfloat16_obstacle(x.device)


def _forget_layouts(candidate: _Candidate) -> None:
    for layer in candidate.rest.modules():
        if isinstance(layer, FrozenConv2d):
            layer.forget_layouts()
