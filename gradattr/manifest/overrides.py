"""``--set methods.0.steps=100``: one value of the tree replaced before anything is validated.

The path is dotted; a step into a list is an index, or the name or id of what stands there (a
method, a score, a map). The value is YAML: a scalar, ``[...]`` or ``{...}``, under the same
restrictions as the file. Where the file has a short form (``data: digits``), setting a key below it
expands the short form first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from gradattr.manifest.nodes import (
    Fault,
    MappingNode,
    Node,
    Path,
    Place,
    ScalarNode,
    SequenceNode,
    path_text,
    walk,
)
from gradattr.manifest.secrets import find_secrets
from gradattr.manifest.yaml_source import MAX_BYTES, YamlFaults, read_tree

#: The key that a text stands for when it stands where a mapping may stand.
_SHORT_FORMS = {
    "baseline": "kind",
    "baselines": "baseline",
    "data": "format",
    "maps": "map",
    "method": "name",
    "methods": "name",
    "metrics": "metric",
    "scores": "score",
    "store": "url",
    "test": "format",
}
_LONGEST_LABEL = 60


def apply_overrides(root: MappingNode, overrides: Sequence[str]) -> tuple[list[Fault], list[str]]:
    """Change the tree in place, in order; the last setting of a path wins.

    Returns the faults of the options, and texts that must not be printed.
    """
    faults: list[Fault] = []
    hidden: list[str] = []
    for option in overrides:
        path_part, equals, value_text = option.partition("=")
        label = f"--set {_short(path_part)}"
        if not equals:
            message = "expected key.path=value, for example methods.0.steps=100"
            faults.append(Fault(Place(label), (), message))
            continue
        try:
            value = _value(value_text)
            secrets = _secrets(value, path_part, value_text)
            hidden.extend(secrets)
            place = Place(f"{label}={'***' if secrets else _short(value_text)}")
            _set_place(value, place)
            _set(root, path_part, value, place)
        except YamlFaults as error:
            for fault in error.faults:
                place = fault.place if fault.place.source.startswith(label) else Place(label)
                faults.append(Fault(place, (), fault.message))
    return faults, hidden


def _value(text: str) -> Node:
    if len(text) > MAX_BYTES:
        raise YamlFaults([Fault(Place(""), (), "the value is longer than 1 MiB")])
    if "\n" in text or "\r" in text:
        raise YamlFaults([Fault(Place(""), (), "the value has more than one line")])
    if not text.strip():
        return ScalarNode(Place(""), None, "")
    root, duplicates = read_tree(text, "")
    if duplicates:
        raise YamlFaults(duplicates)
    if not isinstance(root, ScalarNode) and text.lstrip()[0] not in "[{":
        message = "the value is a block of YAML; write text in quotes, lists as [a, b], "
        raise YamlFaults([Fault(Place(""), (), message + "mappings as {a: 1}")])
    return root


def _secrets(value: Node, path_text: str, text: str) -> list[str]:
    """Texts in the value that look secret, judged at the place where the value will stand."""
    holder: Node = value
    steps: Path = tuple(path_text.split("."))
    for step in reversed(steps):
        holder = MappingNode(Place(""), {str(step): holder}, {str(step): Place("")})
    faults, hidden = find_secrets(holder, text, "")
    return hidden if faults else []


def _set_place(value: Node, place: Place) -> None:
    for _, node in walk(value):
        node.place = place
        if isinstance(node, MappingNode):
            node.keys = dict.fromkeys(node.keys, place)


def _set(root: MappingNode, dotted: str, value: Node, place: Place) -> None:
    steps = dotted.strip().split(".")
    if not all(steps):
        _refuse(place, "the path has an empty step; expected key.path=value")
    node: Node = root
    done: Path = ()
    for depth, step in enumerate(steps[:-1]):
        node, done = _enter(node, step, steps[depth + 1], done, place)
    last = steps[-1]
    if isinstance(node, MappingNode):
        node.put(last, value, place)
    elif isinstance(node, SequenceNode):
        index = _index(node, last, done, place)
        node.items[index : index + 1] = [value]


def _enter(
    node: Node, step: str, following: str, done: Path, place: Place
) -> tuple[SequenceNode | MappingNode, Path]:
    """The container at ``step``, made or expanded from its short form where there is none."""
    if isinstance(node, MappingNode):
        path: Path = (*done, step)
        child = node.values.get(step)
        if isinstance(child, SequenceNode | MappingNode):
            return child, path
        made = _container(child, path, following, place)
        node.put(step, made, node.keys.get(step, place))
        return made, path
    assert isinstance(node, SequenceNode)
    index = _index(node, step, done, place)
    path = (*done, index)
    child = node.items[index] if index < len(node.items) else None
    if isinstance(child, SequenceNode | MappingNode):
        return child, path
    made = _container(child, path, following, place)
    node.items[index : index + 1] = [made]
    return made, path


def _container(
    child: ScalarNode | None, path: Path, following: str, place: Place
) -> SequenceNode | MappingNode:
    if child is None or child.value is None:
        return SequenceNode(place) if following == "0" else MappingNode(place)
    name = next(step for step in reversed(path) if isinstance(step, str))
    key = _SHORT_FORMS.get(name)
    if key is None or not isinstance(child.value, str):
        _refuse(place, f"{path_text(path)} is a single value; set it as a whole")
    made = MappingNode(child.place)
    head, colon, rest = child.text.partition(":")
    if key == "format" and head == "torchvision" and colon:
        made.put("format", ScalarNode(child.place, head, head), child.place)
        made.put("name", ScalarNode(child.place, rest, rest), child.place)
    else:
        made.put(key, child, child.place)
    return made


def _index(node: SequenceNode, step: str, done: Path, place: Place) -> int:
    where = path_text(done)
    count = len(node.items)
    if step.isascii() and step.isdigit() and len(step) < 10:
        if int(step) <= count:
            return int(step)
        _refuse(place, f"{where} has {count} entries, 0 to {count - 1}; {count} adds one")
    named = [index for index, item in enumerate(node.items) if step in _names(item)]
    if len(named) == 1:
        return named[0]
    wanted = "expected an index (from 0) or a name in it"
    if named:
        wanted = f"'{_short(step)}' stands in it more than once, so use the index"
    return _refuse(place, f"{where} is a list; {wanted}")


def _names(item: Node) -> list[str]:
    if isinstance(item, ScalarNode):
        return [item.text]
    if isinstance(item, MappingNode):
        found = [item.values.get(key) for key in ("id", "name", "score", "map", "baseline")]
        return [node.text for node in found if isinstance(node, ScalarNode)]
    return []


def _refuse(place: Place, message: str) -> NoReturn:
    raise YamlFaults([Fault(place, (), message)])


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
