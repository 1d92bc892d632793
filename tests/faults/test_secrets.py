"""Credentials stay in the environment: not in the store, the logs, or on the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.cli.main import main
from gradattr.errors import StoreError
from gradattr.manifest.operation import Store
from gradattr.runtime.driver import run
from gradattr.storage.objects import open_store
from tests.fault_proxy import FaultProxy
from tests.s3_servers import SECRET_VARIABLE, S3Server

Make = Callable[..., Any]


def _no_secret_in(store: Store, secrets: list[str]) -> int:
    opened = open_store(store)
    count = 0
    for info in opened.list(""):
        data = opened.get(info.key) or b""
        assert not [s for s in secrets if s.encode() in data], info.key
        count += 1
    return count


def test_no_secret_in_the_store_the_logs_or_on_the_terminal(
    rclone: S3Server,
    make_small: Make,
    listener: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A run that fails for credentials and one that is completed, on a server that signs."""
    import os

    planted = "planted/secret+of-the-environment"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", planted)
    monkeypatch.setenv("AWS_SESSION_TOKEN", planted + "-token")
    secrets = [planted, os.environ[SECRET_VARIABLE]]
    messages: list[str] = []
    with FaultProxy(rclone.port) as proxy:
        store = rclone.store(endpoint=proxy.endpoint)
        manifest = make_small(store=store.model_dump(exclude_none=True))
        first = listener()

        def deny(event: Any) -> None:
            first(event)
            if first.shards:
                proxy.fault = lambda request: "403" if "/data/" in request.path else None

        with pytest.raises(StoreError) as caught:
            run(manifest, listener=deny)
        messages.append(str(caught.value))
        proxy.fault = lambda request: None
        path = tmp_path / "secrets.yaml"
        path.write_text(json.dumps(manifest.model_dump(mode="json", exclude_none=True)))
        for arguments in (["run", str(path)], ["run", str(path)], ["show", str(path)]):
            monkeypatch.setattr("sys.argv", ["gradattr", *arguments])
            with pytest.raises(SystemExit) as end:
                main()
            assert end.value.code == 0
        logs = [info.key for info in open_store(store).list("runs/") if "/log/" in info.key]
        assert any(key.endswith("failure-001.json") for key in logs)
        assert _no_secret_in(store, secrets) > 10
    messages += [event.message for event in first.events]
    captured = capfd.readouterr()
    for text in [*messages, captured.out, captured.err]:
        assert not [secret for secret in secrets if secret in text]
    assert "Committed" in captured.out
