import numpy as np
import pytest

from gradattr.attribution.quadrature import quadrature

RULES = ["right", "left", "trapezoid", "midpoint", "gauss_legendre"]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 200, 501])
def test_gauss_legendre_equals_numpy(steps):
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    rule = quadrature("gauss_legendre", steps)
    np.testing.assert_allclose(rule.alphas, (1 + nodes) / 2, atol=1e-15)
    np.testing.assert_allclose(rule.weights, weights / 2, atol=1e-13)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("steps", [2, 5, 64])
def test_weights_add_up_to_one_and_nodes_lie_in_order(name, steps):
    rule = quadrature(name, steps)
    assert len(rule.alphas) == len(rule.weights) == steps
    assert sum(rule.weights) == pytest.approx(1, abs=1e-14)
    assert list(rule.alphas) == sorted(rule.alphas)
    assert rule.alphas[0] >= 0
    assert rule.alphas[-1] <= 1


@pytest.mark.parametrize(
    ("name", "degree"),
    [("right", 0), ("left", 0), ("midpoint", 1), ("trapezoid", 1), ("gauss_legendre", 9)],
)
def test_polynomials_up_to_the_rule_s_degree_are_exact(name, degree):
    alphas, weights = quadrature(name, 5)
    for power in range(degree + 1):
        integral = sum(w * a**power for a, w in zip(alphas, weights, strict=True))
        assert integral == pytest.approx(1 / (power + 1), abs=1e-14)
    beyond = sum(w * a ** (degree + 1) for a, w in zip(alphas, weights, strict=True))
    assert abs(beyond - 1 / (degree + 2)) > 1e-7


def test_left_and_right_are_the_ends_of_each_interval():
    assert quadrature("left", 4).alphas == (0, 0.25, 0.5, 0.75)
    assert quadrature("right", 4).alphas == (0.25, 0.5, 0.75, 1)
    assert quadrature("trapezoid", 3) == ((0, 0.5, 1), (0.25, 0.5, 0.25))


@pytest.mark.parametrize(
    ("name", "steps", "text"),
    [("right", 0, "at least 1"), ("trapezoid", 1, "2 steps"), ("simpson", 5, "expected one of")],
)
def test_what_cannot_be_is_refused(name, steps, text):
    with pytest.raises(ValueError, match=text):
        quadrature(name, steps)
