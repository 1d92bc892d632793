"""``gradattr check``, and the checks of ``gradattr run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.cli.conftest import MANIFEST, Command

#: Every one of them holds; a name that could style a terminal or break XML.
SOUND = """\
checks:
  - {check: predictions, at_least: 0, not_worse_than: last, by: 1}
  - {check: attributions, method: random, measure: not_ok, at_most: 0}
  - {check: sql, name: '[red]<&>', sql: 'SELECT count(*) FROM predictions', at_least: 60}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the module's tests share: the same manifest is the same run."""
    return tmp_path_factory.mktemp("checked")


@pytest.fixture
def write(folder: Path) -> Any:
    def make(checks: str, name: str = "m.yaml", **replaced: str) -> str:
        text = MANIFEST.replace("STORE", str(folder / "store")) + checks
        for old, new in replaced.items():
            text = text.replace(f"{old}: 2", f"{old}: {new}")
        path = folder / name
        path.write_text(text)
        return str(path)

    return make


def test_checks_of_a_run(gradattr: Command, write: Any, folder: Path) -> None:
    path = write(SOUND)
    done = gradattr("run", path)
    assert done.code == 0, done.err
    assert "Committed cli-" in done.out
    assert "no earlier run" in done.out
    assert "1 of 4 checks had no earlier run to compare with" in done.out
    assert "4 checks passed." in done.out
    assert "[red]<&> >= 60" in done.out
    result = json.loads(gradattr("run", path, "--json").out)
    assert result["already_complete"]
    assert [check["passed"] for check in result["checks"]] == [True] * 4
    assert [check["made"] for check in result["checks"]] == [True, False, True, True]

    # By the run itself, which keeps its first checks, and into files.
    files = [str(folder / "out" / name) for name in ("junit.xml", "report.json")]
    url = result["uri"]
    done = gradattr("check", url, "--junit", files[0], "--report", files[1])
    assert done.code == 0
    suite = ElementTree.parse(files[0]).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "0", "1")
    assert suite[0].get("name") == "cli"
    assert suite[0][3].get("name") == "[red]<&> >= 60"
    report = json.loads(Path(files[1]).read_text())
    assert report["passed"] is True
    assert report["run_id"] == result["run_id"]
    assert report == json.loads(gradattr("check", url, "--json").out)

    # Another bound is no other run.
    failing = write(SOUND.replace("at_least: 60", "at_least: 61"), "other.yaml")
    done = gradattr("check", failing)
    assert done.code == 1
    assert "FAILED" in done.out
    assert "1 of 4 checks of run cli-" in done.err
    done = gradattr("run", failing)
    assert done.code == 1
    assert "already complete" in done.out
    assert "the run itself is committed and stays" in done.err
    done = gradattr("run", failing, "--json")
    assert done.code == 1
    assert json.loads(done.out)["checks"][3]["passed"] is False
    assert gradattr("verify", url).code == 0
    assert gradattr("check", url).code == 0

    # The next run of the manifest has an earlier one.
    done = gradattr("run", write(SOUND, "later.yaml", epochs="1"))
    assert done.code == 0, done.err
    assert f"(earlier run {result['run_id']})" in " ".join(done.out.split())
    assert "no earlier run" not in done.out


def test_checks_that_cannot_be_made(gradattr: Command, write: Any, folder: Path) -> None:
    wrong = write(SOUND.replace("method: random", "method: randm"), "wrong.yaml", epochs="3")
    for command in ("validate", "plan", "run", "check"):
        done = gradattr(command, wrong)
        assert done.code == 2, command
        assert "checks[1].method: 'randm' is not in this manifest" in done.err
        assert "did you mean 'random'?" in done.err
    # Of a run that is complete, too.
    known = write(SOUND.replace("method: random", "method: randm"), "wrong.yaml")
    assert gradattr("run", write(SOUND)).code == 0
    done = gradattr("run", known)
    assert done.code == 2
    done = gradattr("check", write(""))
    assert done.code == 2
    assert "states no checks; write them under 'checks:'" in done.err
    done = gradattr("check", write(SOUND, "never.yaml", epochs="4"))
    assert done.code == 2
    assert "does not exist or is not complete" in done.err
    done = gradattr("check", write(SOUND), "--junit", str(folder))
    assert done.code == 2
    assert "--junit" in done.err


def test_the_first_checks_stay_in_a_run_that_is_resumed(
    gradattr: Command, write: Any, folder: Path
) -> None:
    from gradattr.manifest.loading import load_manifest
    from gradattr.storage.objects import open_store
    from gradattr.storage.run_json import create_run, read_run
    from gradattr.work.planning.prepare import prepare

    first = load_manifest(write(SOUND, "first.yaml", epochs="5"))
    store = open_store(first.store)
    plan = prepare(first, store).plan
    assert create_run(store, plan.run_json()) == "created"
    other = write(SOUND.replace("at_least: 60", "at_least: 59"), "second.yaml", epochs="5")
    done = gradattr("run", other)
    assert done.code == 0, done.err
    assert f"Committed {plan.run_id}" in done.out
    assert ">= 59" in done.out
    stored = read_run(store, plan.run_id)["manifest"]["checks"]
    assert stored[2]["at_least"] == 60
    done = gradattr("verify", plan.run_id, "--store", str(folder / "store"))
    assert done.code == 0, done.err
    assert ">= 60" in gradattr("check", plan.run_id, "--store", str(folder / "store")).out
