"""Trained models in the store: found again by the digest of their recipe, by every later run.

``models/<digest16>/record.json`` says what was trained and names the weights file; it is written
last, and the first one that is written counts. It also names the weights after those epochs that
were asked for (``keep_epochs``). A record that does not parse, has a wrong digest of itself,
belongs to another recipe, or names a file that is missing or of another size counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gradattr.canonical import digest_bytes, digest_json
from gradattr.errors import IntegrityError, ModelError
from gradattr.manifest.data import Preprocess
from gradattr.manifest.model import AnyModel, PythonModel
from gradattr.models.architectures import Shape, build_model, describe
from gradattr.models.checkpoints import StoredCheckpoints
from gradattr.models.files import save_weights, weights_from_bytes
from gradattr.models.kept import KeptWeights, kept_from_json
from gradattr.models.python_factory import factory_digest
from gradattr.models.state import check_finite, load_state
from gradattr.retraining.result import TrainResult
from gradattr.storage.layout import (
    TRAINED_FORMAT,
    new_nonce,
    trained_dir,
    trained_record_key,
    trained_weights_key,
)
from gradattr.storage.objects import ObjectStore
from gradattr.storage.sealed import seal, unseal

#: Changes when the same recipe would give another model.
_RECIPE_VERSION = 1

#: Requests in flight at once.
_THREADS = 8


@dataclass(frozen=True)
class TrainedReference:
    """What is needed to find a trained model's weights and to know that they are the ones."""

    digest: str
    """Of the recipe: ``recipe_digest``."""
    key: str
    """Key of the weights file in the store."""
    sha256: str
    bytes: int
    kept: tuple[KeptWeights, ...] = field(default=(), kw_only=True)
    """The weights after the epochs that were asked for and were run, in order of epochs."""

    def weights_after(self, epoch: int) -> KeptWeights:
        """What was kept of an epoch. ModelError if nothing was."""
        for weights in self.kept:
            if weights.epoch == epoch:
                return weights
        there = ", ".join(str(weights.epoch) for weights in self.kept) or "of no epoch"
        raise ModelError(
            f"trained model {self.digest[:16]}: the weights after epoch {epoch} were not kept; "
            f"there are: {there}. List it in model.train.keep_epochs to train with it, and mind "
            "that training may stop early (stop_below)"
        )


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
            "kept": [weights.to_json() for weights in self.kept],
        }

    def files(self) -> list[dict[str, Any]]:
        """All its files, as a run's shard record names them to have them checked."""
        named: list[TrainedReference | KeptWeights] = [self, *self.kept]
        return [{"key": f.key, "bytes": f.bytes, "sha256": f.sha256} for f in named]


def recipe_digest(
    spec: AnyModel,
    data: Mapping[str, str],
    preprocess: Preprocess,
    shape: Shape,
    num_classes: int,
) -> str:
    """What identifies the model that ``spec`` and its ``train`` block lead to: 64 hex digits.

    ``data`` holds the content digests of the data sets ('train', and 'test' where there is one):
    their location is no part of it, nor is how often checkpoints to resume from are kept. Of a
    user's own factory the source file is; so are ``keep_epochs``, if there are any.
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
            kept=kept_from_json(value.get("kept", []), digest),
        )
    except (ValueError, KeyError, TypeError):
        return None
    if trained.digest != digest or not trained.key.startswith(f"{trained_dir(digest)}/"):
        return None
    return trained if _all_there(store, trained) else None


def _all_there(store: ObjectStore, trained: TrainedModel) -> bool:
    """Is every file of it in the store, in its full size?"""

    def there(file: TrainedReference | KeptWeights) -> bool:
        info = store.head(file.key)
        return info is not None and info.bytes == file.bytes

    if not trained.kept:
        return there(trained)
    with ThreadPoolExecutor(_THREADS) as pool:
        return all(pool.map(there, [trained, *trained.kept]))


def write_trained(
    store: ObjectStore,
    digest: str,
    model: nn.Module,
    spec: AnyModel,
    shape: Shape,
    num_classes: int,
    result: TrainResult,
    kept: Sequence[KeptWeights] = (),
) -> TrainedModel:
    """Keep a model that was trained by the recipe ``digest``; return the one that counts.

    ``kept``: the weights on the way, which stand in the store already. Where two trainers race, the
    first record counts and both get it. The training's checkpoint is deleted. Raises ModelError if
    the weights are not finite.
    """
    check_finite(model, f"model {describe(spec)} after training")
    data = save_weights(model)
    sha256 = digest_bytes(data)
    key = trained_weights_key(digest, sha256[:16], new_nonce())
    metrics = result.metrics() | {"history": [epoch.to_json() for epoch in result.history]}
    ours = TrainedModel(
        digest,
        key,
        sha256,
        len(data),
        describe(spec),
        shape,
        num_classes,
        metrics,
        kept=tuple(kept),
    )
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
            "kept": [weights.to_json() for weights in trained.kept],
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
    return _load(store, trained, spec, shape, num_classes)


def load_kept(
    store: ObjectStore,
    trained: TrainedReference,
    epoch: int,
    spec: AnyModel,
    *,
    shape: Shape,
    num_classes: int,
) -> nn.Module:
    """The model as it was after ``epoch``: float32, on the CPU, in eval mode.

    Its learning rate is ``trained.weights_after(epoch).lr``. Raises ModelError if that epoch was
    not kept (the final weights stand for the last one only if it was asked for), and as
    ``load_trained`` does.
    """
    return _load(store, trained.weights_after(epoch), spec, shape, num_classes)


def _load(
    store: ObjectStore,
    file: TrainedReference | KeptWeights,
    spec: AnyModel,
    shape: Shape,
    num_classes: int,
) -> nn.Module:
    model = build_model(spec, shape=shape, num_classes=num_classes, seed=0)
    data = read_weights(store, file)
    load_state(model, weights_from_bytes(data, file.key), file.key)
    return model.eval()


def read_weights(store: ObjectStore, reference: TrainedReference | KeptWeights) -> bytes:
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
