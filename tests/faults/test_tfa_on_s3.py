"""A whole run of kind tfa, and a look-up in its index, on S3: the tables of a local run, nothing on
the local disk, no secret anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.cli.main import main
from gradattr.errors import StoreError
from gradattr.manifest.operation import Store
from gradattr.report.results import Run
from gradattr.runtime.driver import run
from gradattr.storage.objects import open_store
from gradattr.storage.verify import verify_run
from tests.disturbed import LOOKUP, finished, same, when
from tests.fault_proxy import FaultProxy
from tests.s3_servers import SECRET_VARIABLE, S3Server

from .conftest import DriverCrashed

Make = Callable[..., Any]


def _crash() -> None:
    raise DriverCrashed


@pytest.mark.parametrize("server", ["s3_moto", "s3_rclone"])
def test_a_run_on_s3_equals_a_local_one(
    everything: Make,
    undisturbed_tfa: Run,
    undisturbed_answer: Run,
    server: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    store: Store = request.getfixturevalue(server).model_copy(update={"maps": "float32"})
    outside = open_store(store.model_copy(update={"url": store.url + "-other"}))
    outside.put("runs/kept/file", b"not yours")
    before = sorted(tmp_path.rglob("*"))
    place = {"store": store.model_dump(exclude_none=True)}
    with pytest.raises(DriverCrashed):
        run(everything(**place), listener=when("tda", _crash, "shard"))
    found = finished(everything(**place))
    assert found.run_id == undisturbed_tfa.run_id
    same(found, undisturbed_tfa)
    answer = finished(everything(**LOOKUP, **place, index_of=f"run:{found.run_id}"))
    same(answer, undisturbed_answer)
    for each in (found, answer):
        assert verify_run(each.store, each.run_id).ok
    assert sorted(tmp_path.rglob("*")) == before, "a run on S3 wrote to the local disk"
    assert [item.key for item in outside.list("")] == ["runs/kept/file"]


def test_no_secret_in_the_store_the_logs_or_on_the_terminal(
    rclone: S3Server,
    everything: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A run that fails for credentials as it scores, and then is completed."""
    planted = "planted/secret+of-the-environment"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", planted)
    secrets = [planted, os.environ[SECRET_VARIABLE]]
    messages: list[str] = []
    with FaultProxy(rclone.port) as proxy:
        store = rclone.store(endpoint=proxy.endpoint)
        manifest = everything(store=store.model_dump(exclude_none=True))

        def deny() -> None:
            proxy.fault = lambda request: "403" if "/data/" in request.path else None

        act = when("tda", deny, "shard")

        def listener(event: Any) -> None:
            messages.append(event.message)
            act(event)

        with pytest.raises(StoreError) as caught:
            run(manifest, listener=listener)
        assert caught.value.exit_code == 3
        messages.append(str(caught.value))
        proxy.fault = lambda request: None
        path = tmp_path / "secrets.yaml"
        path.write_text(json.dumps(manifest.model_dump(mode="json", exclude_none=True)))
        for command in ("plan", "run", "show"):
            monkeypatch.setattr("sys.argv", ["gradattr", command, str(path)])
            with pytest.raises(SystemExit) as end:
                main()
            assert end.value.code == 0
        opened = open_store(store)
        for info in opened.list(""):
            data = opened.get(info.key) or b""
            assert not [secret for secret in secrets if secret.encode() in data], info.key
    captured = capfd.readouterr()
    for text in [*messages, captured.out, captured.err]:
        assert not [secret for secret in secrets if secret in text]
    assert "Committed" in captured.out
