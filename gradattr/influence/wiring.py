"""Which parameter of a model is covered by which rule: the model rewritten, the rest to a fallback.

Rules are matched by type and then tried: a wiring is compared, in float64, with an ordinary
backward pass for one example, and parameters whose gradient differs are given to the fallback. So
a weight that is used twice, shared, or read by a function somewhere is found out and stays right.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradattr.errors import ModelError
from gradattr.influence.attention import unroll_attention
from gradattr.influence.capture import Spread, Watch
from gradattr.influence.directions import Loss
from gradattr.influence.factors import Size
from gradattr.influence.fallback import Fallback, parameter_gradients, plain_attention
from gradattr.influence.folded import fold, foldable
from gradattr.influence.layer_kinds import LAYERS
from gradattr.influence.layers import Call, Layer

#: Two ways to one gradient, in float64, agree to this share of its norm.
AGREE = 1e-6
#: The same where the model only runs in its own precision.
AGREE_ROUGHLY = 1e-2


@dataclass(frozen=True)
class Plan:
    """What may be tried on a model. ``uncovered`` parameters go to the fallback."""

    attention: bool = True
    folding: bool = True
    uncovered: frozenset[str] = frozenset()
    #: Convolutions with few positions: their factors are worth more than one layer less.
    apart: frozenset[str] = frozenset()


@dataclass
class Wiring:
    """A frozen model with its layers, and how each chosen parameter is covered."""

    model: nn.Module
    plan: Plan
    layers: list[Layer] = field(default_factory=list)
    spread: list[Spread] = field(default_factory=list)
    fallback: Fallback | None = None
    folds: int = 0
    attentions: int = 0

    def watch(self) -> Watch:
        return Watch(self.model, self.layers, self.spread)

    def report(self) -> dict[str, Any]:
        """Plain data for a run record."""
        kinds = Counter(type(layer.module).__name__ for layer in self.layers)
        return {
            "layers": dict(sorted(kinds.items())),
            "folded": self.folds,
            "attention_unrolled": self.attentions,
            "broadcast": [item.name for item in self.spread],
            "fallback": [] if self.fallback is None else list(self.fallback.names),
            "fallback_how": None if self.fallback is None else self.fallback.how,
        }


def frozen_copy(model: nn.Module) -> nn.Module:
    """A private copy in eval mode, without gradients of its own.

    Raises ModelError for a model that cannot be copied.
    """
    try:
        duplicate = copy.deepcopy(model)
    except Exception as error:  # a user's module can hold anything
        raise ModelError(
            f"the model {type(model).__name__} cannot be copied ({type(error).__name__}: {error}); "
            "keep locks, open files and tensors with a graph out of its attributes"
        ) from error
    return duplicate.eval().requires_grad_(False)


def wire(model: nn.Module, chosen: Sequence[str], plan: Plan) -> Wiring:
    """Cover the ``chosen`` parameters of ``model``, which is not changed."""
    wiring = Wiring(copy.deepcopy(model), plan)
    every = list(wiring.model.named_parameters(remove_duplicate=False))
    uses = Counter(id(p) for _, p in every)
    wanted = set(chosen)
    # Parameters keep their identity through every rewriting, names do not.
    names = {p: name for name, p in every if name in wanted}
    open_: dict[Tensor, str] = {
        p: n for p, n in names.items() if uses[id(p)] == 1 and n not in plan.uncovered
    }
    if plan.attention:
        wiring.attentions = unroll_attention(wiring.model)
    if plan.folding:
        _fold(wiring, open_, {id(p) for p in names} - {id(p) for p in open_})
    for module in list(wiring.model.modules()):
        rule = LAYERS.get(type(module))
        own = {k: p for k, p in module._parameters.items() if p is not None and p in open_}
        if rule is not None and own and _is_per_example(module):
            wiring.layers.append(rule(module, {k: open_.pop(p) for k, p in own.items()}))
        elif rule is None:
            for short, parameter in own.items():
                if parameter.dim() > 1 and len(parameter) == 1:
                    wiring.spread.append(Spread(module, short, open_.pop(parameter)))
    covered = {name for layer in wiring.layers for name in layer.names.values()}
    covered |= {item.name for item in wiring.spread}
    left = [name for name in chosen if name not in covered]
    if left:
        wiring.fallback = Fallback(model, left)
    return wiring


def _fold(wiring: Wiring, open_: dict[Tensor, str], barred: Collection[int]) -> None:
    for pair in foldable(wiring.model):
        modules = [wiring.model.get_submodule(name) for name in pair]
        if pair[0] in wiring.plan.apart:
            continue
        if any(id(p) in barred for module in modules for p in module.parameters()):
            continue
        layer, done = fold(wiring.model, pair, open_)
        wiring.folds += 1
        if layer is not None:
            wiring.layers.append(layer)
        for parameter in done:
            open_.pop(parameter, None)


def _is_per_example(module: nn.Module) -> bool:
    """Batch norm without running statistics mixes the examples of a batch."""
    return getattr(module, "running_mean", 0) is not None


def find_wiring(
    model: nn.Module, chosen: Sequence[str], x: Tensor, y: Tensor, loss: Loss
) -> tuple[Plan, str]:
    """The most a model allows, tried on one or two examples; and the precision it was tried in.

    Raises ModelError for a model that mixes the examples of a batch.
    """
    exact, precision, limit = frozen_copy(model).double(), "float64", AGREE
    x, y = _two(x, y)
    points, labels = _doubled(x), _doubled(y)
    try:
        oracle = _oracle(exact, chosen, points, labels, loss)
    except (RuntimeError, TypeError, ValueError):
        exact, precision, limit = frozen_copy(model), str(x.dtype).removeprefix("torch."), 0.0
        limit, points, labels = AGREE_ROUGHLY, x, y
        try:
            oracle = _oracle(exact, chosen, points, labels, loss)
        except Exception as error:  # whatever a user's model or loss may raise
            raise ModelError(
                f"no gradient of the loss by the parameters: {type(error).__name__}: {error}"
            ) from error
    _check_independence(exact, points, limit)
    plan = Plan(apart=_few_positions(exact, points))
    while True:
        changed = _improved(exact, plan, chosen, (points, labels, loss), oracle, limit)
        if changed == plan:
            return plan, precision
        plan = changed


def _improved(
    model: nn.Module,
    plan: Plan,
    chosen: Sequence[str],
    question: tuple[Tensor, Tensor, Loss],
    oracle: dict[str, Tensor],
    limit: float,
) -> Plan:
    """The plan itself if it holds; else the next one to try."""
    wiring = wire(model, chosen, plan)
    found: dict[str, Tensor] = {}

    def keep(layer: Layer, calls: list[Call]) -> None:
        found.update({k: v[0] for k, v in layer.gradients(calls).items()})

    def keep_spread(values: dict[str, Tensor]) -> None:
        found.update({name: value[0] for name, value in values.items()})

    x, y, loss = question
    covered = set(chosen) - set(wiring.fallback.names if wiring.fallback else ())
    if not covered:
        return plan
    try:
        watch = wiring.watch()
        watch.consume_spread = keep_spread
        with plain_attention():
            watch.backward(x.clone(), y, loss, keep)
    except Exception as error:
        return _less(plan, wiring, covered, error)
    scale = 1e-6 * sum(float(value.norm()) for value in oracle.values())
    wrong = {name for name in covered if not _agrees(found.get(name), oracle[name], limit, scale)}
    return replace(plan, uncovered=plan.uncovered | wrong)


def _less(plan: Plan, wiring: Wiring, covered: set[str], error: Exception) -> Plan:
    """After a pass that failed: without the boldest rewriting that was made."""
    if wiring.attentions and plan.attention:
        return replace(plan, attention=False)
    if wiring.spread:
        return replace(plan, uncovered=plan.uncovered | {s.name for s in wiring.spread})
    if wiring.folds and plan.folding:
        return replace(plan, folding=False)
    if covered <= plan.uncovered:
        raise error
    return replace(plan, uncovered=plan.uncovered | covered)


def _oracle(
    model: nn.Module, chosen: Sequence[str], x: Tensor, y: Tensor, loss: Loss
) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    values = {name: parameters[name] for name in chosen}
    return parameter_gradients(model, values, x[0], y[0], loss)


def _check_independence(model: nn.Module, x: Tensor, limit: float) -> None:
    with torch.no_grad():
        together, alone = model(x.clone())[:1], model(x[:1].clone())
    if not torch.allclose(together, alone, rtol=limit, atol=limit * float(alone.abs().max())):
        raise ModelError(
            "the model mixes the examples of a batch (its output for an image depends on the "
            "others, in eval mode), so an example has no gradient of its own"
        )


def _agrees(found: Tensor | None, oracle: Tensor, limit: float, scale: float) -> bool:
    difference = oracle if found is None else found - oracle
    return bool(difference.norm() <= limit * (oracle.norm() + scale))


def _few_positions(model: nn.Module, x: Tensor) -> frozenset[str]:
    """Convolutions whose gradients are smaller as factors than as matrices, by name."""
    found: set[str] = set()

    def look(name: str, conv: nn.Conv2d, output: Tensor) -> None:
        one = Size(output[0, 0].numel(), conv.weight[0].numel(), len(conv.weight) // conv.groups)
        if one.few_positions:
            found.add(name)

    handles = [
        module.register_forward_hook(lambda m, _, out, name=name: look(name, m, out))
        for name, module in model.named_modules()
        if type(module) is nn.Conv2d
    ]
    try:
        with torch.no_grad():
            model(x[:1].clone())
    finally:
        for handle in handles:
            handle.remove()
    return frozenset(found)


def _two(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two different examples: whatever goes over the borders of examples shows only with two."""
    if len(x) > 1:
        return x[:2], y[:2]
    return torch.cat([x, x / 2]), torch.cat([y, y])


def _doubled(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values


def laid_out(model: nn.Module, x: Tensor) -> Tensor:
    """A copy of the batch (models may overwrite their input), in the model's memory format."""
    if x.dim() == 4 and x.device.type == "cpu" and _has_convolutions(model):
        return x.clone(memory_format=torch.channels_last)
    return x.clone()


def _has_convolutions(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in model.modules())
