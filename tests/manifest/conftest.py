"""A small valid manifest, its faults as lines, and a strategy of valid manifests."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import strategies as st

from gradattr.errors import ManifestError
from gradattr.manifest.loading import parse_manifest

MINIMAL = """\
kind: attribute
name: tiny
data: digits
model:
  arch: mlp
  weights: model.safetensors
methods: [saliency]
"""


@pytest.fixture(scope="session")
def minimal() -> str:
    return MINIMAL


@pytest.fixture(scope="session")
def faults() -> Callable[..., list[str]]:
    """Lines of the ManifestError that a text causes."""

    def lines(text: str | bytes, overrides: Sequence[str] = ()) -> list[str]:
        with pytest.raises(ManifestError) as caught:
            parse_manifest(text, file="m.yaml", overrides=overrides)
        return str(caught.value).split("\n")

    return lines


@pytest.fixture(scope="session")
def fault(faults: Callable[..., list[str]]) -> Callable[..., str]:
    """The one line of a text that has one fault."""

    def line(text: str | bytes, overrides: Sequence[str] = ()) -> str:
        found = faults(text, overrides)
        assert len(found) == 1, found
        return found[0]

    return line


@pytest.fixture(scope="session")
def valid_manifests() -> st.SearchStrategy[dict[str, Any]]:
    """Manifests of every kind, with short forms and long ones, that the models accept."""
    inner = _manifests()

    @st.composite
    def manifest(draw: st.DrawFn) -> dict[str, Any]:
        # Tests damage what they draw; the strategy's own values must not change under them.
        return copy.deepcopy(draw(inner))

    return manifest()


def _part(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {key: _values(value) for key, value in required.items()},
        optional={key: _values(value) for key, value in optional.items()},
    )


def _values(value: Any) -> st.SearchStrategy[Any]:
    if isinstance(value, st.SearchStrategy):
        return value
    return st.sampled_from(value if isinstance(value, tuple) else (value,))


def _data() -> st.SearchStrategy[Any]:
    shared = {"limit": (None, 1, 500), "digest": ("content", "quick"), "max_pixels": 10_000}
    shared["classes"] = (None, ["a", "b"])
    patch = _part(
        {"size": (1, 5)},
        {
            "class": (None, "dog", 3),
            "fraction": (0, 0.5, 1),
            "colour": ([255], [255, 0, 0]),
            "corner": "top_left",
            "margin": 2,
            "seed": 7,
        },
    )
    patched = {**shared, "patch": st.one_of(st.none(), patch)}
    files = (["a.parquet"], ["s3://b/a", "file:///x/*.bin"])
    return st.one_of(
        st.sampled_from(["digits", "torchvision:CIFAR10"]),
        _part({"format": "digits"}, {**patched, "split": ("train", "test", "all")}),
        _part(
            {"format": "blockmnist"},
            {**shared, "digits": ([3, 8], [2, 1, 0]), "signal": ("top", "random"), "seed": 1},
        ),
        _part(
            {"format": "theory", "rows": (1, 500)},
            {"blocks": (2, 20), "block_dim": 3, "eta": (0, 0.5), "limit": (None, 3)},
        ),
        _part({"format": "idx", "images": "x.gz"}, {**patched, "labels": (None, "y.gz")}),
        _part({"format": "cifar10", "files": files}, patched),
        _part({"format": "svhn", "file": "x.mat"}, patched),
        _part({"format": "folder", "url": ("gs://b/photos", "photos")}, patched),
        _part(
            {"format": "parquet", "files": files},
            {**shared, "image": "img", "label": (None, "y"), "shape": (None, [3, 8, 8])},
        ),
        _part(
            {"format": "npz", "file": "x.npz"},
            {**shared, "layout": ("nchw", "nhwc"), "masks": (None, "m")},
        ),
        _part({"format": "webdataset", "files": files}, shared),
        _part({"format": "torchvision", "name": "MNIST"}, {"download": (True, False)}),
    )


def _recipe() -> dict[str, Any]:
    adversary = _part(
        {"norm": ("l2", "linf"), "eps": (0, 0.5)},
        {"steps": 3, "step_size": (None, 0.1), "start": "random", "space": "normalized"},
    )
    return {
        "optimizer": ("sgd", "adam"),
        "lr": (0.1, 1e-3, 1),
        "lr_decay": (0.5, 1),
        "epochs": (1, 500),
        "augment": (None, {}, {"flip": False, "crop_padding": 0}),
        "stop_below": (0, 0.1),
        "adversary": st.one_of(st.none(), adversary),
        "workers": (1, 4),
    }


def _train(own_data: bool = True) -> st.SearchStrategy[Any]:
    """A ``train`` block; in an audit it may go without data."""
    data: dict[str, Any] = {"data": _data()}
    test = {"test": st.one_of(st.none(), _data())}
    if own_data:
        return _part(data, {**test, **_recipe(), "permute_labels": (None, 0, 3)})
    return _part({}, {**data, **test, **_recipe()})


def _models(trained: bool, own_data: bool = True) -> st.SearchStrategy[Any]:
    train = {"train": _train(own_data)}
    stored = {"weights": ("w.pt", "run:a-1")}
    origins = [train] if trained else [train, stored]
    arms: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"arch": "linear"}, {}),
        ({"arch": "mlp"}, {"hidden": ([8], [64, 64])}),
        ({"arch": "cnn"}, {"width": 8}),
        ({"arch": ("resnet18", "resnet50")}, {"stem": ("cifar", "imagenet")}),
        ({"arch": ("resnet20", "resnet32", "resnet56")}, {}),
        ({"arch": "vit"}, {"patch": 2, "depth": 1, "heads": 2, "width": (8, 64)}),
        ({"arch": "torchvision:vgg16"}, {}),
        ({"arch": "torchvision", "name": "vgg16"}, {}),
        ({"arch": "python:my.mod:fn"}, {"kwargs": ({"a": 1, "b": "x", "c": None, "d": True},)}),
        ({"arch": "python", "factory": "m:f"}, {}),
    ]
    return st.one_of(
        _part({**arm, **origin}, {**more, "num_classes": (None, 10)})
        for arm, more in arms
        for origin in origins
    )


def _methods(baselines: bool = True) -> st.SearchStrategy[Any]:
    baseline = st.one_of(
        st.sampled_from(["black", "mean", "blur", "noise", "uniform", "sample", "uni"]),
        _part({"kind": "blur"}, {"kernel": (3, 11), "sigma": (1, 2.5)}),
        _part({"kind": "noise"}, {"sigma": 0.5}),
        _part({"kind": "uni"}, {"eta": 2, "iterations": 3, "eps": 0.5, "mu": 1}),
        _part({"kind": "sample"}, {"count": (1, 64), "data": st.one_of(st.none(), _data())}),
    )
    shared = {
        "target": (None, "logit_true", 3),
        "smooth": (None, {}, {"samples": 3, "sigma": 0}),
        "post": ([], ["abs", "channel_sum"], ["normalize_max"]),
    }
    half = {"layer": (None, "features.3")}
    one = st.one_of(
        st.sampled_from(["saliency", "random" if baselines else "gradient", "vargrad"]),
        _part({"name": ("gradient", "input_x_gradient")}, shared),
        _part({"name": "smoothgrad"}, {**shared, "samples": 5, "sigma": (0, 0.2)}),
        _part({"name": "integrated_gradients"}, {"steps": 9, "rule": "left", "baseline": baseline}),
        _part({"name": "uni"}, {"steps": 1, "rule": "midpoint", "eps": 2, **shared}),
        _part({"name": "blur_ig"}, {"max_sigma": (None, 5), "steps": 2, "rule": "left"}),
        _part({"name": "guided_ig"}, {"fraction": (0, 1), "max_dist": 0.1, "baseline": baseline}),
        _part(
            {"name": "agi"},
            {"iterations": 3, "classes": 2, "eps": 0.1, "step_from": "original", **shared},
        ),
        _part({"name": "gradient_shap"}, {"samples": 4, "stdev": 0.1, "baseline": baseline}),
        _part({"name": ("guided_backprop", "deconvolution")}, shared),
        _part({"name": "deep_lift"}, {"baseline": baseline}),
        _part({"name": "deep_shap"}, {"samples": 2, "baseline": baseline}),
        _part({"name": "lrp"}, {"rule": ("epsilon", "epsilon_plus_flat"), "epsilon": 0.1}),
        _part({"name": ("grad_cam", "grad_cam_plus_plus", "guided_grad_cam")}, half | shared),
        _part({"name": ("layer_activation", "layer_gradient_x_activation")}, half),
        _part({"name": "layer_conductance"}, half | {"steps": 3, "baseline": baseline}),
        _part({"name": ("attention", "attention_x_gradient")}, {"block": -2, "head": ("mean", 1)}),
        _part({"name": "attention_rollout"}, {"residual": (True, False), "head": 0}),
        _part({"name": "occlusion"}, {"window": (None, 3), "stride": 2, "baseline": baseline}),
        _part({"name": "lime"}, {"segments": "slic", "count": 9, "kernel_width": 1, "ridge": 0}),
        _part({"name": "kernel_shap"}, {"samples": 9, "baseline": baseline}),
        _part({"name": "rise"}, {"cells": 4, "keep": 0.2, "samples": 8, **shared}),
        _part({"name": "linear", "train": _train()}, shared) if baselines else st.nothing(),
    )
    return st.lists(one, min_size=1, max_size=3).map(_with_ids)


def _with_ids(methods: list[Any], tag: str = "name") -> list[Any]:
    return [
        {**({tag: method} if isinstance(method, str) else method), "id": f"m{index}"}
        if index
        else method
        for index, method in enumerate(methods)
    ]


def _manifests() -> st.SearchStrategy[dict[str, Any]]:
    shared = {
        "version": 1,
        "seed": (0, 7, 2**63 - 1),
        "engine": ({}, {"device": "cuda:1", "batch_size": 8, "tune": False}),
        "runtime": ({}, {"address": "ray://head:10001", "workers": 2, "gpus_per_task": 0.5}),
        "store": ("s3://b/p", {"url": "out", "maps": "topk:9", "secret_key": "${KEY}"}, {}),
        "checks": st.lists(_checks(), max_size=3),
    }
    preprocess = {"resize": (None, 8, [8, 9]), "crop": 8, "color": "gray"}
    scaled = {"mean": [0.5], "std": [0.25]}
    steps = st.one_of(_part({}, preprocess), _part(scaled, preprocess))
    attribute = _part(
        {
            "kind": "attribute",
            "name": ("a", "run-1"),
            "data": _data(),
            "model": _models(trained=False),
            "methods": _methods(),
        },
        {
            **shared,
            "preprocess": steps,
            "target": ("prob_pred", 0),
            "shard_rows": (1, 1000),
            "errors": ({"max": 0.5}, {}),
        },
    )
    train = _part(
        {"kind": "train", "name": "a-b", "model": _models(trained=True)},
        {**shared, "preprocess": steps},
    )
    more = {"preprocess": steps, "shard_rows": (1, 1000), "errors": {}}
    return st.one_of(
        attribute,
        train,
        _evaluations(shared, more),
        _audits({**shared, "preprocess": steps}),
        _training_attributions({**shared, "preprocess": steps}),
        _patchings(shared),
        _audits_of_jobs(shared),
    )


def _audits_of_jobs(shared: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Audits, of jobs that state everything, or that leave data and model to 'common'."""
    own = {
        "seed": 3,
        "engine": ({}, {"tune": False}),
        "runtime": ({}, {"workers": 2}),
        "store": ({}, {"maps": "int8"}),
    }
    given = {"data": _data(), "model": _models(trained=False)}
    asked = {"kind": "attribute", "methods": _methods()}
    train = _part({"kind": "train", "model": _models(trained=True)}, own)
    named = st.sampled_from(["maps", "7", "a-b"])
    whole = st.one_of(_part({**asked, **given}, {**own, "shard_rows": 9}), train)
    checks = [
        {"check": "sql", "name": "n", "sql": "SELECT 1", "above": 0},
        {"job": "maps", "check": "training", "measure": "loss", "below": 1},
    ]
    head = {"kind": "audit", "name": ("w", "w-1")}
    more = {key: value for key, value in shared.items() if key != "checks"}
    with_maps = st.fixed_dictionaries({"maps": whole}, optional={"b": whole})
    return st.one_of(
        _part({**head, "jobs": st.dictionaries(named, whole, min_size=1, max_size=2)}, more),
        _part({**head, "jobs": with_maps, "checks": (checks,)}, more),
        _part(
            {
                **head,
                "common": _part(given, {"target": "prob_pred", "errors": {"max": 0.5}}),
                "jobs": st.dictionaries(named, _part(asked, own), min_size=1, max_size=2),
            },
            more,
        ),
    )


def _metrics() -> st.SearchStrategy[Any]:
    forward = {"images": (None, 3), "score": "logit", "precision": "bf16"}
    one = st.one_of(
        st.sampled_from(
            ["path_monotonicity", "baseline", "completeness", "complexity", "cost", "attack"]
        ),
        _part(
            {"metric": ("deletion",)},
            {**forward, "fill": ("black", "blur", 0, -0.5), "rank": "magnitude", "kernel": 5},
        ),
        _part({"metric": "insertion"}, {**forward, "start": "mean", "per_pixel": False}),
        _part({"metric": "mu_fidelity"}, {**forward, "subsets": 9, "share": 0.5, "grid": 4}),
        _part({"metric": "road"}, {**forward, "percentages": ([5, 50.5],), "noise": 0}),
        _part({"metric": "infidelity"}, {**forward, "perturbation": "square", "size": 3}),
        _part({"metric": "attack"}, {"kind": "gradient", "eps": 0.1, "candidates": 0, "top": 9}),
        _part({"metric": "sensitivity"}, {"radius": 0.1, "norm": "l2", "samples": 2}),
        _part({"metric": "stability"}, {"steps": ([1, 2],), "top": 5}),
        _part({"metric": "randomisation"}, {"order": "independent", "modules": (["fc"],)}),
        _part({"metric": "label_randomisation", "train": _train()}, {"top": 5}),
        _part({"metric": "complexity"}, {"threshold": 0.5}),
    )
    found = st.lists(one, min_size=1, max_size=3)
    return found.map(lambda metrics: _with_ids(metrics, "metric"))


def _evaluations(shared: dict[str, Any], more: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    head = {"kind": "evaluate", "name": ("e", "e-1"), "metrics": _metrics()}
    asked = {"data": _data(), "model": _models(trained=False), "methods": _methods()}
    return st.one_of(
        _part({**head, **asked}, {**shared, **more, "target": ("prob_pred", 0, "logit_true")}),
        _part({**head, "attributions": "run:maps-0123abcd"}, {**shared, "shard_rows": 7}),
    )


def _patchings(shared: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    data = _part(
        {"file": ("a.jsonl", "s3://b/x.parquet"), "foil": "f", "corrupted": "c"},
        {"format": ("auto", "csv"), "answer": (None, "a"), "id": "n", "limit": (None, 5)},
    )
    text = _part({"file": "a.txt"}, {"format": ("auto", "text"), "prompt": "p", "limit": 1})
    start = st.one_of(
        st.sampled_from(["uni", "zero", "random", "noise", "mean"]),
        _part({"baseline": "uni"}, {"eta": 2, "iterations": 3, "eps": 0.5, "mu": 1}),
        _part({"baseline": "random"}, {"at": ("norm", "sphere"), "eps": 1}),
        _part({"baseline": "noise"}, {"sigma": 0.5}),
    )
    starts = st.lists(start, min_size=1, max_size=3)
    more = {
        "baselines": starts.map(lambda found: _with_ids(found, "baseline")),
        "sites": ("all", [0], [0, 3, 12]),
        "methods": (["activation_patching"], ["integrated_patching", "attribution_patching"]),
        "integration": ({}, {"steps": 3, "rule": "trapezoid"}),
        "max_tokens": 9,
        "shard_rows": (1, 1000),
        "errors": ({"max": 0.5}, {}),
    }
    model = _part(
        {"path": ("gpt2", "models/mine")}, {"revision": (None, "main"), "blocks": (None, "h.*")}
    )
    own = {"kind": "patching", "name": ("a", "p-1"), "model": model}
    given = {"score": ("prob", "logit_difference"), "answer": ("auto", "predicted")}
    return st.one_of(
        _part({**own, "data": data}, {**shared, **more, **given}),
        _part({**own, "data": text}, {**shared, **more, "score": ("log_prob", "logit")}),
    )


def _checks() -> st.SearchStrategy[dict[str, Any]]:
    demands = st.one_of(
        _part({}, {"at_least": (0, -1.5)}).flatmap(lambda low: _part({"at_most": 3}, low)),
        _part({"above": 0.5}, {"name": "mine", "below": (None, 1)}),
        _part(
            {"not_worse_than": ("last", "run:a-0123abcd")},
            {"by": (0, 0.1), "by_interval": (False, True)},
        ),
    )
    of_methods = {"method": ("uni", "m1")}
    known = st.one_of(
        _part({"check": "summary", "metric": "deletion_auc", **of_methods}, {"better_than": "m2"}),
        _part({"check": "diffroar", "scheme": "a/uni", "level": (0.1, 1)}, {"learner": "a"}),
        _part({"check": "predictions"}, {"measure": ("loss", "not_ok"), "statistic": "mean"}),
        _part({"check": "attributions", "measure": "path_spearman", **of_methods}, {}),
        _part({"check": "faithfulness", "baseline": "uni", "measure": ("l2", "spearman")}, {}),
        _part({"check": "index_recall", **of_methods}, {"side": "harmful"}),
    )
    unknown = st.one_of(
        _part({"check": "leakage", "level": 0.1, **of_methods}, {"measure": "mass_ratio"}),
        _part(
            {"check": "tfa_map_scores", "map_method": "tfa", **of_methods},
            {"measure": "marked_share"},
        ).map(lambda found: {"measure": "abs_total", **found}),
        _part(
            {"check": "tfa_summary", "map_method": "tfa", "level": 1, **of_methods},
            {"test": "deletion", "steps": 3},
        ),
    )
    either = st.booleans().map(lambda better: {"higher_is_better": better})
    without = _part({}, {"above": 0}).map(lambda found: {"at_most": 1, **found})
    plain = st.one_of(
        _part({"check": "training", "measure": "accuracy"}, {"model": "linear:m1"}),
        _part({"check": "sql", "name": "n", "sql": "SELECT 1"}, {}),
    )
    compared = demands.filter(lambda asked: "not_worse_than" in asked)
    return st.one_of(
        st.builds(_merged, known, demands),
        st.builds(_merged, unknown, compared, either),
        st.builds(_merged, st.one_of(known, unknown, plain), without),
    )


def _merged(*parts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


def _audits(shared: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(["standard", "robust", "m.1"])
    base = st.dictionaries(names, _models(trained=True, own_data=False), min_size=1, max_size=2)
    mask = _part(
        {},
        {
            "value": (0, -0.5, [0.1, 0.2, 0.3]),
            "space": ("pixels", "normalized"),
            "ties": "index",
            "per_pixel": (True, False),
        },
    )
    return _part(
        {
            "kind": "diffroar",
            "name": "audit",
            "data": _data(),
            "test": _data(),
            "models": base,
        },
        {
            **shared,
            "methods": _methods(baselines=False),
            "target": ("loss_true", 0),
            "baselines": ([], ["random"], ["linear", "random"]),
            "levels": ([0.1, 0.5, 1.0], [1], [0.001]),
            "seeds": (1, 5),
            "retrain": st.one_of(st.sampled_from([None, False]), _part({}, _recipe())),
            "paired": ("weights", "all", "none"),
            "mask": mask,
            "mask_only": (True, False),
            "roar": (True, False),
            "shard_rows": (1, 1000),
        },
    )


def _training_attributions(shared: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    target = {"target": ("loss_pred", "logit_true")}
    queries = st.one_of(
        _part({"data": _data(), "ids": (["a"], ["b", "00000001"])}, target),
        _part(
            {"data": _data()},
            {
                **target,
                "select": ("all", "misclassified"),
                "classes": (None, ["a", 3]),
                "per_class": (None, 2),
                "count": (1, 500),
                "order": ("row", "loss"),
            },
        ),
    )
    sketched = {"scores": _scores(of_gradients=True), "keep": ("none", "top:7")}
    index = _part({}, {"buckets": (16, 4096), "seed": 1, "candidates": 9, "recall_queries": 0})
    uses = [
        {"scores": _scores(), "keep": ("full", "top:100", "above:.5", "above:1e-3"), "top": (1, 9)},
        {**sketched, "index": index},
        {**sketched, "index_of": "run:why-0123abcd"},
    ]
    tested = {
        "maps": _training_maps(),
        "insertion": _part(
            {"fill": (0, -0.5, [0.1, 0.2, 0.3])},
            {
                "tests": (["deletion"], ["insertion", "deletion"]),
                "levels": ([0.1, 0.5, 1], [1]),
                "steps": ([1], [1, 10]),
                "lr": 0.1,
                "sides": (["harmful"], ["helpful", "harmful"]),
            },
        ),
    }
    more = {
        "parameters": (None, ["fc.*"]),
        "localisation_level": (0.05, 1),
        "shard_rows": (1, 1000),
        "query_block": (1, 64),
        "map_queries": 4,
        "errors": ({"max": 0.5}, {}),
    }
    return st.one_of(
        _part(
            {
                "kind": "tfa",
                "name": ("why", "t-1"),
                "data": _data(),
                "queries": queries,
                "model": _models(trained=False, own_data=False),
                **(tested if with_test else {}),
            },
            {**shared, **more, **use, **({} if with_test else {"maps": ([], ["tfa"])})},
        )
        for use in uses
        for with_test in (False, True)
    )


def _scores(of_gradients: bool = False) -> st.SearchStrategy[Any]:
    gradient = st.one_of(
        st.sampled_from(["grad_cos", "grad_dot"]), _part({"score": "grad_cos"}, {"id": "cos"})
    )
    checkpoint = _part({"weights": ("w.pt", "s3://b/w"), "lr": (0.1, 1)}, {"sha256": (None,)})
    one = st.one_of(
        gradient,
        _part({"score": "tracin", "checkpoints": st.lists(checkpoint, min_size=1, max_size=2)}, {}),
        _part({"score": "relatif"}, {"damping": (1, 1e-3), "examples": (None, 500)}),
        _part(
            {"score": "influence", "inverse": "cg"},
            {"matrix": ("hessian", "gauss_newton"), "tolerance": 1e-3, "max_steps": 5},
        ),
        _part({"score": "random"}, {"seed": (0, 5)}),
    )
    found = st.lists(gradient if of_gradients else one, min_size=1, max_size=3)
    return found.map(lambda scores: _with_ids(scores, "score"))


def _training_maps() -> st.SearchStrategy[Any]:
    one = st.one_of(
        st.just("tfa"),
        _part(
            {"map": "tfa"},
            {
                "samples": (1, 50),
                "sigma": (0, 0.2),
                "of": ("score", "grad_cos", "grad_dot"),
                "times_input": True,
            },
        ),
        _part({"map": "tfa", "layer": "layer4"}, {"reading": ("agreement", "gradient")}),
        _part(
            {"map": "two_step", "method": ("saliency", {"name": "smoothgrad", "samples": 3})},
            {"target": ("logit_pred", 3)},
        ),
    )
    found = st.lists(one, min_size=1, max_size=3)
    return found.map(lambda maps: _with_ids(maps, "map"))
