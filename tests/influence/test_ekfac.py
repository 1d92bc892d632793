"""EK-FAC against loops over examples, against the cases where it is exact, and against the inverse
that conjugate gradients find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.errors import MethodError
from gradattr.influence import Curvature, Directions, Ekfac, GradientProducts
from gradattr.influence.fisher import FisherStream
from gradattr.influence.scores import grad_cos, influence, relatif
from tests.influence.conftest import SHAPES, loop_gradients

Network = Callable[[str], nn.Module]
Examples = Callable[..., tuple[Tensor, Tensor]]

SLOPES: dict[str, Any] = {"loss": lambda outputs, slopes: (outputs * slopes).sum(1)}
"""A loss whose gradient in the outputs is the label itself: any δ can be asked for."""


def random_directions(products: GradientProducts, count: int) -> Directions:
    generator = torch.Generator().manual_seed(1)
    return Directions(
        {
            name: torch.randn(count, *shape, generator=generator, dtype=torch.float64)
            for name, shape in products.parameter_shapes().items()
        }
    )


def assert_inverts(ekfac: Ekfac, gradients: Tensor, damping: float = 0.1) -> None:
    """``solve`` against the inverse of mean g g^T + damping I, written down."""
    directions = random_directions(ekfac.products, 3)
    full = gradients.T @ gradients / len(gradients)
    full = full + damping * torch.eye(len(full), dtype=torch.float64)
    expected = torch.linalg.solve(full, directions.flat().T).T
    torch.testing.assert_close(ekfac.solve(directions, damping).flat(), expected)


def by_slopes(model: nn.Module, x: Tensor, slopes: Tensor) -> Tensor:
    rows = []
    for image, slope in zip(x, slopes, strict=True):
        value = (model(image[None]) * slope).sum()
        grads = torch.autograd.grad(value, list(model.parameters()))
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    return torch.stack(rows)


@pytest.mark.parametrize("bias", [True, False])
def test_exact_where_inputs_and_output_gradients_are_independent(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=bias).double()
    inputs, slopes = torch.randn(6, 4).double(), torch.randn(5, 3).double()
    x, y = inputs.repeat_interleave(5, 0), slopes.repeat(6, 1)
    products = GradientProducts(model, **SLOPES)
    ekfac = Ekfac.fit(products, (x, y), fisher="empirical")
    assert_inverts(ekfac, by_slopes(model, x, y))


def test_exact_for_linear_regression_and_for_one_example() -> None:
    torch.manual_seed(1)
    model, x = nn.Linear(5, 1).double(), torch.randn(40, 5).double()
    signs = torch.sign(torch.randn(40, 1)).double()
    ekfac = Ekfac.fit(GradientProducts(model, **SLOPES), (x, signs), fisher="empirical")
    assert_inverts(ekfac, by_slopes(model, x, signs))
    model, x = nn.Linear(4, 6).double(), torch.randn(1, 4).double()
    products = GradientProducts(model)
    ekfac = Ekfac.fit(products, (x, torch.tensor([2])), fisher="empirical")
    assert_inverts(ekfac, loop_gradients(model, x, torch.tensor([2])))


def test_a_convolution_of_one_example_is_exact_where_positions_agree() -> None:
    """A 1x1 image: one position, so one outer product; weights in the order of patches and back."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten()).double()
    x, slopes = torch.randn(1, 3, 1, 1).double(), torch.randn(1, 4).double()
    ekfac = Ekfac.fit(GradientProducts(model, **SLOPES), (x, slopes), fisher="empirical")
    assert_inverts(ekfac, by_slopes(model, x, slopes))


def oracle_gradients(
    model: nn.Module, x: Tensor, y: Tensor, names: list[str]
) -> list[dict[str, Tensor]]:
    parameters = dict(model.named_parameters())
    rows = []
    for image, label in zip(x, y, strict=True):
        loss = F.cross_entropy(model(image[None].clone()), label[None])
        grads = torch.autograd.grad(loss, [parameters[name] for name in names])
        rows.append(dict(zip(names, grads, strict=True)))
    return rows


@pytest.mark.parametrize("name", SHAPES)
def test_eigenvalues_and_diagonals_are_the_means_of_a_loop(
    network: Network, examples: Examples, name: str
) -> None:
    model, (x, y) = network(name), examples(name, 4)
    model.requires_grad_(True)
    products = GradientProducts(model, parameters=_few_parameters(name))
    ekfac = Ekfac.fit(products, (x, y), fisher="empirical")
    rows = oracle_gradients(model, x, y, products.names)
    covered = set(ekfac.diagonal)
    for owner, block in ekfac.blocks.items():
        covered |= set(owner.names)
        matrices = torch.cat([owner.matrix({n: row[n][None] for n in owner.names}) for row in rows])
        rotated = block.basis_out.T @ matrices @ block.basis_in
        expected = rotated.square().mean(0)
        torch.testing.assert_close(block.eigenvalues, expected, rtol=1e-8, atol=1e-12)
        for basis in (block.basis_out, block.basis_in):
            unit = torch.eye(len(basis), dtype=torch.float64)
            torch.testing.assert_close(basis.T @ basis, unit)
        # The best diagonal in its basis: the trace is that of the Fisher matrix itself.
        trace = matrices.square().sum() / len(rows)
        assert float(block.eigenvalues.sum()) == pytest.approx(float(trace))
    for parameter, squares in ekfac.diagonal.items():
        expected = torch.stack([row[parameter] for row in rows]).square().mean(0)
        torch.testing.assert_close(squares, expected, rtol=1e-8, atol=1e-14)
    assert covered == set(products.names)


def _few_parameters(name: str) -> list[str] | None:
    """A ResNet-18 has matrices of 4 609 rows; its first blocks show the same."""
    return (
        ["conv1.*", "bn1.*", "layer1.*", "layer2.0.downsample.*", "fc.*"] if "res" in name else None
    )


def test_what_has_a_block_and_what_a_diagonal(network: Network, examples: Examples) -> None:
    ekfac = Ekfac.fit(GradientProducts(network("cnn")), examples("cnn", 3))
    assert [owner.names for owner in ekfac.blocks] == [
        ["14.weight", "14.bias"],
        ["12.weight", "12.bias"],
        ["9.weight", "9.bias"],
        ["6.weight", "6.bias"],
        ["0.weight", "0.bias"],
    ]
    assert sorted(ekfac.diagonal) == sorted(
        [*(f"{n}.{s}" for n in (1, 4, 7, 13) for s in ("weight", "bias")), "3.weight"]
    )


@pytest.mark.parametrize("name", SHAPES)
def test_inverse_norms_are_those_of_solved_gradients(
    network: Network, examples: Examples, name: str
) -> None:
    model, (x, y) = network(name), examples(name, 5)
    products = GradientProducts(model, parameters=_few_parameters(name), batch_size=4)
    ekfac = Ekfac.fit(products, (x, y))
    queries = products.directions(x[:2], y[:2])
    solved = ekfac.solve(queries, 0.01)
    dots, norms = ekfac.dots_and_inverse_norms(x, y, solved, 0.01)
    own = ekfac.solve(products.directions(x, y), 0.01)
    torch.testing.assert_close(norms, own.norms(), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(ekfac.inverse_norms(x, y, 0.01), norms)
    torch.testing.assert_close(dots, own.flat() @ queries.flat().T, rtol=1e-7, atol=1e-10)
    scores = relatif(products, x, y, queries, ekfac, damping=0.01)
    torch.testing.assert_close(scores.values, dots / norms[:, None])
    assert scores.report == {
        "matrix": "ekfac",
        "fisher": "sampled",
        "examples": 5,
        "damping": 0.01,
    }
    plain = influence(products, x, y, queries, ekfac, damping=0.01)
    torch.testing.assert_close(plain.values, dots, rtol=1e-7, atol=1e-10)


def test_neither_batches_nor_shards_matter(network: Network, examples: Examples) -> None:
    model, (x, y) = network("cnn"), examples("cnn", 11)
    states = []
    for size, cuts in ((3, [11]), (16, [4, 0, 6, 1])):
        products = GradientProducts(model, batch_size=size)
        batches = list(zip(x.split(cuts), y.split(cuts), strict=True))
        ekfac = Ekfac.fit(products, lambda batches=batches: iter(batches), seed=5)
        directions = random_directions(products, 2)
        states.append(ekfac.solve(directions, 1e-3).flat())
        assert ekfac.examples == 11
    # Bases are compared by what they do: eigenvectors of one eigenvalue are anybody's choice.
    torch.testing.assert_close(states[0], states[1], rtol=1e-6, atol=1e-6)
    other = Ekfac.fit(products, (x, y), seed=6).solve(directions, 1e-3).flat()
    assert not torch.allclose(states[0], other, rtol=1e-2)


def test_state_goes_round(network: Network, examples: Examples) -> None:
    model, (x, y) = network("vit"), examples("vit", 4)
    ekfac = Ekfac.fit(GradientProducts(model), (x, y), fisher="exact")
    state = ekfac.state()
    assert all(isinstance(v, Tensor) and v.is_contiguous() for v in state.values())
    fresh = GradientProducts(model)
    again = Ekfac.from_state(fresh, state)
    assert (again.fisher, again.examples) == ("exact", 4)
    directions = random_directions(fresh, 2)
    assert torch.equal(again.solve(directions, 0.1).flat(), ekfac.solve(directions, 0.1).flat())
    assert torch.equal(again.inverse_norms(x, y, 0.1), ekfac.inverse_norms(x, y, 0.1))
    assert again.mean_eigenvalue() == ekfac.mean_eigenvalue() > 0
    with pytest.raises(MethodError, match="of another model or other parameters"):
        Ekfac.from_state(GradientProducts(model, parameters=["heads.*"]), state)


def test_exact_labels_make_the_gauss_newton_matrix(network: Network, examples: Examples) -> None:
    """Its diagonal, in any basis; and sampled labels tend to the same."""
    torch.manual_seed(3)
    model, x = nn.Linear(4, 3).double(), torch.randn(6, 4).double()
    y = torch.zeros(6).long()
    products = GradientProducts(model)
    exact = Ekfac.fit(products, (x, y), fisher="exact")
    curvature = Curvature(products, x, y)
    (owner, block), *_ = exact.blocks.items()
    for row, column in ((0, 0), (2, 4), (1, 3)):
        matrix = torch.outer(block.basis_out[:, row], block.basis_in[:, column])[None]
        along = Directions(owner.split(matrix, products.parameter_shapes()))
        product = owner.matrix(curvature.times(along).values)
        value = float((product * matrix).sum())
        assert float(block.eigenvalues[row, column]) == pytest.approx(value, abs=1e-12)
    many = Ekfac.fit(products, (x.repeat(3000, 1), y.repeat(3000)), seed=1)
    directions = random_directions(products, 2)
    near, at = many.solve(directions, 0.1).flat(), exact.solve(directions, 0.1).flat()
    assert float((near - at).norm() / at.norm()) < 0.02


def test_labels_are_drawn_as_often_as_the_model_says() -> None:
    outputs = torch.tensor([[0.0, 1.0, -1.0, -200.0]]).expand(20000, -1)
    stream = FisherStream(GradientProducts(nn.Linear(2, 4)), list, "sampled", 3)
    drawn = stream.drawn(outputs, torch.arange(20000))
    shares = drawn.bincount(minlength=4) / 20000
    torch.testing.assert_close(shares, outputs[0].softmax(0), atol=0.01, rtol=0)


def test_between_no_curvature_and_conjugate_gradients_on_a_trained_network() -> None:
    """An approximation: here a mean Spearman of .54 and .69 with the Gauss-Newton influence, where
    grad-dot has .25 and .56, and the exact inverse of the two layers' blocks .84 and .90."""
    torch.manual_seed(5)
    way = torch.randn(10, 3).double()
    x = torch.randn(400, 10).double()
    y = (x @ way + torch.randn(400, 3).double()).argmax(1)
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(x), y))
        optimizer.step()
    query = torch.randn(8, 10).double()
    products = GradientProducts(model)
    queries = products.directions(query, (query @ way).argmax(1))
    ekfac = Ekfac.fit(products, (x, y), fisher="exact")
    curvature = Curvature(products, x, y)
    for share, least in ((0.1, 0.5), (1.0, 0.65)):
        damping = share * ekfac.mean_eigenvalue()
        exact = influence(products, x, y, queries, curvature, damping=damping).values
        found = influence(products, x, y, queries, ekfac, damping=damping).values
        plain = products.dots(x, y, queries)
        assert _agreement(found, exact) > max(least, _agreement(plain, exact) + 0.1)
    # And of RelatIF, for large damping, the law: it ranks as grad-cos does.
    ours = relatif(products, x, y, queries, ekfac, damping=1e8).values
    assert _agreement(ours, grad_cos(products, x, y, queries).values) == pytest.approx(1.0)


def _agreement(found: Tensor, expected: Tensor) -> float:
    """Mean over queries of the rank correlation over training examples."""
    pairs = zip(found.T, expected.T, strict=True)
    return sum(float(spearmanr(one, other).statistic) for one, other in pairs) / found.shape[1]


def test_parameters_that_nothing_moves_have_no_curvature() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)
            self.raw = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) * self.raw

    torch.manual_seed(0)
    products = GradientProducts(Idle().double())
    x, y = torch.randn(4, 3).double(), torch.arange(4) % 2
    ekfac = Ekfac.fit(products, (x, y))
    directions = random_directions(products, 1)
    solved = ekfac.solve(directions, 0.5)
    for name in ("idle.weight", "idle.bias"):
        assert torch.equal(solved.values[name], directions.values[name] / 0.5)
    norms = ekfac.solve(products.directions(x, y), 0.5).norms()
    torch.testing.assert_close(ekfac.inverse_norms(x, y, 0.5), norms)


def test_arguments_that_do_not_fit() -> None:
    products = GradientProducts(nn.Linear(3, 2))
    x, y = torch.randn(4, 3), torch.arange(4) % 2
    with pytest.raises(MethodError, match="'true' was given"):
        Ekfac.fit(products, (x, y), fisher="true")  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="no examples"):
        Ekfac.fit(products, list)
    left = [[(x, y)], [(x[:3], y[:3])]]
    with pytest.raises(MethodError, match="4 examples the first time and 3 the second"):
        Ekfac.fit(products, lambda: left.pop(0))
    ekfac = Ekfac.fit(products, (x, y))
    with pytest.raises(MethodError, match="a number above 0"):
        ekfac.inverse_norms(x, y, 0.0)
    deep = GradientProducts(nn.Linear(3, 2), loss=lambda f, _: f.square().sum((1, 2)))
    with pytest.raises(MethodError, match="take 'empirical'"):
        Ekfac.fit(deep, (torch.randn(4, 5, 3), y))
