"""The models of TracIn's checkpoints that are given as files."""

from __future__ import annotations

from gradattr.manifest.model import AnyModel
from gradattr.manifest.scores import TracInScore, score_id


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
