"""SIGTERM and Ctrl-C at every phase of a driver (on Ray: test_on_ray.py)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.cli.main import main
from gradattr.errors import Interrupted
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.runtime.progress import Event

Make = Callable[..., Any]
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def _at(kind: str, number: int, times: int = 1) -> Callable[[Event], None]:
    """A listener during whose first event of this kind the signal arrives."""
    left = [times]

    def listener(event: Event) -> None:
        if event.kind == kind and left[0]:
            while left[0]:
                left[0] -= 1
                os.kill(os.getpid(), number)

    return listener


@pytest.mark.parametrize("number", SIGNALS)
def test_while_shards_run_the_driver_finishes_the_one_under_way(
    make_small: Make, undisturbed: Run, same: Make, listener: Make, number: int
) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Interrupted, match=signal.Signals(number).name) as caught:
        run(make_small(), listener=_at("shard", number))
    assert caught.value.exit_code == 130
    assert [signal.getsignal(each) for each in SIGNALS] == before
    told = listener()
    result = run(make_small(), listener=told)
    assert told.shards == ["00001", "00002", "00003"]
    same(open_run(result.uri), undisturbed)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("phase", ["plan", "twice"])
def test_elsewhere_or_a_second_time_it_ends_at_once(
    make_small: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    phase: str,
) -> None:
    """While it plans nothing can be finished; and who asks twice does not want to wait."""
    listener = _at("plan", number) if phase == "plan" else _at("shard", number, times=2)
    path = tmp_path / "stop.yaml"
    path.write_text(make_small().model_dump_json(exclude_none=True))
    monkeypatch.setattr("gradattr.cli.carry_out._Lines", lambda: listener)
    monkeypatch.setattr(sys, "argv", ["gradattr", "run", str(path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert "finished shards are kept" in capsys.readouterr().err
    records = list((tmp_path / "store").glob("runs/*/shards/attribute/*.json"))
    assert len(records) == (0 if phase == "plan" else 1)


def test_a_signal_counts_more_than_a_shard_that_failed_before(
    make_small: Make, fragile: str, marked_file: Path
) -> None:
    """Shard 00001 fails, the signal comes during 00002: the driver was stopped."""
    kwargs = {"largest": 2, "only_white": True}
    model = {"arch": "python", "factory": f"{fragile}:hungry", "kwargs": kwargs, "num_classes": 10}
    data = {"format": "npz", "file": str(marked_file)}
    manifest = make_small(model=model, data=data, engine={"batch_size": 64})
    with pytest.raises(Interrupted):
        run(manifest, listener=_at("failed", signal.SIGTERM))
