"""Every manifest that the repository ships loads, and says how to run it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.kinds import KINDS
from gradattr.manifest.loading import load_manifest, resolved
from gradattr.manifest.nodes import plain
from gradattr.manifest.schema import manifest_schema
from gradattr.manifest.yaml_source import read_tree

FOLDER = Path(__file__).parents[2] / "manifests"
EXAMPLES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))


def test_the_examples_are_there() -> None:
    assert {
        "cifar10_parquet.yaml",
        "digits_quickstart.yaml",
        "imagefolder_torchvision.yaml",
        "mnist_idx.yaml",
        "own_model_python.yaml",
        "ray_cluster.yaml",
        "s3.yaml",
        "train_digits.yaml",
    } <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_loads(name: str) -> None:
    manifest = load_manifest(FOLDER / name)
    assert manifest.version == 1
    assert resolved(manifest)["kind"] in KINDS


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_editor_finds_no_fault(name: str) -> None:
    root, _ = read_tree((FOLDER / name).read_text(), name)
    errors = list(Draft202012Validator(manifest_schema()).iter_errors(plain(root)))
    assert [error.message for error in errors] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_begins_with_the_schema_and_the_command(name: str) -> None:
    text = (FOLDER / name).read_text()
    first, _, _ = text.partition("\n")
    schema = first.removeprefix("# yaml-language-server: $schema=")
    assert (FOLDER / name).parent.joinpath(schema).resolve() == FOLDER / "schema.json"
    head = text[: text.index("\nversion:")]
    assert f"gradattr run manifests/{name}" in head
    assert max(len(line) for line in text.splitlines()) <= 105


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_options_in_its_comments_work(name: str) -> None:
    text = (FOLDER / name).read_text()
    commands = [line for line in text.splitlines() if "gradattr run" in line and "--set" in line]
    for command in commands:
        options = [part.strip() for part in command.split("--set ")[1:]]
        assert load_manifest(FOLDER / name, overrides=options)


def test_the_quickstart_has_the_methods_it_promises() -> None:
    manifest = load_manifest(FOLDER / "digits_quickstart.yaml")
    assert isinstance(manifest, AttributeManifest)
    ids = [method.id or method.name for method in manifest.methods]
    assert len(ids) >= 6
    assert {"saliency", "gradient", "ig_black", "ig_blur", "random", "linear"} <= set(ids)
    assert manifest.model.train is not None


def test_no_example_needs_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "GRADATTR_")):
            monkeypatch.delenv(name)
    assert all(load_manifest(FOLDER / name) for name in EXAMPLES)
