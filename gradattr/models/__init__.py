"""Names to modules: architectures, weights, and trained models in the store."""

from gradattr.models.architectures import build_model
from gradattr.models.files import save_weights, weights_from_bytes
from gradattr.models.published import published_classes, weights_preprocess
from gradattr.models.state import check_finite, load_state
from gradattr.models.trained import (
    StoredCheckpoints,
    TrainedModel,
    load_trained,
    read_trained,
    recipe_digest,
    write_trained,
)
from gradattr.models.weights import load_model, load_weights_into, weights_digest

__all__ = [
    "StoredCheckpoints",
    "TrainedModel",
    "build_model",
    "check_finite",
    "load_model",
    "load_state",
    "load_trained",
    "load_weights_into",
    "published_classes",
    "read_trained",
    "recipe_digest",
    "save_weights",
    "weights_digest",
    "weights_from_bytes",
    "weights_preprocess",
    "write_trained",
]
