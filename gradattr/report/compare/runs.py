"""``gradattr compare``: what can be said of two runs of a kind, and what they were asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gradattr.errors import UsageError
from gradattr.plan import without_checks
from gradattr.report.compare.asked import Asked, asked_differently, digests_differ, in_words
from gradattr.report.compare.diffroar_scores import compare_audits
from gradattr.report.compare.maps import compare_maps
from gradattr.report.compare.samples import compare_long_table, compare_predictions
from gradattr.report.compare.sections import Section
from gradattr.report.compare.training_attributions import compare_training_attributions
from gradattr.report.compare.trainings import compare_trainings
from gradattr.report.results import Run
from gradattr.storage.audits import audit_jobs

Compare = Callable[[Run, Run], list[Section]]


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side; differences are B - A."""

    a: Run
    b: Run
    asked: list[Asked]
    about: str
    """What was asked differently, in words."""
    sections: list[Section] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        inputs = _inputs(self.a, self.b)
        return {
            "a": {"run_id": self.a.run_id, "uri": self.a.uri},
            "b": {"run_id": self.b.run_id, "uri": self.b.uri},
            "kind": self.a.manifest["kind"],
            "same_data": not digests_differ(*inputs, "data"),
            "same_models": not digests_differ(*inputs, "models"),
            "asked_differently": [{"key": one.key, "a": one.a, "b": one.b} for one in self.asked],
            "sections": [section.to_json() for section in self.sections],
        }


def compare_runs(a: Run, b: Run) -> Comparison:
    """Everything that both runs have, side by side. UsageError if they are of different kinds."""
    kinds = [str(run.manifest["kind"]) for run in (a, b)]
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"run {a.run_id} is of kind '{kinds[0]}', run {b.run_id} of kind '{kinds[1]}'; compare "
            "two runs of one kind"
        )
    compare = _KINDS.get(kinds[0])
    if compare is None:
        raise UsageError(f"runs of kind '{kinds[0]}' have nothing that can be compared")
    asked = asked_differently(without_checks(a.manifest), without_checks(b.manifest))
    return Comparison(a, b, asked, in_words(*_inputs(a, b), asked), compare(a, b))


def _inputs(a: Run, b: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both were made from; of audits what those jobs were that both have."""
    if not (a.jobs and b.jobs):
        return a.inputs, b.inputs
    shared = [name for name in a.jobs if name in b.jobs]
    of_jobs = [{name: run.job(name).inputs for name in shared} for run in (a, b)]
    first, second = (
        {part: {name: one.get(part) for name, one in jobs.items()} for part in ("data", "models")}
        for jobs in of_jobs
    )
    return first, second


def _attributions(a: Run, b: Run) -> list[Section]:
    measures = ("completeness_gap_relative", "baseline_confidence", "path_spearman")
    numbers = compare_long_table(
        a, b, "attributions", "Numbers of the maps", by=("method",), measures=measures
    )
    leakage = compare_long_table(
        a, b, "leakage", "Leakage", by=("method", "level"), measures=("share", "mass_ratio")
    )
    return [
        *compare_predictions(a, b),
        *numbers,
        *leakage,
        *compare_maps(a, b),
        *compare_trainings(a, b),
    ]


def _evaluations(a: Run, b: Run) -> list[Section]:
    scores = compare_long_table(a, b, "scores", "Scores", by=("metric", "method"))
    for one in scores:
        one.notes.extend(_directions(a, {row["metric"] for row in one.rows}))
    return [*compare_predictions(a, b), *scores, *compare_maps(a, b)]


def _directions(run: Run, metrics: set[str]) -> list[str]:
    """Which way is better, of each metric."""
    told = {row["metric"]: row["higher_is_better"] for row in run.table("summary").to_pylist()}
    words = {True: "Higher is better", False: "Lower is better", None: "Neither way is better"}
    found = {
        text: sorted(name for name in metrics if name in told and told[name] is better)
        for better, text in words.items()
    }
    return [f"{text}: {', '.join(names)}" for text, names in found.items() if names]


def _patchings(a: Run, b: Run) -> list[Section]:
    baselines = compare_long_table(
        a,
        b,
        "patching_baselines",
        "Prompts and baselines",
        by=("baseline",),
        measures=("confidence", "baseline_confidence", "relative_distance"),
    )
    agreement = compare_long_table(
        a,
        b,
        "patching_agreement",
        "How far estimates are from the exact effects",
        by=("baseline", "method"),
        measures=("l2", "relative_l2", "spearman"),
    )
    return [*baselines, *agreement]


def _audits(a: Run, b: Run) -> list[Section]:
    return [*compare_audits(a, b), *compare_trainings(a, b)]


def _jobs(a: Run, b: Run) -> list[Section]:
    """Jobs of the same name, each under it."""
    jobs = [
        {job.job: job for job in audit_jobs({"manifest": run.manifest, "inputs": run.inputs})}
        for run in (a, b)
    ]
    sections = []
    for name, job in jobs[0].items():
        other = jobs[1].get(name)
        if other is None or other.kind != job.kind:
            continue
        runs = (Run(a.store, job.run_id), Run(b.store, other.run_id))
        for one in compare_runs(*runs).sections:
            title = f"{name}: {one.title}"
            sections.append(Section(title, one.kind, one.names, one.rows, one.notes))
    return sections


#: How runs of a kind are compared.
_KINDS: dict[str, Compare] = {
    "attribute": _attributions,
    "evaluate": _evaluations,
    "diffroar": _audits,
    "tfa": compare_training_attributions,
    "patching": _patchings,
    "train": compare_trainings,
    "audit": _jobs,
}
