"""The variant without retraining: a base model, tested on masked images of every level and arm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.plan import Task
from gradattr.retraining.masking import Masking
from gradattr.retraining.ranks import kept_count
from gradattr.storage.objects import open_store
from gradattr.storage.schemas import make_table
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.diffroar.design import Arm, Trial
from gradattr.work.diffroar.masked_data import MaskedData, masked_data
from gradattr.work.diffroar.rank import level_bins
from gradattr.work.modules import load_module
from gradattr.work.planning.prepare_diffroar import TEST
from gradattr.work.resources import choose_device

#: Images per forward pass.
_BATCH = 256


def evaluate_scheme(context: RunContext, task: Task) -> dict[str, Any]:
    """Test the base model of ``task.payload['trial']`` on images masked by its scheme; write a row
    of the table 'trials' per level and arm, and the record; return its ``extra``.

    The record keeps besides, for the paired interval, how many images each arm got right alone.
    """
    trial = Trial(**task.payload["trial"])
    manifest = context.diffroar_manifest
    assert trial.scheme is not None
    store = open_store(manifest.store)
    digests: dict[str, str] = {}
    spec = manifest.models[trial.learner]
    model = load_module(context, trial.learner, spec, store, digests)
    model = model.to(choose_device(manifest.engine, manifest.runtime)).eval()
    data = masked_data(context)
    coordinates = level_bins(manifest, context.shape).coordinates
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for level in manifest.levels:
        right: dict[str, Tensor] = {}
        for arm in _ARMS:
            masking = data.masking(TEST, trial.scheme, level, arm)
            right[arm], loss = _test(model, data, masking)
            rows.append(
                {
                    "row": trial.row * 2 * len(manifest.levels) + len(rows),
                    "trial": f"{trial.key}-k{100 * level:g}-{arm}",
                    "scheme": trial.scheme,
                    "learner": trial.learner,
                    "variant": trial.variant,
                    "level": level,
                    "arm": arm,
                    "kept": kept_count(coordinates, level),
                    "accuracy": right[arm].double().mean().item(),
                    "test_loss": loss,
                }
            )
        pairs.append({"level": level, **_paired(right["top"], right["bottom"])})
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    writer.append("trials", make_table("trials", columns))
    extra = {
        "rows": task.rows,
        "bad_rows": 0,
        "torch": torch.__version__,
        "pairs": pairs,
        "models": digests,
    }
    writer.finish(rows=task.rows, row_ids=columns["row"], extra=extra)
    return extra


_ARMS: tuple[Arm, Arm] = ("top", "bottom")


def _paired(top: Tensor, bottom: Tensor) -> dict[str, int]:
    return {
        "both": int((top & bottom).sum()),
        "top_only": int((top & ~bottom).sum()),
        "bottom_only": int((~top & bottom).sum()),
        "n": len(top),
    }


@torch.no_grad()
def _test(model: nn.Module, data: MaskedData, masking: Masking) -> tuple[Tensor, float]:
    """Which images (n,) the model gets right, and the mean cross-entropy."""
    x, y = data.images(TEST)
    device = next(model.parameters()).device
    right, loss = [], 0.0
    for start in range(0, len(x), _BATCH):
        rows = slice(start, start + _BATCH)
        images = masking.apply(x[rows].to(device), masking.bins[rows].to(device))
        labels = y[rows].to(device)
        logits = model(images)
        right.append((logits.argmax(dim=1) == labels).cpu())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    return torch.cat(right), loss / len(x)
