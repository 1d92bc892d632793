"""``model.weights``: from a URL, torchvision, or another run, into a model."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import nn

from gradattr.canonical import digest_bytes, digest_json
from gradattr.errors import IntegrityError, ModelError
from gradattr.manifest.model import AnyModel, PythonModel
from gradattr.models.architectures import Shape, build_model, describe
from gradattr.models.files import save_weights, weights_from_bytes
from gradattr.models.kept import kept_from_json
from gradattr.models.published import (
    adapt_published,
    fetch_published,
    is_published,
    published_digest,
)
from gradattr.models.python_factory import call_factory, factory_digest
from gradattr.models.state import check_finite, load_state
from gradattr.models.torchvision_models import zoo
from gradattr.models.trained import TrainedReference, read_weights
from gradattr.retraining.random_state import isolated_random
from gradattr.storage.commit import read_commit
from gradattr.storage.filesystem import S3Options, read_bytes, sha256_of
from gradattr.storage.objects import ObjectStore

_RUN = "run:"
#: Role, in a run's train stage, of the model that other runs can name.
_MAIN_ROLE = "model"


def load_model(
    spec: AnyModel,
    store: ObjectStore | None,
    *,
    shape: Shape,
    num_classes: int,
    expected_digest: str | None = None,
) -> nn.Module:
    """The model of ``spec`` with its weights, float32, on the CPU, in eval mode.

    ``expected_digest``: what ``weights_digest`` said when the run was planned. Raises ModelError
    as ``build_model`` and ``load_weights_into`` do.
    """
    model = build_model(spec, shape=shape, num_classes=num_classes, seed=0)
    return load_weights_into(model, spec, store, expected_digest=expected_digest)


def load_weights_into(
    model: nn.Module,
    spec: AnyModel,
    store: ObjectStore | None,
    *,
    expected_digest: str | None = None,
) -> nn.Module:
    """Put the weights that ``spec`` names into ``model``, which is returned.

    ``store`` is where 'run:<id>' is looked up; its credentials also open a weights URL. Raises
    ModelError if there are no such weights, they are refused, have another digest than the
    manifest or the plan says, do not fit the model, or are not finite.
    """
    if _brings_its_own(spec):
        check_finite(model, describe(spec))
        found, name = digest_bytes(save_weights(model)), describe(spec)
    elif is_published(spec):
        data, name = fetch_published(spec)
        _check_sha256(spec, name, digest_bytes(data))
        load_state(model, adapt_published(weights_from_bytes(data, name)), name)
        if isinstance(model, zoo().GoogLeNet | zoo().Inception3):
            # Their published weights expect inputs scaled to [-1, 1]; torchvision's builders do so.
            model.transform_input = True
        found = published_digest(spec)
    else:
        data, name = _read(spec, store)
        found = digest_bytes(data)
        _check_sha256(spec, name, found)
        load_state(model, weights_from_bytes(data, name), name)
    if expected_digest is not None and _with_source(spec, found) != expected_digest:
        raise ModelError(
            f"{name}: the model changed after the run was planned (its digest is "
            f"{_with_source(spec, found)[:16]}, planned {expected_digest[:16]}); the same command "
            "plans a new run"
        )
    return model.eval()


def weights_digest(spec: AnyModel, store: ObjectStore | None) -> str:
    """What identifies the model's weights in a run's fingerprint: 64 hex digits.

    The sha256 of the file; for torchvision's weights, that of their name and file name (which
    carries the file's own digest); for 'run:<id>', that of the committed model's file. The digest
    of a user's own factory also covers its source file.
    """
    if _brings_its_own(spec):
        # As build_model does it, so that a factory that draws its weights draws the same ones.
        with isolated_random(0):
            model = call_factory(spec).to("cpu", torch.float32)
        return _with_source(spec, digest_bytes(save_weights(model)))
    if is_published(spec):
        return published_digest(spec)
    weights = _named(spec)
    if weights.startswith(_RUN):
        digest = model_of_run(weights, store).sha256
    else:
        digest = sha256_of(weights, _options(store))
    _check_sha256(spec, weights, digest)
    return _with_source(spec, digest)


def _brings_its_own(spec: AnyModel) -> TypeGuard[PythonModel]:
    return isinstance(spec, PythonModel) and spec.weights is None and spec.train is None


def _with_source(spec: AnyModel, digest: str) -> str:
    if isinstance(spec, PythonModel):
        return digest_json({"weights": digest, "source": factory_digest(spec)})
    return digest


def _check_sha256(spec: AnyModel, name: str, digest: str) -> None:
    if spec.sha256 is not None and digest != spec.sha256:
        raise ModelError(
            f"{name}: its sha256 is {digest}, model.sha256 says {spec.sha256}; it is another "
            "file, or was changed"
        )


def _read(spec: AnyModel, store: ObjectStore | None) -> tuple[bytes, str]:
    weights = _named(spec)
    if not weights.startswith(_RUN):
        return read_bytes(weights, _options(store)), weights
    reference = model_of_run(weights, store)
    assert store is not None
    return read_weights(store, reference), weights


def _named(spec: AnyModel) -> str:
    if spec.weights is None:
        raise ModelError("the model has no weights to load: it is to be trained")
    return spec.weights


def _options(store: ObjectStore | None) -> S3Options | None:
    return None if store is None else S3Options.from_store(store.spec)


def model_of_run(weights: str, store: ObjectStore | None) -> TrainedReference:
    """The model that a committed run trained: of ``weights`` 'run:<id>', its final weights and
    those after the epochs that it has kept. ModelError if it trained none."""
    if store is None:
        raise ModelError(f"model.weights: {weights!r} names a run, but there is no store")
    run_id = weights.removeprefix(_RUN)
    commit = read_commit(store, run_id)
    for record in commit.records:
        model = record.extra.get("model")
        if isinstance(model, dict) and record.extra.get("role", _MAIN_ROLE) == _MAIN_ROLE:
            try:
                return TrainedReference(
                    model["digest"],
                    model["key"],
                    model["sha256"],
                    model["bytes"],
                    kept=kept_from_json(model.get("kept", []), model["digest"]),
                )
            except KeyError as error:
                raise IntegrityError(
                    f"run {run_id}: its commit names a model without {error}"
                ) from error
    raise ModelError(
        f"model.weights: the run {run_id!r} trained no model; name a run of kind 'train', or one "
        "whose model had a 'train' block"
    )
