"""Manifests of kind patching: what is filled in, and mistakes with their places."""

from __future__ import annotations

import pytest

from gradattr.errors import ManifestError
from gradattr.manifest.loading import load_data, parse_manifest

BASE = """\
kind: patching
name: sums
data: {file: a.jsonl, answer: answer}
model: {path: gpt2}
"""


def test_defaults():
    manifest = parse_manifest(BASE)
    assert [start.baseline for start in manifest.baselines] == ["uni", "zero", "random"]
    assert manifest.baselines[0].model_dump() == {
        "id": None, "baseline": "uni", "eta": 1.0, "iterations": 10, "eps": 0.25, "mu": 0.1,
    }  # fmt: skip
    assert manifest.methods == ["attribution_patching", "activation_patching"]
    assert manifest.estimates == ["attribution_patching"]
    assert (manifest.score, manifest.sites, manifest.answer) == ("prob", "all", "auto")
    alone = parse_manifest(BASE, overrides=["methods=[attribution_patching]"])
    assert alone.estimates == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("s3://b/x.txt", "text"),
        ("x.JSONL", "jsonl"),
        ("x.ndjson", "jsonl"),
        ("a/x.csv", "csv"),
        ("x.parquet", "parquet"),
    ],
)
def test_the_files_name_says_its_format(name, kind):
    text = BASE.replace("{file: a.jsonl, answer: answer}", f"{{file: '{name}'}}")
    assert parse_manifest(text).data.kind == kind


def test_settings_reach_into_baselines():
    text = BASE + "baselines: [uni, {baseline: random, id: r}]\n"
    changes = ["baselines.uni.eps=2", "baselines.r.at=sphere", "baselines.0.mu=0.5"]
    found = parse_manifest(text, overrides=changes).baselines
    assert (found[0].eps, found[0].mu, found[1].at) == (2, 0.5, "sphere")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("baselines: [unii]", r"m.yaml:5:13: baselines\[0\]: 'unii' is not one of.*mean 'uni'"),
        ("baselines: [{baseline: uni, epss: 1}]", r"5:29: baselines\[0\].epss.*mean 'eps'"),
        ("baselines: [uni, {baseline: uni}]", "'uni' stands there twice; give one of them an 'id'"),
        ("baselines: [corrupted]", "'corrupted' needs.*state data.corrupted"),
        ("baselines: []", "baselines"),
        ("score: logit_difference", "needs.*state data.foil"),
        ("score: probability", "m.yaml:5:8: score: 'probability' is not one of 'prob'"),
        ("methods: [activation_patching, activation_patching]", "stands there twice"),
        ("methods: [activation]", r"m.yaml:5:11: methods\[0\]: 'activation' is not"),
        ("sites: [2, 1]", "sites: give them in ascending order"),
        ("sites: [-1]", r"5:9: sites\[0\]"),
        ("sites: last", "m.yaml:5:8: sites: 'last' is not 'all' or a list of"),
        ("integration: {steps: 1, rule: trapezoid}", "needs at least 2"),
        ("engine: {precision: mixed}", "in fp32 only"),
        ("max_token: 5", "max_token: unknown key; did you mean 'max_tokens'"),
        ("target: logit_pred", "target: unknown key"),
    ],
)
def test_mistakes_have_a_place(line, told):
    with pytest.raises(ManifestError, match=told):
        parse_manifest(f"{BASE}{line}\n", file="m.yaml")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("{file: prompts}", "state format"),
        ("{file: a.txt, answer: x}", "m.yaml:3:22: data.answer|lines of text have no columns"),
        ("{file: http://x/a.txt}", "scheme 'http' is not allowed"),
        ("{files: [a.txt]}", "files: unknown key; did you mean 'file'"),
        ("digits", "m.yaml:3:7: data"),
    ],
)
def test_mistakes_in_data(data, told):
    text = BASE.replace("{file: a.jsonl, answer: answer}", data)
    with pytest.raises(ManifestError, match=told):
        parse_manifest(text, file="m.yaml")


def test_an_answer_that_is_given_needs_a_column():
    text = BASE.replace(", answer: answer", "") + "answer: given\n"
    with pytest.raises(ManifestError, match=r"state data\.answer"):
        parse_manifest(text)


def test_prompts_are_not_ingested(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(BASE)
    with pytest.raises(ManifestError, match=r"m.yaml:3:7: data: .* has prompts, not images"):
        load_data(path)
