"""Commands that keep a store whole and tidy."""

from __future__ import annotations

from typing import Annotated

import typer

from gradattr.cli.commands.arguments import EndpointOption, JsonOption, RunArg, StoreOption


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
