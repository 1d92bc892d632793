"""The tree of errors: exit codes, and survival of the way from a worker to the driver."""

from __future__ import annotations

import pickle

import pytest

from gradattr import errors
from gradattr.errors import GradattrError

CODES = {
    "GradattrError": 3,
    "UsageError": 2,
    "ManifestError": 2,
    "DataError": 2,
    "ModelError": 2,
    "MethodError": 2,
    "QueryError": 2,
    "CheckError": 1,
    "IntegrityError": 1,
    "StoreError": 3,
    "ShardError": 3,
    "ConflictError": 4,
    "Interrupted": 130,
}
CLASSES = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, GradattrError)
}


def test_the_public_names_are_frozen() -> None:
    assert set(CLASSES) == set(CODES)


@pytest.mark.parametrize("name", CODES)
def test_exit_codes(name: str) -> None:
    assert CLASSES[name].exit_code == CODES[name]


@pytest.mark.parametrize("name", CODES)
def test_an_error_survives_pickling_and_prints_its_message(name: str) -> None:
    error = pickle.loads(pickle.dumps(CLASSES[name]("file.yaml:1:2: what, and what to do")))
    assert type(error) is CLASSES[name]
    assert str(error) == "file.yaml:1:2: what, and what to do"


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    drawing = str(errors.__doc__)
    depths: list[tuple[int, str]] = []
    seen: set[str] = set()
    for line in drawing.split("\n"):
        words = line.strip(" |`-").split()
        if words and words[0] in CODES and len(words) > 1 and words[1].isdigit():
            name = words[0]
            assert int(words[1]) == CODES[name], name
            depth = line.index(name)
            while depths and depths[-1][0] >= depth:
                depths.pop()
            parent = CLASSES[depths[-1][1]] if depths else Exception
            assert CLASSES[name].__base__ is parent, name
            depths.append((depth, name))
            seen.add(name)
    assert set(CODES) == seen
