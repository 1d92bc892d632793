"""Trained models in the store: found again by the digest of their recipe, by every later run.

``models/<digest16>/record.json`` says what was trained and names the weights file; it is written
last, and the first one that is written counts. A record that does not parse, has a wrong digest of
itself, belongs to another recipe, or names a file that is missing or of another size counts as
absent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from gradattr.canonical import digest_bytes, digest_json
from gradattr.errors import IntegrityError, ModelError, StoreError
from gradattr.manifest.data import Preprocess
from gradattr.manifest.model import AnyModel, PythonModel
from gradattr.models.architectures import Shape, build_model, describe
from gradattr.models.files import save_weights, weights_from_bytes
from gradattr.models.python_factory import factory_digest
from gradattr.models.state import check_finite, load_state
from gradattr.retraining.result import TrainResult
from gradattr.storage.layout import (
    new_nonce,
    trained_checkpoint_data_key,
    trained_checkpoint_key,
    trained_dir,
    trained_record_key,
    trained_weights_key,
)
from gradattr.storage.objects import ObjectStore
from gradattr.storage.sealed import seal, unseal

TRAINED_FORMAT = "gradattr/trained"
CHECKPOINT_FORMAT = "gradattr/checkpoint"

#: Changes when the same recipe would give another model.
_RECIPE_VERSION = 1


@dataclass(frozen=True)
class TrainedReference:
    """What is needed to find a trained model's weights and to know that they are the ones."""

    digest: str
    """Of the recipe: ``recipe_digest``."""
    key: str
    """Key of the weights file in the store."""
    sha256: str
    bytes: int


@dataclass(frozen=True)
class TrainedModel(TrainedReference):
    """A trained model's record."""

    arch: str
    shape: Shape
    num_classes: int
    metrics: dict[str, Any]
    """``TrainResult.metrics()``, and under 'history' one entry per epoch."""

    def reference(self) -> dict[str, Any]:
        """What a run's shard record keeps of it."""
        return {
            "digest": self.digest,
            "key": self.key,
            "sha256": self.sha256,
            "bytes": self.bytes,
        }


def recipe_digest(
    spec: AnyModel,
    data: Mapping[str, str],
    preprocess: Preprocess,
    shape: Shape,
    num_classes: int,
) -> str:
    """What identifies the model that ``spec`` and its ``train`` block lead to: 64 hex digits.

    ``data`` holds the content digests of the data sets ('train', and 'test' where there is one):
    their location is no part of it, nor is how often checkpoints are kept. Of a user's own factory
    the source file is.
    """
    if spec.train is None:
        raise ModelError("the model has no 'train' block, so there is no recipe to identify")
    source = factory_digest(spec) if isinstance(spec, PythonModel) else None
    return digest_json(
        {
            "version": _RECIPE_VERSION,
            "model": spec.model_dump(
                mode="json", exclude={"train", "weights", "sha256", "num_classes"}
            ),
            "source": source,
            "train": spec.train.model_dump(
                mode="json", exclude={"data", "test", "checkpoint_every"}
            ),
            "data": dict(data),
            "preprocess": preprocess.model_dump(mode="json"),
            "shape": list(shape),
            "num_classes": num_classes,
        }
    )


def read_trained(store: ObjectStore, digest: str) -> TrainedModel | None:
    """The trained model of a recipe, or None if there is none that counts."""
    data = store.get(trained_record_key(digest))
    try:
        value = unseal(data or b"", TRAINED_FORMAT)
        trained = TrainedModel(
            digest=value["recipe"],
            key=value["weights"],
            sha256=value["sha256"],
            bytes=value["bytes"],
            arch=value["arch"],
            shape=tuple(value["shape"]),
            num_classes=value["num_classes"],
            metrics=value["metrics"],
        )
    except (ValueError, KeyError, TypeError):
        return None
    if trained.digest != digest or not trained.key.startswith(f"{trained_dir(digest)}/"):
        return None
    info = store.head(trained.key)
    return trained if info is not None and info.bytes == trained.bytes else None


def write_trained(
    store: ObjectStore,
    digest: str,
    model: nn.Module,
    spec: AnyModel,
    shape: Shape,
    num_classes: int,
    result: TrainResult,
) -> TrainedModel:
    """Keep a model that was trained by the recipe ``digest``; return the one that counts.

    Where two trainers race, the first record counts and both get it. The training's checkpoint is
    deleted. Raises ModelError if the weights are not finite.
    """
    check_finite(model, f"model {describe(spec)} after training")
    data = save_weights(model)
    sha256 = digest_bytes(data)
    key = trained_weights_key(digest, sha256[:16], new_nonce())
    metrics = result.metrics() | {"history": [epoch.to_json() for epoch in result.history]}
    ours = TrainedModel(digest, key, sha256, len(data), describe(spec), shape, num_classes, metrics)
    store.put_unique(key, data)
    _claim(store, ours)
    StoredCheckpoints(store, digest).clear()
    return read_trained(store, digest) or ours


def _claim(store: ObjectStore, trained: TrainedModel) -> None:
    record = seal(
        {
            "format": TRAINED_FORMAT,
            "recipe": trained.digest,
            "weights": trained.key,
            "sha256": trained.sha256,
            "bytes": trained.bytes,
            "arch": trained.arch,
            "shape": list(trained.shape),
            "num_classes": trained.num_classes,
            "metrics": trained.metrics,
        }
    )
    key = trained_record_key(trained.digest)
    if not store.put_new(key, record) and read_trained(store, trained.digest) is None:
        # What is there counts as absent, so it may be replaced.
        store.put(key, record)


def load_trained(
    store: ObjectStore,
    trained: TrainedModel,
    spec: AnyModel,
    *,
    shape: Shape,
    num_classes: int,
) -> nn.Module:
    """The trained model, float32, on the CPU, in eval mode.

    Raises IntegrityError if the weights are not those of the record, ModelError if they do not
    fit the architecture.
    """
    model = build_model(spec, shape=shape, num_classes=num_classes, seed=0)
    data = read_weights(store, trained)
    load_state(model, weights_from_bytes(data, trained.key), trained.key)
    return model.eval()


def read_weights(store: ObjectStore, reference: TrainedReference) -> bytes:
    """The bytes of a trained model's weights. IntegrityError if they are gone or others."""
    data = store.get(reference.key)
    if data is None:
        raise IntegrityError(f"{store.url(reference.key)}: the trained model's weights are gone")
    if digest_bytes(data) != reference.sha256:
        raise IntegrityError(
            f"{store.url(reference.key)}: its sha256 is {digest_bytes(data)}, its record says "
            f"{reference.sha256}; delete the file, and the model is trained again"
        )
    return data


class StoredCheckpoints:
    """The newest checkpoint of a training, in the store: gradattr.retraining.Checkpoints.

    The pointer ``checkpoint.json`` is overwritten; the checkpoint it named before is deleted then.
    """

    def __init__(self, store: ObjectStore, digest: str) -> None:
        self._store = store
        self._digest = digest
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
        }
        self._store.put(self._pointer, seal(pointer))
        self._forget()
        self._newest = key

    def load(self) -> tuple[int, bytes] | None:
        pointer = self._read_pointer()
        if pointer is None:
            return None
        epoch, key, sha256 = pointer
        data = self._store.get(key)
        if data is None or digest_bytes(data) != sha256:
            return None
        self._newest = key
        return epoch, data

    def clear(self) -> None:
        """Delete what is there: the training is complete."""
        pointer = self._read_pointer()
        if pointer is not None:
            self._newest = pointer[1]
            with contextlib.suppress(StoreError):
                self._store.delete(self._pointer)
        self._forget()
        self._newest = None

    def _read_pointer(self) -> tuple[int, str, str] | None:
        """(epoch, key, sha256) of the newest checkpoint, if the pointer is whole and ours."""
        try:
            value = unseal(self._store.get(self._pointer) or b"", CHECKPOINT_FORMAT)
            epoch, key, sha256 = int(value["epoch"]), str(value["key"]), str(value["sha256"])
        except (ValueError, KeyError, TypeError):
            return None
        inside = key.startswith(f"{trained_dir(self._digest)}/")
        return (epoch, key, sha256) if inside and value.get("recipe") == self._digest else None

    def _forget(self) -> None:
        # Who may write but not delete can still train; 'gc' removes what is left.
        if self._newest is not None:
            with contextlib.suppress(StoreError):
                self._store.delete(self._newest)
