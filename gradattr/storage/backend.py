"""What an object store must be able to do, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

from gradattr.errors import StoreError

#: Answer to "create this if it is absent". 'unsupported': the service cannot do it, and nothing
#: was written.
Created = Literal["created", "exists", "unsupported"]


class LostReply(StoreError):
    """A write without a trustworthy answer: it may have happened or not. Look."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its key relative to the store's root, size, and time of its last change."""

    key: str
    bytes: int
    modified: float
    """Seconds since 1970 by the store's clock."""


class Backend(Protocol):
    """Primitive operations; keys are relative to the store's root.

    Each raises StoreError where the store cannot be reached or refuses; a write whose outcome is
    unknown raises LostReply.
    """

    kind: str
    conditional: bool | None
    """Whether creating is atomic; None: not known yet."""

    def create(self, key: str, data: bytes) -> Created:
        """Write if absent."""

    def put(self, key: str, data: bytes) -> None:
        """Write or overwrite."""

    def get(self, key: str) -> bytes | None: ...

    def head(self, key: str) -> ObjectInfo | None: ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key begins with ``prefix``."""

    def children(self, prefix: str) -> Iterator[str]:
        """Names directly below ``prefix`` (which ends with '/'), of objects and folders."""

    def delete(self, key: str) -> None:
        """Delete; nothing happens if it is absent."""

    def open(self, key: str) -> IO[bytes]:
        """A seekable file for reading. FileNotFoundError if it is absent."""

    def url(self, key: str) -> str: ...

    def local_path(self, key: str) -> Path | None: ...
