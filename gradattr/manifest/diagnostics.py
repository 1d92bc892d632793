"""pydantic's errors as faults: one per place, with what was written and what was expected."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from gradattr.errors import ManifestError
from gradattr.manifest.hints import key_hint, nearest, text_hint
from gradattr.manifest.locate import Spot, locate
from gradattr.manifest.nodes import Fault, MappingNode, Node, Path, Place, ScalarNode, SequenceNode
from gradattr.manifest.shapes import (
    Either,
    Leaf,
    MapOf,
    Shape,
    Tagged,
    listing,
    named_field,
    quoted,
)

#: More faults than this are counted, not listed.
MAX_FAULTS = 20
_LONGEST_VALUE = 60


def explain(error: ValidationError, model: type[BaseModel], root: Node) -> list[Fault]:
    """One fault per place, in the order of the file."""
    faults: dict[tuple[Place, Path, str], Fault] = {}
    renamed: set[tuple[Path, str]] = set()
    spots = [(item, locate(model, root, tuple(item["loc"]))) for item in _details(error)]
    for item, spot in spots:
        if item["type"] == "extra_forbidden":
            assert spot.owner is not None
            meant = nearest(str(spot.path[-1]), spot.owner.keys)
            if meant:
                renamed.add((spot.path[:-1], meant))
    for item, spot in spots:
        if spot.other_arm:
            continue
        if item["type"] == "missing" and (spot.path, spot.missing) in renamed:
            continue
        fault = _fault(item, spot, model)
        absent = str(spot.missing) if item["type"] == "missing" else ""
        faults.setdefault((fault.place, fault.path, absent), fault)
    return list(faults.values())


def report(faults: Iterable[Fault]) -> ManifestError:
    """One error that lists the faults in the order of the file, at most 20 of them."""
    ordered = sorted(faults, key=lambda fault: (fault.place.line, fault.place.column))
    lines = [_printable(str(fault)) for fault in ordered[:MAX_FAULTS]]
    if len(ordered) > MAX_FAULTS:
        lines.append(f"... and {len(ordered) - MAX_FAULTS} more")
    return ManifestError("\n".join(lines))


def show(node: Node) -> str:
    """What was written, shortened; never the inside of a list or a mapping."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    if node.value is None:
        return "null" if node.text else "nothing"
    text = node.text.replace("\n", " ")
    text = text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
    return f"'{text}'" if isinstance(node.value, str) else text


def _printable(text: str) -> str:
    """Without control characters, which could move the cursor of a terminal."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def _details(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False, include_input=False))


def _fault(item: Any, spot: Spot, model: type[BaseModel]) -> Fault:
    kind = item["type"]
    if kind == "missing":
        return _missing(spot)
    if kind == "extra_forbidden":
        assert spot.owner is not None
        hint = key_hint(str(spot.path[-1]), spot.owner, spot.union, spot.tag, model)
        return Fault(spot.place, spot.path, f"unknown key{hint}")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _tag(spot)
    if kind == "value_error":
        return _said_by_model(item, spot)
    if kind in ("too_short", "too_long"):
        return _length(item, spot)
    spot = _at_short_form(spot)
    return Fault(spot.place, spot.path, _not_expected(spot))


def _missing(spot: Spot) -> Fault:
    assert spot.owner is not None
    key = str(spot.missing)
    field = named_field(spot.owner.cls, key)
    about = _first_sentence(field.description or "") if field else ""
    about = f" ({about})" if about else ""
    message = f"the required key '{key}' is missing{about}"
    if isinstance(spot.node, ScalarNode):
        message = f"{show(spot.node)} is too short here: {message}"
    return Fault(spot.place, spot.path, message)


def _first_sentence(text: str) -> str:
    """Without its full stop, which that of 'e.g.' is not."""
    sentence = re.split(r"(?<!e\.g)\.\s", text.split("\n\n")[0], maxsplit=1)[0]
    words = " ".join(sentence.split())
    return words if words.endswith("...") else words.rstrip(".")


def _tag(spot: Spot) -> Fault:
    union = spot.shape
    assert isinstance(union, Tagged)
    if not isinstance(spot.node, MappingNode):
        return Fault(spot.place, spot.path, _unknown_word(spot.node, union.tags))
    if union.key in spot.node.values:
        node = spot.node.values[union.key]
        return Fault(node.place, (*spot.path, union.key), _unknown_word(node, union.tags))
    message = f"the required key '{union.key}' is missing: one of {listing(quoted(union.tags))}"
    named = next((key for key in spot.node.values if key in union.tags), None)
    meant = next((key for key in spot.node.values if nearest(key, [union.key])), None)
    if named:
        message += f"; write '{union.key}: {named}', with its parameters beside it"
    elif meant:
        message += f"; is '{meant}' meant to be it?"
    return Fault(spot.place, spot.path, message)


def _unknown_word(node: Node, words: tuple[str, ...]) -> str:
    if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
        return _sentence(node, f"one of {listing(quoted(words))}")
    word, colon, rest = node.value.partition(":")
    meant = nearest(word, words)
    hint = f"; did you mean '{meant}{colon}{rest}'?" if meant and meant != word else ""
    return f"{show(node)} is not one of {listing(quoted(words))}{hint}"


def _said_by_model(item: Any, spot: Spot) -> Fault:
    """A rule written in the models. It may begin with the key that it is about ('a', 'a.0.b')."""
    message = str(item["msg"]).removeprefix("Value error, ")
    keys, colon, rest = message.partition(": ")
    place, path, node = spot.place, spot.path, spot.node
    for key in keys.split(".") if colon else ():
        if isinstance(node, MappingNode) and key in node.values:
            place, path, node = node.keys[key], (*path, key), node.values[key]
        elif isinstance(node, SequenceNode) and key.isdigit() and int(key) < len(node.items):
            node = node.items[int(key)]
            place, path = node.place, (*path, int(key))
        else:
            break
    if path != spot.path:
        return Fault(place, path, rest)
    if isinstance(spot.node, ScalarNode) and spot.node.value is not None:
        message = f"{show(spot.node)}: {message}"
    return Fault(spot.place, spot.path, message)


def _length(item: Any, spot: Spot) -> Fault:
    limits = item.get("ctx", {})
    least, most = limits.get("min_length"), limits.get("max_length")
    wanted = f"at least {least}" if least is not None else f"at most {most}"
    # pydantic does not count a mapping to its end.
    given = len(spot.node.values) if isinstance(spot.node, MappingNode) else None
    message = f"{given or limits.get('actual_length')} entries; expected {wanted}"
    return Fault(spot.place, spot.path, message)


def _at_short_form(spot: Spot) -> Spot:
    """``arch: torchvision:a-b`` has no key 'name'; the fault is at 'arch'."""
    if spot.missing is None or spot.union is None or not isinstance(spot.node, MappingNode):
        return spot
    tag = spot.node.values.get(spot.union.key)
    if tag is None:
        return spot
    return replace(spot, path=(*spot.path, spot.union.key), node=tag, place=tag.place)


def _not_expected(spot: Spot) -> str:
    shape, node = spot.shape, spot.node
    if isinstance(shape, Tagged) and isinstance(node, ScalarNode) and node.text in shape.tags:
        return f"{show(node)} is not a mapping; write '{shape.key}: {node.text}' below the key"
    choices = [
        word
        for leaf in (shape.arms if isinstance(shape, Either) else [shape])
        if isinstance(leaf, Leaf)
        for word in leaf.choices
    ]
    hint = ""
    if isinstance(node, ScalarNode):
        meant = nearest(node.text, choices) if isinstance(node.value, str) else None
        hint = f"; did you mean '{meant}'?" if meant and meant != node.text else ""
        hint = hint or text_hint(node, shape)
    elif isinstance(node, SequenceNode) and len(node.items) == 1 and not _takes_names(shape):
        hint = "; write the value without brackets"
    elif isinstance(shape, Leaf) and shape.numeric:
        hint = _what_it_is(spot)
    return _sentence(node, shape.words) + hint


def _what_it_is(spot: Spot) -> str:
    """What the key means, for somebody who took it for another kind of value."""
    key = str(spot.path[-1])
    field = named_field(spot.owner.cls, key) if spot.owner else None
    about = _first_sentence(field.description or "") if field else ""
    return f" ({about})" if about else ""


def _takes_names(shape: Shape) -> bool:
    """Whether a mapping of names is expected: a value out of its brackets is none either."""
    return any(isinstance(s, MapOf) for s in (shape.arms if isinstance(shape, Either) else [shape]))


def _sentence(node: Node, words: str) -> str:
    if isinstance(node, ScalarNode) and node.value is None:
        return f"{show(node)} stands here; expected {words}, or leave the key out"
    return f"{show(node)} is not {words}"
