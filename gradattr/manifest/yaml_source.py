"""From YAML text to a tree of nodes with places; everything YAML can do beyond data is refused.

Refused: anchors, aliases, merge keys, tags, duplicate keys, directives, several documents, tabs and
control characters, more than 1 MiB, 100 levels, 50 000 lines, 10 000 values or
50 000 characters in one value. All of this is found
on the text or on the parser's stream of events, before anything is built, so that no input costs
more than about a second.

Scalars follow YAML 1.2's core schema: ``1e-3`` is a number; ``yes``, ``on``, ``1_000`` and
``2024-01-31`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from gradattr.errors import ManifestError
from gradattr.manifest.nodes import (
    Fault,
    MappingNode,
    Node,
    Path,
    Place,
    Scalar,
    ScalarNode,
    SequenceNode,
)

MAX_BYTES = 1 << 20
MAX_DEPTH = 100
MAX_LINES = 50_000
MAX_NODES = 10_000
MAX_LINE = 100_000
MAX_SCALAR = 50_000

# C0 without line ends, DEL, C1, line and paragraph separators, bidirectional overrides (they make a
# text look other than it is), non-characters, and byte order marks inside the text.
_FORBIDDEN = re.compile(
    "[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)
# What "\\u..." can bring into a value; tabs and line ends are welcome there.
_ESCAPED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_LONG_LINE = re.compile(r"(?<![^\n])[^\n]{" + str(MAX_LINE) + "}")
_BRACKET_TOWER = re.compile(r"(?:[\[{][ \n]*){" + str(MAX_DEPTH + 1) + "}")

_INTEGER = re.compile(r"[-+]?[0-9]{1,40}|0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,40}|[0-9]{1,40}(?:\.[0-9]{0,40})?)(?:[eE][-+]?[0-9]{1,4})?")
_SPECIAL: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


class YamlFaults(Exception):
    """The text has these faults and no usable tree."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(len(faults))
        self.faults = faults


def decode(data: bytes, source: str) -> str:
    """Return the text of at most 1 MiB of UTF-8; a byte order mark at the start is dropped.

    Raises ManifestError for more, or for another encoding.
    """
    if len(data) > MAX_BYTES:
        raise ManifestError(
            f"{source}: more than 1 MiB ({MAX_BYTES} bytes); a manifest is a page of YAML. "
            "Name many files by a folder or a pattern with '*'"
        )
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise ManifestError(
            f"{source}:{line}:{column}: byte 0x{data[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def read_tree(text: str, source: str) -> tuple[Node, list[Fault]]:
    """Parse one YAML document.

    Returns its root and the faults that leave the tree usable (duplicate keys: the first counts).
    Raises YamlFaults when the text is no plain YAML 1.2 data.
    """
    _check_text(text, source)
    builder = _Builder(source)
    try:
        for event in _events(text):
            builder.take(event)
    except MarkedYAMLError as error:
        raise YamlFaults([*builder.fatal, _syntax_fault(error, source)]) from None
    except YAMLError as error:
        raise YamlFaults([Fault(Place(source, 1, 1), (), f"not YAML: {error}")]) from None
    if builder.fatal:
        raise YamlFaults(builder.fatal + builder.duplicates)
    if builder.root is None:
        raise YamlFaults([Fault(Place(source, 1, 1), (), "the file is empty; see 'gradattr init'")])
    return builder.root, builder.duplicates


def resolve_plain(text: str) -> Scalar:
    """The value of an unquoted scalar in YAML 1.2's core schema."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _events(text: str) -> Iterator[Any]:
    yaml = YAML(typ="safe", pure=True)
    yield from yaml.parse(text)


def _check_text(text: str, source: str) -> None:
    if text.count("\n") > MAX_LINES:
        raise YamlFaults([Fault(Place(source, MAX_LINES, 1), (), f"more than {MAX_LINES} lines")])
    long = _LONG_LINE.search(text)
    if long:
        message = f"a line of more than {MAX_LINE} characters"
        raise YamlFaults([Fault(_place_of(text, long.start(), source), (), message)])
    found = _FORBIDDEN.search(text)
    if found:
        char = found.group()
        what = (
            "a tab; YAML is indented with spaces (in quoted text write \\t)"
            if char == "\t"
            else f"the character U+{ord(char):04X} is not allowed in a manifest"
        )
        raise YamlFaults([Fault(_place_of(text, found.start(), source), (), what)])
    tower = _BRACKET_TOWER.search(text)
    if tower:
        raise YamlFaults([Fault(_place_of(text, tower.start(), source), (), _TOO_DEEP)])


_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _place_of(text: str, offset: int, source: str) -> Place:
    start = text.rfind("\n", 0, offset) + 1
    return Place(source, text.count("\n", 0, offset) + 1, offset - start + 1)


def _syntax_fault(error: MarkedYAMLError, source: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    place = Place(source, mark.line + 1, mark.column + 1) if mark else Place(source, 1, 1)
    problem = str(error.problem or "not YAML")
    hint = next((text for sign, text in _SYNTAX_HINTS if sign in problem), "")
    context = f", {error.context}" if error.context else ""
    return Fault(place, (), f"not valid YAML{context}: {problem}{hint}")


_SYNTAX_HINTS = (
    ("mapping values are not allowed", "; put text that has ': ' in it in quotes"),
    ("cannot start any token", "; put text that begins with this character in quotes"),
    ("could not find expected ':'", "; is a ':' missing after a key?"),
    ("expected <block end>", "; is a line indented differently from its neighbours?"),
    ("expected ',' or", "; is a bracket not closed?"),
)


_VALUES = (ScalarEvent, SequenceStartEvent, MappingStartEvent, AliasEvent)


class _Open:
    """A container that is being filled: its node, its path, and the key that waits for a value."""

    def __init__(self, node: SequenceNode | MappingNode, path: Path) -> None:
        self.node = node
        self.path = path
        self.key: tuple[str, Place] | None = None


class _Builder:
    """Turns the stream of events into nodes, with a stack of its own instead of recursion."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.root: Node | None = None
        self.fatal: list[Fault] = []
        self.duplicates: list[Fault] = []
        self._stack: list[_Open] = []
        self._documents = 0
        self._nodes = 0

    def take(self, event: Any) -> None:
        if isinstance(event, DocumentStartEvent):
            self._start_document(event)
        elif isinstance(event, _VALUES):
            self._nodes += 1
            if self._nodes > MAX_NODES:
                self._stop(event, f"more than {MAX_NODES} values; name files by a pattern with '*'")
            self._refuse_extras(event)
            self._add(event)
        elif isinstance(event, SequenceEndEvent | MappingEndEvent):
            self._stack.pop()

    def _start_document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            self._stop(event, "a second document begins here; a manifest is one document")
        if event.tags or (event.version and tuple(event.version) != (1, 2)):
            self._stop(event, "%TAG and %YAML lines are not allowed; manifests are YAML 1.2")

    def _refuse_extras(self, event: Any) -> None:
        if isinstance(event, AliasEvent):
            self._fault(
                event, f"the alias '*{_short(event.anchor)}' is not allowed; repeat the value"
            )
            return
        if event.anchor is not None:
            self._fault(event, f"the anchor '&{_short(event.anchor)}' is not allowed")
        if event.tag is not None:
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            self._fault(event, f"the tag '{_short(tag)}' is not allowed; a manifest is plain data")
        if isinstance(event, ScalarEvent) and len(event.value) > MAX_SCALAR:
            self._stop(event, f"a value of more than {MAX_SCALAR} characters")
        escaped = _ESCAPED.search(event.value) if isinstance(event, ScalarEvent) else None
        if escaped:
            self._fault(event, f"the text holds the character U+{ord(escaped.group()):04X}")

    def _add(self, event: Any) -> None:
        parent = self._stack[-1] if self._stack else None
        if parent is not None and isinstance(parent.node, MappingNode) and parent.key is None:
            parent.key = (self._key(event, parent), self._place(event))
            return
        node = self._node(event)
        path = self._attach(parent, node)
        if not isinstance(node, ScalarNode):
            if len(self._stack) >= MAX_DEPTH:
                self._stop(event, _TOO_DEEP)
            self._stack.append(_Open(node, path))

    def _node(self, event: Any) -> Node:
        place = self._place(event)
        if isinstance(event, SequenceStartEvent):
            return SequenceNode(place)
        if isinstance(event, MappingStartEvent):
            return MappingNode(place)
        if isinstance(event, AliasEvent):
            return ScalarNode(place, None, "")
        quoted = not event.implicit[0]
        value = event.value if quoted else resolve_plain(event.value)
        return ScalarNode(place, value, event.value, quoted)

    def _attach(self, parent: _Open | None, node: Node) -> Path:
        if parent is None:
            self.root = node
            return ()
        if isinstance(parent.node, SequenceNode):
            parent.node.items.append(node)
            return (*parent.path, len(parent.node.items) - 1)
        assert parent.key is not None
        key, place = parent.key
        if key not in parent.node.values:
            parent.node.put(key, node, place)
        parent.key = None
        return (*parent.path, key)

    def _key(self, event: Any, parent: _Open) -> str:
        if not isinstance(event, ScalarEvent):
            self._stop(event, "a key is plain text, not a list, a mapping or an alias")
        assert isinstance(parent.node, MappingNode)
        key = str(event.value)
        if key == "<<" and event.implicit[0]:
            self._fault(event, "the merge key '<<' is not allowed; repeat the keys")
        elif key in parent.node.values:
            line = parent.node.keys[key].line
            message = f"the key '{_short(key)}' stands here twice (first in line {line})"
            self.duplicates.append(Fault(self._place(event), parent.path, message))
        return key

    def _place(self, event: Any) -> Place:
        mark = event.start_mark
        return Place(self.source, mark.line + 1, mark.column + 1)

    def _fault(self, event: Any, message: str) -> None:
        path = self._stack[-1].path if self._stack else ()
        self.fatal.append(Fault(self._place(event), path, message))

    def _stop(self, event: Any, message: str) -> NoReturn:
        self._fault(event, message)
        raise YamlFaults(self.fatal)


def _short(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= 40 else shown[:39] + "…"
