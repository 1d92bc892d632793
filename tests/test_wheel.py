"""The wheel holds the package ``gradattr`` and nothing else."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_wheel

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        return folder / build_wheel(str(folder))
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_only_the_package(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    info = {top for top in tops if top.endswith(".dist-info")}
    assert len(info) == 1
    assert tops - info == {"gradattr"}


def test_every_source_file_is_in_it(names: list[str]) -> None:
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("gradattr/**/*.py")}
    assert files <= set(names)


def test_no_litter(names: list[str]) -> None:
    allowed = (".py", ".typed", ".j2", ".html", ".css", ".yaml")
    inside = [name for name in names if name.startswith("gradattr/")]
    assert [name for name in inside if not name.endswith(allowed)] == []
    assert [name for name in inside if "__pycache__" in name or "/." in name] == []


def test_it_says_that_it_is_typed(names: list[str]) -> None:
    assert "gradattr/py.typed" in names


def test_license_and_entry_point(wheel: Path, names: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "gradattr = gradattr.cli.main:main" in archive.read(entry).decode()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in metadata
