"""Fixtures for all tests: S3 servers, started once per session when first asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from gradattr.manifest.operation import Store
from tests.s3_servers import S3Server, moto_server, rclone_server, set_credentials


def pytest_configure() -> None:
    # Small tensors gain nothing from more threads, and on a busy machine two threads that wait
    # for each other can take ten times as long. Child processes inherit it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Language models come from folders; nothing is looked up on a hub.
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    set_credentials()


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_server(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture
def s3_moto(moto: S3Server) -> Store:
    """An empty store on moto: conditional PUT, no authentication."""
    return moto.store()


@pytest.fixture
def s3_rclone(rclone: S3Server) -> Store:
    """An empty store on rclone: real signatures, no conditional PUT."""
    return rclone.store()
