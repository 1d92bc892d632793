"""What an audit may ask and hardly means."""

from __future__ import annotations

from typing import Any

import pytest

from gradattr.errors import MethodError
from gradattr.work.planning.check_diffroar import diffroar_notes
from gradattr.work.planning.prepare import prepare

DIGITS = {"format": "digits", "split": "train"}


def notes(manifest: Any) -> list[str]:
    return diffroar_notes(prepare(manifest).context)


def test_a_sound_audit_needs_no_notes(audit: Any) -> None:
    assert notes(audit(levels=[0.1, 0.5, 1.0], seeds=5)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"levels": [0.1, 0.5]}, "levels has no 1.0: there will be no noise floor"),
        ({"seeds": 1}, "seeds is 1: there will be no intervals"),
        ({"levels": [0.5, 0.505, 1.0]}, "levels 0.5 and 0.505 keep the same 32 of 64 coordinates"),
        ({"levels": [0.5, 0.999, 1.0]}, "levels 0.999 and 1 keep the same 64 of 64 coordinates"),
        ({"data": DIGITS, "test": DIGITS}, "test is the same data as 'data'"),
        ({"target": "logit_true"}, "target logit_true looks at the labels"),
        ({"methods": [{"name": "saliency", "target": "loss_true"}]}, "target loss_true looks at"),
    ],
)
def test_what_says_little_is_told(audit: Any, changes: dict[str, Any], expected: str) -> None:
    (note,) = notes(audit(**({"levels": [0.5, 1.0], "seeds": 2} | changes)))
    assert note.startswith(expected)


def test_without_retraining_there_are_neither_seeds_nor_a_floor(audit: Any) -> None:
    assert notes(audit(levels=[0.5], seeds=1, retrain=False)) == []


@pytest.mark.parametrize("per_pixel", [False, True])
def test_a_level_that_keeps_nothing_is_refused(audit: Any, per_pixel: bool) -> None:
    unit = "pixels" if per_pixel else "coordinates"
    with pytest.raises(MethodError, match=rf"levels\[0\]: 0.005 of 64 {unit} keeps none"):
        prepare(audit(levels=[0.005, 1.0], mask={"per_pixel": per_pixel}))
    prepare(audit(levels=[0.0157, 1.0]))
