"""``gradattr plot``: which figures a run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradattr.cli.evaluation import plot_metrics
from gradattr.cli.locate import locate
from gradattr.cli.training import plot_training
from gradattr.errors import UsageError

#: Kinds that are drawn alone, and the options that are for them.
_ALONE = {
    "tfa": frozenset({"--query", "--method", "--map", "--top"}),
    "evaluate": frozenset({"--figure"}),
}
_AUDITS = frozenset({"--pred-power"})


def plot_runs(
    runs: Sequence[str],
    output: str | None,
    pred_power: bool,
    chosen: Mapping[str, Any],
    store: str,
    endpoint_url: str | None,
) -> None:
    """``chosen``: what is drawn of a run of kind tfa or evaluate, where it was said."""
    from gradattr.report.curves import panels_of, plot_curves
    from gradattr.report.results import Run

    opened = [Run(*locate(name, store, endpoint_url)) for name in runs]
    for run in opened:
        if run.jobs:
            runs_of_jobs = ", ".join(run.job(name).run_id for name in run.jobs)
            raise UsageError(
                f"run {run.run_id} is an audit and has no figures of its own; name the run of one "
                f"of its jobs: {runs_of_jobs}"
            )
    given = {option for option, value in _options(pred_power, chosen).items() if value}
    alone = next((run for run in opened if run.manifest["kind"] in _ALONE), None)
    if alone is not None:
        kind = alone.manifest["kind"]
        if len(opened) > 1:
            raise UsageError(
                f"run {alone.run_id} is of kind '{kind}', which is drawn alone: name one run"
            )
        _refuse(given, f"run {alone.run_id} is of kind '{kind}'", _ALONE[kind])
        if kind == "evaluate":
            plot_metrics(alone, output, chosen["figure"])
        else:
            plot_training(alone, output, **{k: v for k, v in chosen.items() if k != "figure"})
        return
    panels = [panel for run in opened for panel in panels_of(run)]
    _refuse(given, "these are audits", _AUDITS)
    print(f"Curves: {plot_curves(panels, output or 'curves.png', pred_power=pred_power)}")


def _options(pred_power: bool, chosen: Mapping[str, Any]) -> dict[str, bool]:
    """Which options were given."""
    names = {"map_method": "--map"}
    found = {names.get(name, f"--{name}"): value is not None for name, value in chosen.items()}
    return {"--pred-power": pred_power, **found}


def _refuse(given: set[str], what: str, known: frozenset[str]) -> None:
    """UsageError for options that are of another kind."""
    foreign = given - known
    said = [
        f"{', '.join(sorted(foreign & own))}: for runs of kind '{kind}'"
        for kind, own in _ALONE.items()
        if foreign & own
    ]
    said += [f"{option} is for audits" for option in foreign & _AUDITS]
    if said:
        raise UsageError(f"{'; '.join(said)}; {what}")
