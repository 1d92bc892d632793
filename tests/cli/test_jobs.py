"""Programs under jobs/, as a cluster calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def _job(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"jobs.{name}", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_manifest_is_carried_out(manifest: Path, tmp_path: Path) -> None:
    done = _job("run_manifest", str(manifest), "--set", "data.limit=30")
    assert done.returncode == 0, done.stderr
    assert "30 rows" in done.stdout
    assert list((tmp_path / "store/runs").glob("*/_COMMIT.json"))


def test_a_mistake_has_the_same_exit_code_as_on_the_command_line(manifest: Path) -> None:
    done = _job("run_manifest", str(manifest), "--set", "seeed=1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_jobs_hold_no_classes_and_are_no_package() -> None:
    assert not (ROOT / "jobs/__init__.py").exists()
    for path in (ROOT / "jobs").glob("*.py"):
        assert not any(line.startswith("class ") for line in path.read_text().splitlines())


def test_a_mistaken_override_of_the_theory_check_is_told_without_a_traceback() -> None:
    done = _job("check_theory", "store.urll=elsewhere")
    assert done.returncode == 2
    assert done.stderr.startswith("check_theory: ")
    assert "did you mean 'url'?" in done.stderr
    assert "Traceback" not in done.stderr
