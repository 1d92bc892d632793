"""``gradattr`` as a user calls it, but in this process, because a process a call costs seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gradattr.cli.main import main

MANIFEST = """\
version: 1
kind: attribute
name: cli
data: {format: digits, limit: 60}
model:
  arch: mlp
  hidden: [8]
  train: {data: {format: digits, limit: 100}, epochs: 2, lr: 0.01}
methods:
  - saliency
  - {name: integrated_gradients, steps: 5}
  - random
shard_rows: 25
runtime: {address: inline}
store: STORE
"""


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def gradattr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Call the command line; a traceback would fail the test as the exception it is."""

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["gradattr", *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with one committed run: (store, run id)."""
    from gradattr.manifest.loading import parse_manifest
    from gradattr.runtime.driver import run

    store = tmp_path_factory.mktemp("finished")
    result = run(parse_manifest(MANIFEST.replace("STORE", str(store)), file="cli.yaml"))
    return store, result.run_id


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A manifest's file in a folder of its own, with a store beside it."""
    path = tmp_path / "cli.yaml"
    path.write_text(MANIFEST.replace("STORE", str(tmp_path / "store")))
    return path
