"""What a DiffROAR audit consists of: schemes that order coordinates, learners, and trials.

Pure functions of the manifest: driver and workers derive the same lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gradattr.errors import ModelError
from gradattr.manifest.data import Preprocess
from gradattr.manifest.diffroar import DiffRoarManifest, Mask
from gradattr.manifest.methods import GradientMethod, MethodSpec
from gradattr.manifest.model import AnyModel, LinearModel, TrainingRecipe, TrainSpec
from gradattr.seeds import derive_seed
from gradattr.work.context import method_id

#: The baselines, which are their own rankers. All but the linear one do without a model.
RANDOM = "random"
LINEAR = "linear"
SIGNAL_FIRST = "signal_first"
NULL_FIRST = "null_first"
MODEL_FREE = (RANDOM, SIGNAL_FIRST, NULL_FIRST)

Variant = Literal["retrain", "mask_only", "roar", "no_retrain"]
Arm = Literal["top", "bottom", "rest"]


@dataclass(frozen=True)
class Scheme:
    """A way to order the coordinates of every image."""

    scheme: str
    """'<base model>/<method id>', or the name of a baseline."""
    model: str | None
    """The base model that supplies the maps; None for the baselines."""
    method: str

    @property
    def ranker(self) -> str:
        """Whose tasks of the ranking stage make its ranks."""
        return self.model or self.scheme


@dataclass(frozen=True)
class Trial:
    """One retraining: everything that decides its result."""

    row: int
    scheme: str | None
    """None at level 1: nothing is removed, so that the order does not matter."""
    learner: str
    variant: Variant
    level: float
    arm: Arm
    seed: int | None
    """Number of the seed; None without retraining."""

    @property
    def key(self) -> str:
        """Name of the trial's shard."""
        if self.variant == "no_retrain":
            parts = [self.scheme or "", self.variant]
        else:
            parts = [self.scheme or "all", f"k{100 * self.level:g}", self.arm, f"s{self.seed}"]
            parts += [] if self.variant == "retrain" else [self.variant]
        return "-".join([f"{self.row:05d}", *parts]).replace("/", "=")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def schemes(manifest: DiffRoarManifest) -> list[Scheme]:
    """The audit's schemes: each method on each base model, then the baselines."""
    found = [
        Scheme(f"{name}/{method_id(method)}", name, method_id(method))
        for name in manifest.models
        for method in manifest.methods
    ]
    return found + [Scheme(name, None, name) for name in manifest.baselines]


def ranker_methods(manifest: DiffRoarManifest, ranker: str) -> list[MethodSpec]:
    """The methods of a ranker, in the order of its schemes."""
    if ranker == LINEAR:
        # Of |score| only the order counts, so the gradient and its magnitude are the same scheme.
        return [GradientMethod(name="saliency", id=LINEAR)]
    return [] if ranker in MODEL_FREE else list(manifest.methods)


def base_models(manifest: DiffRoarManifest) -> dict[str, AnyModel]:
    """The models that supply maps, by role: the base models, and the linear baseline's."""
    models = dict(manifest.models)
    if LINEAR in manifest.baselines:
        recipe = next(
            (r for m in manifest.models.values() if (r := _recipe(manifest, m)) is not None), None
        )
        if recipe is None:
            raise ModelError(
                "baselines: 'linear' has to be trained, but neither 'retrain' nor the 'train' "
                "block of a base model says how; remove it from 'baselines'"
            )
        models[LINEAR] = LinearModel(arch="linear", train=_spec(manifest, recipe))
    return models


def learners(manifest: DiffRoarManifest) -> dict[str, AnyModel]:
    """What is retrained: architectures with their recipes, under the name of the first base model
    that has it. Empty without retraining."""
    if manifest.retrain is False:
        return {}
    found: dict[str, AnyModel] = {}
    for name, learner in _learner_of(manifest).items():
        if learner == name:
            model = manifest.models[name]
            recipe = _recipe(manifest, model)
            assert recipe is not None
            found[name] = _untrained(model, _spec(manifest, recipe))
    return found


def scheme_learners(manifest: DiffRoarManifest) -> list[tuple[Scheme, str]]:
    """Every scheme with every learner that it is judged by: a base model's schemes by its own
    architecture, the baselines by each. Without retraining: by the base model itself."""
    of = _learner_of(manifest)
    every = list(dict.fromkeys(of.values()))
    return [
        (scheme, learner)
        for scheme in schemes(manifest)
        for learner in ([of[scheme.model]] if scheme.model is not None else every)
    ]


def trials(manifest: DiffRoarManifest) -> list[Trial]:
    """Every trial once, in the order in which they are best done: scheme after scheme, because a
    worker keeps the ranks of the scheme that it read last."""
    return [Trial(row, *cell) for row, cell in enumerate(dict.fromkeys(_cells(manifest)))]


def trial_seeds(manifest: DiffRoarManifest, trial: Trial) -> tuple[int, int]:
    """Seeds of a trial's initial weights, and of its order of batches and augmentation.

    Neither depends on the scheme, so that schemes are compared under the same conditions.
    """
    cell = (trial.variant, trial.level, trial.arm)
    apart = cell if manifest.paired == "none" else ()
    weights = derive_seed(manifest.seed, "trial weights", trial.seed, *apart)
    apart = () if manifest.paired == "all" else cell
    return weights, derive_seed(manifest.seed, "trial order", trial.seed, *apart)


def mask_fill(mask: Mask, preprocess: Preprocess) -> tuple[float, ...]:
    """What a removed coordinate becomes, in the units of the model's input: one number, or one for
    each channel."""
    values = list(mask.value) if isinstance(mask.value, list) else [mask.value]
    if mask.space == "normalized" or preprocess.mean is None or preprocess.std is None:
        return tuple(values)
    mean, std = preprocess.mean, preprocess.std
    channels = max(len(values), len(mean))
    values, mean, std = (v * channels if len(v) == 1 else v for v in (values, mean, std))
    return tuple((v - m) / s for v, m, s in zip(values, mean, std, strict=True))


_Cell = tuple[str | None, str, Variant, float, Arm, int | None]


_PAIR: tuple[Arm, Arm] = ("top", "bottom")


def _cells(manifest: DiffRoarManifest) -> Iterator[_Cell]:
    seeds = range(manifest.seeds)
    for scheme, learner in scheme_learners(manifest):
        name = scheme.scheme
        if manifest.retrain is False:
            yield name, learner, "no_retrain", 1.0, "top", None
            continue
        for level in manifest.levels:
            order = None if level == 1 else name
            for arm in _PAIR:
                for seed in seeds:
                    yield order, learner, "retrain", level, arm, seed
        # With everything kept, or everything removed, every image would be the same.
        partial = [level for level in manifest.levels if level < 1]
        if manifest.mask_only and name != RANDOM:
            for level in partial:
                for arm in _PAIR:
                    for seed in seeds:
                        yield name, learner, "mask_only", level, arm, seed
        if manifest.roar:
            for level in partial:
                for seed in seeds:
                    yield name, learner, "roar", level, "rest", seed


def _learner_of(manifest: DiffRoarManifest) -> dict[str, str]:
    """Base model -> the first base model with the same architecture and recipe."""
    if manifest.retrain is False:
        return {name: name for name in manifest.models}
    first: dict[str, str] = {}
    found = {}
    for name, model in manifest.models.items():
        recipe = _recipe(manifest, model)
        assert recipe is not None
        same = _untrained(model, _spec(manifest, recipe)).model_dump_json()
        found[name] = first.setdefault(same, name)
    return found


def _recipe(manifest: DiffRoarManifest, model: AnyModel) -> TrainingRecipe | None:
    """How models of a base model's architecture are retrained."""
    if isinstance(manifest.retrain, TrainingRecipe):
        return manifest.retrain
    if model.train is None:
        return None
    return model.train.model_copy(update={"adversary": None})


def _spec(manifest: DiffRoarManifest, recipe: TrainingRecipe) -> TrainSpec:
    fields = {name: getattr(recipe, name) for name in TrainingRecipe.model_fields}
    return TrainSpec(**fields, data=manifest.data, test=manifest.test)


def _untrained(model: AnyModel, train: TrainSpec) -> AnyModel:
    return model.model_copy(update={"weights": None, "sha256": None, "train": train})
