"""Names to modules: architectures, weights, and trained models in the store."""

from gradattr.models.architectures import build_model
from gradattr.models.checkpoints import StoredCheckpoints
from gradattr.models.files import save_weights, weights_from_bytes
from gradattr.models.kept import KeptWeights, StoredEpochs
from gradattr.models.published import published_classes, weights_preprocess
from gradattr.models.state import check_finite, load_state
from gradattr.models.trained import (
    TrainedModel,
    TrainedReference,
    load_kept,
    load_trained,
    read_trained,
    recipe_digest,
    write_trained,
)
from gradattr.models.weights import (
    load_model,
    load_weights_into,
    model_of_run,
    weights_digest,
)

__all__ = [
    "KeptWeights",
    "StoredCheckpoints",
    "StoredEpochs",
    "TrainedModel",
    "TrainedReference",
    "build_model",
    "check_finite",
    "load_kept",
    "load_model",
    "load_state",
    "load_trained",
    "load_weights_into",
    "model_of_run",
    "published_classes",
    "read_trained",
    "recipe_digest",
    "save_weights",
    "weights_digest",
    "weights_from_bytes",
    "weights_preprocess",
    "write_trained",
]
