"""The training loop: whole tensors on the device, one epoch after the other, resumable.

Everything random in an epoch (the order of images, augmentation, dropout) is a function of
(recipe.seed, epoch), so a training that was interrupted and resumed equals one that was not, bit
for bit on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.errors import DataError, Interrupted, ModelError
from gradattr.retraining import augmentation
from gradattr.retraining.checkpoints import Checkpoints, decode_checkpoint, encode_checkpoint
from gradattr.retraining.evaluation import evaluate
from gradattr.retraining.random_state import isolated_random
from gradattr.retraining.recipe import Recipe, learning_rate
from gradattr.retraining.result import EpochResult, TrainResult
from gradattr.seeds import derive_seed

#: Share of a GPU's free memory that a data set may take; above it, batches are copied one by one.
_RESIDENT_SHARE = 0.5


def train_classifier(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    *,
    test: tuple[Tensor, Tensor] | None = None,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[EpochResult], None] | None = None,
    checkpoints: Checkpoints | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train ``model`` in place with cross-entropy on images x (n, c, h, w) and labels y (n,).

    ``test`` (x, y) is evaluated after every epoch and never trained on. The model is moved to
    ``device`` and left there in eval mode, with the last epoch's weights. ``on_epoch`` is called
    after every epoch that is run here, not for those restored from a checkpoint. ``cancelled`` is
    asked before every batch; when it says yes the training stops: between epochs a checkpoint is
    kept first, within one the epoch is lost.

    Raises DataError for labels or images that do not fit each other or the model, ModelError when
    the loss is not finite any more or a batch is too small for batch-norm, Interrupted when
    cancelled.
    """
    device = torch.device(device)
    model.to(device)
    _check_data(model, x, y, "training", device)
    if test is not None:
        _check_data(model, *test, "test", device)
    loop = _Loop(model, _resident(x, device), y.to(device), recipe, device, cancelled)
    test_set = None if test is None else (_resident(test[0], device), test[1].to(device))
    history = loop.restore(checkpoints)
    while not (stopped := _stop_reason(recipe, history)):
        result = loop.epoch(len(history) + 1, test_set)
        history.append(result)
        interrupted = cancelled is not None and cancelled()
        due = result.epoch % recipe.checkpoint_every == 0 or interrupted
        if checkpoints is not None and due:
            checkpoints.save(result.epoch, loop.checkpoint(history))
        if on_epoch is not None:
            on_epoch(result)
        if interrupted and not _stop_reason(recipe, history):
            raise Interrupted(f"training stopped after epoch {result.epoch}")
    model.eval().to(memory_format=torch.contiguous_format)
    return TrainResult(tuple(history), "loss" if stopped == "loss" else "epochs")


def batch_bounds(count: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Where batches begin and end. A last batch of one image joins the one before it: batch-norm
    cannot normalise a single value, and its gradient would be as noisy as it is rare."""
    start = 0
    while start < count:
        end = min(start + batch_size, count)
        if batch_size > 1 and count - end == 1:
            end = count
        yield start, end
        start = end


@dataclass
class _Loop:
    """A model, its data and its optimiser."""

    model: nn.Module
    x: Tensor
    y: Tensor
    recipe: Recipe
    device: torch.device
    cancelled: Callable[[], bool] | None

    def __post_init__(self) -> None:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not parameters:
            raise ModelError("the model has no trainable parameters: there is nothing to train")
        self.layout = _fastest_layout(self.model, self.device)
        self.model.to(memory_format=self.layout)
        self.optimizer = _make_optimizer(parameters, self.recipe)

    def epoch(self, epoch: int, test: tuple[Tensor, Tensor] | None) -> EpochResult:
        """One pass over the data, with everything random drawn from (seed, epoch)."""
        rate = learning_rate(self.recipe, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seed = derive_seed(self.recipe.seed, "epoch", epoch)
        with isolated_random(seed, self.device):
            loss, accuracy = self._train_pass(epoch)
        tested = None if test is None else evaluate(self.model, *test, self.recipe.batch_size)
        losses = {"training": loss} | ({} if tested is None else {"test": tested.loss})
        for which, value in losses.items():
            if not math.isfinite(value):
                raise ModelError(
                    f"training diverged: the {which} loss of epoch {epoch} is {value}; lower the "
                    f"learning rate (it is {rate:g}) or check the data's scale"
                )
        return EpochResult(
            epoch,
            loss,
            accuracy,
            rate,
            None if tested is None else tested.loss,
            None if tested is None else tested.accuracy,
        )

    def _train_pass(self, epoch: int) -> tuple[float, float]:
        self.model.train()
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for x, y in self._batches(epoch):
            if self.cancelled is not None and self.cancelled():
                raise Interrupted(f"training stopped in epoch {epoch}")
            batch_loss, logits = self._step(x, y)
            loss += batch_loss.double() * len(y)
            correct += (logits.argmax(dim=1) == y).sum()
        return loss.item() / len(self.y), correct.item() / len(self.y)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.y)
        generator = torch.Generator().manual_seed(derive_seed(self.recipe.seed, "order", epoch))
        order = torch.randperm(count, generator=generator)
        augment = self.recipe.augment
        draws = (
            None if augment is None else augmentation.draw(augment, count, self.recipe.seed, epoch)
        )
        for start, end in batch_bounds(count, self.recipe.batch_size):
            rows = order[start:end]
            x = self.x.index_select(0, rows.to(self.x.device)).to(self.device)
            if augment is not None and draws is not None:
                x = augmentation.apply(augment, x, draws.select(rows))
            if x.dim() == 4:
                x = x.contiguous(memory_format=self.layout)
            yield x, self.y.index_select(0, rows.to(self.device))

    def _step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One optimiser step on the cross-entropy of a batch: its loss () and logits (b, classes).

        What is done to a batch before it is learned from belongs here, before the forward pass.
        """
        self.optimizer.zero_grad(set_to_none=True)
        try:
            logits = self.model(x)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ModelError(
                f"batch-norm cannot be trained on a batch of {len(y)} image: "
                "use a larger batch_size or more training data"
            ) from error
        loss = F.cross_entropy(logits, y)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.detach(), logits.detach()

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be continued here."""
        recipe = asdict(self.recipe)
        del recipe["checkpoint_every"]
        shapes = {name: list(value.shape) for name, value in self.model.state_dict().items()}
        return {"recipe": recipe, "rows": len(self.y), "shapes": shapes}

    def checkpoint(self, history: list[EpochResult]) -> bytes:
        epochs = [result.to_json() for result in history]
        return encode_checkpoint(self.model, self.optimizer, self.identity(), epochs)

    def restore(self, checkpoints: Checkpoints | None) -> list[EpochResult]:
        """Continue from the newest checkpoint that fits; the history up to it."""
        found = None if checkpoints is None else checkpoints.load()
        state = None if found is None else decode_checkpoint(found[1], self.identity())
        if state is None:
            return []
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return [EpochResult(**result) for result in state["history"]]


def _fastest_layout(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels-last convolutions train 1.3 to 1.6 times as fast on a CPU (measured: light CNN,
    ResNet-20; float32, where they are not known to be faster on a GPU)."""
    convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
    on_cpu = device.type == "cpu"
    return torch.channels_last if convolutional and on_cpu else torch.contiguous_format


def _make_optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or Adam in their fused form: fewer passes over the parameters, the same formula."""
    decay = recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.lr, weight_decay=decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=decay, fused=True
    )


def _stop_reason(recipe: Recipe, history: list[EpochResult]) -> str | None:
    if history and history[-1].loss < recipe.stop_below:
        return "loss"
    return "epochs" if len(history) >= recipe.epochs else None


def _resident(x: Tensor, device: torch.device) -> Tensor:
    """The data set on the device if there is room for it, else where it is."""
    if device.type != "cuda" or x.device == device:
        return x
    free, _ = torch.cuda.mem_get_info(device)
    return x.to(device) if x.nbytes <= _RESIDENT_SHARE * free else x


def _check_data(model: nn.Module, x: Tensor, y: Tensor, which: str, device: torch.device) -> None:
    """Refuse what would fail later with an obscure message, or not fail at all (a label of -100
    is ignored by torch's cross-entropy)."""
    if not len(x):
        raise DataError(f"the {which} data is empty")
    if x.shape[0] != y.shape[0] or y.dim() != 1 or y.dtype != torch.int64:
        raise DataError(
            f"{which} data: images {tuple(x.shape)}, labels {tuple(y.shape)} of {y.dtype}; "
            "expected one int64 label per image"
        )
    was_training = model.training
    try:
        with torch.no_grad():
            classes = model.eval()(x[:1].to(device)).shape[-1]
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"{which} data: the model cannot take images of shape {tuple(x.shape[1:])}: {error}"
        ) from error
    finally:
        model.train(was_training)
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        bad = int(((y < 0) | (y >= classes)).sum())
        raise DataError(
            f"{which} data: {bad} of {len(y)} labels are outside 0..{classes - 1} "
            f"(they go from {low} to {high}, where -1 stands for none)"
        )
