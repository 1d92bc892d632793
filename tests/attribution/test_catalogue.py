import subprocess
import sys
from inspect import signature

import pytest
import torch
from torch import nn

import gradattr.attribution as attribution
from gradattr.attribution import PlainEvaluator, Uniform, attribute, method_info, method_request
from gradattr.attribution.catalogue import catalogue
from gradattr.attribution.recipes import RECIPES
from gradattr.attribution.recipes_of_layers import LAYER_RECIPES, RECTIFIED_RECIPES
from tests.small_transformers import vit

NEEDED = {
    "expected_gradients": {"baseline": Uniform()},
    "gradient_shap": {"baseline": Uniform()},
    "deep_shap": {"baseline": Uniform()},
    "linear": {"linear_model": PlainEvaluator(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))},
}


def _convolutional():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.ReLU())
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(196, 2)).double()


_IMAGES = torch.rand(2, 3, 32, 32, dtype=torch.float64)
#: Models with inputs, of methods that say nothing about a linear one.
FITTING = {
    **dict.fromkeys(("attention", "attention_rollout", "attention_x_gradient"), (vit, _IMAGES)),
    **dict.fromkeys([*RECTIFIED_RECIPES, *LAYER_RECIPES], (_convolutional, _IMAGES)),
}
ALL = [info.name for info in catalogue()]


def _linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 2))


def test_every_recipe_has_an_entry():
    assert sorted(ALL) == sorted(RECIPES)


@pytest.mark.parametrize("name", ALL)
def test_the_catalogue_tells_the_truth(name):
    """Cost, and which methods claim completeness, as the method itself has them."""
    info = method_info(name)
    request = method_request(name, **NEEDED.get(name, {}))
    make, x = FITTING.get(name, (_linear, torch.rand(2, 1, 1, 3)))
    (result,) = attribute(PlainEvaluator(make()), x, [request], seeds=[0, 1])
    if info.cost is not None and name != "agi":
        assert info.evaluations() == result.evaluations
    assert result.evaluations == request.evaluations(result.logits.shape[1], x.shape[1:])
    assert (result.completeness_gap is not None) == info.completeness
    assert result.status == ("ok", "ok")


@pytest.mark.parametrize("name", ALL)
def test_every_text_is_there(name):
    info = method_info(name)
    assert info.formula
    assert info.source
    assert info.cost_text
    assert info.completeness_text
    assert info.degenerates


@pytest.mark.parametrize("name", ALL)
def test_parameters_and_defaults_are_those_of_the_notebook_function(name):
    function = getattr(attribution, {"random": "random_attribution"}.get(name, name))
    shared = {"model", "x", "target", "common", "normalization", "linear_model"}
    found = {key: p.default for key, p in signature(function).parameters.items()}
    info = method_info(name)
    assert {parameter.name for parameter in info.parameters} == found.keys() - shared
    for parameter in info.parameters:
        if parameter.name != "baseline":
            assert found[parameter.name] == parameter.default


def test_cost_follows_the_parameter_that_sets_it():
    assert method_info("integrated_gradients").evaluations({"steps": 200, "rule": "right"}) == 200
    assert method_info("smoothgrad").evaluations({"sigma": 0.2}) == 50
    assert method_info("gradient").evaluations({}) == 1
    assert method_info("uni").evaluations({"steps": 30}) == 30 + 10 + 2
    with pytest.raises(ValueError, match="steps is 'many'"):
        method_info("integrated_gradients").evaluations({"steps": "many"})


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match=r"unknown method 'grad'.*gradient"):
        method_info("grad")


def test_reading_the_catalogue_does_not_load_torch():
    code = (
        "import sys\n"
        "from gradattr.attribution.catalogue import catalogue\n"
        "assert catalogue()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_imported_and_others_cannot():
    for name in attribution.__all__:
        assert getattr(attribution, name) is not None
    assert dir(attribution) == sorted(attribution.__all__)
    assert not hasattr(attribution, "shap")
