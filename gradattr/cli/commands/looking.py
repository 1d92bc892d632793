"""Commands that look at committed runs."""

from __future__ import annotations

from typing import Annotated

import typer

from gradattr.cli.commands.arguments import EndpointOption, JsonOption, RunArg, StoreOption


def ls(
    store: StoreOption = "results",
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs of a store."""
    from gradattr.cli.stored import list_store

    list_store(store, endpoint_url, as_json)


def show(
    run: RunArg,
    store: StoreOption = "results",
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
    png: Annotated[
        str | None,
        typer.Option(
            help="Also draw to this file: a contact sheet of maps; an audit's curves; the first "
            "query of kind tfa; the metrics of kind evaluate."
        ),
    ] = None,
) -> None:
    """Show a committed run on one screen: accuracy, methods, completeness gaps, bad rows; of an
    audit its DiffROAR scores and verdicts; of kind tfa the strongest pairs and the maps' tests; of
    kind evaluate every metric's methods by rank; of kind audit a line per job."""
    from gradattr.cli.stored import show_run

    show_run(run, store, endpoint_url, as_json, png)


def plot(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="DiffROAR audits, or one run of kind tfa or evaluate: ids, URLs, or manifests' "
            "files.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .png, .svg or .pdf (default curves.png); of kinds tfa and "
            "evaluate also a folder for all figures (default: the run's id).",
        ),
    ] = None,
    pred_power: Annotated[
        bool, typer.Option("--pred-power", help="Audits: below, the accuracies of both arms.")
    ] = False,
    query: Annotated[
        int | None, typer.Option("--query", min=0, help="tfa: this query alone, by its number.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="tfa: the score that chooses the images.")
    ] = None,
    map_method: Annotated[
        str | None, typer.Option("--map", help="tfa: which of their maps is drawn.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option("--top", min=1, help="tfa: images of either side, at most (default 5)."),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option("--figure", help="evaluate: curves, metrics or agreement alone."),
    ] = None,
    store: StoreOption = "results",
    endpoint_url: EndpointOption = None,
) -> None:
    """Draw the DiffROAR curves of committed audits, side by side; of a run of kind tfa, each query
    with the training images that helped and harmed it, and the insertion test; of kind evaluate
    its curves, its metrics with intervals, and how methods agree."""
    from gradattr.cli.plots import plot_runs

    chosen = {"query": query, "method": method, "map_method": map_method, "top": top}
    chosen["figure"] = figure
    plot_runs(runs, output, pred_power, chosen, store, endpoint_url)


def check(
    run: RunArg,
    junit: Annotated[
        str | None, typer.Option("--junit", metavar="FILE", help="Also write JUnit XML here.")
    ] = None,
    report: Annotated[
        str | None, typer.Option("--report", metavar="FILE", help="Also write JSON here.")
    ] = None,
    store: StoreOption = "results",
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a committed run's checks, or those of a manifest's file: exit 1 when one fails."""
    from gradattr.cli.check import check_stored

    check_stored(run, junit, report, store, endpoint_url, as_json)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run: id, URL, or its manifest's file.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another run of the same kind.")],
    store: StoreOption = "results",
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
    png: Annotated[
        str | None, typer.Option(help="Also draw the differences to this .png, .svg or .pdf file.")
    ] = None,
) -> None:
    """Put two committed runs side by side: what they were asked, and every number's B - A with a
    paired interval."""
    from gradattr.cli.compare import compare_stored

    compare_stored(a, b, store, endpoint_url, as_json, png)


def query(
    run: RunArg,
    sql: Annotated[
        str, typer.Argument(help="One SELECT over predictions, attributions, maps, ...")
    ],
    store: StoreOption = "results",
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds before it is stopped.")] = 60.0,
    limit: Annotated[int, typer.Option(min=1, help="Rows to print at most.")] = 50,
) -> None:
    """Ask a committed run a question in SQL; an audit one over <job>.<table> of all its jobs."""
    from gradattr.cli.stored import query_run

    query_run(run, sql, store, endpoint_url, as_json, timeout, limit)
