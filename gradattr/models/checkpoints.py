"""The newest checkpoint of a training that is under way, in the store."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from gradattr.canonical import digest_bytes
from gradattr.errors import StoreError
from gradattr.models.kept import KeptWeights, StoredEpochs, kept_from_json
from gradattr.storage.layout import (
    new_nonce,
    trained_checkpoint_data_key,
    trained_checkpoint_key,
    trained_dir,
    trained_record_key,
)
from gradattr.storage.objects import ObjectStore
from gradattr.storage.sealed import seal, unseal

CHECKPOINT_FORMAT = "gradattr/checkpoint"


class _Pointer(NamedTuple):
    epoch: int
    key: str
    sha256: str
    kept: tuple[KeptWeights, ...]


class StoredCheckpoints:
    """The newest checkpoint of a training, in the store: gradattr.retraining.Checkpoints.

    The pointer ``checkpoint.json`` is overwritten; the checkpoint it named before is deleted then.
    It also names what ``kept`` has kept so far, and gives it back on ``load``.
    """

    def __init__(self, store: ObjectStore, digest: str, kept: StoredEpochs | None = None) -> None:
        self._store = store
        self._digest = digest
        self._kept = kept
        self._pointer = trained_checkpoint_key(digest)
        self._newest: str | None = None

    def save(self, epoch: int, data: bytes) -> None:
        key = trained_checkpoint_data_key(self._digest, epoch, new_nonce())
        self._store.put_unique(key, data)
        pointer = {
            "format": CHECKPOINT_FORMAT,
            "recipe": self._digest,
            "epoch": epoch,
            "key": key,
            "sha256": digest_bytes(data),
            "kept": [] if self._kept is None else [w.to_json() for w in self._kept.kept],
        }
        try:
            self._store.put(self._pointer, seal(pointer))
        except StoreError:
            # Who trained the same model at the same time and was first has cleared it away.
            if self._store.head(trained_record_key(self._digest)) is None:
                raise
        self._forget()
        self._newest = key

    def load(self) -> tuple[int, bytes] | None:
        pointer = self._read_pointer()
        if pointer is None:
            return None
        data = self._store.get(pointer.key)
        if data is None or digest_bytes(data) != pointer.sha256:
            return None
        self._newest = pointer.key
        if self._kept is not None:
            self._kept.restore(pointer.kept)
        return pointer.epoch, data

    def clear(self) -> None:
        """Delete what is there: the training is complete."""
        pointer = self._read_pointer()
        if pointer is not None:
            self._newest = pointer.key
            with contextlib.suppress(StoreError):
                self._store.delete(self._pointer)
        self._forget()
        self._newest = None

    def _read_pointer(self) -> _Pointer | None:
        """What names the newest checkpoint, if it is whole and ours."""
        try:
            value = unseal(self._store.get(self._pointer) or b"", CHECKPOINT_FORMAT)
            kept = kept_from_json(value.get("kept", []), self._digest)
            pointer = _Pointer(int(value["epoch"]), str(value["key"]), str(value["sha256"]), kept)
        except (ValueError, KeyError, TypeError):
            return None
        inside = pointer.key.startswith(f"{trained_dir(self._digest)}/")
        return pointer if inside and value.get("recipe") == self._digest else None

    def _forget(self) -> None:
        # Who may write but not delete can still train; 'gc' removes what is left.
        if self._newest is not None:
            with contextlib.suppress(StoreError):
                self._store.delete(self._newest)
