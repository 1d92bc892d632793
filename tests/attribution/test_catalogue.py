import subprocess
import sys
from inspect import signature
from typing import get_args

import pytest
import torch
from torch import nn

import gradattr.attribution as attribution
from gradattr.attribution import PlainEvaluator, Uniform, attribute, method_info, method_request
from gradattr.attribution.catalogue import catalogue
from gradattr.attribution.recipes import RECIPES
from gradattr.manifest.method_base import MethodBase
from gradattr.manifest.methods import AnyMethod
from tests.small_transformers import vit

SHAPE = (3, 32, 32)
CLASSES = 6
_LINEAR = nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES)).double()
NEEDED = {
    "expected_gradients": {"baseline": Uniform()},
    "gradient_shap": {"baseline": Uniform()},
    "deep_shap": {"baseline": Uniform()},
    "linear": {
        "linear_model": PlainEvaluator(nn.Sequential(nn.Flatten(), nn.Linear(3072, 6)).double())
    },
}
#: A cost that depends on the image or the model, or is an upper bound.
NOT_BY_PARAMETERS = {"agi", "occlusion", "kernel_shap"}


def _model(name: str) -> nn.Module:
    if name.startswith("attention"):
        return vit()
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 256, CLASSES),
    ).double()


FEW = {
    "lime": {"samples": 20},
    "kernel_shap": {"samples": 20},
    "rise": {"samples": 20},
    "guided_ig": {"steps": 20},
    "agi": {"iterations": 3},
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
    request = method_request(name, **NEEDED.get(name, {}), **FEW.get(name, {}))
    (result,) = attribute(
        PlainEvaluator(_model(name)),
        torch.rand(2, *SHAPE, dtype=torch.float64),
        [request],
        seeds=[0, 1],
    )
    if info.cost is not None and name not in NOT_BY_PARAMETERS:
        assert info.evaluations(FEW.get(name)) == result.evaluations
    assert result.evaluations == request.evaluations(CLASSES, SHAPE)
    assert (result.completeness_gap is not None) == info.completeness
    assert result.status == ("ok", "ok")
    assert result.maps.shape == (2, 1 if info.per_pixel else 3, 32, 32)


@pytest.mark.parametrize("name", ALL)
def test_parameters_are_those_of_the_method_and_of_manifests(name):
    """By name and default; a manifest's baseline and linear model are written otherwise."""
    told = {parameter.name: parameter.default for parameter in method_info(name).parameters}
    recipe = {p.name: p.default for p in signature(RECIPES[name]).parameters.values()}
    given = {"baseline", "linear_model"}
    assert told.keys() - given == recipe.keys() - given
    arm = next(
        arm
        for arm in get_args(get_args(AnyMethod)[0])
        if name in get_args(arm.model_fields["name"].annotation)
    )
    fields = {
        key: field
        for key, field in arm.model_fields.items()
        if key not in {"name", "train", *MethodBase.model_fields}
    }
    if name == "expected_gradients":
        fields.pop("stdev")
    assert fields.keys() - given == recipe.keys() - given
    for key, field in fields.items():
        if key not in given:
            assert field.default == recipe[key] == told[key], key


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
