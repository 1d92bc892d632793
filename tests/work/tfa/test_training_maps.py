"""Maps of pairs against the derivative of each pair's score, by autograd in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradattr
from gradattr.influence import Ekfac, GradientProducts, agreement_maps, layer_maps, tfa_maps
from gradattr.manifest.attribute import AttributeManifest
from gradattr.seeds import derive_seed, sample_seeds
from gradattr.storage.maps import decode_map
from tests.small_tfa import PLAIN
from tests.tfa_oracle import Oracle, finished, gradients, map_values

SCORES: list[Any] = [
    "grad_cos",
    "grad_dot",
    "tracin",
    {"score": "influence", "id": "cg", "inverse": "cg", "damping": 2.0, "tolerance": 1e-7,
     "examples": None},
    {"score": "influence", "id": "ekfac", "damping": 0.05, "examples": None},
    {"score": "relatif", "damping": 0.05, "examples": None},
    "random",
]  # fmt: skip
TWO_STEP: list[Any] = [
    {"map": "two_step", "id": "loss", "method": "gradient"},
    {"map": "two_step", "id": "ig", "method": {"name": "integrated_gradients", "steps": 8}},
    {"map": "two_step", "id": "noise", "method": {"name": "smoothgrad", "samples": 4}},
    {"map": "two_step", "id": "pred", "method": "input_x_gradient", "target": "logit_pred"},
]
MAPS: list[Any] = [
    PLAIN,
    {**PLAIN, "id": "times", "times_input": True},
    {**PLAIN, "id": "dots", "of": "grad_dot"},
    {**PLAIN, "id": "cosines", "of": "grad_cos"},
    {"map": "tfa", "id": "smooth", "samples": 5, "sigma": 0.2},
    *TWO_STEP,
]
CNN = {"arch": "cnn", "width": 2, "train": {"epochs": 2, "lr": 0.05, "batch_size": 32}}
Pairs = list[dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tfa: Any) -> Oracle:
    return Oracle(tfa(name="maps", scores=SCORES, maps=MAPS, top=2, queries={"count": 3}))


@pytest.fixture(scope="module")
def maps(whole: Oracle) -> dict[tuple[Any, ...], np.ndarray]:
    return map_values(whole.run.table("tfa_maps"))


def pairs_of(oracle: Oracle, method: str) -> Pairs:
    return [r for r in oracle.run.table("tfa_pairs").to_pylist() if r["method"] == method]


def slope(
    terms: list[tuple[nn.Module, Tensor, float]], x: Tensor, label: int, cosine: bool
) -> np.ndarray:
    """d/dx of the sum over (model, direction, rate) of rate * the product with, or of the cosine
    between, direction and gradient at a training image."""
    leaf = x.double()[None].clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for model, direction, rate in terms:
        loss = F.cross_entropy(model(leaf), torch.tensor([label]))
        parts = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        own = torch.cat([part.flatten() for part in parts])
        value = own @ direction
        total = total + rate * (value / own.norm() / direction.norm() if cosine else value)
    return torch.autograd.grad(total, leaf)[0][0].numpy()


def check(
    oracle: Oracle,
    maps: dict[tuple[Any, ...], np.ndarray],
    method: str,
    name: str,
    wanted: Any,
    tolerance: float = 1e-5,
) -> None:
    """Every pair of a score has the map that ``wanted(pair, place of its image)`` says."""
    pairs = pairs_of(oracle, method)
    assert len({pair["side"] for pair in pairs}) == 2
    for pair in pairs:
        found = maps[pair["query"], method, pair["train_row"], name]
        expected = np.asarray(wanted(pair, oracle.train.rows.index(pair["train_row"])))
        assert found.shape == expected.shape
        assert np.abs(expected).max() > 0
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def of_direction(oracle: Oracle, directions: Tensor, cosine: bool) -> Any:
    def wanted(pair: dict[str, Any], at: int) -> np.ndarray:
        terms = [(oracle.model, directions[pair["query"]], 1.0)]
        return slope(terms, oracle.train.x[at], int(oracle.train.labels[at]), cosine)

    return wanted


@pytest.mark.parametrize("method", ["grad_cos", "relatif", "random"])
def test_the_map_of_the_cosine(whole: Oracle, maps: Any, method: str) -> None:
    wanted = of_direction(whole, whole.products()[1], True)
    check(whole, maps, method, "tfa", wanted)
    check(whole, maps, method, "cosines", wanted)


def test_the_map_of_the_product(whole: Oracle, maps: Any) -> None:
    wanted = of_direction(whole, whole.products()[1], False)
    check(whole, maps, "grad_dot", "tfa", wanted)
    for method in ("grad_cos", "tracin", "random"):
        check(whole, maps, method, "dots", wanted)


def test_the_map_of_tracin_sums_over_checkpoints(whole: Oracle, maps: Any) -> None:
    kept = [whole.kept(epoch) for epoch in (1, 3)]
    queries = [gradients(m, whole.queries.x, whole.queries.labels) for m, _ in kept]

    def wanted(pair: dict[str, Any], at: int) -> np.ndarray:
        parts = zip(kept, queries, strict=True)
        terms = [(model, u[pair["query"]], rate) for (model, rate), u in parts]
        return slope(terms, whole.train.x[at], int(whole.train.labels[at]), False)

    check(whole, maps, "tracin", "tfa", wanted)


def test_the_map_of_influence_holds_the_curvature_fixed(whole: Oracle, maps: Any) -> None:
    x, y = whole.train.x.double(), whole.train.labels
    products = GradientProducts(whole.model)
    plain = products.directions(whole.queries.x.double(), whole.queries.labels)
    seed = derive_seed(whole.manifest.seed, "ekfac labels")
    solved = Ekfac.fit(products, (x, y), seed=seed).solve(plain, 0.05).flat()
    check(whole, maps, "ekfac", "tfa", of_direction(whole, solved, False), 5e-5)
    from gradattr.influence import Curvature

    exact = Curvature(products, x, y).solve(plain, 2.0, tolerance=1e-10).directions.flat()
    check(whole, maps, "cg", "tfa", of_direction(whole, exact, False))


def test_times_input(whole: Oracle, maps: Any) -> None:
    for (query, method, row, name), found in maps.items():
        if name == "tfa":
            image = whole.train.x[whole.train.rows.index(row)].numpy()
            wanted = found * image
            other = maps[query, method, row, "times"]
            assert np.abs(other - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_noise_is_a_share_of_the_inputs_range_and_a_function_of_the_image(
    whole: Oracle, maps: Any
) -> None:
    products = GradientProducts(whole.model)
    x, y = whole.train.x.double(), whole.train.labels
    directions = products.directions(whole.queries.x.double(), whole.queries.labels)
    pairs = pairs_of(whole, "grad_cos")
    places = [(whole.train.rows.index(pair["train_row"]), pair["query"]) for pair in pairs]
    seeds = sample_seeds(whole.manifest.seed, "tfa copies", [p["train_id"] for p in pairs])
    # White minus black is 1 / 0.4 after the preprocessing.
    expected = tfa_maps(
        products, x, y, directions, places, copies=5, sigma=0.2 / 0.4, seeds=seeds
    ).values
    for pair, values in zip(pairs, expected, strict=True):
        found = maps[pair["query"], "grad_cos", pair["train_row"], "smooth"]
        assert np.abs(found - values.numpy()).max() <= 1e-5 * float(values.abs().max())
        plain = maps[pair["query"], "grad_cos", pair["train_row"], "tfa"]
        assert np.abs(found - plain).max() > 0.01 * np.abs(plain).max()


def test_a_two_step_map_is_the_images_own_map(whole: Oracle, maps: Any) -> None:
    manifest = whole.manifest
    for target, names in (("loss_true", ("loss", "ig", "noise")), ("logit_pred", ("pred",))):
        methods = [
            {**one["method"], "id": one["id"]}
            if isinstance(one["method"], dict)
            else {"name": one["method"], "id": one["id"]}
            for one in TWO_STEP
            if one["id"] in names
        ]
        own = AttributeManifest.model_validate(
            {
                "kind": "attribute",
                "name": f"own-{target.replace('_', '-')}",
                "seed": manifest.seed,
                "data": manifest.data.model_dump(),
                "preprocess": {"mean": [0.3], "std": [0.4]},
                "model": {"arch": "mlp", "hidden": [12], "weights": f"run:{whole.run.run_id}"},
                "methods": methods,
                "target": target,
                "runtime": {"address": "inline"},
                "store": manifest.store.model_dump(),
            }
        )
        run = gradattr.open_run(gradattr.run(own).uri)
        for name in names:
            seen: dict[int, np.ndarray] = {}
            for pair in whole.run.table("tfa_pairs").to_pylist():
                found = maps[pair["query"], pair["method"], pair["train_row"], name]
                wanted = run.map(pair["train_id"], name)
                assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
                # Whatever the query: the very same map.
                assert (seen.setdefault(pair["train_row"], found) == found).all()


def test_maps_of_a_layer(tfa: Any) -> None:
    asked: list[Any] = [
        {**PLAIN, "id": "deep", "layer": "conv2"},
        {"map": "tfa", "id": "noisy", "layer": "relu1", "samples": 3},
        {**PLAIN, "id": "agree", "layer": "conv2", "reading": "agreement"},
    ]
    oracle = Oracle(
        tfa(name="layers", model=CNN, scores=["grad_cos", "grad_dot"], maps=[PLAIN, *asked])
    )
    maps = map_values(oracle.run.table("tfa_layer_maps"))
    pixels = map_values(oracle.run.table("tfa_maps"))
    assert {key[3] for key in maps} == {"deep", "noisy", "agree"}
    assert {key[3] for key in pixels} == {"tfa"}
    products = GradientProducts(oracle.model)
    x, y = oracle.train.x.double(), oracle.train.labels
    query_x, query_y = oracle.queries.x.double(), oracle.queries.labels
    directions = products.directions(query_x, query_y)
    for method, score in (("grad_cos", "cos"), ("grad_dot", "dot")):
        pairs = pairs_of(oracle, method)
        places = [(oracle.train.rows.index(p["train_row"]), p["query"]) for p in pairs]
        seeds = sample_seeds(oracle.manifest.seed, "tfa copies", [p["train_id"] for p in pairs])
        noise = {"copies": 3, "sigma": 0.1 / 0.4, "seeds": seeds}
        wanted = {
            "deep": layer_maps(products, x, y, directions, places, "conv2", score=score).values,
            "noisy": layer_maps(
                products, x, y, directions, places, "relu1", score=score, **noise
            ).values,
            "agree": agreement_maps(products, x, y, query_x, query_y, places, "conv2").values,
        }
        for name, values in wanted.items():
            for pair, value in zip(pairs, values, strict=True):
                found = maps[pair["query"], method, pair["train_row"], name]
                assert found.shape == (1, 8, 8)
                assert np.abs(found - value.numpy()).max() <= 2e-5 * float(value.abs().max())


def test_mixed_precision_is_close_and_says_how_close(tfa: Any) -> None:
    asked = {"model": CNN, "top": 2, "maps": [PLAIN, {**PLAIN, "id": "deep", "layer": "conv2"}]}
    exact = finished(tfa(name="in-full", **asked))
    found = finished(tfa(name="mixed", engine={"precision": "mixed"}, **asked))
    records = [record for record in found.commit.records if record.stage == "map"]
    for record in records:
        assert set(record.extra["agreement"]) == {"tfa", "deep"}
        assert record.extra["agreement"]["tfa"]["spearman_median"] > 0.95
    assert not any("agreement" in record.extra for record in exact.commit.records)
    wanted, got = (map_values(run.table("tfa_maps")) for run in (exact, found))
    assert wanted.keys() == got.keys()
    off = [np.abs(got[key] - value).max() / np.abs(value).max() for key, value in wanted.items()]
    assert 0 < np.median(off) < 0.05


@pytest.mark.parametrize("choice", ["float16", "int8", "topk:5", "pooled:4", "none"])
def test_every_way_to_keep_maps(tfa: Any, choice: str) -> None:
    name = f"keep-{choice.replace(':', '-')}"
    deep = {**PLAIN, "id": "deep", "layer": "conv1"}
    fixed = {"model": CNN, "top": 1, "maps": [PLAIN, deep]}
    found = finished(tfa(name=name, store={"maps": choice}, **fixed))
    exact = finished(tfa(name="keep-exactly", **fixed))
    if choice == "none":
        assert not {"tfa_maps", "tfa_layer_maps"} & set(found.tables)
        assert found.table("tfa_map_scores") == exact.table("tfa_map_scores")
        return
    for table in ("tfa_maps", "tfa_layer_maps"):
        wanted = map_values(exact.table(table))
        rows = found.table(table).to_pylist()
        assert len(rows) == len(wanted)
        for row in rows:
            value = wanted[row["query"], row["method"], row["train_row"], row["map_method"]]
            kept = decode_map(row, choice)
            assert kept is not None
            assert kept.shape == value.shape
            if choice in ("float16", "int8"):
                assert np.abs(kept - value).max() <= np.abs(value).max() / 200
            elif choice == "topk:5":
                there = kept != 0
                assert there.sum() == 5
                assert np.abs(value[there]).min() >= np.abs(value[~there]).max()
            else:
                cells = value.reshape(1, 4, 2, 4, 2).mean((2, 4)).repeat(2, 1).repeat(2, 2)
                assert np.abs(kept - cells).max() <= 2e-3 * np.abs(value).max()
