"""Does a map depend on what the model has learned? Parameters are made random and maps compared.

Adebayo et al. (2018): where the maps of a network of random weights are like those of the trained
one, they cannot explain what it has learned. 'cascading' re-initialises one module after the other
from the output down, and leaves those above random; 'independent' one module at a time.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from gradattr.attribution.baselines import Normalization
from gradattr.attribution.evaluator import Evaluator, PlainEvaluator
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.result import Attribution
from gradattr.errors import UsageError
from gradattr.metrics.map_change import MapChange, join_changes, map_change, stack_changes
from gradattr.metrics.repeated_maps import RepeatedMaps
from gradattr.seeds import derive_seed

Order = Literal["cascading", "independent"]
#: Gives new values to the parameters that a module holds itself, by torch's global generator.
Initialise = Callable[[nn.Module], None]


class Randomised(NamedTuple):
    """Of one method: k stages, n images."""

    stages: tuple[str, ...]
    """The module that is re-initialised, from the output down."""
    change: MapChange
    """Fields (n, k): maps of the randomised model against those of the original. Save for ``l2``,
    lower is better: a map that stays alike does not depend on what that module has learned."""


def randomisation(
    evaluator: Evaluator,
    x: Tensor,
    requests: Sequence[MethodRequest],
    *,
    seeds: Sequence[int],
    seed: int = 0,
    order: Order = "cascading",
    modules: Sequence[str] | None = None,
    initialise: Initialise | None = None,
    tune: Callable[[nn.Module], Evaluator] = PlainEvaluator,
    top: int | None = None,
    labels: Tensor | None = None,
    normalization: Normalization | None = None,
    batch_size: int = 64,
    at_x: Sequence[Attribution] | None = None,
) -> list[Randomised]:
    """The similarity of every method's maps of x (n, c, h, w) with those of randomised models.

    ``seed`` decides the new weights, together with a module's name: a module gets the same ones in
    either order. ``modules``: names of the modules, in order, by default those of
    ``modules_with_parameters``; a module that holds others stands for all that is inside it and not
    named itself. ``initialise``: ``reset`` by default. ``tune`` makes an evaluator
    of a randomised copy. ``at_x``: the maps of x, where they are known. The class explained is the
    original's throughout. The model of ``evaluator`` is not changed; a request that has a model of
    its own keeps that.

    Raises UsageError for arguments that do not fit, and a module without parameters.
    """
    again = RepeatedMaps(
        evaluator,
        x,
        requests,
        seeds=seeds,
        labels=labels,
        normalization=normalization,
        batch_size=batch_size,
        at_x=at_x,
    )
    network = evaluator.network
    names = modules_with_parameters(network, x[:1]) if modules is None else list(modules)
    _check(network, names, order)
    twin = copy.deepcopy(network)
    stages: list[list[MapChange]] = [[] for _ in requests]
    for name in names:
        if order == "independent":
            twin = copy.deepcopy(network)
        randomise(twin, name, seed=seed, others=names, initialise=initialise)
        of_twin = tune(copy.deepcopy(twin))
        for own, change in zip(stages, _changes(again, of_twin, top), strict=True):
            own.append(change)
    return [Randomised(tuple(names), stack_changes(own)) for own in stages]


def other_model(
    evaluator: Evaluator,
    other: Evaluator,
    x: Tensor,
    requests: Sequence[MethodRequest],
    *,
    seeds: Sequence[int],
    top: int | None = None,
    labels: Tensor | None = None,
    normalization: Normalization | None = None,
    batch_size: int = 64,
    at_x: Sequence[Attribution] | None = None,
) -> list[MapChange]:
    """How like every method's maps of x (n, c, h, w) are those of another model, (n,) each: of the
    same classes, with the same random numbers.

    For the test by random labels (Adebayo et al. 2018) ``other`` has learned labels by heart that
    were permuted. Arguments as of ``randomisation``. Raises UsageError for those that do not fit.
    """
    again = RepeatedMaps(
        evaluator,
        x,
        requests,
        seeds=seeds,
        labels=labels,
        normalization=normalization,
        batch_size=batch_size,
        at_x=at_x,
    )
    return _changes(again, other, top)


def modules_with_parameters(network: nn.Module, x: Tensor) -> list[str]:
    """Names of the modules that hold parameters themselves, the last one called first.

    Found by a forward pass of x (n, ...); a module that is called often stands where it is called
    last. The parameters of one that is never called, because another one reads them, count as those
    of the nearest module around it that is; '' is the network itself, which is called first.
    """
    calls: dict[str, int] = {}
    counter = itertools.count()
    handles = []
    for name, module in network.named_modules():

        def note(_module: nn.Module, _args: object, name: str = name) -> None:
            calls[name] = next(counter)

        handles.append(module.register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            network(x.clone())
    finally:
        for handle in handles:
            handle.remove()
    holders = [name for name, module in network.named_modules() if _own_parameters(module)]
    found = {next(outer for outer in _outwards(name) if outer in calls) for name in holders}
    return sorted(found, key=lambda name: calls[name], reverse=True)


def randomise(
    network: nn.Module,
    name: str,
    *,
    seed: int,
    others: Sequence[str] = (),
    initialise: Initialise | None = None,
) -> None:
    """Give new values, in place, to all parameters inside the module ``name``, except those inside
    of modules in ``others``. Torch's global generators are left as they were."""
    kept = set(others) - {name}
    inside = [
        (inner, module)
        for inner, module in network.named_modules()
        if name in _outwards(inner) and _own_parameters(module)
    ]
    device = next(network.parameters()).device
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad():
        for inner, module in inside:
            nearest = next(outer for outer in _outwards(inner) if outer in kept or outer == name)
            if nearest == name:
                torch.manual_seed(derive_seed(seed, "randomisation", inner))
                (initialise or reset)(module)


def reset(module: nn.Module) -> None:
    """The values that torch gives to a new module of this kind, by its ``reset_parameters``.

    Parameters that this leaves as they are, or of modules that have no such method, are drawn from
    a normal distribution with their own mean and standard deviation; constant ones stay.
    """
    before = {key: value.clone() for key, value in _own_parameters(module).items()}
    for name in ("reset_parameters", "_reset_parameters"):
        if callable(method := getattr(module, name, None)):
            method()
            break
    for key, value in _own_parameters(module).items():
        if torch.equal(value, before[key]) and value.is_floating_point() and value.numel() > 1:
            value.normal_(float(value.mean()), float(value.std()))


def _own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(recurse=False))


def _outwards(name: str) -> list[str]:
    """A module's name, and those of the modules around it up to the network, ''."""
    names = [name]
    while name:
        name = name.rpartition(".")[0]
        names.append(name)
    return names


def _changes(again: RepeatedMaps, evaluator: Evaluator, top: int | None) -> list[MapChange]:
    """Of every method, the maps of another model compared with those of the first, (n,) each."""
    parts = []
    for first in range(0, len(again.x), again.batch_size):
        rows = torch.arange(first, min(first + again.batch_size, len(again.x)))
        rows = rows.to(again.x.device)
        there = again.at(again.x[rows], rows, evaluator=evaluator)
        pairs = zip(again.maps, there.maps, strict=True)
        parts.append([map_change(before[rows], after, top=top) for before, after in pairs])
    return [join_changes(column) for column in zip(*parts, strict=True)]


def _check(network: nn.Module, names: Sequence[str], order: str) -> None:
    if order not in ("cascading", "independent"):
        raise UsageError(f"randomisation: order '{order}', expected cascading or independent")
    if not names or len(set(names)) != len(names):
        raise UsageError(f"randomisation of modules {list(names)}: expected one or more, each once")
    known = dict(network.named_modules())
    for name in names:
        if name not in known:
            raise UsageError(f"the model has no module '{name}' that could be randomised")
        if next(known[name].parameters(), None) is None:
            raise UsageError(f"module '{name}' has no parameters that could be randomised")
