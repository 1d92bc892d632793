"""Imports point down, modules form no cycle, and each floor uses only the libraries it may.

::

    cli, jobs/                        programs
    runtime                           the only importer of ray
    work                              one task in, one shard out
    report                            committed tables in, figures out
    data, models, storage             names to batches, names to modules, shards to stores
    attribution, retraining, ...      torch in, torch out
    manifest, plan, seeds, ...        pydantic and the standard library

Found by reading the sources, so that an import inside a function counts too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: From the bottom up. Rooms of one entry stand on one floor.
FLOORS = (
    ("errors", "seeds", "canonical", "plan", "manifest"),
    ("attribution", "patching", "retraining", "influence", "metrics"),
    ("data", "models", "storage"),
    ("report",),
    ("work",),
    ("runtime",),
    ("cli", "jobs"),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

#: Rooms of the same floor, or of a lower one, that a room may not use; beyond "imports point down".
NOT_ALLOWED = {
    "errors": {"seeds", "canonical", "plan", "manifest"},
    "seeds": {"plan", "manifest"},
    "canonical": {"seeds", "plan", "manifest"},
    "plan": {"manifest"},
    "manifest": {"plan"},
    "attribution": {"manifest", "plan", "retraining"},
    "patching": {"manifest", "plan", "retraining", "influence"},
    "retraining": {"manifest", "plan", "attribution"},
    "influence": {"manifest", "plan"},
    "metrics": {"manifest", "plan"},
    "storage": {"data", "models"},
    "models": {"data"},
    "data": {"models"},
}

_STANDARD_LIBRARY_ONLY = frozenset[str]()
_MATHEMATICS = frozenset({"torch", "torchvision", "numpy", "captum", "scipy"})
#: Libraries outside of the standard one that a room may use; rooms not named: any but ray.
LIBRARIES = {
    "errors": _STANDARD_LIBRARY_ONLY,
    "seeds": _STANDARD_LIBRARY_ONLY,
    "canonical": _STANDARD_LIBRARY_ONLY,
    "plan": _STANDARD_LIBRARY_ONLY,
    "manifest": frozenset({"pydantic", "pydantic_core", "ruamel"}),
    "attribution": _MATHEMATICS | {"skimage"},
    "patching": _MATHEMATICS,
    "retraining": _MATHEMATICS,
    "influence": _MATHEMATICS,
    "metrics": _MATHEMATICS,
}

#: What the command line may not pull in before it knows what to do.
HEAVY = {"torch", "torchvision", "ray", "captum", "sklearn", "scipy", "matplotlib", "pandas"}
#: Libraries of the extra 'nlp', which only those have who asked for it.
OF_LANGUAGE = {"transformers", "tokenizers", "huggingface_hub"}
HEAVY |= OF_LANGUAGE | {"skimage"}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of gradattr/ and jobs/, parsed."""
    files = sorted([*ROOT.glob("gradattr/**/*.py"), *ROOT.glob("jobs/**/*.py")])
    return {_name(path): ast.parse(path.read_text(), str(path)) for path in files}


def room(module: str) -> str | None:
    """The room of a module; None for the package's own ``__init__``."""
    parts = module.split(".")
    if parts[0] == "jobs":
        return "jobs"
    return parts[1] if len(parts) > 1 and not parts[1].startswith("__") else None


def _typing_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _statements(body: list[ast.stmt], inside_functions: bool) -> Iterator[ast.stmt]:
    for node in body:
        if _typing_only(node):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        yield node
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                yield from _statements([child], inside_functions)
            elif isinstance(child, ast.ExceptHandler | ast.match_case):
                yield from _statements(child.body, inside_functions)


@cache
def imports(module: str, inside_functions: bool = True) -> tuple[str, ...]:
    """Full names of what a module imports when it runs."""
    found = []
    for node in _statements(sources()[module].body, inside_functions):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            for alias in node.names:
                if alias.name == "__version__":
                    continue
                full = f"{node.module}.{alias.name}"
                found.append(full if full in sources() else str(node.module))
    return tuple(found)


def inner(module: str, inside_functions: bool = True) -> set[str]:
    """Modules of this repository that a module imports."""
    return {name for name in imports(module, inside_functions) if name in sources()} - {module}


def outer(module: str, inside_functions: bool = True) -> set[str]:
    """Libraries outside of the standard one that a module imports."""
    roots = {name.split(".")[0] for name in imports(module, inside_functions)}
    return roots - sys.stdlib_module_names - {"gradattr", "jobs", "__future__"}


def modules() -> list[str]:
    return [module for module in sources() if room(module)]


def test_every_room_has_a_floor() -> None:
    rooms = {found for module in sources() if (found := room(module))}
    assert rooms <= set(LEVEL), "a new room needs a line in FLOORS"


def test_imports_of_this_repository_exist() -> None:
    for module in sources():
        for name in imports(module):
            if name.split(".")[0] in ("gradattr", "jobs"):
                assert name in sources(), f"{module} imports {name}, which is not there"


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    own = str(room(module))
    for name in inner(module):
        other = room(name)
        assert other is not None, f"{module} imports the package itself"
        assert other != "jobs", f"{module} imports a program"
        assert LEVEL[other] <= LEVEL[own], f"{module} imports {name}, which stands above it"
        assert other not in NOT_ALLOWED.get(own, set()), f"{own}/ may not use {name}"


@pytest.mark.parametrize("module", modules())
def test_libraries_of_the_floor(module: str) -> None:
    own = str(room(module))
    used = outer(module)
    if own in LIBRARIES:
        assert used <= LIBRARIES[own], f"{module} imports {sorted(used - LIBRARIES[own])}"
    assert "ray" not in used or own == "runtime", f"{module} imports ray; only runtime/ may"


def test_no_cycles() -> None:
    state: dict[str, str] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        if state.get(module) == "done":
            return
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        for name in sorted(inner(module)):
            visit(name, (*path, module))
        state[module] = "done"

    for module in sources():
        visit(module, ())


def _reachable(start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        waiting += inner(module, inside_functions=False)
        parents = module.split(".")[:-1]
        waiting += [".".join(parents[: n + 1]) for n in range(len(parents))]
    return {module for module in found if module in sources()}


@pytest.mark.parametrize("start", ["gradattr", "gradattr.cli.main", "gradattr.manifest.loading"])
def test_the_command_line_starts_light(start: str) -> None:
    assert start in sources()
    for module in _reachable(start):
        heavy = outer(module, inside_functions=False) & HEAVY
        assert not heavy, f"{start} loads {module}, which imports {sorted(heavy)}"


@pytest.mark.parametrize("module", modules())
def test_libraries_of_an_extra_are_imported_when_they_are_needed(module: str) -> None:
    assert not outer(module, inside_functions=False) & OF_LANGUAGE
    if outer(module) & OF_LANGUAGE:
        assert module == "gradattr.models.language_models"


@pytest.mark.parametrize("module", modules())
def test_no_private_names_cross_modules(module: str) -> None:
    for node in ast.walk(sources()[module]):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gradattr"):
            names = [alias.name for alias in node.names if alias.name != "__version__"]
            private = [name for name in names if name.startswith("_")]
            assert not private, f"{module} imports {private} from {node.module}"


def test_jobs_are_programs() -> None:
    assert not (ROOT / "jobs" / "__init__.py").exists()
    for module, tree in sources().items():
        if room(module) == "jobs":
            classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
            assert not classes, f"{module} defines {classes}; classes belong into gradattr/"


def test_nothing_reads_the_other_folders() -> None:
    """The installed package has no manifests/, cluster/ or jobs/ beside it."""
    for module, tree in sources().items():
        if room(module) in ("jobs", None):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("parents", "parent"):
                named = "__file__" in ast.dump(node.value)
                assert not named, f"{module} finds a path from __file__ (line {node.lineno})"
