"""What a training reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class EpochResult:
    """One pass over the training set."""

    epoch: int
    """Counted from 1."""
    loss: float
    """Mean cross-entropy (nats) of the training batches as they were when they were used."""
    accuracy: float
    """Of the same batches."""
    lr: float
    test_loss: float | None = None
    """Of the held-out data after the epoch; None where there is none."""
    test_accuracy: float | None = None
    robust_test_accuracy: float | None = None
    """Of the held-out data under the recipe's adversary; only of the last epoch of a training."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TrainResult:
    """A finished training. The model holds the weights of the last epoch."""

    history: tuple[EpochResult, ...]
    stopped: Literal["loss", "epochs"]
    """Why: the training loss fell below the recipe's ``stop_below``, or all epochs were run."""

    @property
    def epochs(self) -> int:
        """Epochs run."""
        return len(self.history)

    @property
    def last_epoch_loss(self) -> float:
        return self.history[-1].loss

    @property
    def last_epoch_train_accuracy(self) -> float:
        return self.history[-1].accuracy

    @property
    def last_epoch_test_accuracy(self) -> float | None:
        """The accuracy to report: no test data had a say in choosing the epoch."""
        return self.history[-1].test_accuracy

    @property
    def robust_test_accuracy(self) -> float | None:
        """Last epoch, test data perturbed by the recipe's adversary; None without either."""
        return self.history[-1].robust_test_accuracy

    @property
    def best_epoch(self) -> int | None:
        """The earliest epoch of the highest test accuracy; None without test data."""
        tested = [e for e in self.history if e.test_accuracy is not None]
        return max(tested, key=lambda e: (e.test_accuracy, -e.epoch)).epoch if tested else None

    @property
    def best_epoch_test_accuracy(self) -> float | None:
        """The highest test accuracy of any epoch: optimistic, because the test data chose it."""
        best = self.best_epoch
        return None if best is None else self.history[best - 1].test_accuracy

    def metrics(self) -> dict[str, Any]:
        """The numbers that a trained model's record keeps."""
        return {
            "epochs": self.epochs,
            "stopped": self.stopped,
            "last_epoch_loss": self.last_epoch_loss,
            "last_epoch_train_accuracy": self.last_epoch_train_accuracy,
            "last_epoch_test_accuracy": self.last_epoch_test_accuracy,
            "robust_test_accuracy": self.robust_test_accuracy,
            "best_epoch": self.best_epoch,
            "best_epoch_test_accuracy": self.best_epoch_test_accuracy,
        }
