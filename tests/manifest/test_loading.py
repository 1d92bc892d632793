"""Reading manifests: from files and URLs, with the same result as the models themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradattr.errors import ManifestError
from gradattr.manifest.kinds import KINDS
from gradattr.manifest.loading import load_manifest, parse_manifest, resolved


def test_a_path_a_string_and_a_file_url_are_the_same(minimal: str, tmp_path: Path) -> None:
    path = tmp_path / "my manifest.yaml"
    path.write_text(minimal)
    first = load_manifest(path)
    assert first == load_manifest(str(path)) == load_manifest(path.as_uri())
    assert first == parse_manifest(minimal) == parse_manifest(minimal.encode())


def test_messages_name_the_file_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("kind: train\n")
    with pytest.raises(ManifestError, match="^" + str(path) + ":1:1: the required key 'name'"):
        load_manifest(path)


def test_missing_file_folder_and_near_name(minimal: str, tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text(minimal)
    with pytest.raises(ManifestError, match=r"no such file; did you mean '.*digits\.yaml'"):
        load_manifest(tmp_path / "digit.yaml")
    with pytest.raises(ManifestError, match=r"no such file$"):
        load_manifest(tmp_path / "none" / "x.yaml")
    with pytest.raises(ManifestError, match="this is a folder"):
        load_manifest(tmp_path)
    with pytest.raises(ManifestError, match="cannot be read"):
        load_manifest("a\0b")


def test_other_urls_need_a_reader(minimal: str) -> None:
    with pytest.raises(ManifestError, match="only local files"):
        load_manifest("s3://bucket/m.yaml")
    asked: list[str] = []

    def read(url: str) -> bytes:
        asked.append(url)
        return minimal.encode()

    assert load_manifest("s3://bucket/m.yaml", read=read) == parse_manifest(minimal)
    assert asked == ["s3://bucket/m.yaml"]


def test_an_endless_file_is_read_no_further_than_the_limit() -> None:
    with pytest.raises(ManifestError, match="more than 1 MiB"):
        load_manifest("/dev/zero")


def test_the_error_has_no_context_that_could_repeat_values() -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest("kind: attribute\nname: 5\n")
    assert caught.value.__context__ is None
    assert caught.value.exit_code == 2


def test_resolved_fills_in_defaults_and_is_json(minimal: str) -> None:
    values = resolved(parse_manifest(minimal))
    assert json.loads(json.dumps(values)) == values
    assert values["data"]["format"] == "digits"
    assert values["methods"] == [{"id": None, "target": None, "name": "saliency"}]
    assert values["store"]["url"] == "results"


def test_spellings_of_one_value_resolve_alike(minimal: str) -> None:
    short = resolved(parse_manifest(minimal))
    text = "version: 1.0\nerrors: {max: 0}\nseed: 0x0\nstore: {url: results}\n"
    long = minimal.replace("data: digits", "data: {format: digits}") + text
    assert json.dumps(resolved(parse_manifest(long)), sort_keys=True) == json.dumps(
        short, sort_keys=True
    )


_SLOW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@_SLOW
@given(data=st.data())
def test_text_and_models_agree(
    valid_manifests: st.SearchStrategy[dict[str, Any]], data: st.DataObject
) -> None:
    value = data.draw(valid_manifests)
    expected = KINDS[value["kind"]].model_validate(value)
    found = parse_manifest(json.dumps(value, indent=1))
    assert found == expected
    again = parse_manifest(json.dumps(resolved(found)))
    assert again == found


_MUTANTS = (None, -1, 0, 1.5, True, "", "nope", [], {}, [1], {"a": 1}, "torchvision:x")


@_SLOW
@given(data=st.data())
def test_a_damaged_manifest_loads_or_says_where(
    valid_manifests: st.SearchStrategy[dict[str, Any]], data: st.DataObject
) -> None:
    value = data.draw(valid_manifests)
    target: Any = value
    while True:
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        key = data.draw(st.sampled_from(keys))
        child = target[key]
        if not isinstance(child, dict | list) or not child or data.draw(st.booleans()):
            break
        target = child
    action = data.draw(st.sampled_from(["replace", "rename", "remove"]))
    if action == "replace" or isinstance(target, list):
        target[key] = data.draw(st.sampled_from(_MUTANTS))
    elif action == "rename":
        target[key + "z"] = target.pop(key)
    else:
        del target[key]
    try:
        KINDS[value["kind"]].model_validate(value)
        accepted = True
    except (ValueError, KeyError, TypeError):
        accepted = False
    text = json.dumps(value, indent=1)
    try:
        parse_manifest(text, file="m.yaml")
        assert accepted
    except ManifestError as error:
        assert not accepted
        lines = str(error).split("\n")
        assert len(set(lines)) == len(lines)
        for line in lines:
            number = int(line.split(":")[1])
            assert line.startswith("m.yaml:")
            assert 1 <= number <= text.count("\n") + 1


def test_import_needs_no_heavy_library() -> None:
    code = "import sys, gradattr.manifest.loading, gradattr.manifest.schema; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    roots = {name.split(".")[0] for name in done.stdout.split()}
    assert roots.isdisjoint({"torch", "ray", "numpy", "pyarrow", "fsspec", "duckdb", "pandas"})
