"""YAML beyond plain data is refused with its place; plain data comes through as written."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradattr.errors import ManifestError
from gradattr.manifest.nodes import plain
from gradattr.manifest.yaml_source import YamlFaults, decode, read_tree, resolve_plain


def read(text: str) -> object:
    root, duplicates = read_tree(text, "m.yaml")
    assert not duplicates
    return plain(root)


def refused(text: str) -> list[str]:
    with pytest.raises(YamlFaults) as caught:
        read_tree(text, "m.yaml")
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        ("a: &x 1", "m.yaml:1:4", "anchor '&x'"),
        ("a: 1\nb: *x", "m.yaml:2:4", "alias '*x'"),
        ("a:\n  <<: 1", "m.yaml:2:3: a", "merge key"),
        ("a: !!python/object:os.system x", "m.yaml:1:4", "tag '!!python/object:os.system'"),
        ("a: !mine x", "m.yaml:1:4", "tag '!mine'"),
        ("a: !!str 1", "m.yaml:1:4", "tag '!!str'"),
        ("--- {a: 1}\n--- {b: 1}", "m.yaml:2:1", "second document"),
        ("%YAML 1.1\n---\na: 1", "m.yaml:2:1", "YAML 1.2"),
        ("%TAG ! tag:x,2000:\n---\na: 1", "m.yaml:2:1", "%TAG"),
        ("", "m.yaml:1:1", "empty"),
        ("# only a comment\n", "m.yaml:1:1", "empty"),
        ("a: 1\nb:\t2", "m.yaml:2:3", "a tab"),
        ("a: 1\n\tb: 2", "m.yaml:2:1", "a tab"),
        ("a: \x07", "m.yaml:1:4", "U+0007"),
        ("a: \x00", "m.yaml:1:4", "U+0000"),
        ("a: x\u202ey", "m.yaml:1:5", "U+202E"),
        ("? [a]\n: b", "m.yaml:1:3", "a key is plain text"),
        ("a: b: c", "m.yaml:1:5", "': ' in it in quotes"),
        ("a: @x", "m.yaml:1:4", "begins with this character"),
        ("a: [1, 2", "m.yaml:1:9", "a bracket not closed"),
        ("a: 1\nb\nc: 2", "m.yaml:3:1", "':' missing after a key"),
        ("a:\n    b: 1\n  c: 2", "m.yaml:3:3", "indented differently"),
        ("a: 'x", "m.yaml:1:6", "not valid YAML"),
        ('a: "\\ud83d\\ude00"', "m.yaml:1:4", "U+D83D"),
        ('a: "\\e[31m"', "m.yaml:1:4", "U+001B"),
    ],
)
def test_refused_with_place_and_reason(text: str, start: str, words: str) -> None:
    first = refused(text)[0]
    assert first.startswith(start + ":")
    assert words in first


def test_all_extras_are_listed_not_only_the_first() -> None:
    found = refused("a: &x 1\nb: *x\nc: !t 2\n")
    assert [line.split(": ")[0] for line in found] == ["m.yaml:1:4", "m.yaml:2:4", "m.yaml:3:4"]


def test_duplicate_keys_keep_the_first_and_name_both_places() -> None:
    root, duplicates = read_tree("a: 1\nb:\n  c: 1\n  c: {d: 2}\na: 3\n", "m.yaml")
    assert plain(root) == {"a": 1, "b": {"c": 1}}
    assert [str(fault) for fault in duplicates] == [
        "m.yaml:4:3: b: the key 'c' stands here twice (first in line 3)",
        "m.yaml:5:1: the key 'a' stands here twice (first in line 1)",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("+5", 5),
        ("0777", 777),
        ("0o17", 15),
        ("0x1F", 31),
        ("1.", 1.0),
        ("~", None),
        ("", None),
        ("True", True),
        ("yes", "yes"),
        ("off", "off"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-31", "2024-01-31"),
        ("1e", "1e"),
        ("0b11", "0b11"),
        ("9" * 64, "9" * 64),
        ("-.inf", -math.inf),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = resolve_plain(text)
    assert found == value
    assert type(found) is type(value)


def test_quoted_and_block_scalars_are_text() -> None:
    assert read("a: '1'\nb: \"true\"\nc: |\n  1\n") == {"a": "1", "b": "true", "c": "1\n"}


@pytest.mark.parametrize(
    "text", ["[" * 101 + "]" * 101, "- " * 101 + "1", "{a: " * 101 + "1" + "}" * 101]
)
def test_a_hundred_levels_and_no_more(text: str) -> None:
    assert "nested deeper than 100 levels" in refused(text)[0]
    assert isinstance(read("[" * 100 + "]" * 100), list)


def test_too_many_values_or_lines() -> None:
    assert "more than 10000 values" in refused("[" + "1," * 10_001 + "]")[0]
    assert "a value of more than 50000 characters" in refused("a: " + "x" * 50_001)[0]
    assert refused("a: 1\nb: " + "x" * 100_000)[0].startswith("m.yaml:2:1: a line of more than")
    assert "more than 50000 lines" in refused("#\n" * 50_001 + "a: 1")[0]


def test_bytes_must_be_utf8_and_at_most_a_mebibyte() -> None:
    with pytest.raises(ManifestError, match=r"^m.yaml:2:4: byte 0xff is not UTF-8"):
        decode(b"a: 1\nb: \xff", "m.yaml")
    with pytest.raises(ManifestError, match="1 MiB"):
        decode(b"x" * (1 << 20) + b"x", "m.yaml")
    assert decode(b"\xef\xbb\xbfa: 1", "m.yaml") == "a: 1"
    assert len(decode(b"x" * (1 << 20), "m.yaml")) == 1 << 20


_CATEGORIES = ["Cc", "Cs", "Zl", "Zp", "Cf", "Cn"]
_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=_CATEGORIES))
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    _TEXT,
)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_TEXT, _TREES, min_size=1, max_size=4))
def test_json_is_yaml(value: dict[str, object]) -> None:
    assert read(json.dumps(value, ensure_ascii=False)) == value
    assert read(json.dumps(value, ensure_ascii=False, indent=1)) == value


@given(st.text(max_size=80))
def test_any_text_gives_a_tree_or_faults(text: str) -> None:
    try:
        read_tree(text, "m.yaml")
    except YamlFaults as error:
        assert error.faults
        assert all(str(fault).startswith("m.yaml:") for fault in error.faults)
