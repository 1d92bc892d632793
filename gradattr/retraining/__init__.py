"""Training a classifier: torch in, torch out. No files, no Ray, no manifest."""

from gradattr.retraining.adversary import Adversary, perturb
from gradattr.retraining.checkpoints import Checkpoints, EpochsInMemory, KeptEpochs
from gradattr.retraining.evaluation import Evaluation, evaluate, evaluate_robust
from gradattr.retraining.masking import Masking
from gradattr.retraining.ranks import LevelBins, kept_count
from gradattr.retraining.recipe import Augmentation, Recipe, learning_rate
from gradattr.retraining.result import EpochResult, TrainResult
from gradattr.retraining.training import train_classifier

__all__ = [
    "Adversary",
    "Augmentation",
    "Checkpoints",
    "EpochResult",
    "EpochsInMemory",
    "Evaluation",
    "KeptEpochs",
    "LevelBins",
    "Masking",
    "Recipe",
    "TrainResult",
    "evaluate",
    "evaluate_robust",
    "kept_count",
    "learning_rate",
    "perturb",
    "train_classifier",
]
