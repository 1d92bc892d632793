"""Strategies of valid manifests of every kind, with short forms and long ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.made_up_manifest_parts import (
    checks,
    data_sets,
    methods,
    metrics,
    models,
    part,
    recipe,
    scores,
    training_maps,
    with_ids,
)


def manifests() -> st.SearchStrategy[dict[str, Any]]:
    shared = {
        "version": 1,
        "seed": (0, 7, 2**63 - 1),
        "engine": ({}, {"device": "cuda:1", "batch_size": 8, "tune": False}),
        "runtime": ({}, {"address": "ray://head:10001", "workers": 2, "gpus_per_task": 0.5}),
        "store": ("s3://b/p", {"url": "out", "maps": "topk:9", "secret_key": "${KEY}"}, {}),
        "checks": st.lists(checks(), max_size=3),
    }
    preprocess = {"resize": (None, 8, [8, 9]), "crop": 8, "color": "gray"}
    scaled = {"mean": [0.5], "std": [0.25]}
    steps = st.one_of(part({}, preprocess), part(scaled, preprocess))
    attribute = part(
        {
            "kind": "attribute",
            "name": ("a", "run-1"),
            "data": data_sets(),
            "model": models(trained=False),
            "methods": methods(),
        },
        {
            **shared,
            "preprocess": steps,
            "target": ("prob_pred", 0),
            "shard_rows": (1, 1000),
            "errors": ({"max": 0.5}, {}),
        },
    )
    train = part(
        {"kind": "train", "name": "a-b", "model": models(trained=True)},
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
    given = {"data": data_sets(), "model": models(trained=False)}
    asked = {"kind": "attribute", "methods": methods()}
    train = part({"kind": "train", "model": models(trained=True)}, own)
    named = st.sampled_from(["maps", "7", "a-b"])
    whole = st.one_of(part({**asked, **given}, {**own, "shard_rows": 9}), train)
    checks = [
        {"check": "sql", "name": "n", "sql": "SELECT 1", "above": 0},
        {"job": "maps", "check": "training", "measure": "loss", "below": 1},
    ]
    head = {"kind": "audit", "name": ("w", "w-1")}
    more = {key: value for key, value in shared.items() if key != "checks"}
    with_maps = st.fixed_dictionaries({"maps": whole}, optional={"b": whole})
    return st.one_of(
        part({**head, "jobs": st.dictionaries(named, whole, min_size=1, max_size=2)}, more),
        part({**head, "jobs": with_maps, "checks": (checks,)}, more),
        part(
            {
                **head,
                "common": part(given, {"target": "prob_pred", "errors": {"max": 0.5}}),
                "jobs": st.dictionaries(named, part(asked, own), min_size=1, max_size=2),
            },
            more,
        ),
    )


def _evaluations(shared: dict[str, Any], more: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    head = {"kind": "evaluate", "name": ("e", "e-1"), "metrics": metrics()}
    asked = {"data": data_sets(), "model": models(trained=False), "methods": methods()}
    return st.one_of(
        part({**head, **asked}, {**shared, **more, "target": ("prob_pred", 0, "logit_true")}),
        part({**head, "attributions": "run:maps-0123abcd"}, {**shared, "shard_rows": 7}),
    )


def _patchings(shared: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    data = part(
        {"file": ("a.jsonl", "s3://b/x.parquet"), "foil": "f", "corrupted": "c"},
        {"format": ("auto", "csv"), "answer": (None, "a"), "id": "n", "limit": (None, 5)},
    )
    text = part({"file": "a.txt"}, {"format": ("auto", "text"), "prompt": "p", "limit": 1})
    start = st.one_of(
        st.sampled_from(["uni", "zero", "random", "noise", "mean"]),
        part({"baseline": "uni"}, {"eta": 2, "iterations": 3, "eps": 0.5, "mu": 1}),
        part({"baseline": "random"}, {"at": ("norm", "sphere"), "eps": 1}),
        part({"baseline": "noise"}, {"sigma": 0.5}),
    )
    starts = st.lists(start, min_size=1, max_size=3)
    more = {
        "baselines": starts.map(lambda found: with_ids(found, "baseline")),
        "sites": ("all", [0], [0, 3, 12]),
        "methods": (["activation_patching"], ["integrated_patching", "attribution_patching"]),
        "integration": ({}, {"steps": 3, "rule": "trapezoid"}),
        "max_tokens": 9,
        "shard_rows": (1, 1000),
        "errors": ({"max": 0.5}, {}),
    }
    model = part(
        {"path": ("gpt2", "models/mine")}, {"revision": (None, "main"), "blocks": (None, "h.*")}
    )
    own = {"kind": "patching", "name": ("a", "p-1"), "model": model}
    given = {"score": ("prob", "logit_difference"), "answer": ("auto", "predicted")}
    return st.one_of(
        part({**own, "data": data}, {**shared, **more, **given}),
        part({**own, "data": text}, {**shared, **more, "score": ("log_prob", "logit")}),
    )


def _audits(shared: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(["standard", "robust", "m.1"])
    base = st.dictionaries(names, models(trained=True, own_data=False), min_size=1, max_size=2)
    mask = part(
        {},
        {
            "value": (0, -0.5, [0.1, 0.2, 0.3]),
            "space": ("pixels", "normalized"),
            "ties": "index",
            "per_pixel": (True, False),
        },
    )
    return part(
        {
            "kind": "diffroar",
            "name": "audit",
            "data": data_sets(),
            "test": data_sets(),
            "models": base,
        },
        {
            **shared,
            "methods": methods(baselines=False),
            "target": ("loss_true", 0),
            "baselines": ([], ["random"], ["linear", "random"]),
            "levels": ([0.1, 0.5, 1.0], [1], [0.001]),
            "seeds": (1, 5),
            "retrain": st.one_of(st.sampled_from([None, False]), part({}, recipe())),
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
        part({"data": data_sets(), "ids": (["a"], ["b", "00000001"])}, target),
        part(
            {"data": data_sets()},
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
    sketched = {"scores": scores(of_gradients=True), "keep": ("none", "top:7")}
    index = part({}, {"buckets": (16, 4096), "seed": 1, "candidates": 9, "recall_queries": 0})
    uses = [
        {"scores": scores(), "keep": ("full", "top:100", "above:.5", "above:1e-3"), "top": (1, 9)},
        {**sketched, "index": index},
        {**sketched, "index_of": "run:why-0123abcd"},
    ]
    tested = {
        "maps": training_maps(),
        "insertion": part(
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
        part(
            {
                "kind": "tfa",
                "name": ("why", "t-1"),
                "data": data_sets(),
                "queries": queries,
                "model": models(trained=False, own_data=False),
                **(tested if with_test else {}),
            },
            {**shared, **more, **use, **({} if with_test else {"maps": ([], ["tfa"])})},
        )
        for use in uses
        for with_test in (False, True)
    )
