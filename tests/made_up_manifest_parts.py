"""Strategies of the parts of valid manifests, with short forms and long ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


def part(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {key: _values(value) for key, value in required.items()},
        optional={key: _values(value) for key, value in optional.items()},
    )


def _values(value: Any) -> st.SearchStrategy[Any]:
    if isinstance(value, st.SearchStrategy):
        return value
    return st.sampled_from(value if isinstance(value, tuple) else (value,))


def data_sets() -> st.SearchStrategy[Any]:
    shared = {"limit": (None, 1, 500), "digest": ("content", "quick"), "max_pixels": 10_000}
    shared["classes"] = (None, ["a", "b"])
    patch = part(
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
        part({"format": "digits"}, {**patched, "split": ("train", "test", "all")}),
        part(
            {"format": "blockmnist"},
            {**shared, "digits": ([3, 8], [2, 1, 0]), "signal": ("top", "random"), "seed": 1},
        ),
        part(
            {"format": "theory", "rows": (1, 500)},
            {"blocks": (2, 20), "block_dim": 3, "eta": (0, 0.5), "limit": (None, 3)},
        ),
        part({"format": "idx", "images": "x.gz"}, {**patched, "labels": (None, "y.gz")}),
        part({"format": "cifar10", "files": files}, patched),
        part({"format": "svhn", "file": "x.mat"}, patched),
        part({"format": "folder", "url": ("gs://b/photos", "photos")}, patched),
        part(
            {"format": "parquet", "files": files},
            {**shared, "image": "img", "label": (None, "y"), "shape": (None, [3, 8, 8])},
        ),
        part(
            {"format": "npz", "file": "x.npz"},
            {**shared, "layout": ("nchw", "nhwc"), "masks": (None, "m")},
        ),
        part({"format": "webdataset", "files": files}, shared),
        part({"format": "torchvision", "name": "MNIST"}, {"download": (True, False)}),
    )


def recipe() -> dict[str, Any]:
    adversary = part(
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


def trainings(own_data: bool = True) -> st.SearchStrategy[Any]:
    """A ``train`` block; in an audit it may go without data."""
    data: dict[str, Any] = {"data": data_sets()}
    test = {"test": st.one_of(st.none(), data_sets())}
    if own_data:
        return part(data, {**test, **recipe(), "permute_labels": (None, 0, 3)})
    return part({}, {**data, **test, **recipe()})


def models(trained: bool, own_data: bool = True) -> st.SearchStrategy[Any]:
    train = {"train": trainings(own_data)}
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
        part({**arm, **origin}, {**more, "num_classes": (None, 10)})
        for arm, more in arms
        for origin in origins
    )


def methods(baselines: bool = True) -> st.SearchStrategy[Any]:
    baseline = st.one_of(
        st.sampled_from(["black", "mean", "blur", "noise", "uniform", "sample", "uni"]),
        part({"kind": "blur"}, {"kernel": (3, 11), "sigma": (1, 2.5)}),
        part({"kind": "noise"}, {"sigma": 0.5}),
        part({"kind": "uni"}, {"eta": 2, "iterations": 3, "eps": 0.5, "mu": 1}),
        part({"kind": "sample"}, {"count": (1, 64), "data": st.one_of(st.none(), data_sets())}),
    )
    shared = {
        "target": (None, "logit_true", 3),
        "smooth": (None, {}, {"samples": 3, "sigma": 0}),
        "post": ([], ["abs", "channel_sum"], ["normalize_max"]),
    }
    half = {"layer": (None, "features.3")}
    one = st.one_of(
        st.sampled_from(["saliency", "random" if baselines else "gradient", "vargrad"]),
        part({"name": ("gradient", "input_x_gradient")}, shared),
        part({"name": "smoothgrad"}, {**shared, "samples": 5, "sigma": (0, 0.2)}),
        part({"name": "integrated_gradients"}, {"steps": 9, "rule": "left", "baseline": baseline}),
        part({"name": "uni"}, {"steps": 1, "rule": "midpoint", "eps": 2, **shared}),
        part({"name": "blur_ig"}, {"max_sigma": (None, 5), "steps": 2, "rule": "left"}),
        part({"name": "guided_ig"}, {"fraction": (0, 1), "max_dist": 0.1, "baseline": baseline}),
        part(
            {"name": "agi"},
            {"iterations": 3, "classes": 2, "eps": 0.1, "step_from": "original", **shared},
        ),
        part({"name": "gradient_shap"}, {"samples": 4, "stdev": 0.1, "baseline": baseline}),
        part({"name": ("guided_backprop", "deconvolution")}, shared),
        part({"name": "deep_lift"}, {"baseline": baseline}),
        part({"name": "deep_shap"}, {"samples": 2, "baseline": baseline}),
        part({"name": "lrp"}, {"rule": ("epsilon", "epsilon_plus_flat"), "epsilon": 0.1}),
        part({"name": ("grad_cam", "grad_cam_plus_plus", "guided_grad_cam")}, half | shared),
        part({"name": ("layer_activation", "layer_gradient_x_activation")}, half),
        part({"name": "layer_conductance"}, half | {"steps": 3, "baseline": baseline}),
        part({"name": ("attention", "attention_x_gradient")}, {"block": -2, "head": ("mean", 1)}),
        part({"name": "attention_rollout"}, {"residual": (True, False), "head": 0}),
        part({"name": "occlusion"}, {"window": (None, 3), "stride": 2, "baseline": baseline}),
        part({"name": "lime"}, {"segments": "slic", "count": 9, "kernel_width": 1, "ridge": 0}),
        part({"name": "kernel_shap"}, {"samples": 9, "baseline": baseline}),
        part({"name": "rise"}, {"cells": 4, "keep": 0.2, "samples": 8, **shared}),
        part({"name": "linear", "train": trainings()}, shared) if baselines else st.nothing(),
    )
    return st.lists(one, min_size=1, max_size=3).map(with_ids)


def with_ids(methods: list[Any], tag: str = "name") -> list[Any]:
    return [
        {**({tag: method} if isinstance(method, str) else method), "id": f"m{index}"}
        if index
        else method
        for index, method in enumerate(methods)
    ]


def metrics() -> st.SearchStrategy[Any]:
    forward = {"images": (None, 3), "score": "logit", "precision": "bf16"}
    one = st.one_of(
        st.sampled_from(
            ["path_monotonicity", "baseline", "completeness", "complexity", "cost", "attack"]
        ),
        part(
            {"metric": ("deletion",)},
            {**forward, "fill": ("black", "blur", 0, -0.5), "rank": "magnitude", "kernel": 5},
        ),
        part({"metric": "insertion"}, {**forward, "start": "mean", "per_pixel": False}),
        part({"metric": "mu_fidelity"}, {**forward, "subsets": 9, "share": 0.5, "grid": 4}),
        part({"metric": "road"}, {**forward, "percentages": ([5, 50.5],), "noise": 0}),
        part({"metric": "infidelity"}, {**forward, "perturbation": "square", "size": 3}),
        part({"metric": "attack"}, {"kind": "gradient", "eps": 0.1, "candidates": 0, "top": 9}),
        part({"metric": "sensitivity"}, {"radius": 0.1, "norm": "l2", "samples": 2}),
        part({"metric": "stability"}, {"steps": ([1, 2],), "top": 5}),
        part({"metric": "randomisation"}, {"order": "independent", "modules": (["fc"],)}),
        part({"metric": "label_randomisation", "train": trainings()}, {"top": 5}),
        part({"metric": "complexity"}, {"threshold": 0.5}),
    )
    found = st.lists(one, min_size=1, max_size=3)
    return found.map(lambda metrics: with_ids(metrics, "metric"))


def checks() -> st.SearchStrategy[dict[str, Any]]:
    demands = st.one_of(
        part({}, {"at_least": (0, -1.5)}).flatmap(lambda low: part({"at_most": 3}, low)),
        part({"above": 0.5}, {"name": "mine", "below": (None, 1)}),
        part(
            {"not_worse_than": ("last", "run:a-0123abcd")},
            {"by": (0, 0.1), "by_interval": (False, True)},
        ),
    )
    of_methods = {"method": ("uni", "m1")}
    known = st.one_of(
        part({"check": "summary", "metric": "deletion_auc", **of_methods}, {"better_than": "m2"}),
        part({"check": "diffroar", "scheme": "a/uni", "level": (0.1, 1)}, {"learner": "a"}),
        part({"check": "predictions"}, {"measure": ("loss", "not_ok"), "statistic": "mean"}),
        part({"check": "attributions", "measure": "path_spearman", **of_methods}, {}),
        part({"check": "faithfulness", "baseline": "uni", "measure": ("l2", "spearman")}, {}),
        part({"check": "index_recall", **of_methods}, {"side": "harmful"}),
    )
    unknown = st.one_of(
        part({"check": "leakage", "level": 0.1, **of_methods}, {"measure": "mass_ratio"}),
        part(
            {"check": "tfa_map_scores", "map_method": "tfa", **of_methods},
            {"measure": "marked_share"},
        ).map(lambda found: {"measure": "abs_total", **found}),
        part(
            {"check": "tfa_summary", "map_method": "tfa", "level": 1, **of_methods},
            {"test": "deletion", "steps": 3},
        ),
    )
    either = st.booleans().map(lambda better: {"higher_is_better": better})
    without = part({}, {"above": 0}).map(lambda found: {"at_most": 1, **found})
    plain = st.one_of(
        part({"check": "training", "measure": "accuracy"}, {"model": "linear:m1"}),
        part({"check": "sql", "name": "n", "sql": "SELECT 1"}, {}),
    )
    compared = demands.filter(lambda asked: "not_worse_than" in asked)
    return st.one_of(
        st.builds(_merged, known, demands),
        st.builds(_merged, unknown, compared, either),
        st.builds(_merged, st.one_of(known, unknown, plain), without),
    )


def _merged(*parts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


def scores(of_gradients: bool = False) -> st.SearchStrategy[Any]:
    gradient = st.one_of(
        st.sampled_from(["grad_cos", "grad_dot"]), part({"score": "grad_cos"}, {"id": "cos"})
    )
    checkpoint = part({"weights": ("w.pt", "s3://b/w"), "lr": (0.1, 1)}, {"sha256": (None,)})
    one = st.one_of(
        gradient,
        part({"score": "tracin", "checkpoints": st.lists(checkpoint, min_size=1, max_size=2)}, {}),
        part({"score": "relatif"}, {"damping": (1, 1e-3), "examples": (None, 500)}),
        part(
            {"score": "influence", "inverse": "cg"},
            {"matrix": ("hessian", "gauss_newton"), "tolerance": 1e-3, "max_steps": 5},
        ),
        part({"score": "random"}, {"seed": (0, 5)}),
    )
    found = st.lists(gradient if of_gradients else one, min_size=1, max_size=3)
    return found.map(lambda scores: with_ids(scores, "score"))


def training_maps() -> st.SearchStrategy[Any]:
    one = st.one_of(
        st.just("tfa"),
        part(
            {"map": "tfa"},
            {
                "samples": (1, 50),
                "sigma": (0, 0.2),
                "of": ("score", "grad_cos", "grad_dot"),
                "times_input": True,
            },
        ),
        part({"map": "tfa", "layer": "layer4"}, {"reading": ("agreement", "gradient")}),
        part(
            {"map": "two_step", "method": ("saliency", {"name": "smoothgrad", "samples": 3})},
            {"target": ("logit_pred", 3)},
        ),
    )
    found = st.lists(one, min_size=1, max_size=3)
    return found.map(lambda maps: with_ids(maps, "map"))
