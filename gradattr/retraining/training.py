"""The training loop: whole tensors on the device, one epoch after the other, resumable.

Everything random in an epoch (the order of images, augmentation, dropout, random attacks) is a
function of (recipe.seed, epoch), so a training that was interrupted and resumed equals one that was
not, bit for bit on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.errors import Interrupted, ModelError
from gradattr.retraining.adversary import perturb
from gradattr.retraining.checkpoints import (
    Checkpoints,
    KeptEpochs,
    decode_checkpoint,
    encode_checkpoint,
    portable_state,
)
from gradattr.retraining.evaluation import evaluate, evaluate_robust
from gradattr.retraining.masking import Masking
from gradattr.retraining.random_state import isolated_random
from gradattr.retraining.recipe import Recipe, learning_rate
from gradattr.retraining.result import EpochResult, TrainResult
from gradattr.retraining.team import Team
from gradattr.retraining.training_data import TrainingBatch, TrainingData, check_data
from gradattr.seeds import derive_seed

#: Processes that train together ask each other every so many batches whether to stop.
_ASK_EVERY = 20


def train_classifier(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    *,
    test: tuple[Tensor, Tensor] | None = None,
    masking: Masking | None = None,
    test_masking: Masking | None = None,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[EpochResult], None] | None = None,
    checkpoints: Checkpoints | None = None,
    keep: KeptEpochs | None = None,
    cancelled: Callable[[], bool] | None = None,
    distributed: bool = False,
) -> TrainResult:
    """Train ``model`` in place with cross-entropy on images x (n, c, h, w) and labels y (n,).

    ``test`` (x, y) is evaluated after every epoch and never trained on. ``masking`` removes
    coordinates of the training images, before they are augmented, ``test_masking`` of the test
    images. The model is moved to ``device`` and left there in eval mode, with the last epoch's
    weights. ``on_epoch`` is called after every epoch that is run here, not for those restored from
    a checkpoint. ``cancelled`` is asked before every batch; when it says yes the training stops:
    between epochs a checkpoint is kept first, within one the epoch is lost.

    ``keep`` is handed the weights after the epochs that it asks for. A checkpoint follows each, so
    that a resumed training need not repeat them; where they are lost it starts again.

    ``distributed``: train together with the other processes of torch.distributed's default group,
    which make the same call. Each computes its share of every batch, so that a model without
    batch-norm and dropout becomes what one process makes of it, up to rounding. All return the same
    result; ``checkpoints``, ``keep`` and ``on_epoch`` are used on rank 0 only.

    Raises DataError for labels, images or masks that do not fit each other or the model,
    ModelError when the loss is not finite any more or a batch is too small for batch-norm,
    Interrupted when cancelled, UsageError if ``distributed`` and there is no process group.
    """
    device = torch.device(device)
    team = Team.of(distributed)
    model.to(device)
    check_data(model, x, y, masking, "training", device)
    if test is not None:
        check_data(model, *test, test_masking, "test", device)
    data = TrainingData.on(device, x, y, masking)
    test_data = None if test is None else TrainingData.on(device, *test, test_masking)
    mask = None if masking is None else masking.identity()
    loop = _Loop(model, data, test_data, recipe, device, team, mask, cancelled)
    history = loop.restore(checkpoints, keep)
    while not (stopped := _stop_reason(recipe, history)):
        result = loop.epoch(len(history) + 1)
        if _stop_reason(recipe, [result]):
            result = loop.attacked(result)
        history.append(result)
        interrupted = loop.interrupted()
        kept = keep is not None and result.epoch in keep.epochs
        if keep is not None and kept and team.leads:
            keep.keep(result.epoch, portable_state(model), result.lr)
        due = result.epoch % recipe.checkpoint_every == 0 or kept or interrupted
        if checkpoints is not None and due and team.leads:
            checkpoints.save(result.epoch, loop.checkpoint(history))
        if on_epoch is not None and team.leads:
            on_epoch(result)
        if interrupted and not _stop_reason(recipe, history):
            raise Interrupted(f"training stopped after epoch {result.epoch}")
    model.eval().to(memory_format=torch.contiguous_format)
    return TrainResult(tuple(history), "loss" if stopped == "loss" else "epochs")


@dataclass
class _Loop:
    """A model, its data and its optimiser."""

    model: nn.Module
    data: TrainingData
    test: TrainingData | None
    recipe: Recipe
    device: torch.device
    team: Team
    mask: dict[str, Any] | None
    """What identifies the training data's masks."""
    cancelled: Callable[[], bool] | None

    def __post_init__(self) -> None:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not parameters:
            raise ModelError("the model has no trainable parameters: there is nothing to train")
        self.layout = _fastest_layout(self.model, self.device)
        self.model.to(memory_format=self.layout)
        self.trained = self.team.wrap(self.model, self.device)
        self.optimizer = _make_optimizer(parameters, self.recipe)

    def epoch(self, epoch: int) -> EpochResult:
        """One pass over the data, with everything random drawn from (seed, epoch)."""
        rate = learning_rate(self.recipe, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seed = derive_seed(self.recipe.seed, "epoch", epoch)
        with isolated_random(seed + self.team.rank, self.device):
            loss, accuracy = self._train_pass(epoch)
        self.team.share_buffers(self.model)
        result = EpochResult(epoch, loss, accuracy, rate)
        if self.test is not None:
            tested = evaluate(
                self.model,
                self.test.x,
                self.test.y,
                self.recipe.batch_size,
                masking=self.test.masking,
                team=self.team,
            )
            result = replace(result, test_loss=tested.loss, test_accuracy=tested.accuracy)
        for which, value in (("training", loss), ("test", result.test_loss)):
            if value is not None and not math.isfinite(value):
                raise ModelError(
                    f"training diverged: the {which} loss of epoch {epoch} is {value}; lower the "
                    f"learning rate (it is {rate:g}) or check the data's scale"
                )
        return result

    def attacked(self, result: EpochResult) -> EpochResult:
        """The last epoch's result with the accuracy under attack, if there is an adversary."""
        if self.test is None or self.recipe.adversary is None:
            return result
        robust = evaluate_robust(
            self.model,
            self.test.x,
            self.test.y,
            self.recipe.adversary,
            self.recipe.batch_size,
            masking=self.test.masking,
            team=self.team,
        )
        return replace(result, robust_test_accuracy=robust.accuracy)

    def interrupted(self) -> bool:
        """Whether any process was told to stop."""
        if self.cancelled is None:
            return False
        return self.team.any(self.cancelled(), self.device)

    def _train_pass(self, epoch: int) -> tuple[float, float]:
        self.trained.train()
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        batches = self.data.batches(self.recipe, epoch, self.team, self.layout)
        for number, batch in enumerate(batches):
            if (self.team.size == 1 or number % _ASK_EVERY == 0) and self.interrupted():
                raise Interrupted(f"training stopped in epoch {epoch}")
            batch_loss, logits = self._step(batch)
            if batch.weight:
                loss += batch_loss.double() * len(batch.y)
                correct += (logits.argmax(dim=1) == batch.y).sum()
        total_loss, total_correct = self.team.sum([loss, correct], self.device)
        count = len(self.data.y)
        return total_loss / count, total_correct / count

    def _step(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """One optimiser step: mean cross-entropy () and logits (b, classes) of the images."""
        x = batch.x
        if self.recipe.adversary is not None:
            x = perturb(self.model, x, batch.y, self.recipe.adversary, start=batch.start)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            logits = self.trained(x)
        except (ValueError, RuntimeError) as error:
            raise _explained(error, len(batch.y)) from error
        loss = F.cross_entropy(logits, batch.y)
        if self.team.size > 1:
            torch.autograd.backward(loss * (batch.weight * len(batch.y)))
        else:
            torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.detach(), logits.detach()

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be continued here."""
        recipe = asdict(self.recipe)
        del recipe["checkpoint_every"]
        shapes = {name: list(value.shape) for name, value in self.model.state_dict().items()}
        return {
            "recipe": recipe,
            "rows": len(self.data.y),
            "shapes": shapes,
            "masking": self.mask,
        }

    def checkpoint(self, history: list[EpochResult]) -> bytes:
        epochs = [result.to_json() for result in history]
        return encode_checkpoint(self.model, self.optimizer, self.identity(), epochs)

    def restore(
        self, checkpoints: Checkpoints | None, keep: KeptEpochs | None
    ) -> list[EpochResult]:
        """Continue from the newest checkpoint that fits; the history up to it."""
        state = self._newest(checkpoints)
        history = [] if state is None else [EpochResult(**result) for result in state["history"]]
        whole = True
        if keep is not None and self.team.leads:
            whole = keep.resume(len(history))
            if not whole:
                keep.resume(0)
        if state is None or not self.team.from_leader(whole):
            return []
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return history

    def _newest(self, checkpoints: Checkpoints | None) -> dict[str, Any] | None:
        found = None
        if checkpoints is not None and self.team.leads:
            found = checkpoints.load()
        found = self.team.from_leader(found)
        return None if found is None else decode_checkpoint(found[1], self.identity())


def _explained(error: Exception, images: int) -> Exception:
    """What a user can do about an error of the model in training, or the error itself."""
    if "more than 1 value per channel" in str(error):
        return ModelError(
            f"batch-norm cannot be trained on a batch of {images} image: "
            "use a larger batch_size or more training data"
        )
    if "finished reduction in the prior iteration" in str(error):
        return ModelError(
            "the model has parameters that its output does not depend on, which cannot be trained "
            "by several processes: remove them, or train with one worker"
        )
    return error


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
    return "epochs" if history and history[-1].epoch >= recipe.epochs else None
