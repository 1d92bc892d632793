"""The user's own factories: called as asked, refused with a reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from gradattr.errors import ModelError
from gradattr.manifest.model import PythonModel
from gradattr.models.architectures import build_model
from gradattr.models.python_factory import factory_digest
from gradattr.models.weights import load_model, weights_digest

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


def test_a_factory_may_return_a_ready_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither weights nor train: what the factory returns is the model, and its digest counts."""
    (tmp_path / "ready_net.py").write_text(
        "import itertools\nimport torch\n\ncount = itertools.count()\n\n\n"
        "def drawn():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n\n\n"
        "def other_each_time():\n"
        "    model = drawn()\n"
        "    torch.nn.init.constant_(model[1].bias, next(count))\n"
        "    return model\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = PythonModel(arch="python", factory="ready_net:drawn")
    digest = weights_digest(spec, None)
    one = load_model(spec, None, shape=(1, 8, 8), num_classes=10, expected_digest=digest)
    two = load_model(spec, None, shape=(1, 8, 8), num_classes=10, expected_digest=digest)
    assert torch.equal(one[1].weight, two[1].weight)
    changing = PythonModel(arch="python", factory="ready_net:other_each_time")
    with pytest.raises(ModelError, match="changed after the run was planned"):
        load_model(
            changing,
            None,
            shape=(1, 8, 8),
            num_classes=10,
            expected_digest=weights_digest(changing, None),
        )
