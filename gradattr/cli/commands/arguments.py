"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

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
