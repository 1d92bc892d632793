"""The JSON Schema for editors agrees with the models, and the committed file with both."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gradattr.errors import ManifestError
from gradattr.manifest.loading import parse_manifest
from gradattr.manifest.schema import manifest_schema, schema_text

COMMITTED = Path(__file__).parents[2] / "manifests" / "schema.json"

BASE: dict[str, Any] = {
    "kind": "attribute",
    "name": "tiny",
    "data": "digits",
    "model": {"arch": "mlp", "weights": "w.pt"},
    "methods": ["saliency"],
}


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(manifest_schema())


def schema_accepts(value: dict[str, Any]) -> bool:
    return validator().is_valid(value)


def models_accept(value: dict[str, Any]) -> bool:
    try:
        parse_manifest(json.dumps(value))
    except ManifestError:
        return False
    return True


def test_the_committed_schema_is_the_models() -> None:
    assert COMMITTED.read_text() == schema_text(), (
        "run: python -m gradattr.manifest.schema > manifests/schema.json"
    )


def test_the_module_prints_the_schema() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gradattr.manifest.schema"],
        capture_output=True,
        text=True,
        check=True,
        cwd=COMMITTED.parents[1],
    )
    assert done.stdout == schema_text()


def test_it_is_a_valid_schema_without_loose_ends() -> None:
    schema = manifest_schema()
    Draft202012Validator.check_schema(schema)
    text = json.dumps(schema)
    for name in schema["$defs"]:
        assert f'"#/$defs/{name}"' in text, f"{name} is defined and never used"
    assert "discriminator" not in text


def test_every_definition_says_what_it_is() -> None:
    for name, definition in manifest_schema()["$defs"].items():
        assert definition.get("title"), name
        unions = "Baseline Check Data Map Method Metric Model Score Start"
        if name not in unions.split():
            assert definition.get("description"), name


@pytest.mark.parametrize(
    "change",
    [
        {"data": "torchvision:CIFAR10"},
        {"data": {"format": "torchvision", "name": "CIFAR10"}},
        {"methods": ["random", {"name": "integrated_gradients", "baseline": "blur"}]},
        {"store": "s3://bucket/prefix"},
        {"store": {"url": "out", "access_key": "${KEY}"}},
        {"store": {}},
        {"model": {"arch": "torchvision:vgg16", "weights": "w"}},
        {"model": {"arch": "python:a.b:f", "weights": "w", "kwargs": {"x": 1.5}}},
        {"model": {"arch": "mlp", "train": {"data": "digits", "augment": {}}}},
        {"model": {"arch": "mlp", "train": {"data": "digits"}, "weights": None}},
        {"target": 3},
        {"preprocess": {"resize": [8, 8], "crop": 4}},
    ],
)
def test_both_accept(change: dict[str, Any]) -> None:
    value = {**BASE, **change}
    assert models_accept(value)
    assert schema_accepts(value), list(validator().iter_errors(value))


@pytest.mark.parametrize(
    "change",
    [
        {"data": "digit"},
        {"data": "idx"},
        {"data": "torchvision:a-b"},
        {"data": {"images": "x"}},
        {"data": {"format": "idx", "images": "x", "split": "all"}},
        {"data": {"format": "folder", "url": "http://x/y"}},
        {"data": {"format": "folder", "url": "a/../b"}},
        {"data": {"format": "folder", "url": "s3://a::b"}},
        {"data": {"format": "folder", "url": "${HOME}"}},
        {"data": {"format": "folder", "url": "s3://"}},
        {"methods": "saliency"},
        {"methods": []},
        {"methods": ["saliancy"]},
        {"methods": [{"name": "smoothgrad", "steps": 5}]},
        {"methods": [{"name": "integrated_gradients", "baseline": {"kind": "blur", "count": 4}}]},
        {"methods": [{"smoothgrad": {}}]},
        {"store": 5},
        {"store": {"maps": "int7"}},
        {"store": {"secret_key": "hunter2"}},
        {"model": "mlp"},
        {"model": {"arch": "mlp"}},
        {"model": {"arch": "mlp", "weights": "w", "train": {"data": "digits"}}},
        {"model": {"arch": "torchvision", "weights": "w"}},
        {"model": {"arch": "torchvision:a-b", "weights": "w"}},
        {"model": {"arch": "mlp:x", "weights": "w"}},
        {"model": {"arch": "cnn", "hidden": [4], "weights": "w"}},
        {"kind": "atribute"},
        {"kind": "train"},
        {"version": 2},
        {"version": True},
        {"seed": "1"},
        {"shard_rows": 0},
        {"preprocess": {"resize": [8]}},
        {"preprocess": "weight"},
        {"extra": 1},
    ],
)
def test_both_refuse(change: dict[str, Any]) -> None:
    value = {**BASE, **change}
    assert not models_accept(value)
    assert not schema_accepts(value)


def test_kind_train_needs_a_train_block() -> None:
    trained = {"kind": "train", "name": "t", "model": {"arch": "mlp", "train": {"data": "digits"}}}
    stored = {"kind": "train", "name": "t", "model": {"arch": "mlp", "weights": "w.pt"}}
    assert models_accept(trained)
    assert schema_accepts(trained)
    assert not models_accept(stored)
    assert not schema_accepts(stored)


AUDIT: dict[str, Any] = {
    "kind": "diffroar",
    "name": "audit",
    "data": "digits",
    "test": {"format": "digits", "split": "test"},
    "models": {"standard": {"arch": "mlp", "train": {}}},
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"models": {"a.1": {"arch": "mlp", "train": {"data": "digits", "test": "digits"}}}},
        {"models": {"a": {"arch": "mlp", "train": {"adversary": {"norm": "l2", "eps": 0}}}}},
        {"models": {"a": {"arch": "cnn", "weights": "w.pt"}}, "retrain": False},
        {"models": {"a": {"arch": "cnn", "weights": "w.pt"}}, "retrain": {"epochs": 3}},
        {"methods": ["saliency", {"name": "smoothgrad", "samples": 9}]},
        {"baselines": []},
        {"levels": [1]},
        {"mask": {"value": [0.5], "space": "pixels", "per_pixel": True}},
    ],
)
def test_audits_that_both_accept(change: dict[str, Any]) -> None:
    value = {**AUDIT, **change}
    assert models_accept(value)
    assert schema_accepts(value), list(validator().iter_errors(value))


@pytest.mark.parametrize(
    "change",
    [
        {"models": {}},
        {"models": {"two words": {"arch": "mlp", "train": {}}}},
        {"models": {"a": {"arch": "mlp"}}},
        {"models": {"a": {"arch": "mlp", "train": {"data": "digit"}}}},
        {"models": {"a": {"arch": "mlp", "train": {"epoch": 3}}}},
        {"models": {"a": {"arch": "mlp", "train": {"adversary": {"eps": 1}}}}},
        {"models": [{"arch": "mlp", "train": {}}]},
        {"model": {"arch": "mlp", "train": {}}},
        {"retrain": True},
        {"retrain": {"data": "digits"}},
        {"baselines": ["uniform"]},
        {"levels": []},
        {"levels": [0, 0.5]},
        {"levels": [50]},
        {"seeds": 0},
        {"paired": True},
        {"mask": 0},
        {"test": None},
    ],
)
def test_audits_that_both_refuse(change: dict[str, Any]) -> None:
    value = {**AUDIT, **change}
    assert not models_accept(value)
    assert not schema_accepts(value)


def test_only_an_audit_has_data_for_its_models() -> None:
    train = {"arch": "mlp", "train": {"epochs": 3}}
    linear = {"name": "linear", "train": {"epochs": 3}}
    for value in (
        {**BASE, "model": train},
        {**BASE, "methods": [linear]},
        {"kind": "train", "name": "t", "model": train},
    ):
        assert not models_accept(value)
        assert not schema_accepts(value)


TFA: dict[str, Any] = {
    "kind": "tfa",
    "name": "why",
    "data": "digits",
    "queries": {"data": {"format": "digits", "split": "test"}},
    "model": {"arch": "mlp", "train": {"epochs": 3}},
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"model": {"arch": "mlp", "weights": "w.pt"}},
        {"model": {"arch": "mlp", "train": {"data": "digits", "test": None}}},
        {"queries": {"data": "digits", "ids": ["00000003"]}},
        {"queries": {"data": "digits", "classes": ["cat", 3], "per_class": 2}},
        {"scores": ["grad_cos", "random", {"score": "influence", "damping": 1}]},
        {"scores": [{"score": "tracin", "checkpoints": [{"weights": "w", "lr": 0.1}]}]},
        {"maps": []},
        {"maps": ["tfa", {"map": "two_step", "method": "saliency"}]},
        {"maps": [{"map": "tfa", "layer": "layer4", "reading": "agreement"}]},
        {"insertion": {"fill": 0, "tests": ["insertion", "deletion"], "steps": [1, 10]}},
        {"insertion": None, "maps": []},
        {"keep": "above:.5", "parameters": ["fc.*"]},
        {"index": {}},
        {"index_of": "run:why-0123abcd"},
    ],
)
def test_training_attributions_that_both_accept(change: dict[str, Any]) -> None:
    value = {**TFA, **change}
    assert models_accept(value)
    assert schema_accepts(value), list(validator().iter_errors(value))


@pytest.mark.parametrize(
    "change",
    [
        {"queries": "digits"},
        {"queries": {"data": "digit"}},
        {"queries": {"data": "digits", "select": "wrong"}},
        {"queries": {"data": "digits", "ids": []}},
        {"queries": {"data": "digits", "classes": [-1]}},
        {"model": {"arch": "mlp"}},
        {"model": {"arch": "mlp", "train": {"data": "digit"}}},
        {"scores": []},
        {"scores": ["tda"]},
        {"scores": [{"score": "grad_cos", "damping": 1}]},
        {"scores": [{"score": "influence", "damping": 0}]},
        {"scores": [{"score": "tracin", "checkpoints": [{"weights": "w"}]}]},
        {"maps": ["two_step"]},
        {"maps": [{"map": "tfa", "method": "saliency"}]},
        {"maps": [], "insertion": {"fill": 0}},
        {"keep": "all"},
        {"keep": "top:0"},
        {"top": 0},
        {"insertion": {"fill": 0, "levels": [50]}},
        {"insertion": True},
        {"index": True},
        {"index_of": "why-0123abcd"},
        {"methods": ["saliency"]},
        {"test": "digits"},
    ],
)
def test_training_attributions_that_both_refuse(change: dict[str, Any]) -> None:
    value = {**TFA, **change}
    assert not models_accept(value)
    assert not schema_accepts(value)


_SLOW = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


@_SLOW
@given(data=st.data())
def test_what_the_models_accept_the_schema_accepts(
    valid_manifests: st.SearchStrategy[dict[str, Any]], data: st.DataObject
) -> None:
    value = data.draw(valid_manifests)
    assert models_accept(value)
    assert schema_accepts(value), [error.message for error in validator().iter_errors(value)]


_WRONG = (-1, 1.5, True, "no such thing", [], {"no_such_key": 1}, [None], "http://x")


@_SLOW
@given(data=st.data())
def test_one_wrong_value_has_one_verdict(
    valid_manifests: st.SearchStrategy[dict[str, Any]], data: st.DataObject
) -> None:
    value = data.draw(valid_manifests)
    target: Any = value
    while True:
        key = data.draw(st.sampled_from(list(target)))
        child = target[key]
        if not isinstance(child, dict) or not child or data.draw(st.booleans()):
            break
        target = child
    if data.draw(st.booleans()):
        target[key] = data.draw(st.sampled_from(_WRONG))
    else:
        target[f"{key}_"] = target.pop(key)
    pairs = value.get("preprocess")
    if isinstance(pairs, dict) and ("mean" in pairs) != ("std" in pairs):
        return  # a rule across keys, which the schema leaves to the models
    if target is pairs and key in ("mean", "std"):
        return
    assert schema_accepts(value) == models_accept(value)
