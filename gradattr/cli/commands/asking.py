"""Commands that ask, and write nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from gradattr.cli.commands.arguments import (
    EndpointOption,
    JsonOption,
    ManifestArg,
    SetOption,
    StoreOption,
)


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


def validate(manifest: ManifestArg, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Check a manifest, and that its data and model can be used. Writes nothing."""
    from gradattr.cli.ask import validate_manifest

    validate_manifest(manifest, set_ or [], as_json)


def plan(
    manifest: ManifestArg,
    set_: SetOption = None,
    probe: Annotated[bool, typer.Option(help="Time a few batches to estimate the hours.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would do: stages, tasks, trials, evaluations, bytes, hours, what is done."""
    from gradattr.cli.ask import show_plan

    show_plan(manifest, set_ or [], probe, as_json)


def methods(
    name: Annotated[
        str | None, typer.Argument(help="A method, to read all there is to say of it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the attribution methods with cost and formula, or describe one."""
    from gradattr.cli.methods import list_methods

    list_methods(name, as_json)


def metrics(
    name: Annotated[
        str | None, typer.Argument(help="A metric, to read all there is to say of it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the metrics that judge maps, with their numbers and cost, or describe one."""
    from gradattr.cli.metrics import list_metrics

    list_metrics(name, as_json)


def schema() -> None:
    """Print the JSON Schema of manifests, for editors."""
    from gradattr.cli.ask import print_schema

    print_schema()


def doctor(
    store: StoreOption = "results",
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine: versions, devices, bfloat16, Ray, and whether the store can be used."""
    from gradattr.cli.doctor import examine

    examine(store, endpoint_url, as_json)
