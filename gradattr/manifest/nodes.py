"""The tree between YAML text and the models: every key and value knows the place it stands at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

Scalar = str | int | float | bool | None

#: Steps from the root to a value: a key of a mapping, or an index of a sequence.
Path = tuple[str | int, ...]

_LONGEST_PATH = 120


@dataclass(frozen=True)
class Place:
    """Where something stands: a file with line and column (from 1), or a ``--set`` option."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass
class ScalarNode:
    """One value. ``text`` is what was written; ``quoted`` says that it was written as text."""

    place: Place
    value: Scalar
    text: str
    quoted: bool = False


@dataclass
class SequenceNode:
    """``[a, b]``, or lines that begin with a hyphen."""

    place: Place
    items: list[Node] = field(default_factory=list)


@dataclass
class MappingNode:
    """``key: value`` pairs; ``keys`` holds the place of each key."""

    place: Place
    values: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)

    def put(self, key: str, value: Node, place: Place) -> None:
        """Set a key, or replace its value."""
        self.values[key] = value
        self.keys[key] = place


Node = ScalarNode | SequenceNode | MappingNode


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where, at which key, and what to do about it."""

    place: Place
    path: Path
    message: str

    def __str__(self) -> str:
        parts = (str(self.place), path_text(self.path), self.message)
        return ": ".join(part for part in parts if part)


def path_text(path: Path) -> str:
    """``methods[1].steps`` for ``("methods", 1, "steps")``; empty for the root."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text if len(text) <= _LONGEST_PATH else "…" + text[-_LONGEST_PATH:]


def plain(node: Node) -> object:
    """The node as Python objects (dict, list, str, int, float, bool, None)."""
    if isinstance(node, ScalarNode):
        return node.value
    if isinstance(node, SequenceNode):
        return [plain(item) for item in node.items]
    return {key: plain(value) for key, value in node.values.items()}


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every node below and including this one, with its path, in the order of the file."""
    yield path, node
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.items):
            yield from walk(item, (*path, index))
    elif isinstance(node, MappingNode):
        for key, value in node.values.items():
            yield from walk(value, (*path, key))
