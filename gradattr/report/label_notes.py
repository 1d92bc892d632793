"""Whether models that were to learn permuted labels have learned them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradattr.manifest.robustness_metrics import LABELS

#: Training accuracy below which the check says little.
BY_HEART = 0.95


def label_notes(training: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for every model of permuted labels that does not know them by heart, from the last
    epochs of the table 'training'."""
    notes = []
    for row in training:
        role, accuracy = str(row["model"]), row["accuracy"]
        if role.startswith(LABELS) and accuracy is not None and accuracy < BY_HEART:
            notes.append(
                f"{role.removeprefix(LABELS)}: the model of permuted labels got "
                f"{accuracy:.1%} of them right in its last epoch (of {row['epochs']}); below "
                f"{BY_HEART:.0%} it has hardly learned them, and maps may stay alike for that "
                "reason alone. Give the metric a 'train' block with more epochs, without "
                "augmentation and weight decay"
            )
    return notes
