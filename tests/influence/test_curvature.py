"""Curvature products against matrices written down, and the inverse against theirs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev
from torch.nn import functional as F

from gradattr.errors import MethodError
from gradattr.influence import Curvature, Directions, GradientProducts


@pytest.fixture(scope="module")
def problem() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return model, torch.randn(7, 4).double(), torch.arange(7) % 3


def _random(products: GradientProducts, count: int) -> Directions:
    generator = torch.Generator().manual_seed(1)
    return Directions(
        {
            name: torch.randn(count, *shape, generator=generator, dtype=torch.float64)
            for name, shape in products.parameter_shapes().items()
        }
    )


def _written_down(model: nn.Module, x: Tensor, y: Tensor, matrix: str) -> Tensor:
    names = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [value.numel() for value in names.values()]

    def outputs(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)
        values = {
            name: part.view_as(value)
            for part, (name, value) in zip(parts, names.items(), strict=True)
        }
        return functional_call(model, values, (x,))

    flat = torch.cat([value.flatten() for value in names.values()])
    if matrix == "hessian":
        return hessian(lambda v: F.cross_entropy(outputs(v), y))(flat)
    slopes = jacrev(outputs)(flat)
    p = outputs(flat).softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return torch.einsum("ncp,ncd,ndq->pq", slopes, inner, slopes) / len(x)


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_products_and_inverse_equal_the_matrix(
    problem: tuple[nn.Module, Tensor, Tensor], matrix: Any
) -> None:
    model, x, y = problem
    products = GradientProducts(model)
    curvature = Curvature(products, x, y, matrix, batch_size=3)
    directions = _random(products, 3)
    full = _written_down(model, x, y, matrix)
    torch.testing.assert_close(curvature.times(directions).flat(), directions.flat() @ full)
    damped = full + 2.0 * torch.eye(len(full), dtype=full.dtype)
    solution = curvature.solve(directions, 2.0, tolerance=1e-10)
    torch.testing.assert_close(
        solution.directions.flat(), torch.linalg.solve(damped, directions.flat().T).T
    )
    assert solution.residuals.max() <= 1e-10 and 0 < solution.steps <= len(full)


def test_a_subset_of_the_parameters(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = problem
    products = GradientProducts(model, parameters=["2.*"])
    directions = _random(products, 2)
    full = _written_down(model, x, y, "hessian")[-18:, -18:]
    found = Curvature(products, x, y, "hessian").times(directions).flat()
    torch.testing.assert_close(found, directions.flat() @ full)


def test_too_few_steps_show_in_the_residual(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = problem
    products = GradientProducts(model)
    directions = _random(products, 1)
    solution = Curvature(products, x, y).solve(directions, 1e-4, max_steps=2)
    left = directions.flat() - (
        Curvature(products, x, y).times(solution.directions).flat()
        + 1e-4 * solution.directions.flat()
    )
    assert solution.steps == 2
    assert float(solution.residuals[0]) == pytest.approx(
        float(left.norm() / directions.norms()[0]), rel=1e-6
    )
    assert solution.residuals[0] > 1e-3


def test_a_direction_of_zero_stays_zero(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = problem
    products = GradientProducts(model)
    directions = _random(products, 2).scaled(torch.tensor([0.0, 1.0]))
    solution = Curvature(products, x, y).solve(directions, 1.0)
    assert solution.directions.norms()[0] == 0 and solution.residuals[0] == 0
    assert solution.directions.norms()[1] > 0


def test_negative_curvature_is_named() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    products = GradientProducts(model, loss=lambda f, _: -f[:, 0].square())
    x, y = torch.randn(4, 2).double(), torch.zeros(4)
    with pytest.raises(MethodError, match=r"Raise the damping, or take 'gauss_newton'"):
        Curvature(products, x, y, "hessian").solve(_random(products, 1), 1e-3)


def test_what_is_not_offered(problem: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = problem
    products = GradientProducts(model)
    wrong: Any = "fisher"
    with pytest.raises(MethodError, match="'fisher'"):
        Curvature(products, x, y, wrong)
    with pytest.raises(MethodError, match="damping -1"):
        Curvature(products, x, y).solve(_random(products, 1), -1.0)
