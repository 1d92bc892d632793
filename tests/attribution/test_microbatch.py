"""The micro-batch follows from activation sizes; out of memory halves it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from gradattr.attribution import microbatch
from gradattr.attribution.evaluator import PlainEvaluator
from gradattr.attribution.microbatch import (
    activation_bytes,
    choose_forward_batch,
    choose_micro_batch,
    halve_on_oom,
    is_out_of_memory,
)
from gradattr.attribution.tuning.tuned import tune
from gradattr.errors import ShardError


def mlp(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 5)
    )


def test_activation_bytes_of_a_known_network() -> None:
    # Kept: the point and its copy, the two results of Tanh; not the weights.
    found = activation_bytes(PlainEvaluator(mlp(300)), torch.randn(4, 20))
    assert 4 * (20 + 600) <= found <= 4 * (40 + 600) + 100


def test_activation_bytes_do_not_depend_on_the_values() -> None:
    evaluator = PlainEvaluator(mlp(30))
    assert activation_bytes(evaluator, torch.zeros(1, 20)) == activation_bytes(
        evaluator, torch.randn(7, 20)
    )


def test_resnet18_at_224_pixels() -> None:
    x = torch.randn(1, 3, 224, 224)
    evaluator = PlainEvaluator(torchvision.models.resnet18().requires_grad_(False))
    assert choose_micro_batch(evaluator, x) == 8


def test_tuned_evaluators_are_measured_too() -> None:
    x = torch.randn(2, 20)
    tuned = tune(mlp(300), x)
    assert 4 * 600 <= activation_bytes(tuned, x) <= 4 * 1000


def test_small_models_get_the_largest_batch() -> None:
    assert choose_micro_batch(PlainEvaluator(mlp(10)), torch.randn(1, 20)) == 512


@pytest.mark.parametrize(
    ("needed", "batch"),
    [(1, 512), (2**20, 128), (2**20 + 1, 64), (2**24, 8), (2**27, 8), (2**28, 4), (2**40, 1)],
)
def test_powers_of_two_within_the_budget(
    monkeypatch: pytest.MonkeyPatch, needed: int, batch: int
) -> None:
    monkeypatch.setattr(microbatch, "activation_bytes", lambda evaluator, x: needed)
    evaluator = PlainEvaluator(nn.Linear(2, 2))
    assert choose_micro_batch(evaluator, torch.ones(1, 2), torch.device("cpu")) == batch


def failing_above(limit: int, error: Callable[[], Exception]) -> Callable[[int], str]:
    def work(batch_size: int) -> str:
        if batch_size > limit:
            raise error()
        return f"done with {batch_size}"

    return work


ERRORS: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cpu allocator": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    "cpu allocator of other systems": lambda: RuntimeError(
        "DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"
    ),
    "python": MemoryError,
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_halves_until_it_fits(error: Callable[[], Exception]) -> None:
    assert halve_on_oom(failing_above(16, error), 100) == ("done with 12", 12)
    assert halve_on_oom(failing_above(200, error), 100) == ("done with 100", 100)


def test_gives_up_and_names_the_batch() -> None:
    calls = []

    def work(batch_size: int) -> None:
        calls.append(batch_size)
        raise MemoryError

    with pytest.raises(ShardError, match=r"at batch size 4 \(the first try was 32\)"):
        halve_on_oom(work, 32, halvings=3)
    assert calls == [32, 16, 8, 4]


def test_one_example_is_the_end() -> None:
    with pytest.raises(ShardError, match=r"at batch size 1 \(the first try was 2\)"):
        halve_on_oom(failing_above(0, MemoryError), 2, halvings=10)


def test_other_errors_pass() -> None:
    def work(batch_size: int) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        halve_on_oom(work, 8)


def test_a_real_allocation_that_is_too_large() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**61, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("needed", "weights", "batch"),
    [
        (1, 1, 512),
        (2**20, 1, 32),
        (2**20, 2**22, 32),
        (2**20, 2**23, 64),
        (2**20, 2**26, 128),
        (2**23, 1, 8),
        (2**28, 1, 4),
    ],
)
def test_forwards_stay_near_the_caches_unless_weights_are_many(
    monkeypatch: pytest.MonkeyPatch, needed: int, weights: int, batch: int
) -> None:
    monkeypatch.setattr(microbatch, "activation_bytes", lambda evaluator, x: needed)
    with torch.device("meta"):
        layer = nn.Linear(weights, 1, bias=False)
    cpu = torch.device("cpu")
    assert choose_forward_batch(PlainEvaluator(layer), torch.ones(1, 2), cpu) == batch
