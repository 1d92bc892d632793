"""An HTTP proxy in front of an S3 server that misbehaves on request.

A ``fault`` function sees each request and names what happens to it:

=========== ==========================================================================
'503'       answered with SlowDown, not forwarded
'403'       answered with AccessDenied, not forwarded
'expired'   answered with ExpiredToken, not forwarded
'reset'     connection closed, not forwarded (a torn upload)
'lost'      forwarded, the reply thrown away, connection closed
'cut'       forwarded, half of the reply's body sent, connection closed
'twice'     forwarded, answered, and forwarded once more a moment later
'delay'     forwarded after ``delay_s``
None        forwarded
=========== ==========================================================================
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

Fault = Callable[["Request"], "str | None"]

_ERRORS = {
    "503": (503, "Slow Down", "SlowDown", "Please reduce your request rate."),
    "403": (403, "Forbidden", "AccessDenied", "Access Denied"),
    "expired": (400, "Bad Request", "ExpiredToken", "The provided token has expired."),
}


@dataclass(frozen=True)
class Request:
    """What a fault function may look at."""

    number: int
    method: str
    path: str
    """With the query string."""


def random_faults(seed: int, rate: float, kinds: tuple[str, ...]) -> Fault:
    """Each request fails with probability ``rate``. Prints the seed, so that a failure repeats."""
    print(f"fault proxy: seed {seed}, rate {rate}, kinds {kinds}")
    generator = random.Random(seed)
    return lambda request: generator.choice(kinds) if generator.random() < rate else None


class FaultProxy:
    """A context manager; runs in a thread of its own."""

    def __init__(self, upstream_port: int, fault: Fault | None = None) -> None:
        self.fault: Fault = fault or (lambda request: None)
        self.delay_s = 0.3
        self.requests: list[Request] = []
        self._upstream = upstream_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._late: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.requests)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def settle(self) -> None:
        """Wait until late duplicates have been sent."""
        while self._late:
            threading.Event().wait(0.02)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; False if the connection is to be closed."""
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(len(self.requests), method, path)
        self.requests.append(request)
        kind = self.fault(request)
        if kind in _ERRORS:
            writer.write(_error(kind, method))
            await writer.drain()
            return False
        if kind == "reset":
            return False
        if kind == "delay":
            await asyncio.sleep(self.delay_s)
        reply = await self._forward(head, body)
        if kind == "lost":
            return False
        if kind == "cut":
            start = reply.index(b"\r\n\r\n") + 4
            reply = reply[: start + (len(reply) - start) // 2]
        if kind == "twice":
            task = asyncio.get_running_loop().create_task(self._again(head, body))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
        writer.write(reply)
        await writer.drain()
        return False

    async def _again(self, head: bytes, body: bytes) -> None:
        await asyncio.sleep(self.delay_s)
        await self._forward(head, body)

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        kept = [
            line
            for line in head.split(b"\r\n")
            if not line.lower().startswith((b"connection:", b"expect:"))
        ]
        lines = [line for line in kept if line] + [b"Connection: close", b"", b""]
        writer.write(b"\r\n".join(lines) + body)
        await writer.drain()
        reply = await reader.read()
        writer.close()
        return reply


def _error(kind: str, method: str) -> bytes:
    status, reason, code, message = _ERRORS[kind]
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    body = b"" if method == "HEAD" else text.encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
