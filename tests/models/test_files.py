"""Weights as bytes: round trips, and what is refused."""

from __future__ import annotations

import io
import os
import pickle
import re

import pytest
import torch
from torch import nn

from gradattr.errors import ModelError
from gradattr.models import build_model, load_state, save_weights, weights_from_bytes


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("arch", "fields", "shape"),
    [
        ("linear", {}, (1, 8, 8)),
        ("mlp", {"hidden": [8]}, (1, 8, 8)),
        ("cnn", {"width": 2}, (1, 8, 8)),
        ("resnet18", {"stem": "cifar"}, (3, 16, 16)),
        ("resnet20", {}, (3, 16, 16)),
        ("torchvision:mnasnet0_5", {}, (3, 32, 32)),
        ("torchvision:densenet121", {}, (3, 32, 32)),
    ],
)
@pytest.mark.parametrize("pickled", [False, True])
def test_every_weight_survives(make_spec, arch, fields, shape, pickled):
    def build(seed):
        return build_model(make_spec(arch, **fields), shape=shape, num_classes=4, seed=seed)

    first, second = build(1), build(2)
    data = saved(first.state_dict()) if pickled else save_weights(first)
    load_state(second, weights_from_bytes(data, "w"), "w")
    expected, found = first.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    x = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(first.eval()(x), second.eval()(x))


def test_equal_models_have_equal_bytes(make_spec):
    def data():
        return save_weights(
            build_model(make_spec("cnn", width=2), shape=(1, 8, 8), num_classes=3, seed=1)
        )

    assert data() == data()


def test_tied_weights_are_saved():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    state = weights_from_bytes(save_weights(model), "w")
    assert torch.equal(state["0.weight"], state["1.weight"])


def test_state_that_is_not_a_tensor_is_named():
    class Counter(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

    with pytest.raises(ModelError, match=r"'0\._extra_state' in its state dict is not a tensor"):
        save_weights(nn.Sequential(Counter(2, 2)))


class Payload:
    """On unpickling, creates the file that is named in the environment."""

    def __reduce__(self):
        return (os.system, (f"touch {os.environ['GRADATTR_WITNESS']}",))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_payload_in_a_pickle_is_refused_and_not_executed(tmp_path, monkeypatch, legacy, plain):
    witness = tmp_path / "executed"
    monkeypatch.setenv("GRADATTR_WITNESS", str(witness))
    state = {"weight": torch.zeros(2), "bias": Payload()}
    buffer = io.BytesIO()
    if plain:
        pickle.dump(state, buffer)
    else:
        torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ModelError, match=r"evil\.pt: refused: .*no switch to trust a file"
    ) as caught:
        weights_from_bytes(buffer.getvalue(), "evil.pt")
    assert not witness.exists()
    assert "weights_only" not in str(caught.value)
    pickle.loads(pickle.dumps(Payload()))
    assert witness.exists()


def test_environment_cannot_switch_the_refusal_off(tmp_path, monkeypatch):
    witness = tmp_path / "executed"
    monkeypatch.setenv("GRADATTR_WITNESS", str(witness))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ModelError, match=r"it wants to import posix\.system"):
        weights_from_bytes(saved({"weight": Payload()}), "evil.pt")
    assert not witness.exists()


def test_whole_model_is_no_state_dict():
    with pytest.raises(ModelError, match=r"wants to import torch\.nn\.modules\.linear\.Linear"):
        weights_from_bytes(saved(nn.Linear(2, 2)), "model.pt")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.zeros(1)], "holds a list, expected a state dict"),
        ({}, "the state dict is empty"),
        (
            {"epoch": 3, "state_dict": {"w": torch.zeros(1)}},
            "checkpoint of epoch, state_dict; did you mean to save its 'state_dict' alone?",
        ),
        ({"w": torch.zeros(1), "lr": 0.1}, "'lr' is not a tensor, expected a plain state dict"),
    ],
)
def test_what_the_file_holds_instead_is_said(value, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        weights_from_bytes(saved(value), "w.pt")


@pytest.mark.parametrize("kept", [0, 1, 9, 100, 0.5, 0.99])
@pytest.mark.parametrize("pickled", [False, True])
def test_files_that_are_cut_short(kept, pickled):
    model = nn.Linear(20, 20)
    data = saved(model.state_dict()) if pickled else save_weights(model)
    length = kept if isinstance(kept, int) else int(kept * len(data))
    with pytest.raises(ModelError, match=r"w: (the file is empty|neither|damaged|refused)"):
        weights_from_bytes(data[:length], "w")


@pytest.mark.parametrize("data", [b"<html>404</html>", b"PK\x03\x04", b"\x80", b"12345678{}{}"])
def test_other_files(data):
    with pytest.raises(ModelError):
        weights_from_bytes(data, "w")
