"""The models of TracIn's checkpoints: given as files, or kept by the model's own training."""

from __future__ import annotations

from gradattr.errors import ModelError
from gradattr.manifest.model import AnyModel
from gradattr.manifest.scores import TracInScore, score_id
from gradattr.manifest.tfa import TfaManifest
from gradattr.models import KeptWeights, model_of_run
from gradattr.storage.objects import ObjectStore


def checkpoint_models(score: TracInScore, model: AnyModel) -> list[tuple[str, AnyModel, float]]:
    """(role, the model with the checkpoint's weights, learning rate); empty for kept epochs."""
    return [
        (
            f"{score_id(score)}:{number}",
            model.model_copy(
                update={"weights": given.weights, "sha256": given.sha256, "train": None}
            ),
            given.lr,
        )
        for number, given in enumerate(score.checkpoints or ())
    ]


def kept_checkpoints(score: TracInScore, kept: tuple[KeptWeights, ...]) -> list[KeptWeights]:
    """Those of a training's kept epochs that the score asks for. Epochs that the training did not
    reach, because it stopped early, are left out; ModelError if none is left."""
    found = [weights for weights in kept if score.epochs is None or weights.epoch in score.epochs]
    if not found:
        asked = ", ".join(map(str, score.epochs or ())) or "any"
        there = ", ".join(str(weights.epoch) for weights in kept) or "none"
        raise ModelError(
            f"scores: '{score_id(score)}' needs the weights after epochs of the training: {asked}; "
            f"there are: {there}. It stopped before them (model.train.stop_below), or did not keep "
            "them (keep_epochs)"
        )
    return found


def kept_by_run(manifest: TfaManifest, store: ObjectStore) -> dict[str, str]:
    """Of a model that another run has trained ('run:<id>'): epoch -> sha256 of the weights that
    TracIn needs. ModelError if an epoch that is asked for was not kept."""
    weights = manifest.model.weights or ""
    asked = [s for s in manifest.scores if isinstance(s, TracInScore) and s.checkpoints is None]
    if not asked or not weights.startswith("run:"):
        return {}
    reference = model_of_run(weights, store)
    found: dict[str, str] = {}
    for score in asked:
        for epoch in score.epochs or ():
            reference.weights_after(epoch)
        found |= {str(w.epoch): w.sha256 for w in kept_checkpoints(score, reference.kept)}
    return found
