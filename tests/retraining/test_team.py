"""Several processes that train together become one, up to rounding; and all say the same."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradattr.errors import UsageError
from gradattr.retraining import Recipe, train_classifier
from gradattr.retraining.team import Team

PROGRAM = Path(__file__).with_name("together.py")
SIZE = 2


def load_program():
    spec = importlib.util.spec_from_file_location("together", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


together = load_program()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found in every scenario."""
    folder = tmp_path_factory.mktemp("team")
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(SIZE), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(SIZE)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(SIZE)]


@pytest.mark.parametrize("name", together.RECIPES)
def test_two_processes_equal_one(found, name):
    weights, history = together.train(together.RECIPES[name], distributed=False)
    for rank in range(SIZE):
        others, other_history = found[rank][name]
        for key, value in weights.items():
            torch.testing.assert_close(others[key], value, rtol=1e-5, atol=1e-5)
        for mine, theirs in zip(history, other_history, strict=True):
            numbers = {name: value for name, value in mine.items() if value is not None}
            assert set(mine) - set(numbers) <= {"robust_test_accuracy"}
            assert {name: theirs[name] for name in numbers} == pytest.approx(numbers, abs=1e-5)


def test_all_processes_return_the_same(found):
    for name in (*together.RECIPES, "batch norm"):
        (weights, history), (other_weights, other_history) = (ranks[name] for ranks in found)
        assert history == other_history
        assert all(torch.equal(value, other_weights[key]) for key, value in weights.items())


def test_batch_norm_and_dropout_learn(found):
    _, history = found[0]["batch norm"]
    assert history[-1]["loss"] < history[0]["loss"]


def test_one_is_told_to_stop_and_all_do_and_continue_where_they_were(found):
    for rank in range(SIZE):
        message, saved, reported, (weights, history) = found[rank]["interrupted"]
        assert message == "Interrupted: training stopped after epoch 1"
        assert saved == ([1] if rank == 0 else [])
        assert reported == ([2, 3] if rank == 0 else [])
        expected, expected_history = found[rank]["attacked"]
        assert history == expected_history
        assert all(torch.equal(value, expected[key]) for key, value in weights.items())


def test_the_first_process_alone_keeps_epochs_and_all_begin_again_where_one_is_lost(found):
    first, again, reported, trained = found[0]["kept epochs"]
    assert sorted(first) == sorted(again) == [1, 3]
    assert reported == [1, 2, 3]
    for epoch, (state, lr) in first.items():
        assert lr == again[epoch][1] == 0.05
        assert all(torch.equal(value, again[epoch][0][name]) for name, value in state.items())
    assert all(torch.equal(value, trained[name]) for name, value in first[3][0].items())
    assert found[1]["kept epochs"][:3] == ({}, {}, [])
    others = found[1]["kept epochs"][3]
    assert all(torch.equal(value, others[name]) for name, value in trained.items())


def test_a_layer_without_a_gradient_is_explained(found):
    for rank in range(SIZE):
        assert found[rank]["idle layer"].startswith("ModelError: the model has parameters that")


def test_without_a_process_group():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"without a process group; call .*init_process_group"):
        train_classifier(model, x, y, Recipe(epochs=1), distributed=True)


@settings(max_examples=200, deadline=None)
@given(count=st.integers(1, 200), size=st.integers(1, 12))
def test_shares_cover_a_batch_once(count, size):
    shares = [Team(rank, size).share(count) for rank in range(size)]
    images = list(range(count))
    counted = [image for part, weight in shares if weight for image in images[part]]
    assert counted == images
    assert all(weight in (0.0, size / count) for _, weight in shares)
    lengths = [len(images[part]) for part, _ in shares]
    assert min(lengths) >= min(2, count)
    active = [length for length, (_, weight) in zip(lengths, shares, strict=True) if weight]
    assert max(active) - min(active) <= 1
