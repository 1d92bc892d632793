"""A state dict that does not fit says why."""

from __future__ import annotations

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

from gradattr.errors import ModelError
from gradattr.models import check_finite, load_state


def net(classes=3):
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(1, 4, 3),
            norm=nn.BatchNorm2d(4),
            flatten=nn.Flatten(),
            fc=nn.Linear(16, classes),
        )
    )


def renamed(state, old, new):
    return {(new + k.removeprefix(old) if k.startswith(old) else k): v for k, v in state.items()}


def message(model, state):
    with pytest.raises(ModelError) as caught:
        load_state(model, state, "w.pt")
    return str(caught.value)


def test_renamed_layer_gets_a_suggestion():
    text = message(net(), renamed(net().state_dict(), "fc.", "head."))
    assert text == (
        "w.pt: does not fit the model: keys are missing: fc.weight, fc.bias; keys are unknown: "
        "head.weight (did you mean 'fc.weight'?), head.bias (did you mean 'fc.bias'?)"
    )


@pytest.mark.parametrize(
    ("prefix", "hint"),
    [
        ("module.", "DataParallel, did you mean to save model.module.state_dict()?"),
        ("_orig_mod.", "compiled model, did you mean to save model._orig_mod.state_dict()?"),
        ("backbone.", "rename its keys without it"),
    ],
)
def test_prefix_of_a_wrapper_is_pointed_out_and_not_guessed(prefix, hint):
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    text = message(model, renamed(net().state_dict(), "", prefix))
    assert f"its keys begin with {prefix!r}" in text
    assert hint in text
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_prefix_that_the_model_has():
    wrapped = nn.Sequential(OrderedDict(body=net()))
    assert "the model's keys begin with 'body.': rename" in message(wrapped, net().state_dict())


def test_many_faults_are_counted_not_listed():
    text = message(net(), {f"extra{i}": torch.zeros(1) for i in range(40)} | net().state_dict())
    assert "and 35 more" in text
    assert len(text) < 400


def test_wrong_class_count_names_both_numbers():
    text = message(net(3), net(10).state_dict())
    assert "fc.weight is (10, 16), the model has (3, 16)" in text
    assert "with 10 classes, 3 are expected: set model.num_classes: 10" in text


def test_other_shapes_in_the_middle_are_no_matter_of_classes():
    state = net().state_dict()
    state["stem.weight"] = torch.zeros(4, 3, 3, 3)
    text = message(net(), state)
    assert "stem.weight is (4, 3, 3, 3), the model has (4, 1, 3, 3)" in text
    assert "classes" not in text


def test_files_from_before_batch_counters_are_read():
    state = {k: v for k, v in net().state_dict().items() if "num_batches" not in k}
    model = net()
    load_state(model, state, "w.pt")
    assert torch.equal(model.stem.weight, state["stem.weight"])


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("stem.weight", float("nan"), "stem.weight (1 NaN, 0 infinite of 36 values)"),
        ("norm.running_var", float("inf"), "norm.running_var (0 NaN, 1 infinite of 4 values)"),
        ("fc.bias", -float("inf"), "fc.bias (0 NaN, 1 infinite of 3 values)"),
    ],
)
def test_weights_that_are_not_finite_are_named(key, value, text):
    state = net().state_dict()
    state[key].view(-1)[2] = value
    model = net()
    with pytest.raises(ModelError, match=re.escape(text)):
        load_state(model, state, "w.pt")
    with pytest.raises(ModelError, match=re.escape(f"model: weights are not finite: {text}")):
        check_finite(model)
    check_finite(net())
