"""A wrong cluster address is known at once, not after Ray's minutes."""

from __future__ import annotations

import socket

import pytest

from gradattr.errors import UsageError
from gradattr.runtime.reach import check_reachable


@pytest.fixture
def free_port() -> int:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return int(closed.getsockname()[1])


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_port_that_nobody_listens_on_is_refused(scheme: str, free_port: int) -> None:
    with pytest.raises(UsageError, match=f"{free_port}: nothing answers there"):
        check_reachable(f"{scheme}127.0.0.1:{free_port}")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_port_that_answers_is_taken(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_reachable(f"{scheme}127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("address", ["auto", "head", "host:port"])
def test_what_has_no_port_is_left_to_ray(address: str) -> None:
    check_reachable(address)
