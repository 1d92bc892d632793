"""Commands that do the work, or say how far it is."""

from __future__ import annotations

from typing import Annotated

import typer

from gradattr.cli.commands.arguments import (
    EndpointOption,
    JsonOption,
    ManifestArg,
    RunArg,
    SetOption,
    StoreOption,
)


def run(manifest: ManifestArg, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Carry out a manifest, or whatever is missing of it. Running it again resumes."""
    from gradattr.cli.carry_out import run_manifest

    run_manifest(manifest, set_ or [], as_json)


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
