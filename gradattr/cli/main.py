"""``gradattr``: its commands in panels, its entry point, and how it ends. Commands import what they
do when they are called, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gradattr.cli.commands import asking, keeping, looking, running

app = typer.Typer(
    name="gradattr",
    help="Gradient attribution of whole data sets: one YAML in, queryable Parquet out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with:  gradattr init > audit.yaml  and  gradattr run audit.yaml",
)

#: Panel of the help -> its commands, in order.
PANELS = {
    "Ask": (
        asking.init,
        asking.validate,
        asking.plan,
        asking.methods,
        asking.metrics,
        asking.schema,
        asking.doctor,
    ),
    "Run": (
        running.run,
        running.status,
        running.ingest,
    ),
    "Look": (
        looking.ls,
        looking.show,
        looking.plot,
        looking.check,
        looking.compare,
        looking.query,
    ),
    "Keep": (
        keeping.verify,
        keeping.gc,
    ),
}

for _panel, _commands in PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)


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
