"""``gradattr``: the commands, their arguments and their help. What a command does stands in the
modules beside this one and is imported when it is called, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

app = typer.Typer(
    name="gradattr",
    help="Gradient attribution of whole data sets: one YAML in, queryable Parquet out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with:  gradattr init > audit.yaml  and  gradattr run audit.yaml",
)

ManifestArg = Annotated[str, typer.Argument(metavar="MANIFEST", help="YAML file, or its URL.")]
RunArg = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run id (or its beginning), a run's URL, or its manifest's file."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: --set methods.0.steps=100"),
]
StoreOption = Annotated[
    str, typer.Option("--store", envvar="GRADATTR_STORE", help="Root of the store.")
]
EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint-url", envvar="AWS_ENDPOINT_URL", help="S3 endpoint other than AWS."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command(rich_help_panel="Ask")
def init(
    data: Annotated[str, typer.Option(help="Data set: digits, or the URL of a folder.")] = "digits",
    name: Annotated[str, typer.Option(help="Name of the run.")] = "first-audit",
    kind: Annotated[
        str,
        typer.Option(
            help="attribute: maps of a data set; diffroar: can they be trusted? tfa: which "
            "training images explain a prediction? patching: where a language model's answer is; "
            "evaluate: which method's maps to rely on; audit: several of these under one name."
        ),
    ] = "attribute",
) -> None:
    """Print a manifest with comments, to begin with: gradattr init > audit.yaml"""
    from gradattr.cli.ask import init_manifest

    init_manifest(kind, data, name)


@app.command(rich_help_panel="Ask")
def validate(manifest: ManifestArg, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Check a manifest, and that its data and model can be used. Writes nothing."""
    from gradattr.cli.ask import validate_manifest

    validate_manifest(manifest, set_ or [], as_json)


@app.command(rich_help_panel="Ask")
def plan(
    manifest: ManifestArg,
    set_: SetOption = None,
    probe: Annotated[bool, typer.Option(help="Time a few batches to estimate the hours.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would do: stages, tasks, trials, evaluations, bytes, hours, what is done."""
    from gradattr.cli.ask import show_plan

    show_plan(manifest, set_ or [], probe, as_json)


@app.command(rich_help_panel="Ask")
def methods(
    name: Annotated[
        str | None, typer.Argument(help="A method, to read all there is to say of it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the attribution methods with cost and formula, or describe one."""
    from gradattr.cli.methods import list_methods

    list_methods(name, as_json)


@app.command(rich_help_panel="Ask")
def metrics(
    name: Annotated[
        str | None, typer.Argument(help="A metric, to read all there is to say of it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the metrics that judge maps, with their numbers and cost, or describe one."""
    from gradattr.cli.metrics import list_metrics

    list_metrics(name, as_json)


@app.command(rich_help_panel="Ask")
def schema() -> None:
    """Print the JSON Schema of manifests, for editors."""
    from gradattr.cli.ask import print_schema

    print_schema()


@app.command(rich_help_panel="Ask")
def doctor(
    store: StoreOption = "results",
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine: versions, devices, bfloat16, Ray, and whether the store can be used."""
    from gradattr.cli.doctor import examine

    examine(store, endpoint_url, as_json)


@app.command(rich_help_panel="Run")
def run(manifest: ManifestArg, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Carry out a manifest, or whatever is missing of it. Running it again resumes."""
    from gradattr.cli.carry_out import run_manifest

    run_manifest(manifest, set_ or [], as_json)


@app.command(rich_help_panel="Run")
def status(
    run: RunArg,
    store: StoreOption = "results",
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how far a run, or every job of an audit, is, from its records in the store (works from
    any machine)."""
    from gradattr.cli.stored import show_status

    show_status(run, store, endpoint_url, as_json)


@app.command(rich_help_panel="Run")
def ingest(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="YAML file with a 'data:' part, or a short form.")
    ],
    to: Annotated[str, typer.Argument(metavar="URL", help="Folder or prefix to write to.")],
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows per Parquet file.")] = 4096,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="CLASS", help="Only this class (repeatable); labels in this order."
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(metavar="START:STOP", help="Only rows START to STOP - 1 of the data set."),
    ] = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Turn any data set, or some of it, into sharded Parquet on any store."""
    from gradattr.cli.ingest import ingest_data

    ingest_data(data, to, shard_rows, only or [], rows, endpoint_url)


@app.command(rich_help_panel="Look")
def ls(
    store: StoreOption = "results",
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs of a store."""
    from gradattr.cli.stored import list_store

    list_store(store, endpoint_url, as_json)


@app.command(rich_help_panel="Look")
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


@app.command(rich_help_panel="Look")
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


@app.command(rich_help_panel="Look")
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


@app.command(rich_help_panel="Look")
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


@app.command(rich_help_panel="Look")
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


@app.command(rich_help_panel="Keep")
def verify(
    run: RunArg,
    store: StoreOption = "results",
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every byte of a committed run again, of an audit of all its jobs, and compare it with
    what was committed."""
    from gradattr.cli.stored import verify_stored

    verify_stored(run, store, endpoint_url, as_json)


@app.command(rich_help_panel="Keep")
def gc(
    store: StoreOption = "results",
    endpoint_url: EndpointOption = None,
    grace_hours: Annotated[float, typer.Option(min=0.0, help="Leave younger files alone.")] = 24.0,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete; without it, only list.")
    ] = False,
    abandoned: Annotated[
        bool, typer.Option("--abandoned", help="Also runs that were never committed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List (and with --delete remove) what no commit names and what is older than the grace."""
    from gradattr.cli.stored import collect_garbage

    collect_garbage(store, endpoint_url, grace_hours, delete, abandoned, as_json)


def _version(value: bool) -> None:
    if value:
        from gradattr import __version__

        typer.echo(f"gradattr {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: a deliberate error becomes one message and its exit code, never a traceback."""
    # Not from within the handlers: the exit would carry the error, and with it an open query,
    # to the very end of the interpreter, where DuckDB complains of leaks.
    sys.exit(_exit_code())


def _exit_code() -> int:
    from gradattr.errors import GradattrError

    try:
        app()
    except GradattrError as error:
        sys.stderr.write(f"gradattr: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("gradattr: interrupted; finished shards are kept\n")
        return 130
    except BrokenPipeError:
        # `gradattr query ... | head`: the reader has seen enough.
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    main()
