"""``gradattr plot``: which figures a run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradattr.cli.locate import locate
from gradattr.cli.training import plot_training
from gradattr.errors import UsageError


def plot_runs(
    runs: Sequence[str],
    output: str | None,
    pred_power: bool,
    chosen: Mapping[str, Any],
    store: str,
    endpoint_url: str | None,
) -> None:
    """``chosen``: what is drawn of a run of kind tfa, where it was said."""
    from gradattr.report.curves import panels_of, plot_curves
    from gradattr.report.results import Run

    opened = [Run(*locate(name, store, endpoint_url)) for name in runs]
    training = [run for run in opened if run.manifest["kind"] == "tfa"]
    if training:
        if len(opened) > 1:
            raise UsageError(
                f"run {training[0].run_id} is of kind 'tfa', which is drawn alone: name one run"
            )
        if pred_power:
            raise UsageError(f"--pred-power is for audits; {training[0].run_id} is of kind 'tfa'")
        plot_training(training[0], output, **chosen)
        return
    panels = [panel for run in opened for panel in panels_of(run)]
    options = {"query": "--query", "method": "--method", "map_method": "--map", "top": "--top"}
    given = [options[name] for name, value in chosen.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)}: for runs of kind 'tfa'; there is none among these")
    print(f"Curves: {plot_curves(panels, output or 'curves.png', pred_power=pred_power)}")
