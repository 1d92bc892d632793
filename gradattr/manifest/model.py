"""``model:`` -- an architecture, its weights, and ``train:`` -- how to get them."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from gradattr.manifest.base import Seed, Sha256, Spec
from gradattr.manifest.data import DataSpec

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


def _is_empty(value: Sized) -> bool:
    return not value


def _is_none(value: object) -> bool:
    return value is None


class Augment(Spec):
    """Augmentation of training batches, drawn anew each epoch."""

    crop_padding: Annotated[int, Field(ge=0, le=64)] = 4
    """Pixels of zero padding before a random crop of the original size (0: no crop)."""
    flip: bool = True
    """Mirror left-right with probability 1/2."""


class Adversary(Spec):
    """Adversarial training by projected gradient descent (Madry et al. 2018): every batch is
    replaced by the perturbation, within the budget, that raises its cross-entropy most."""

    norm: Literal["l2", "linf"]
    eps: NonNegative
    """Radius of the ball around each image, e.g. 8/255 = 0.0314 (linf). 0 is standard training."""
    steps: Positive = 7
    """Gradient steps per batch."""
    step_size: Annotated[float, Field(gt=0)] | None = None
    """Length of a step. Default: 2.5 * eps / steps."""
    start: Literal["zero", "random"] = "zero"
    """Where the search begins: at the image, or at a random point of the ball."""
    space: Literal["pixels", "normalized"] = "pixels"
    """Units of eps and step_size: pixels in [0, 1], or the model's normalised input."""
    clamp: bool = True
    """Keep perturbed images within the range of pixels, [0, 1]. Off for data that has no such
    range."""


class TrainingRecipe(Spec):
    """How to train a classifier with cross-entropy. The defaults are DiffROAR's recipe (Shah et
    al. 2021): SGD with momentum, the rate times 0.75 every 20 epochs, stop at loss 0.001."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1
    """Learning rate at the start."""
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    """The rate is multiplied by this ..."""
    lr_decay_every: Positive = 20
    """... every so many epochs."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD only."""
    weight_decay: NonNegative = 5e-4
    batch_size: Positive = 256
    """Samples per step."""
    epochs: Positive = 500
    """At most this many passes over the data."""
    stop_below: NonNegative = 0.001
    """Stop after the epoch whose mean training cross-entropy (nats) is below this."""
    augment: Augment | None = None
    """Default: none."""
    adversary: Adversary | None = None
    """Train on adversarial examples. Default: standard training."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processes that train one model together (DistributedDataParallel), each on its share of
    every batch. Each reserves runtime.cpus_per_task and gpus_per_task."""


class TrainSpec(TrainingRecipe):
    """A recipe, and the data to follow it on."""

    data: DataSpec
    """The training set. Pre-processed like the attributed data."""
    test: DataSpec | None = None
    """Held-out data, evaluated after every epoch. Default: none."""
    seed: Seed = 0
    """Fixes initial weights, order of batches and augmentation."""
    checkpoint_every: Positive = 10
    """Epochs between checkpoints that an interrupted training resumes from."""
    # Written down only where something is asked for: recipes without it keep their digests.
    keep_epochs: list[Positive] = Field(default=[], max_length=1000, exclude_if=_is_empty)
    """Epochs after which the weights are kept, for TracIn; ascending, each once. Those that a
    training does not reach, because it stops early, do not exist. Default: none."""
    permute_labels: Seed | None = Field(default=None, exclude_if=_is_none)
    """Train on labels that are permuted at random among the images, by this seed: the control of a
    sanity check. Held-out labels stay. Default: the labels as they are."""

    @field_validator("keep_epochs")
    @classmethod
    def _in_order(cls, value: list[int], info: ValidationInfo) -> list[int]:
        if value != sorted(set(value)):
            raise ValueError("give the epochs in ascending order, each once")
        epochs = info.data.get("epochs")
        if value and epochs is not None and value[-1] > epochs:
            raise ValueError(f"epoch {value[-1]} is never run: the training has {epochs} epochs")
        return value


class ModelBase(Spec):
    """Fields that every architecture shares."""

    brings_weights: ClassVar[bool] = False
    """Whether an architecture may come with weights of its own."""

    num_classes: Annotated[int, Field(ge=2)] | None = None
    """Outputs of the model. Default: the number of classes of the data."""
    weights: str | None = None
    """URL of a .safetensors or state-dict file, 'torchvision:<enum name or DEFAULT>', or
    'run:<run id>' for the model that another run of this store trained."""
    sha256: Sha256 | None = None
    """Expected digest of the weights file; refused if it differs."""
    train: TrainSpec | None = None
    """Train the model as the plan's first stage (cached in the store by digest)."""

    @model_validator(mode="after")
    def _one_origin(self) -> ModelBase:
        if self.weights is not None and self.train is not None:
            raise ValueError("give either weights or train, not both")
        if self.sha256 is not None and self.weights is None:
            raise ValueError("sha256 is the digest of weights, which is missing")
        if self.weights is None and self.train is None and not self.brings_weights:
            raise ValueError("the model has no weights: give 'weights: <url>' or a 'train:' block")
        return self


class LinearModel(ModelBase):
    """One linear layer on the flattened image."""

    arch: Literal["linear"]
    output: Literal["logits", "margin"] = "logits"
    """'margin' (two classes): one output f(x), handed on as the logits (-f/2, f/2)."""


class MlpModel(ModelBase):
    """Fully connected ReLU network on the flattened image."""

    arch: Literal["mlp"]
    hidden: list[Positive] = Field(default=[512, 512], min_length=1, max_length=8)
    """Widths of the hidden layers."""
    output: Literal["logits", "margin"] = "logits"
    """'margin' (two classes): one output f(x), handed on as the logits (-f/2, f/2), so that
    cross-entropy is the logistic loss log(1 + exp(-y f)) with y = -1 or 1."""


class CnnModel(ModelBase):
    """Light CNN: three (conv 3x3, ReLU, max-pool) blocks, then two linear layers."""

    arch: Literal["cnn"]
    width: Positive = 32
    """Channels of the first block; the second has twice, the third four times as many."""


class ResNetModel(ModelBase):
    """torchvision's ResNet-18 or ResNet-50."""

    arch: Literal["resnet18", "resnet50"]
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """'cifar': a 3x3 stride-1 first convolution and no max-pool, for images of about 32x32."""


class CifarResNetModel(ModelBase):
    """The narrow CIFAR ResNet of He et al. 2016 (6n+2 layers, widths 16-32-64)."""

    arch: Literal["resnet20", "resnet32", "resnet56"]


class VitModel(ModelBase):
    """A small vision transformer (torchvision's, of any size): a class token and square patches."""

    arch: Literal["vit"]
    patch: Positive = 4
    """Side of a patch in pixels; the image's sides are multiples of it, and equal."""
    depth: Positive = 4
    """Encoder blocks."""
    heads: Positive = 4
    """Attention heads of a block."""
    width: Positive = 64
    """Numbers per token, a multiple of the heads; the blocks' hidden layers have twice as many."""


class TorchvisionModel(ModelBase):
    """Any classifier of torchvision.models."""

    arch: Literal["torchvision"]
    name: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    """Name as torchvision.models.list_models() has it, e.g. 'convnext_tiny'."""


class PythonModel(ModelBase):
    """Your own factory, importable where the tasks run. With neither ``weights`` nor ``train`` it
    must return a ready model, the same one at every call."""

    brings_weights: ClassVar[bool] = True

    arch: Literal["python"]
    factory: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """'package.module:function'; called with kwargs, returns an nn.Module of logits."""
    kwargs: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """Keyword arguments of the factory."""


AnyModel = Annotated[
    LinearModel
    | MlpModel
    | CnnModel
    | ResNetModel
    | CifarResNetModel
    | VitModel
    | TorchvisionModel
    | PythonModel,
    Field(discriminator="arch"),
]


def _expand_model(value: Any) -> Any:
    """``arch: torchvision:vgg16`` and ``arch: python:pkg.mod:fn`` are short for two keys."""
    if isinstance(value, dict) and isinstance(value.get("arch"), str):
        arch, _, rest = value["arch"].partition(":")
        if rest and arch == "torchvision":
            return {**value, "arch": arch, "name": value.get("name", rest)}
        if rest and arch == "python":
            return {**value, "arch": arch, "factory": value.get("factory", rest)}
    return value


ModelSpec = Annotated[AnyModel, BeforeValidator(_expand_model)]
