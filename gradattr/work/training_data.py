"""Data sets in memory, for training and testing on them."""

from __future__ import annotations

import torch

from gradattr.data.registry import load_all
from gradattr.data.types import Batch, DataIndex
from gradattr.errors import DataError
from gradattr.manifest.data import AnyData
from gradattr.work.context import RunContext


def load_labelled(data: AnyData, index: DataIndex, context: RunContext) -> Batch:
    """A whole data set, pre-processed, on the CPU. DataError names what cannot be used."""
    batch = load_all(data, index, context.preprocess, options=context.data_options)
    check_labels(batch, context.num_classes)
    return batch


def check_labels(batch: Batch, classes: int) -> None:
    """DataError, naming the row, for a label that no class of the model has."""
    wrong = torch.nonzero((batch.labels < 0) | (batch.labels >= classes))
    if len(wrong):
        at = int(wrong[0])
        raise DataError(
            f"training data: row {batch.rows[at]} has label {int(batch.labels[at])}, "
            f"but the model has classes 0 to {classes - 1}"
        )
