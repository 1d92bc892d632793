"""Last-epoch and best-epoch accuracy keep their own names."""

from __future__ import annotations

from gradattr.retraining import EpochResult, TrainResult


def result(*test_accuracies):
    history = tuple(
        EpochResult(number, 1.0 / number, 0.25 * number, 0.1, None if a is None else 0.5, a)
        for number, a in enumerate(test_accuracies, start=1)
    )
    return TrainResult(history, "epochs")


def test_best_epoch_is_the_earliest_of_the_highest_accuracy():
    trained = result(0.5, 0.9, 0.9, 0.4)
    assert (trained.best_epoch, trained.best_epoch_test_accuracy) == (2, 0.9)
    assert (trained.epochs, trained.last_epoch_test_accuracy) == (4, 0.4)
    assert (trained.last_epoch_loss, trained.last_epoch_train_accuracy) == (0.25, 1.0)


def test_without_test_data_there_is_no_best_epoch():
    trained = result(None, None)
    assert trained.best_epoch is None
    assert trained.metrics() == {
        "epochs": 2,
        "stopped": "epochs",
        "last_epoch_loss": 0.5,
        "last_epoch_train_accuracy": 0.5,
        "last_epoch_test_accuracy": None,
        "robust_test_accuracy": None,
        "best_epoch": None,
        "best_epoch_test_accuracy": None,
    }
