"""From attributions to rows of tables. Every input row yields a row, also the bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from gradattr.attribution.result import Attribution
from gradattr.data.types import Batch, RowError
from gradattr.manifest.attributing import AttributingManifest
from gradattr.storage.maps import encode_maps
from gradattr.storage.schemas import make_table, maps_schema
from gradattr.storage.shards import ShardWriter
from gradattr.work.attribute.leakage_rows import leakage_columns, per_level
from gradattr.work.context import method_id
from gradattr.work.methods import map_channels, over_channels

#: Examples of bad rows that are kept for the driver's message.
MAX_EXAMPLES = 3

_PROBLEMS = {
    "ok": None,
    "non_finite": "the map or the score has a NaN or an infinity",
    "degenerate": "the method has nothing to go by here, so there is no map: a baseline that is "
    "the image itself, or a map that is 0 everywhere",
}


class Group(NamedTuple):
    """Methods that apply to the same samples of a batch, and what they found."""

    positions: list[int]
    """Where in the batch the samples stand."""
    attributions: list[Attribution]


class _Keys(NamedTuple):
    """The columns that identify rows and say how they ended."""

    rows: list[int]
    sample_ids: list[str]
    statuses: list[str]
    errors: list[str | None]

    def at(self, places: Sequence[int]) -> _Keys:
        return _Keys(
            [self.rows[i] for i in places],
            [self.sample_ids[i] for i in places],
            [self.statuses[i] for i in places],
            [self.errors[i] for i in places],
        )

    def columns(self) -> dict[str, Any]:
        return {
            "row": self.rows,
            "sample_id": self.sample_ids,
            "status": self.statuses,
            "error": self.errors,
        }


class ShardRows:
    """Hands the rows of one shard to its writer, batch by batch, and counts the bad ones."""

    def __init__(
        self, writer: ShardWriter, manifest: AttributingManifest, shape: tuple[int, int, int]
    ) -> None:
        self._writer = writer
        self._shape = (map_channels(manifest.methods, shape[0]), *shape[1:])
        self._choice = manifest.store.maps
        self._maps_schema = maps_schema(self._choice, self._shape)
        self._levels = manifest.measured_levels
        self._targets = {
            method_id(m): str(manifest.target if m.target is None else m.target)
            for m in manifest.methods
        }
        self.row_ids: list[int] = []
        self.bad_rows: set[int] = set()
        self.statuses: dict[str, int] = {}
        """How many failures of each kind; a row may fail in several methods."""
        self.examples: list[str] = []

    def add_errors(self, errors: Sequence[RowError], *, predictions_only: bool = False) -> None:
        """Rows that could not be read: a row in every table, with the reason. ``predictions_only``:
        the maps are another run's, which has tables of them."""
        if not errors:
            return
        keys = _Keys(
            [e.row for e in errors],
            [e.sample_id for e in errors],
            [e.status for e in errors],
            [e.error for e in errors],
        )
        self._predictions(keys, {})
        for method in () if predictions_only else self._targets:
            self._method_rows(method, keys, {"evaluations": [0] * len(errors)}, None)
            self._leakage(method, keys)
        self._failures("read", None, keys)

    def add_batch(
        self, batch: Batch, groups: Sequence[Group], *, predictions_only: bool = False
    ) -> None:
        """The results of one batch. Methods without a result for a sample lacked its label."""
        self._predictions(*_predictions(batch, groups))
        if predictions_only:
            return
        done = {a.method: (group, a) for group in groups for a in group.attributions}
        for method in self._targets:
            positions: list[int] = []
            if method in done:
                group, attribution = done[method]
                positions = group.positions
                self._results(batch, positions, attribution)
            self._without_label(batch, sorted(set(range(len(batch))) - set(positions)), method)

    def _results(self, batch: Batch, positions: list[int], attribution: Attribution) -> None:
        found = attribution.maps.detach().to("cpu", torch.float32)
        maps = over_channels(found, self._shape[0]).numpy()
        good = [status == "ok" for status in attribution.status]
        keys = _Keys(
            [batch.rows[i] for i in positions],
            [batch.sample_ids[i] for i in positions],
            list(attribution.status),
            [_PROBLEMS[status] for status in attribution.status],
        )
        columns = _scalars(attribution, maps)
        columns["evaluations"] = [attribution.evaluations] * len(positions)
        kept = [one if ok else None for one, ok in zip(maps, good, strict=True)]
        self._method_rows(attribution.method, keys, columns, maps if all(good) else kept)
        self._leakage(attribution.method, keys, attribution.maps, batch, positions)
        if not all(good):
            bad = [i for i, ok in enumerate(good) if not ok]
            self._failures("attribute", attribution.method, keys.at(bad))

    def _without_label(self, batch: Batch, positions: list[int], method: str) -> None:
        if not positions:
            return
        text = f"target '{self._targets[method]}' needs a label, and this row has none"
        keys = _Keys(
            [batch.rows[i] for i in positions],
            [batch.sample_ids[i] for i in positions],
            ["label_error"] * len(positions),
            [text] * len(positions),
        )
        self._method_rows(method, keys, {"evaluations": [0] * len(positions)}, None)
        self._leakage(method, keys)
        self._failures("attribute", method, keys)

    def _predictions(self, keys: _Keys, columns: dict[str, Any]) -> None:
        self.row_ids.extend(keys.rows)
        self._writer.append("predictions", make_table("predictions", keys.columns() | columns))

    def _method_rows(
        self,
        method: str,
        keys: _Keys,
        columns: dict[str, Any],
        maps: np.ndarray | list[np.ndarray | None] | None,
    ) -> None:
        """Rows of 'attributions' and 'maps'; ``maps`` None: there are none."""
        count = len(keys.rows)
        named = keys.columns() | {"method": [method] * count}
        scalars = {"target": [self._targets[method]] * count, **columns}
        self._writer.append("attributions", make_table("attributions", named | scalars))
        if self._choice == "none":
            return
        named.pop("error")
        encoded = encode_maps([None] * count if maps is None else maps, self._choice, self._shape)
        self._writer.append("maps", make_table("maps", named | encoded, self._maps_schema))

    def _leakage(
        self,
        method: str,
        keys: _Keys,
        maps: torch.Tensor | None = None,
        batch: Batch | None = None,
        positions: list[int] | None = None,
    ) -> None:
        """Rows of 'leakage', where the data has masks; without ``maps`` there are no numbers."""
        if not self._levels:
            return
        masks = tops = None
        if batch is not None and batch.masks is not None:
            masks = batch.masks[positions]
            tops = None if batch.signal_on_top is None else batch.signal_on_top[positions]
        columns = leakage_columns(self._levels, keys.statuses, maps, masks, tops)
        columns |= {
            "row": per_level(keys.rows, self._levels),
            "sample_id": per_level(keys.sample_ids, self._levels),
            "method": [method] * (len(keys.rows) * len(self._levels)),
        }
        self._writer.append("leakage", make_table("leakage", columns))

    def _failures(self, stage: str, method: str | None, keys: _Keys) -> None:
        # A method without an answer is no fault of the row.
        faulty = [status != "degenerate" for status in keys.statuses]
        self.bad_rows.update(row for row, bad in zip(keys.rows, faulty, strict=True) if bad)
        for row, sample_id, status, text in zip(*keys, strict=True):
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.append(f"row {row} ({sample_id}): {status}: {text}")
        count = len(keys.rows)
        columns = keys.columns() | {"stage": [stage] * count, "method": [method] * count}
        self._writer.append("errors", make_table("errors", columns))


def _predictions(batch: Batch, groups: Sequence[Group]) -> tuple[_Keys, dict[str, Any]]:
    """One row per sample from the logits that the attribution has computed anyway."""
    count = len(batch)
    statuses = ["label_error"] * count
    errors: list[str | None] = ["no label, and every method of this run needs one"] * count
    top, patched = batch.signal_on_top, batch.patched
    columns: dict[str, list[Any]] = {
        "signal_on_top": [None] * count if top is None else top.tolist(),
        "patched": [None] * count if patched is None else patched.tolist(),
        "label": [label if label >= 0 else None for label in batch.labels.tolist()],
        **{name: [None] * count for name in ("predicted", "correct", "confidence", "loss")},
    }
    for positions, attributions in groups:
        log_p = torch.log_softmax(attributions[0].logits.detach().double().cpu(), dim=1)
        finite = torch.isfinite(log_p).all(dim=1).tolist()
        best, predicted = log_p.max(dim=1)
        labels = batch.labels[positions]
        loss = -log_p.gather(1, labels.clamp(min=0)[:, None]).squeeze(1)
        found = zip(
            positions, finite, predicted.tolist(), best.exp().tolist(), loss.tolist(), strict=True
        )
        for i, is_finite, c, confidence, nats in found:
            if not is_finite:
                statuses[i], errors[i] = "non_finite", "the model's output has a NaN or an infinity"
                continue
            statuses[i], errors[i] = "ok", None
            columns["predicted"][i], columns["confidence"][i] = c, confidence
            if columns["label"][i] is not None:
                columns["correct"][i], columns["loss"][i] = c == columns["label"][i], nats
    return _Keys(batch.rows, batch.sample_ids, statuses, errors), columns


def _scalars(attribution: Attribution, maps: np.ndarray) -> dict[str, Any]:
    """Number columns of the table 'attributions'; null where a number is not finite."""
    flat = maps.reshape(len(maps), -1)
    score = attribution.score.detach().double().cpu().numpy()
    with np.errstate(invalid="ignore"):  # infinities of both signs
        total = flat.sum(axis=1, dtype=np.float64)
    columns: dict[str, Any] = {
        "score": score,
        "total": total,
        "abs_total": np.abs(flat).sum(axis=1, dtype=np.float64),
        "minimum": flat.min(axis=1),
        "maximum": flat.max(axis=1),
    }
    if attribution.baseline_score is not None and attribution.completeness_gap is not None:
        base = attribution.baseline_score.detach().double().cpu().numpy()
        gap = attribution.completeness_gap.detach().double().cpu().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.abs(gap) / np.abs(score - base)
        columns |= {
            "baseline_score": base,
            "completeness_gap": gap,
            "completeness_gap_relative": relative,
        }
    facts = {
        "baseline_confidence": attribution.baseline_confidence,
        "path_spearman": attribution.path_spearman,
    }
    columns |= {
        name: value.detach().double().cpu().numpy()
        for name, value in facts.items()
        if value is not None
    }
    return {
        "target_index": attribution.index.cpu().tolist(),
        **{name: _null_unless_finite(column) for name, column in columns.items()},
    }


def _null_unless_finite(column: np.ndarray) -> list[float | None]:
    finite = np.isfinite(column)
    return [value if ok else None for value, ok in zip(column.tolist(), finite, strict=True)]
