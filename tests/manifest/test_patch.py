"""The patch of a data set in a manifest: its key 'class', its rules, and where faults are told."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.data_base import Patch
from gradattr.manifest.loading import parse_manifest, resolved


@pytest.fixture
def with_data(minimal: str) -> Callable[[str], str]:
    """A manifest whose data, written in one line, is this."""
    return lambda data: minimal.replace("data: digits", f"data: {data}")


def test_it_is_written_as_it_was_read(with_data: Callable[[str], str]) -> None:
    text = with_data("{format: digits, patch: {class: dog, fraction: 0.5, size: 5}}")
    manifest = parse_manifest(text)
    assert isinstance(manifest, AttributeManifest)
    value = resolved(manifest)
    assert value["data"]["patch"] == {
        "class": "dog",
        "fraction": 0.5,
        "size": 5,
        "colour": [255],
        "corner": "bottom_right",
        "margin": 0,
        "seed": 0,
    }
    assert manifest.data.has_masks and not manifest.data.has_own_masks
    assert AttributeManifest.model_validate(value) == manifest
    assert parse_manifest(json.dumps(value)) == manifest
    assert json.loads(manifest.model_dump_json()) == value
    assert json.loads(manifest.data.model_dump_json()) == value["data"]


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        ("clas: dog, size: 3", "patch.clas: unknown key; did you mean 'class'?"),
        ("class_: dog, size: 3", "patch.class_: unknown key; did you mean 'class'?"),
        ("color: [1], size: 3", "patch.color: unknown key; did you mean 'colour'?"),
        ("class: -1, size: 3", "patch.class: -1 is not text or a whole number of at least 0"),
        ("class: true, size: 3", "patch.class: true is not text or a whole number"),
        ("class: [dog], size: 3", "patch.class: a list is not text or a whole number"),
        ("class: dog", "patch: the required key 'size' is missing (Side of the square"),
        ("size: 0", "patch.size: 0 is not a whole number above 0"),
        ("size: 3, colour: 255", "patch.colour: 255 is not a list of numbers; write it as a list"),
        ("size: 3, colour: [1, 2]", "patch.colour: 2 numbers; expected one, or three"),
        ("size: 3, colour: [256]", "patch.colour[0]: 256 is not a whole number of at least 0"),
        ("size: 3, fraction: 50", "as a share, 50 percent is 0.5"),
        ("size: 3, corner: top_lef", "did you mean 'top_left'?"),
        ("size: 3, margin: -1", "patch.margin: -1 is not a whole number of at least 0"),
    ],
)
def test_faults(
    patch: str, reason: str, with_data: Callable[[str], str], fault: Callable[..., str]
) -> None:
    line = fault(with_data(f"{{format: digits, patch: {{{patch}}}}}"))
    assert line.startswith("m.yaml:3:") and reason in line


@pytest.mark.parametrize(
    "data",
    [
        "{format: blockmnist, patch: {size: 3}}",
        "{format: theory, patch: {size: 1}}",
        "{format: npz, file: a.npz, masks: m, patch: {size: 3}}",
        "{format: parquet, files: [a], mask: m, patch: {size: 3}}",
    ],
)
def test_an_image_has_one_mask(
    data: str, with_data: Callable[[str], str], fault: Callable[..., str]
) -> None:
    line = fault(with_data(data))
    assert line.startswith(f"m.yaml:3:{len('data: ') + data.index('patch') + 1}: data.patch: ")
    assert "has masks of its own" in line


def test_overrides_reach_into_it(minimal: str) -> None:
    options = ["data.patch.size=4", "data.patch.class=3", "data.patch.fraction=0.25"]
    manifest = parse_manifest(minimal, overrides=options)
    assert isinstance(manifest, AttributeManifest)
    expected = {"size": 4, "class": 3, "fraction": 0.25}
    assert manifest.data.patch == Patch.model_validate(expected)
