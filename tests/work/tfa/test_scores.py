"""Every score of a run against one backward pass for each example, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from gradattr.data.registry import sample_shards
from gradattr.data.types import DataIndex
from gradattr.influence import Directions, Ekfac, GradientProducts, random_scores, relatif
from gradattr.models import save_weights
from gradattr.seeds import derive_seed, sample_seeds
from tests.tfa_oracle import Oracle, close

EKFAC = {"damping": 0.02, "examples": 40}
CG: dict[str, Any] = {
    "inverse": "cg", "damping": 0.3, "tolerance": 1e-7, "examples": None, "max_steps": 300,
}  # fmt: skip
ALL: list[Any] = [
    "grad_cos",
    "grad_dot",
    "tracin",
    {"score": "tracin", "id": "early", "epochs": [1]},
    {"score": "influence", **EKFAC},
    {"score": "relatif", **EKFAC},
    {"score": "influence", "id": "influence-cg", **CG},
    {"score": "influence", "id": "influence-h", **CG, "matrix": "hessian", "damping": 4.0},
    {"score": "relatif", "id": "relatif-cg", **CG, "examples": 30},
    {"score": "random", "seed": 5},
]


@pytest.fixture(scope="module")
def whole(tfa: Any) -> Oracle:
    return Oracle(tfa(name="scores", keep="full", scores=ALL, maps=[]))


def drawn(oracle: Oracle, count: int) -> Tensor:
    """Places of the training examples that a curvature is estimated from."""
    index = DataIndex.from_json(oracle.context.indexes["data"])
    shards = sample_shards(index, count, derive_seed(oracle.manifest.seed, "curvature", count))
    rows = [row for shard in shards for row in range(shard.start, shard.start + shard.rows)]
    return torch.tensor([oracle.train.rows.index(row) for row in rows])


def gauss_newton(model: nn.Module, x: Tensor) -> Tensor:
    """1/n sum J^T (diag p - p p^T) J, written down."""
    parameters = list(model.parameters())
    total = torch.zeros(())
    for image in x.double():
        logits = model(image[None])[0]
        rows = [torch.autograd.grad(one, parameters, retain_graph=True) for one in logits]
        jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        p = logits.softmax(0).detach()
        total = total + jacobian.T @ (p.diag() - torch.outer(p, p)) @ jacobian
    return total / len(x)


def hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]

    def loss(flat: Tensor) -> Tensor:
        parts = torch.split(flat, [shape.numel() for shape in shapes])
        values = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(functional_call(model, values, (x.double(),)), y)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return torch.autograd.functional.hessian(loss, flat)


def inverse_of(curvature: Tensor, damping: float) -> Tensor:
    return torch.linalg.inv(curvature + damping * torch.eye(len(curvature), dtype=torch.float64))


def test_gradient_scores(whole: Oracle) -> None:
    train, queries = whole.products()
    close(whole.scores("grad_dot"), train @ queries.T)
    lengths = train.norm(dim=1)[:, None] * queries.norm(dim=1)
    close(whole.scores("grad_cos"), train @ queries.T / lengths)


def test_tracin_of_kept_epochs(whole: Oracle) -> None:
    parts = {}
    for epoch in (1, 3):
        model, rate = whole.kept(epoch)
        train, queries = whole.products(model)
        parts[epoch] = rate * train @ queries.T
    close(whole.scores("tracin"), parts[1] + parts[3])
    close(whole.scores("early"), parts[1])


def test_influence_by_conjugate_gradients(whole: Oracle) -> None:
    train, queries = whole.products()
    of_all = gauss_newton(whole.model, whole.train.x)
    close(whole.scores("influence-cg"), train @ inverse_of(of_all, 0.3) @ queries.T)
    second = hessian(whole.model, whole.train.x, whole.train.labels)
    close(whole.scores("influence-h"), train @ inverse_of(second, 4.0) @ queries.T)


def test_relatif_by_conjugate_gradients_from_some_examples(whole: Oracle) -> None:
    train, queries = whole.products()
    places = drawn(whole, 30)
    assert len(places) == 30
    solved = train @ inverse_of(gauss_newton(whole.model, whole.train.x[places]), 0.3)
    close(whole.scores("relatif-cg"), solved @ queries.T / solved.norm(dim=1)[:, None])


def test_ekfac_is_that_of_the_same_examples_in_the_same_order(whole: Oracle) -> None:
    places = drawn(whole, 40)
    x, y = whole.train.x.double(), whole.train.labels
    products = GradientProducts(whole.model)
    seed = derive_seed(whole.manifest.seed, "ekfac labels")
    ekfac = Ekfac.fit(products, (x[places], y[places]), seed=seed)
    train, queries = whole.products()
    directions = products.directions(whole.queries.x.double(), whole.queries.labels)
    flat = directions.like(queries)
    solved = ekfac.solve(flat, 0.02).flat()
    close(whole.scores("influence"), train @ solved.T, 5e-5)
    wanted = relatif(products, x, y, Directions(flat.values), ekfac, damping=0.02)
    close(whole.scores("relatif"), wanted.values, 5e-5)
    norms = ekfac.solve(directions.like(train), 0.02).flat().norm(dim=1)
    close(whole.scores("relatif"), train @ solved.T / norms[:, None], 5e-5)


def test_random_numbers_are_a_function_of_the_ids(whole: Oracle) -> None:
    train = sample_seeds(5, "random tda: train", whole.train.sample_ids)
    queries = sample_seeds(5, "random tda: query", whole.queries.sample_ids)
    found = whole.scores("random")
    close(found, random_scores(train, queries).values, 1e-7)
    assert (abs(found) <= 1).all()
    assert abs(found.mean()) < 0.1
    assert abs(found.std() - 3**-0.5) < 0.05


@pytest.mark.parametrize("target", ["loss_true", "loss_pred", "logit_true", "logit_pred"])
def test_every_target_of_a_query(tfa: Any, target: str) -> None:
    name = target.replace("_", "-")
    oracle = Oracle(tfa(name=name, keep="full", scores=["grad_dot"], queries={"target": target}))
    assert not all(oracle.run.table("queries")["correct"].to_pylist())
    train, queries = oracle.products()
    close(oracle.scores("grad_dot"), train @ queries.T)


def test_a_helpful_example_lowers_the_loss_and_raises_the_logit(tfa: Any) -> None:
    """A step on the most helpful training image moves the query to where it wants to be."""
    for target in ("loss_true", "logit_pred"):
        name = f"step-{target.replace('_', '-')}"
        oracle = Oracle(tfa(name=name, scores=["grad_dot"], queries={"target": target}))
        for pair in oracle.run.table("tfa_pairs").to_pylist():
            if pair["rank"] == 1:
                at, query = oracle.train.rows.index(pair["train_row"]), pair["query"]
                before, after = (stepped(oracle, at, query, lr) for lr in (0.0, 1e-4))
                better = after[target] - before[target]
                better = -better if target == "loss_true" else better
                assert (better > 0) == (pair["side"] == "helpful")


def stepped(oracle: Oracle, at: int, query: int, lr: float) -> dict[str, float]:
    """Loss and predicted logit of a query after a gradient step on a training image."""
    model = oracle.model
    batch = oracle.train
    loss = F.cross_entropy(model(batch.x[at : at + 1].double()), batch.labels[at : at + 1])
    names = [name for name, _ in model.named_parameters()]
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    moved = {
        name: p.detach() - lr * slope
        for name, p, slope in zip(names, model.parameters(), slopes, strict=True)
    }
    x = oracle.queries.x[query : query + 1].double()
    logits = functional_call(model, moved, (x,))[0]
    predicted = int(model(x)[0].argmax())
    label = oracle.queries.labels[query : query + 1]
    true = float(F.cross_entropy(logits[None], label))
    return {"loss_true": true, "logit_pred": float(logits[predicted])}


def test_gradients_in_some_parameters(tfa: Any) -> None:
    scores: list[Any] = [
        "grad_cos",
        {"score": "influence", "id": "cg", **CG, "examples": 30},
        {"score": "influence", **EKFAC},
    ]
    oracle = Oracle(tfa(name="some", keep="full", scores=scores, parameters=["output.*"], maps=[]))
    train, queries = oracle.products(names=["output.weight", "output.bias"])
    assert train.shape[1] == 12 * 10 + 10
    lengths = train.norm(dim=1)[:, None] * queries.norm(dim=1)
    close(oracle.scores("grad_cos"), train @ queries.T / lengths)
    curvature = gauss_newton(oracle.model, oracle.train.x[drawn(oracle, 30)])[-130:, -130:]
    close(oracle.scores("cg"), train @ inverse_of(curvature, 0.3) @ queries.T)


def test_tracin_of_checkpoint_files(tfa: Any, whole: Oracle, tmp_path: Path) -> None:
    checkpoints, wanted = [], torch.zeros(())
    for number, (epoch, rate) in enumerate([(1, 0.5), (3, 0.125)]):
        model, _ = whole.kept(epoch)
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(save_weights(model.float()))
        checkpoints.append({"weights": str(path), "lr": rate})
        train, queries = whole.products(model.double())
        wanted = wanted + rate * train @ queries.T
    score = {"score": "tracin", "checkpoints": checkpoints}
    oracle = Oracle(tfa(name="files", keep="full", scores=[score], maps=[]))
    assert oracle.queries.rows == whole.queries.rows
    close(oracle.scores("tracin"), wanted)


def test_the_weights_of_a_file_or_of_another_run(tfa: Any, whole: Oracle, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(save_weights(whole.model.float()))
    whole.model.double()
    for number, weights in enumerate((str(path), f"run:{whole.run.run_id}")):
        model = {"arch": "mlp", "hidden": [12], "weights": weights}
        oracle = Oracle(tfa(name=f"weights{number}", keep="full", model=model, maps=[]))
        wanted = torch.from_numpy(whole.scores("grad_cos"))
        close(oracle.scores("grad_cos"), wanted, 1e-6)


def test_a_convolutional_network(tfa: Any) -> None:
    model = {"arch": "cnn", "width": 2, "train": {"epochs": 2, "lr": 0.05, "batch_size": 32}}
    oracle = Oracle(tfa(name="cnn", keep="full", model=model, maps=[]))
    train, queries = oracle.products()
    lengths = train.norm(dim=1)[:, None] * queries.norm(dim=1)
    close(oracle.scores("grad_cos"), train @ queries.T / lengths)
