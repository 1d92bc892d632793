"""Commands that ask and write nothing: init, validate, plan, schema."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from gradattr.cli.audit import print_sum
from gradattr.cli.audit_template import audit_template
from gradattr.cli.metrics import print_metric_costs
from gradattr.cli.output import human_bytes, human_seconds, print_json, print_table
from gradattr.cli.template import (
    diffroar_template,
    evaluation_template,
    manifest_template,
    patching_template,
    training_template,
)
from gradattr.errors import UsageError
from gradattr.manifest.loading import parse_manifest
from gradattr.manifest.shapes import listing
from gradattr.work.manifests import load_manifest


def init_manifest(kind: str, data: str, name: str) -> None:
    templates = {
        "attribute": manifest_template(data, name),
        "diffroar": diffroar_template(name),
        "tfa": training_template(name),
        "patching": patching_template(name),
        "audit": audit_template(name),
        "evaluate": evaluation_template(name),
    }
    if kind not in templates:
        raise UsageError(f"--kind {kind!r}: expected {listing(templates)}")
    if kind != "attribute" and data != "digits":
        raise UsageError("--data is for --kind attribute; write other data into the file")
    text = templates[kind]
    # What is printed must be valid: a name with a space would only fail later.
    parse_manifest(text, file="gradattr init")
    sys.stdout.write(text)


def validate_manifest(path: str, overrides: list[str], as_json: bool) -> None:
    manifest = load_manifest(path, overrides=overrides)
    from gradattr.work.planning.preflight import preflight_run
    from gradattr.work.planning.prepare import prepare

    prepared = prepare(manifest)
    notes = preflight_run(prepared)
    plan = prepared.plan
    if as_json:
        print_json({"valid": True, "run_id": plan.run_id, "rows": plan.rows, "notes": notes})
        return
    size = f"{plan.rows} {'jobs' if prepared.jobs else 'rows'}"
    print(f"{Path(path).name}: valid. Run {plan.run_id}, {size}.")
    for note in notes:
        print(f"  {note}")


def show_plan(path: str, overrides: list[str], probe: bool, as_json: bool) -> None:
    manifest = load_manifest(path, overrides=overrides)
    from gradattr.storage.objects import open_store
    from gradattr.work.planning.estimate import estimate
    from gradattr.work.planning.estimate_audit import estimate_audit
    from gradattr.work.planning.preflight import preflight_run
    from gradattr.work.planning.prepare import prepare

    store = open_store(manifest.store)
    prepared = prepare(manifest, store)
    # What cannot be carried out has no plan.
    preflight_run(prepared)
    report = (estimate_audit if prepared.jobs else estimate)(prepared, store, probe=probe)
    if as_json:
        print_json(report)
        return
    if prepared.jobs:
        _print_audit_plan(report)
    else:
        _print_plan(report)


def _print_audit_plan(report: dict[str, Any]) -> None:
    """Every job's plan under its name, and the sum."""
    for name, job in report["jobs"].items():
        print(f"Job {name}")
        _print_plan(job | {"probe": ""})
        print()
    done = " (already complete)" if report["committed"] else ""
    print(f"Audit {report['run_id']}{done}, fingerprint {report['fingerprint'][:16]}")
    print_sum(report)
    texts = list(dict.fromkeys(job["probe"] for job in report["jobs"].values() if job["probe"]))
    for text in texts:
        print(text)


def _print_plan(report: dict[str, Any]) -> None:
    done = " (already complete)" if report["committed"] else ""
    print(f"Run {report['run_id']}{done}, fingerprint {report['fingerprint'][:16]}")
    print_table(
        "Stages",
        ["stage", "shards", "rows", "done", "model evaluations", "estimated time"],
        [
            [
                stage["name"],
                stage["shards"],
                stage["rows"],
                stage["done"],
                f"{stage['evaluations']:,}" if stage["evaluations"] else "",
                human_seconds(stage["seconds"]) if stage["seconds"] is not None else "",
            ]
            for stage in report["stages"]
        ],
        right=["shards", "rows", "done", "model evaluations", "estimated time"],
    )
    if report["methods"]:
        print_table(
            "Methods",
            ["method", "evaluations per row", "shares its passes with"],
            [
                [m["method"], m["evaluations"], ", ".join(m["shared_with"])]
                for m in report["methods"]
            ],
            right=["evaluations per row"],
        )
    if report["map_bytes"]:
        print_table(
            "Bytes of maps, before compression, by store.maps",
            ["store.maps", "bytes", ""],
            [
                [choice, human_bytes(size), "<- this manifest" if choice == report["maps"] else ""]
                for choice, size in report["map_bytes"].items()
            ],
            right=["bytes"],
        )
    if report["metrics"]:
        print_metric_costs(report["metrics"])
    if report["audit"]:
        _print_diffroar(report["audit"])
    if report["tfa"]:
        _print_tfa(report["tfa"])
    if report["probe"]:
        print(report["probe"])


def _print_tfa(size: dict[str, Any]) -> None:
    print_table(
        "Scores and maps, at most",
        ["", "count", "bytes, before compression"],
        [
            ["training examples x queries x scores", f"{size['scores']:,}", ""],
            ["backward passes over the training data", f"{size['passes']:,}", ""],
            ["scores that are kept (keep)", "", human_bytes(size["score_bytes"])],
            ["pairs", f"{size['pairs']:,}", ""],
            ["maps (store.maps)", f"{size['maps']:,}", human_bytes(size["map_bytes"])],
            ["index", "", human_bytes(size["index_bytes"])],
            ["gradient of one query, in memory", "", human_bytes(size["query_gradient_bytes"])],
        ],
        right=["count", "bytes, before compression"],
    )
    for note in size["notes"]:
        print(f"Note: {note}")


def _print_diffroar(audit: dict[str, Any]) -> None:
    print_table(
        "Trials",
        ["variant", "trials", "epochs, at most"],
        [[v["variant"], v["trials"], f"{v['epochs']:,}"] for v in audit["variants"]],
        right=["trials", "epochs, at most"],
    )
    print(
        f"Ranks: {human_bytes(audit['rank_bytes'])} before compression, for every level and arm; "
        f"masked copies of the images would be {human_bytes(audit['masked_copies_bytes'])}."
    )
    for note in audit["notes"]:
        print(f"Note: {note}")


def print_schema() -> None:
    from gradattr.manifest.schema import manifest_schema

    sys.stdout.write(json.dumps(manifest_schema(), indent=2, ensure_ascii=False) + "\n")
