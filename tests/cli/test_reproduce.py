"""``python -m jobs.reproduce_diffroar``: our curve beside the published one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gradattr.report.curves import curves_figure, panels_of
from gradattr.report.results import Run
from gradattr.storage.objects import open_store
from jobs import reproduce_diffroar
from tests.made_up_audits import MadeUpAudit

NAME = "paper-imagenet10-resnet18"


def write(folder: Path, robust: float) -> Run:
    """A finished run that is called as the paper's."""
    store = open_store(str(folder))
    effects = {"linf-4-255/saliency": robust, "random": 0.0}
    return Run(store, MadeUpAudit(name=NAME, effects=effects).write(store).run_id)


@pytest.mark.parametrize(("robust", "code"), [(0.15, 0), (-0.15, 1)])
def test_a_finished_run_is_compared(tmp_path: Path, capsys: Any, robust: float, code: int) -> None:
    run, picture = write(tmp_path, robust), tmp_path / "curves.png"
    done = reproduce_diffroar.main([run.run_id, "--store", str(tmp_path), "--output", str(picture)])
    out = capsys.readouterr().out
    assert done == code
    assert ("Against the published sign" in out) == bool(code)
    (line,) = [line for line in out.splitlines() if "linf-4-255" in line and "  10 %" in line]
    assert "+0.111" in line
    assert line.split()[-1] == ("yes" if robust > 0 else "no")
    assert Image.open(picture).width > 500


def test_published_values_are_drawn(tmp_path: Path) -> None:
    run = write(tmp_path, 0.15)
    published = reproduce_diffroar.published(run)
    assert published["linf-4-255/saliency"][0.05] == 0.149
    axis = curves_figure(panels_of(run, published=published)).axes[0]
    crosses = [line for line in axis.lines if line.get_marker() == "x"]
    theirs = reproduce_diffroar.PUBLISHED[NAME]["linf-4-255"]
    assert any(np.array_equal(line.get_ydata(), theirs) for line in crosses)


def test_a_manifest_is_carried_out_first(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(
        "kind: diffroar\nname: small\ndata: {format: digits, limit: 60}\n"
        "test: {format: digits, limit: 30}\n"
        "models: {a: {arch: linear, train: {epochs: 2}}}\nbaselines: [random]\n"
        f"levels: [0.5, 1.0]\nseeds: 2\nmask_only: false\nstore: {tmp_path}/store\n"
    )
    picture = str(tmp_path / "curves.svg")
    arguments = [str(path), "--set", "runtime.address=inline", "--output", picture]
    assert reproduce_diffroar.main(arguments) == 0
    out = capsys.readouterr().out
    assert "a/saliency" in out
    assert "published" in out
    assert reproduce_diffroar.main(arguments) == 0
    assert "already complete" in capsys.readouterr().err
