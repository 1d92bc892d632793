"""The README's tree names every file there is, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path

from gradattr.cli.main import app
from gradattr.manifest.loading import parse_manifest
from gradattr.storage.schemas import TABLES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _in_the_tree() -> set[str]:
    tree = README.split("## The tree")[1].split("```")[1]
    folders: list[str] = []
    found = set()
    for line in tree.strip().splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
        else:
            found.add("".join(folders) + name)
    return found


def test_the_tree_is_the_tree() -> None:
    files = [*(ROOT / "gradattr").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]
    there = {str(path.relative_to(ROOT)) for path in files}
    # A room's __init__ says what the room is for; the tree says it in the room's own line.
    there -= {name for name in there if name.count("/") >= 2 and name.endswith("__init__.py")}
    assert _in_the_tree() == there


def test_commands_and_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    typed = "".join(README.split("```")[1::2])
    for target in re.findall(r"^make (\w+)", typed, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    commands = {info.callback.__name__ for info in app.registered_commands if info.callback}
    for command in set(re.findall(r"^gradattr (\w+)", typed, re.M)):
        assert command in commands, command


def test_the_manifests_shown_are_valid() -> None:
    shown = re.findall(r"```yaml\n(.*?)```", README, re.S)
    kinds = [parse_manifest(text, file="README.md").kind for text in shown]
    assert kinds == ["attribute", "diffroar", "evaluate", "audit", "tfa"]


def test_the_columns_shown_are_the_tables_columns() -> None:
    for name, table in TABLES.items():
        (row,) = re.findall(rf"^\| `{name}` \|[^|]*\|(.*)\|$", README, re.M)
        shown = re.findall(r"\w+", row.split("`")[1])
        real = [field.name for field in table.schema]
        assert shown[: len(real)] == real, name
