"""How commands print: tables for people, JSON for programs, nothing that a value could style."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def console() -> Console:
    """Standard output. Wide when it is not a terminal, so that nothing is cut in a log."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def clean(value: object) -> str:
    """A value as plain text: control characters (which could drive a terminal) made visible."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()
) -> None:
    """A table. Cells are printed literally: '[red]' in a sample id stays what it is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    out = console()
    if title:
        # Not the table's own title, which is broken at the width of the table.
        out.print(Text(title))
    out.print(table)


def print_text(text: str) -> None:
    """A paragraph, broken at the width of the screen."""
    console().print(Text(text))


def human_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """5400 -> '1 h 30 min'."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def number(value: float | None, digits: int = 4) -> str:
    """A figure for a table: empty for none, never more digits than mean something."""
    if value is None:
        return ""
    return f"{value:.{digits}g}"
