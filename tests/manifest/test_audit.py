"""Audits: what their jobs have from them, and where faults of jobs are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gradattr.errors import ManifestError
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.audit import AuditManifest
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.manifest.job_kinds import JOB_KINDS
from gradattr.manifest.kinds import KINDS
from gradattr.manifest.loading import load_data, parse_manifest, resolved
from gradattr.manifest.nodes import plain
from gradattr.manifest.schema import manifest_schema
from gradattr.manifest.yaml_source import read_tree

Faults = Callable[..., list[str]]
Fault = Callable[..., str]

HEAD = "kind: audit\nname: weekly\n"
COMMON = "common:\n  data: digits\n  model: {arch: mlp, weights: w.pt}\n"
MAPS = "  maps: {kind: attribute, methods: [saliency]}\n"
TRUST = """\
  trust:
    kind: diffroar
    test: digits
    models: {standard: {arch: mlp, train: {}}}
"""
WHOLE = HEAD + COMMON + "jobs:\n" + MAPS + TRUST


def parsed(text: str, *overrides: str) -> AuditManifest:
    manifest = parse_manifest(text, file="m.yaml", overrides=overrides)
    assert isinstance(manifest, AuditManifest)
    return manifest


def test_jobs_are_whole_manifests() -> None:
    manifest = parsed(WHOLE)
    maps, trust = manifest.jobs.values()
    assert isinstance(maps, AttributeManifest)
    assert isinstance(trust, DiffRoarManifest)
    assert [job.name for job in (maps, trust)] == ["weekly-maps", "weekly-trust"]
    alone = parse_manifest(
        "kind: attribute\nname: weekly-maps\ndata: digits\n"
        "model: {arch: mlp, weights: w.pt}\nmethods: [saliency]\n"
    )
    assert maps == alone
    assert trust.data == trust.models["standard"].train.data == maps.data  # type: ignore[union-attr]
    assert manifest.common is None


def test_resolved_it_is_the_same_audit_without_common() -> None:
    manifest = parsed(WHOLE, "seed=4", "runtime.address=inline", "store=out")
    value = resolved(manifest)
    assert "common" not in value
    assert KINDS["audit"].model_validate(value) == manifest


def test_what_a_job_has_from_its_audit() -> None:
    top = "seed: 7\nstore: {url: out, maps: int8}\nruntime: {address: inline, retries: 5}\n"
    more = "engine: {precision: mixed, batch_size: 4}\n"
    own = (
        "  maps:\n    kind: attribute\n    methods: [saliency]\n    seed: 1\n"
        "    data: {format: digits, limit: 3}\n    store: {maps: none}\n"
        "    runtime: {retries: 0}\n    engine: {batch_size: 8}\n"
    )
    maps, trust = parsed(HEAD + top + more + COMMON + "jobs:\n" + own + TRUST).jobs.values()
    assert (maps.seed, trust.seed) == (1, 7)
    assert (maps.store.url, maps.store.maps, trust.store.maps) == ("out", "none", "int8")
    assert (maps.runtime.address, maps.runtime.retries, trust.runtime.retries) == ("inline", 0, 5)
    assert (maps.engine.precision, maps.engine.batch_size) == ("mixed", 8)
    assert trust.engine.batch_size == 4
    assert isinstance(maps, AttributeManifest)
    assert maps.data.limit == 3


def test_maps_of_a_run_bring_what_common_would_say() -> None:
    jobs = "jobs:\n  q: {kind: evaluate, attributions: 'run:a-1', metrics: [deletion]}\n" + MAPS
    manifest = parsed(HEAD + "seed: 3\n" + COMMON + jobs)
    alone = "kind: evaluate\nname: weekly-q\nattributions: 'run:a-1'\nmetrics: [deletion]\n"
    assert manifest.jobs["q"] == parse_manifest(alone)


def test_prompts_are_no_images() -> None:
    patching = "  p: {kind: patching, data: {file: a.txt}, model: {path: gpt2}, score: prob}\n"
    manifest = parsed(HEAD + COMMON + "  shard_rows: 9\njobs:\n" + patching + MAPS)
    assert [job.shard_rows for job in manifest.jobs.values()] == [9, 9]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (HEAD, "m.yaml:1:1: the required key 'jobs' is missing"),
        (HEAD + "jobs: {}\n", "m.yaml:3:7: jobs: 0 entries; expected at least 1"),
        (HEAD + "jobs: [a]\n", "m.yaml:3:7: jobs: a list is not a mapping of names to jobs"),
        (HEAD + "jobs:\n  a: train\n", "m.yaml:4:6: jobs.a: 'train' is not a mapping"),
        (HEAD + "jobs:\n  a:\n", "m.yaml:5:1: jobs.a: nothing stands here"),
        (HEAD + "jobs:\n  a: {kind: audit}\n", "m.yaml:4:13: jobs.a.kind: 'audit' is not one of"),
        (HEAD + "jobs:\n  a: {}\n", "m.yaml:4:6: jobs.a: the required key 'kind' is missing"),
        (WHOLE.replace("maps:", "Maps:"), "m.yaml:7:3: jobs.Maps: 'Maps' is not a name of at most"),
        (WHOLE.replace("maps:", "main:"), "m.yaml:7:3: jobs.main: a job's name is its schema"),
        (WHOLE.replace("methods", "name: x, methods"), "m.yaml:7:27: jobs.maps.name: a job has no"),
        (
            WHOLE.replace("weekly", "w" * 36),
            f"m.yaml:7:3: jobs.maps: the job's run is called '{'w' * 36}-maps': 41 characters, 40 "
            "at most; shorten the name of the audit (36) or of the job (4)",
        ),
        (WHOLE.replace("weekly", "Weekly"), "m.yaml:2:7: name: 'Weekly' is not a name of at most"),
        (WHOLE.replace("name: weekly\n", ""), "m.yaml:1:1: the required key 'name' is missing"),
        (
            WHOLE.replace("methods", "store: s, methods"),
            "m.yaml:7:27: jobs.maps.store: all jobs stand in the audit's store",
        ),
        (
            WHOLE.replace("methods", "runtime: {address: inline}, methods"),
            "m.yaml:7:37: jobs.maps.runtime.address: all jobs run on the audit's cluster",
        ),
        (WHOLE + "methods: [saliency]\n", "m.yaml:12:1: methods: unknown key; it belongs under"),
    ],
)
def test_what_is_no_audit(fault: Fault, text: str, found: str) -> None:
    assert fault(text).startswith(found)


@pytest.mark.parametrize(
    ("common", "found"),
    [
        ("digits", "m.yaml:3:9: common: 'digits' is not a mapping"),
        ("{data: digit}", "m.yaml:3:16: common.data: 'digit' is not one of 'digits'"),
        ("{data: {format: npz}}", "m.yaml:3:16: common.data: the required key 'file' is missing"),
        ("{data: digits, dta: 3}", "m.yaml:3:24: common.dta: unknown key; did you mean 'data'?"),
        ("{data: digits, test: digits}", "m.yaml:3:24: common.test: no job here is of a kind"),
        ("{data: digits, methods: [x]}", "m.yaml:3:34: common.methods[0]: 'x' is not one of"),
    ],
)
def test_faults_of_common_are_told_once(fault: Fault, common: str, found: str) -> None:
    job = "{kind: attribute, data: digits, model: {arch: mlp, weights: w}, methods: [saliency]}"
    needy = job.replace("data: digits, ", "") if "data" in common else job
    needy = needy.replace(", methods: [saliency]", "") if "methods" in common else needy
    text = f"{HEAD}common: {common}\njobs:\n  a: {needy}\n  b: {needy}\n"
    if common == "digits":
        text = text.replace("{kind: attribute, model", "{kind: attribute, data: digits, model")
    assert fault(text).startswith(found)


def test_a_fault_in_common_that_only_one_kind_minds_is_told_of_that_job(fault: Fault) -> None:
    text = WHOLE.replace("  data: digits", "  methods: [random]\n  data: digits")
    text = text.replace(", methods: [saliency]", "")
    assert fault(text) == (
        "m.yaml:4:3: jobs.trust.methods: 'random' needs no base model; it stands under 'baselines'"
    )


def test_faults_of_what_all_jobs_share_are_told_once(faults: Faults) -> None:
    text = WHOLE.replace("methods", "runtime: {workers: 0}, methods")
    found = faults(text + "runtime: {workrs: 3}\nengine: {precision: fp16}\n")
    assert [line.split(": ")[1] for line in found] == [
        "jobs.maps.runtime.workers",
        "runtime.workrs",
        "engine.precision",
    ]


def test_faults_of_several_jobs_are_told_at_once(faults: Faults) -> None:
    text = WHOLE.replace("saliency", "salency").replace("test: digits", "tst: digits")
    assert [line.split(": ")[:2] for line in faults(text)] == [
        ["m.yaml:7:37", "jobs.maps.methods[0]"],
        ["m.yaml:10:5", "jobs.trust.tst"],
    ]


def test_options_reach_jobs_and_what_is_common(fault: Fault) -> None:
    manifest = parsed(WHOLE, "common.data.limit=5", "jobs.trust.seeds=2")
    assert [job.data.limit for job in manifest.jobs.values()] == [5, 5]  # type: ignore[union-attr]
    found = fault(WHOLE, ["jobs.maps.methods.0=salency"])
    assert found.startswith("--set jobs.maps.methods.0=salency: jobs.maps.methods[0]: ")


def test_checks_that_name_a_job_are_its() -> None:
    asked = "{check: predictions, measure: accuracy, at_least: 0.9}"
    own = WHOLE.replace("methods", f"checks: [{asked.replace('0.9', '0.5')}], methods")
    sql = "{check: sql, name: n, sql: 'SELECT count(*) FROM maps.errors', at_most: 0}"
    text = own + f"checks:\n  - {{job: maps, {asked[1:]}\n  - {sql}\n"
    manifest = parsed(text)
    assert [check.at_least for check in manifest.jobs["maps"].checks] == [0.5, 0.9]
    assert [check.check for check in manifest.checks] == ["sql"]
    assert manifest.jobs["trust"].checks == []
    assert KINDS["audit"].model_validate(resolved(manifest)) == manifest


def test_checks_of_no_job(faults: Faults) -> None:
    text = WHOLE + (
        "checks:\n"
        "  - {job: mops, check: predictions, at_least: 0.9}\n"
        "  - {job: maps, check: predictions, at_lest: 0.9}\n"
        "  - {job: 3, check: predictions, at_least: 0.9}\n"
    )
    found = faults(text)
    assert found[0] == (
        "m.yaml:13:11: checks[0].job: there is no job 'mops'; expected maps, trust; did you mean "
        "'maps'?"
    )
    assert found[1].startswith("m.yaml:14:37: checks[1].at_lest")
    assert found[2].startswith("m.yaml:15:11: checks[2].job: there is no job '3'")
    (only,) = faults(WHOLE + "checks:\n  - {check: predictions, at_least: 0.9}\n")
    assert only == (
        "m.yaml:13:5: checks[0]: the audit itself has no table 'predictions', its jobs may; state "
        "'job: maps' or 'job: trust' beside it"
    )
    with pytest.raises(ValueError, match="there is no job 'mops'"):
        AuditManifest.model_validate(plain(read_tree(text, "m.yaml")[0]))


def test_an_audit_has_no_data_to_ingest(tmp_path: Any) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(WHOLE)
    with pytest.raises(ManifestError, match="kind 'audit' has no 'data' of its own"):
        load_data(path)


def _accepted(text: str) -> bool:
    root, _ = read_tree(text, "m.yaml")
    return bool(Draft202012Validator(manifest_schema()).is_valid(plain(root)))


def test_editors_know_jobs_of_every_kind() -> None:
    defined = manifest_schema()["$defs"]
    for kind, model in JOB_KINDS.items():
        whole, job = defined[model.__name__], defined[f"{kind.capitalize()}Job"]
        assert set(whole["properties"]) - set(job["properties"]) == {"name", "version"}
        assert job["required"] == ["kind"]
    assert _accepted(WHOLE)
    assert _accepted(WHOLE + "checks: [{job: maps, check: predictions, at_least: 0.9}]\n")
    for wrong in (
        WHOLE.replace("saliency", "salency"),
        WHOLE.replace("methods", "name: x, methods"),
        WHOLE.replace("methods", "store: s, methods"),
        WHOLE.replace("methods", "runtime: {address: inline}, methods"),
        WHOLE.replace("maps:", "Maps:"),
        WHOLE.replace("attribute", "audit"),
        WHOLE.replace("common:", "comon:"),
        WHOLE + "checks: [{check: predictions, at_least: 0.9}]\n",
    ):
        assert not _accepted(wrong), wrong
