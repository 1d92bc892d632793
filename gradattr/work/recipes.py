"""From a manifest's training recipe to the mathematics' one."""

from __future__ import annotations

from gradattr.data.preprocess import input_bounds
from gradattr.manifest.data import Preprocess
from gradattr.manifest.model import Adversary as AdversarySpec
from gradattr.manifest.model import TrainingRecipe
from gradattr.retraining import Recipe
from gradattr.retraining.adversary import Adversary
from gradattr.retraining.recipe import Augmentation


def recipe_of(
    train: TrainingRecipe,
    preprocess: Preprocess,
    channels: int,
    *,
    seed: int,
    checkpoint_every: int = 1_000_000,
) -> Recipe:
    """The recipe to train by, for images of so many channels."""
    augment = None
    if train.augment is not None:
        augment = Augmentation(train.augment.crop_padding, train.augment.flip)
    return Recipe(
        optimizer=train.optimizer,
        lr=train.lr,
        lr_decay=train.lr_decay,
        lr_decay_every=train.lr_decay_every,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        batch_size=train.batch_size,
        epochs=train.epochs,
        stop_below=train.stop_below,
        augment=augment,
        adversary=None
        if train.adversary is None
        else adversary_of(train.adversary, preprocess, channels),
        seed=seed,
        checkpoint_every=checkpoint_every,
    )


def adversary_of(spec: AdversarySpec, preprocess: Preprocess, channels: int) -> Adversary:
    """The adversary in the units of the model's input."""
    scale = None
    if spec.space == "pixels" and preprocess.std is not None:
        std = preprocess.std * channels if len(preprocess.std) == 1 else preprocess.std
        scale = tuple(1 / s for s in std)
    low = high = None
    if spec.clamp:
        bounds = input_bounds(preprocess, channels)
        low, high = (tuple(bound.flatten().tolist()) for bound in bounds)
    return Adversary(
        norm=spec.norm,
        eps=spec.eps,
        steps=spec.steps,
        step_size=spec.step_size,
        start=spec.start,
        scale=scale,
        low=low,
        high=high,
    )
