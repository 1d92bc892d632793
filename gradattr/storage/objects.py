"""The one door to everything a run keeps: objects under a root, local or remote.

Never trust a reply, look: after each write the object itself is asked for, because a lost reply
and a real failure look the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from gradattr.errors import StoreError
from gradattr.manifest.operation import Store
from gradattr.storage.backend import Backend, LostReply, ObjectInfo
from gradattr.storage.filesystem import S3Options, open_filesystem, s3_filesystem, split_url
from gradattr.storage.layout import probe_key
from gradattr.storage.local_backend import LocalBackend
from gradattr.storage.remote_backend import RemoteBackend, S3Backend

__all__ = ["ObjectInfo", "ObjectStore", "open_store"]

#: A store that does not answer within this is reported as unreachable.
PROBE_SECONDS = 10.0
#: A store that answers, however slowly, gets this long to answer all of the probe's questions.
SLOW_PROBE_SECONDS = 90.0


def open_store(store: Store | str) -> ObjectStore:
    """Open the store of a manifest (or of a bare URL). Nothing is read or written yet.

    UsageError: a URL that is not allowed, a credential variable that is not set.
    """
    spec = Store(url=store) if isinstance(store, str) else store
    scheme, path = split_url(spec.url)
    if scheme == "file":
        root = Path(path).absolute()
        return ObjectStore(spec.model_copy(update={"url": str(root)}), LocalBackend(root))
    return ObjectStore(spec, _remote_backend(spec, scheme, path))


def _remote_backend(spec: Store, scheme: str, path: str, **s3: Any) -> Backend:
    if scheme == "s3":
        options = S3Options.from_store(spec)
        return S3Backend(s3_filesystem(options, **s3), path)
    return RemoteBackend(open_filesystem(spec.url)[0], scheme, path)


class ObjectStore:
    """Objects by key, relative to the store's root. Safe to use from several threads.

    Pickles as its manifest part: another process opens it anew, with its own credentials.
    Every method raises StoreError where the store cannot be reached or refuses.
    """

    def __init__(self, spec: Store, backend: Backend) -> None:
        self.spec = spec
        """The manifest's ``store`` part; a local path in it is absolute."""
        self.backend = backend

    def __reduce__(self) -> tuple[Callable[[Store], ObjectStore], tuple[Store]]:
        return open_store, (self.spec,)

    def __repr__(self) -> str:
        return f"ObjectStore({self.spec.url!r})"

    def put_new(self, key: str, data: bytes) -> bool:
        """Write if absent. True: these bytes are there now; False: other bytes are, untouched.

        Where the service has no create-if-absent, two writers at the same instant may both write;
        the last one stays, and only it is told True.
        """
        if self.backend.conditional is not True and self.head(key) is not None:
            return self._holds(key, data)
        lost = self._write(key, data)
        if lost is None and self.backend.conditional is True:
            return self._look(key, len(data))
        return self._look(key, len(data), lost) and self._holds(key, data)

    def put_unique(self, key: str, data: bytes) -> None:
        """Write under a name that nobody else uses (it has a nonce): one PUT, then one look."""
        lost = self._write(key, data)
        good = self._look(key, len(data), lost)
        if not good or (lost is not None and not self._holds(key, data)):
            raise StoreError(f"{self.url(key)}: holds other bytes than were written")

    def put(self, key: str, data: bytes) -> None:
        """Write or overwrite: for pointers only. Nothing else is ever overwritten."""
        lost = None
        try:
            self.backend.put(key, data)
        except LostReply as error:
            lost = error
        self._look(key, len(data), lost)
        if lost is not None and not self._holds(key, data):
            raise lost

    def get(self, key: str) -> bytes | None:
        """The object's bytes; None if it is absent."""
        return self.backend.get(key)

    def head(self, key: str) -> ObjectInfo | None:
        """Size and time of an object; None if it is absent."""
        return self.backend.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose key begins with ``prefix``. May omit new ones: for ``ls``, ``gc`` and
        displays, never for correctness."""
        return self.backend.list(prefix)

    def children(self, prefix: str) -> Iterator[str]:
        """Names directly below a prefix that ends with '/'. The same caution applies."""
        return self.backend.children(prefix)

    def delete(self, key: str) -> None:
        """Delete an object; nothing happens if it is absent."""
        self.backend.delete(key)

    def open(self, key: str) -> IO[bytes]:
        """A seekable file for reading. FileNotFoundError if it is absent."""
        return self.backend.open(key)

    def url(self, key: str) -> str:
        """Full URL (local: absolute path) of a key."""
        return self.backend.url(key)

    def local_path(self, key: str) -> Path | None:
        """The object's path if the store is a local folder."""
        return self.backend.local_path(key)

    def probe(self) -> dict[str, Any]:
        """Try the store with a throw-away object; the first answer must come within 10 seconds.

        Returns ``{"backend", "url", "writable": True, "conditional_put": bool}``, to be written to
        the log. StoreError: no bucket (none is ever created), no permission, no credentials, no
        answer.
        """
        outcome: list[dict[str, Any] | Exception] = []
        answered = threading.Event()

        def attempt() -> None:
            try:
                outcome.append(self._probe(self._impatient(), answered))
            except Exception as error:
                outcome.append(error)
            answered.set()

        # A daemon thread: a service that never answers must not keep the process alive.
        thread = threading.Thread(target=attempt, name="gradattr-probe", daemon=True)
        thread.start()
        if answered.wait(PROBE_SECONDS):
            thread.join(SLOW_PROBE_SECONDS)
        if not outcome:
            limit = SLOW_PROBE_SECONDS if answered.is_set() else PROBE_SECONDS
            raise StoreError(
                f"{self.spec.url}: no answer within {limit:.0f} s; check store.url, "
                "store.endpoint_url and the network"
            )
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        self.backend.conditional = outcome[0]["conditional_put"]
        return outcome[0]

    def _probe(self, backend: Backend, answered: threading.Event) -> dict[str, Any]:
        key, first, second = probe_key(), b"first " + os.urandom(8), b"second " + os.urandom(8)
        answer = backend.create(key, first)
        answered.set()
        if answer == "unsupported":
            backend.put(key, first)
        if backend.get(key) != first:
            raise StoreError(f"{backend.url(key)}: a written object cannot be read back")
        refused = answer == "created" and backend.create(key, second) == "exists"
        kept = backend.get(key) == first
        backend.delete(key)
        return {
            "backend": backend.kind,
            "url": self.spec.url,
            "writable": True,
            "conditional_put": refused and kept,
        }

    def _impatient(self) -> Backend:
        """The same store with short time-outs and one retry."""
        scheme, path = split_url(self.spec.url)
        if scheme != "s3":
            return self.backend
        config = {"connect_timeout": 3, "read_timeout": 9}
        return _remote_backend(self.spec, scheme, path, attempts=2, config=config)

    def _write(self, key: str, data: bytes) -> LostReply | None:
        """Create if absent, or put where that is not to be had. Returns what leaves it open."""
        try:
            answer = self.backend.create(key, data)
            if answer == "unsupported":
                self.backend.put(key, data)
        except LostReply as error:
            return error
        # 'exists' may be our own write, repeated by the client after its reply was lost.
        return LostReply(f"{self.url(key)}: exists already") if answer == "exists" else None

    def _look(self, key: str, size: int, lost: LostReply | None = None) -> bool:
        """After a write: is an object of this size there? StoreError if none is."""
        info = self.head(key)
        if info is None:
            raise lost or StoreError(
                f"{self.url(key)}: written, but not there afterwards; the same command resumes"
            )
        return info.bytes == size

    def _holds(self, key: str, data: bytes) -> bool:
        return self.get(key) == data
