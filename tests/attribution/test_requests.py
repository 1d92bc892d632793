import pytest

from gradattr.attribution import Black, Blur, method_request
from gradattr.attribution.sampling import NoisyCopies, RandomPaths, StraightPath


def test_defaults():
    request = method_request("integrated_gradients")
    assert request.source == StraightPath(Black(), 50, "gauss_legendre")
    assert (request.id, request.target) == ("integrated_gradients", "logit_pred")
    assert method_request("vargrad").source == NoisyCopies(50, 0.1)
    shap = method_request("gradient_shap", id="mine", target=3, baseline=Blur())
    assert (shap.id, shap.target, shap.source) == ("mine", 3, RandomPaths(Blur(), 25, 0.0))


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("limes", {}, "unknown method 'limes': expected one of gradient,"),
        ("smoothgrad", {"steps": 3}, r"'smoothgrad': .*'steps'.*parameters: samples, sigma"),
        ("gradient", {"samples": 3}, "parameters: none"),
        ("expected_gradients", {}, "'baseline'"),
        ("smoothgrad", {"samples": 0}, "samples: 0 given"),
        ("vargrad", {"sigma": -0.1}, "sigma: -0.1 given"),
        ("integrated_gradients", {"steps": 0}, "steps: 0 given"),
        ("integrated_gradients", {"steps": 1, "rule": "trapezoid"}, "at least 2 steps"),
        ("integrated_gradients", {"rule": "simpson"}, "unknown quadrature rule"),
        ("gradient_shap", {"baseline": Black(), "samples": 0}, "samples: 0 given"),
        ("gradient_shap", {"baseline": Black(), "stdev": -1.0}, "stdev: -1.0 given"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name, parameters, text):
    with pytest.raises(ValueError, match=text):
        method_request(name, **parameters)
