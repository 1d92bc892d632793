"""``gradattr check``, and what ``gradattr run`` says of a manifest's checks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradattr.cli.locate import locate
from gradattr.cli.output import print_json, print_table, print_text
from gradattr.errors import CheckError, UsageError

if TYPE_CHECKING:
    from gradattr.manifest.check_base import CheckBase
    from gradattr.manifest.kinds import Manifest
    from gradattr.metrics.checks import Verdict
    from gradattr.report.results import Run

    #: Checks of a run under '', those of an audit's jobs under their names.
    Asked = Mapping[str, Sequence[CheckBase]]

_ADVICE = (
    "write them under 'checks:' in the manifest, for example\n"
    "  checks:\n"
    "    - {check: predictions, measure: accuracy, at_least: 0.9}\n"
    "and name the manifest's file in place of the run: nothing is computed anew"
)


def check_stored(
    run: str,
    junit: str | None,
    report: str | None,
    store: str,
    endpoint_url: str | None,
    as_json: bool,
) -> None:
    """Print the verdicts on a run's checks, or on those of a manifest's file; write them to files.

    Raises CheckError if one fails, UsageError if there is none, or one that cannot be made.
    """
    from gradattr.report.verdicts import check_with_jobs

    opened, asked = _opened(run, store, endpoint_url)
    if not asked:
        raise UsageError(f"run {opened.run_id} states no checks; {_ADVICE}")
    verdicts = check_with_jobs(opened, asked)
    if junit is not None:
        from gradattr.metrics.junit import junit_xml

        # The suite has the manifest's name, so that a check is the same one in every run.
        _write(junit, junit_xml(verdicts, opened.manifest["name"]), "--junit")
    document = verdicts_json(opened, verdicts)
    if report is not None:
        text = json.dumps(document, indent=2, ensure_ascii=False)
        _write(report, text + "\n", "--report")
    if as_json:
        print_json(document)
    else:
        print_verdicts(verdicts)
    raise_if_failed(opened.run_id, verdicts)


def _opened(run: str, store: str, endpoint_url: str | None) -> tuple[Run, Asked]:
    from gradattr.report.results import Run

    if not run.endswith((".yaml", ".yml")):
        opened = Run(*locate(run, store, endpoint_url))
        return opened, asked_in(opened.manifest)
    from gradattr.storage.objects import open_store
    from gradattr.work.manifests import load_manifest
    from gradattr.work.planning.check_checks import check_planned
    from gradattr.work.planning.prepare import prepare

    manifest = load_manifest(run)
    root = open_store(manifest.store)
    prepared = prepare(manifest, root)
    check_planned(prepared, root)
    return Run(root, prepared.plan.run_id), asked_by(manifest)


def asked_by(manifest: Manifest) -> Asked:
    """The checks of a manifest, those of its jobs by their names."""
    from gradattr.manifest.audit import AuditManifest

    asked = {"": manifest.checks}
    if isinstance(manifest, AuditManifest):
        asked |= {name: job.checks for name, job in manifest.jobs.items()}
    return {name: checks for name, checks in asked.items() if checks}


def asked_in(manifest: dict[str, Any]) -> Asked:
    """The checks of a manifest in run.json. UsageError if they are of another version."""
    from pydantic import TypeAdapter, ValidationError

    from gradattr.manifest.checks import CheckSpec

    stated = {"": manifest, **manifest.get("jobs", {})}
    adapter: TypeAdapter[list[CheckSpec]] = TypeAdapter(list[CheckSpec])
    try:
        return {
            name: adapter.validate_python(part["checks"])
            for name, part in stated.items()
            if part.get("checks")
        }
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"the checks in run.json are not those of this version ({first['msg']}); name the "
            "manifest's file in place of the run"
        ) from None


def verdicts_json(run: Run, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """JSON: the run, whether all passed, and every verdict."""
    from gradattr.report.verdicts import verdict_json

    return {
        "run_id": run.run_id,
        "uri": run.uri,
        "passed": all(verdict.passed for verdict in verdicts),
        "checks": [verdict_json(verdict) for verdict in verdicts],
    }


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """A table, the verdict's word first; then how many failed."""
    print_table(
        "Checks",
        ["verdict", "check", "found"],
        [[_word(verdict), verdict.check, verdict.text] for verdict in verdicts],
    )
    waiting = sum(verdict.passed and not verdict.made for verdict in verdicts)
    if waiting:
        print_text(
            f"{waiting} of {len(verdicts)} checks had no earlier run to compare with: they passed "
            "without saying anything yet."
        )
    failed = sum(not verdict.passed for verdict in verdicts)
    if not failed:
        print_text(f"{_count(len(verdicts))} passed.")


def raise_if_failed(run_id: str, verdicts: Sequence[Verdict]) -> None:
    """CheckError that names the first that failed."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        raise CheckError(
            f"{len(failed)} of {_count(len(verdicts))} of run {run_id} failed (the run itself is "
            "committed and stays)"
        )


def _word(verdict: Verdict) -> str:
    if not verdict.passed:
        return "FAILED"
    return "passed" if verdict.made else "no earlier run"


def _count(checks: int) -> str:
    return f"{checks} check{'s' if checks != 1 else ''}"


def _write(path: str, text: str, option: str) -> None:
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be written ({error.strerror})") from None
