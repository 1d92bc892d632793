"""The user's own factories: called as asked, refused with a reason."""

from __future__ import annotations

import re

import pytest
import torch

from gradattr.errors import ModelError
from gradattr.models.architectures import build_model
from gradattr.models.python_factory import factory_digest

SHAPE = (3, 4, 4)


def build(spec, classes=3):
    return build_model(spec, shape=SHAPE, num_classes=classes, seed=0)


def test_factory_gets_its_keyword_arguments(make_spec, user_module):
    spec = make_spec(f"python:{user_module}:small", kwargs={"classes": 5, "bias": False})
    model = build(spec, classes=5)
    assert model[1].bias is None
    assert model(torch.zeros(2, *SHAPE)).shape == (2, 5)


def test_other_float_types_become_float32(make_spec, user_module):
    model = build(make_spec(f"python:{user_module}:doubles"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("function", "kwargs", "message"),
    [
        ("smal", {}, "has no 'smal'; did you mean 'small'?"),
        ("number", {}, "is not a function"),
        ("broken", {}, "raised RuntimeError: no such layer"),
        ("nothing", {}, "returned NoneType, expected a torch.nn.Module"),
        ("small", {"clases": 4}, "unexpected keyword argument 'clases'"),
        ("small", {"classes": 7}, "maps one image to (1, 7), expected (1, 3)"),
        ("Pair", {}, "returns tuple, expected one tensor"),
    ],
)
def test_what_is_wrong_is_said(make_spec, user_module, function, kwargs, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        build(make_spec(f"python:{user_module}:{function}", kwargs=kwargs))


def test_module_that_cannot_be_imported(make_spec):
    with pytest.raises(ModelError, match=r"cannot import 'no_such_pkg.models' .*PYTHONPATH"):
        build(make_spec("python:no_such_pkg.models:make"))


def test_digest_follows_the_source(make_spec, user_module, tmp_path):
    spec = make_spec(f"python:{user_module}:small")
    before = factory_digest(spec)
    assert before == factory_digest(spec)
    source = tmp_path / f"{user_module}.py"
    source.write_text(source.read_text() + "\n# changed\n")
    assert factory_digest(spec) != before
