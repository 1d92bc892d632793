"""Maps made again: of the same classes, with the same random numbers, in batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gradattr.attribution import Normalization, PlainEvaluator, attribute, method_request, tune
from gradattr.errors import UsageError
from gradattr.metrics.attack import attack_maps
from gradattr.metrics.attack_settings import AttackSettings
from gradattr.metrics.infidelity import infidelity
from gradattr.metrics.repeated_maps import RepeatedMaps, copies_of, pieces, rows_of
from gradattr.metrics.sensitivity import sensitivity

SEEDS = [1, 2, 3, 4]


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4)
        )
    return model.double().eval()


def images(n: int = 4, seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 8, 8, generator=generator, dtype=torch.float64)


@given(n=st.integers(1, 9), copies=st.integers(0, 7), at_once=st.integers(1, 12))
def test_every_pair_comes_once_in_full_batches(n: int, copies: int, at_once: int) -> None:
    batches = list(pieces(n, copies, at_once))
    sizes = [len(rows_of(batch, torch.device("cpu"))) for batch in batches]
    assert all(size == at_once for size in sizes[:-1])
    assert all(0 < size <= at_once for size in sizes)
    pairs = [
        pair
        for batch in batches
        for pair in zip(
            copies_of(batch).tolist(), rows_of(batch, torch.device("cpu")).tolist(), strict=True
        )
    ]
    assert pairs == [(copy, row) for copy in range(copies) for row in range(n)]


def test_at_x_they_are_the_same_maps() -> None:
    x, labels = images(), torch.tensor([3, 2, 1, 0])
    requests = [
        method_request("gradient"),
        method_request("gradient", id="true", target="prob_true"),
        method_request("gradient", id="two", target=2),
        method_request("smoothgrad", samples=3),
        method_request("random"),
        method_request("uni", steps=3),
    ]
    again = RepeatedMaps(PlainEvaluator(network()), x, requests, seeds=SEEDS, labels=labels)
    rows = torch.tensor([2, 0, 2, 3, 1])
    there = again.at(x[rows], rows)
    for before, maps in zip(again.maps, there.maps, strict=True):
        torch.testing.assert_close(maps, before[rows])
    some = again.at(x[rows], rows, methods=[3, 1])
    torch.testing.assert_close(some.maps[0], again.maps[3][rows])
    torch.testing.assert_close(some.maps[1], again.maps[1][rows])


def test_elsewhere_the_class_stays() -> None:
    model, x = network(), images()
    elsewhere = 20 * images(seed=6) - 10
    again = RepeatedMaps(PlainEvaluator(model), x, [method_request("gradient")], seeds=SEEDS)
    there = again.at(elsewhere, torch.arange(4))
    index = model(x).argmax(1)
    assert not torch.equal(there.logits.argmax(1), index)
    request = method_request("gradient", target="logit_true")
    (expected,) = attribute(PlainEvaluator(model), elsewhere, [request], seeds=SEEDS, labels=index)
    torch.testing.assert_close(there.maps[0], expected.maps)


def test_a_pixel_in_units_of_the_input() -> None:
    normalization = Normalization.from_mean_std([0.5, 0.4, 0.3], [0.2, 0.5, 1.0])
    again = RepeatedMaps(
        PlainEvaluator(network()),
        images(),
        [method_request("gradient")],
        seeds=SEEDS,
        normalization=normalization,
    )
    assert again.per_pixel_unit().flatten().tolist() == pytest.approx([5, 2, 1])


@pytest.mark.parametrize("kind", ["random_sign", "gradient"])
def test_a_tuned_evaluator_is_attacked_alike(kind: str) -> None:
    model, x = network(), images()
    settings = AttackSettings(
        "gradient" if kind == "gradient" else "random_sign", candidates=2, steps=2
    )
    request = [method_request("gradient")]
    (plain,) = attack_maps(PlainEvaluator(model), x, request, seeds=SEEDS, settings=settings)
    (tuned,) = attack_maps(tune(model, x[:2]), x, request, seeds=SEEDS, settings=settings)
    torch.testing.assert_close(plain.x, tuned.x)
    torch.testing.assert_close(plain.after, tuned.after)


class Counting(PlainEvaluator):
    """The sizes of the batches that the network sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.sizes: list[int] = []
        model.register_forward_pre_hook(lambda _, args: self.sizes.append(len(args[0])))


@pytest.mark.parametrize("metric", ["random_sign", "gradient", "sensitivity", "infidelity"])
def test_batches_are_as_large_as_they_may_be(metric: str) -> None:
    evaluator, x, size = Counting(network()), images(), 3
    requests = [method_request("gradient"), method_request("saliency")]
    if metric == "sensitivity":
        sensitivity(evaluator, x, requests, seeds=SEEDS, samples=6, batch_size=size)
        # At x two batches, then 24 points; both methods share them all.
        assert evaluator.sizes == [3, 1] + [3] * 8
    elif metric == "infidelity":
        index = torch.zeros(4, dtype=torch.long)
        infidelity(evaluator, x, [x, -x], index, seeds=SEEDS, samples=6, batch_size=size)
        assert evaluator.sizes == [3, 1] + [3] * 8
    else:
        settings = AttackSettings(
            "gradient" if metric == "gradient" else "random_sign", candidates=3, steps=2
        )
        attack_maps(evaluator, x, requests, seeds=SEEDS, settings=settings, batch_size=size)
        # The corners are shared: 12 points; then each method has 2 steps of 4 points.
        derivatives = [3, 3, 3, 1, 1, 1] if metric == "gradient" else [3, 1]
        assert evaluator.sizes[:6] == [3, 1] + [3] * 4
        assert sorted(evaluator.sizes[6:]) == sorted(derivatives * 4)


def test_what_does_not_fit() -> None:
    model, request = PlainEvaluator(network()), [method_request("gradient")]
    with pytest.raises(UsageError, match="3 seeds"):
        RepeatedMaps(model, images(), request, seeds=SEEDS[:3])
    with pytest.raises(UsageError, match=r"shape \(0, 3, 8, 8\)"):
        RepeatedMaps(model, images(0), request, seeds=[])
    with pytest.raises(UsageError, match="no method"):
        RepeatedMaps(model, images(), [], seeds=SEEDS)


def test_maps_that_are_known_are_not_made_again() -> None:
    model, x = network(), images()
    requests = [method_request("gradient"), method_request("smoothgrad", samples=3)]
    known = attribute(PlainEvaluator(model), x, requests, seeds=SEEDS)
    counting = Counting(model)
    again = RepeatedMaps(counting, x, requests, seeds=SEEDS, at_x=known)
    assert not counting.sizes
    assert torch.equal(again.maps[1], known[1].maps)
    assert torch.equal(again.predicted, model(x).argmax(1))
    plain = sensitivity(PlainEvaluator(model), x, requests, seeds=SEEDS, samples=2)
    fresh = sensitivity(counting, x, requests, seeds=SEEDS, samples=2, at_x=known)
    assert all(torch.equal(a, b) for a, b in zip(plain[1], fresh[1], strict=True))
    for wrong in (known[:1], list(reversed(known))):
        with pytest.raises(UsageError, match=r"at_x has maps of .*; expected 4 by each of"):
            RepeatedMaps(counting, x, requests, seeds=SEEDS, at_x=wrong)
    with pytest.raises(UsageError, match="4 images by gradient"):
        RepeatedMaps(counting, x[:3], requests, seeds=SEEDS[:3], at_x=known)
