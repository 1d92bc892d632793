"""Training a classifier: torch in, torch out. No files, no Ray, no manifest."""

from gradattr.retraining.checkpoints import Checkpoints
from gradattr.retraining.evaluation import Evaluation, evaluate
from gradattr.retraining.recipe import Augmentation, Recipe, learning_rate
from gradattr.retraining.result import EpochResult, TrainResult
from gradattr.retraining.training import train_classifier

__all__ = [
    "Augmentation",
    "Checkpoints",
    "EpochResult",
    "Evaluation",
    "Recipe",
    "TrainResult",
    "evaluate",
    "learning_rate",
    "train_classifier",
]
