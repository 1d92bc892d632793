"""A committed evaluation whose scores are made up: no map is made, no metric computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradattr.plan import Task
from gradattr.storage.commit import Commit, commit_run
from gradattr.storage.objects import ObjectStore
from gradattr.storage.run_json import create_run
from gradattr.storage.schemas import TABLES, make_table
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.evaluate.statistics import summarise_scores

#: Method -> how good its maps are, 0 to 1.
METHODS = {"saliency": 0.3, "integrated_gradients": 0.62, "uni": 0.8, "random": 0.0}
#: Those to which the metrics of paths apply.
PATHS = ("integrated_gradients", "uni")
#: Metric -> (higher is better, the worst and the best mean).
METRICS: Mapping[str, tuple[bool | None, float, float]] = {
    "deletion_auc": (False, 0.45, 0.1),
    "insertion_auc": (True, 0.3, 0.75),
    "infidelity": (False, 3.0, 1e-3),
    "path_monotonicity": (True, -0.2, 1.0),
    "attack_spearman": (True, 0.1, 0.8),
    "complexity_sparseness": (None, 0.4, 0.6),
}
SHARES = tuple(step / 10 for step in range(11))
MODULES = ("fc", "layer3", "layer2", "layer1", "conv1")
CURVES: Mapping[str, tuple[float, ...] | None] = {
    "deletion": SHARES,
    "insertion": SHARES,
    "randomisation_spearman": None,
}


class MadeUpEvaluation:
    """Scores of a few methods on so many images. The last image has no map of the first method,
    and 'attack_spearman' looks at the even images only."""

    def __init__(
        self,
        *,
        name: str = "made-up",
        methods: Mapping[str, float] = METHODS,
        metrics: Sequence[str] = tuple(METRICS),
        curves: Sequence[str] = tuple(CURVES),
        agreement: bool = True,
        modules: Sequence[str] = MODULES,
        images: int = 60,
        shards: int = 3,
        order: int | None = None,
        kind: str = "evaluate",
    ) -> None:
        """``order``: seed of the order in which rows are written, and of who writes which."""
        self.name, self.methods, self.images = name, methods, images
        self.metrics, self.curves, self.agreement = metrics, curves, agreement
        self.modules, self.kind = tuple(modules), kind
        rows = np.arange(images)
        self._random = None if order is None else np.random.default_rng(order)
        if self._random is not None:
            rows = self._random.permutation(images)
        self.parts = {f"part-{i}": part for i, part in enumerate(np.array_split(rows, shards))}
        random = np.random.default_rng(5)
        self.hard = random.normal(0, 1, images)
        self.noise = random.normal(0, 1, (len(methods), images))

    def values(self, metric: str) -> dict[str, np.ndarray]:
        """By method, one per image, NaN where it has none; only methods that have rows."""
        _, worst, best = METRICS[metric]
        found = {}
        for place, (method, good) in enumerate(self.methods.items()):
            if metric == "path_monotonicity" and method not in PATHS:
                continue
            spread = 0.1 * abs(best - worst)
            if metric == "infidelity":
                own = np.exp(np.log(worst) + good * np.log(best / worst) + 0.3 * self.hard)
            else:
                own = worst + good * (best - worst) + spread * (self.hard + self.noise[place])
            if not place:
                own[-1] = np.nan
            found[method] = own
        return found

    def images_of(self, metric: str) -> np.ndarray:
        """Row numbers that the metric looks at."""
        return np.arange(0, self.images, 2 if metric == "attack_spearman" else 1)

    def curve(self, name: str) -> dict[str, np.ndarray]:
        """By method, (images, steps), or NaN where there is none."""
        steps = len(CURVES[name] or self.modules)
        x = np.linspace(0, 1, steps)
        found = {}
        for place, (method, good) in enumerate(self.methods.items()):
            faster = 1 + 6 * good
            shape = x ** (1 / faster) if name == "insertion" else (1 - x) ** faster
            own = 0.9 * shape[None] + 0.03 * (self.hard + self.noise[place])[:, None]
            if not place:
                own[-1] = np.nan
            found[method] = own
        return found

    def likeness(self, first: str, second: str) -> dict[str, np.ndarray]:
        """Of one pair, by measure."""
        alike = self.methods[first] * self.methods[second]
        noise = 0.05 * self.hard
        return {
            "spearman": np.clip(alike + noise, -1, 1),
            "spearman_magnitude": np.clip(1.1 * alike + noise, -1, 1),
            "top_overlap": np.clip(0.1 + 0.8 * alike + noise, 0, 1),
        }

    def pairs(self) -> list[tuple[str, str]]:
        names = sorted(self.methods)
        return [(a, b) for a in names for b in names if a < b]

    def tables(self, rows: np.ndarray) -> dict[str, dict[str, list[Any]]]:
        """Columns of the stage's tables for these images."""
        own, scores, curves, pairs = set(rows.tolist()), [], [], []
        for metric in self.metrics:
            images = [row for row in self.images_of(metric).tolist() if row in own]
            for method, values in self.values(metric).items():
                scores += [
                    (row, method, metric, *_status(values[row], "non_finite")) for row in images
                ]
        for curve in self.curves:
            for method, lists in self.curve(curve).items():
                for row in sorted(own):
                    there = not np.isnan(lists[row]).any()
                    curves.append((row, method, curve, lists[row].tolist() if there else None))
        for first, second in self.pairs() if self.agreement else ():
            found = self.likeness(first, second)
            pairs += [
                (row, first, second, *(found[name][row] for name in found)) for row in sorted(own)
            ]
        named: dict[str, list[tuple[Any, ...]]] = {
            "scores": scores,
            "sample_curves": curves,
            "sample_agreement": pairs,
        }
        return {name: self._columns(name, cells) for name, cells in named.items() if cells}

    def _columns(self, table: str, cells: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
        if self._random is not None:
            cells = [cells[place] for place in self._random.permutation(len(cells))]
        cells = [(cell[0], f"{cell[0]:08d}", *cell[1:]) for cell in cells]
        names = [name for name, *_ in TABLES[table].columns]
        return {
            name: list(column) for name, column in zip(names, zip(*cells, strict=True), strict=True)
        }

    def payload(self) -> dict[str, Any]:
        return {
            "metrics": [
                {"metric": metric, "higher_is_better": METRICS[metric][0]}
                for metric in self.metrics
            ],
            "curves": [
                {
                    "curve": curve,
                    "x": list(CURVES[curve] or ()) or None,
                    "labels": None,
                }
                for curve in self.curves
            ],
            "methods": list(self.methods),
            "agreement": self.agreement,
            "stage": "judge",
        }

    def extra(self, rows: np.ndarray) -> dict[str, Any]:
        """Of a shard's record: names of the steps of a curve that has no places."""
        staged = [curve for curve in self.curves if not CURVES[curve]]
        labels = {curve: list(self.modules) for curve in staged}
        return {"rows": len(rows), "curve_labels": labels if len(rows) else {}}

    def task(self) -> Task:
        return Task("statistics", "statistics", self.images, self.payload())

    def context(self, store: ObjectStore) -> RunContext:
        metrics = dict.fromkeys(
            name
            for name in ("deletion", "insertion", "infidelity", "path_monotonicity", "attack")
            if any(metric.startswith(name) for metric in (*self.metrics, *self.curves))
        )
        return RunContext(
            run_id=f"{self.name}-00000000",
            fingerprint="0" * 64,
            manifest_json={
                "version": 1,
                "kind": "evaluate",
                "name": self.name,
                "data": {"format": "digits"},
                "model": {"arch": "linear", "train": {"data": {"format": "digits"}}},
                "methods": [{"name": "saliency", "id": method} for method in self.methods],
                "metrics": [{"metric": name} for name in (*metrics, "complexity")],
                "store": store.spec.model_dump(mode="json"),
                "engine": {},
                "runtime": {},
            },
            shape=(1, 8, 8),
            num_classes=10,
            preprocess_json={},
            models=(),
            pools={},
        )

    def begin(self, store: ObjectStore) -> RunContext:
        """The run with its records of the stage 'judge', and nothing after them."""
        context = self.context(store)
        create_run(store, self.run_json(context))
        for key, rows in self.parts.items():
            writer = ShardWriter(store, context.run_id, context.fingerprint, "judge", key)
            for name, columns in self.tables(rows).items():
                writer.append(name, make_table(name, columns))
            writer.finish(len(rows), rows.tolist(), self.extra(rows))
        return context

    def write(self, store: ObjectStore) -> Commit:
        """The whole run, committed."""
        context = self.begin(store)
        summarise_scores(context, self.task())
        return commit_run(store, self.run_json(context))

    def run_json(self, context: RunContext) -> dict[str, Any]:
        stages: dict[str, tuple[list[str], dict[str, np.ndarray]]] = {
            "judge": (["scores", "sample_curves", "sample_agreement"], self.parts),
            "statistics": (
                ["summary", "differences", "curves", "agreement"],
                {"statistics": np.zeros(self.images)},
            ),
        }
        return {
            "format": "gradattr/run",
            "protocol": 1,
            "run_id": context.run_id,
            "fingerprint": context.fingerprint,
            "manifest": context.manifest_json | {"kind": self.kind},
            "inputs": {},
            "stages": [
                {
                    "name": name,
                    "tables": tables,
                    "expected_rows": {},
                    "shards": [[key, len(rows)] for key, rows in shards.items()],
                }
                for name, (tables, shards) in stages.items()
            ],
        }


def _status(value: float, otherwise: str) -> tuple[float | None, str]:
    return (None, otherwise) if np.isnan(value) else (float(value), "ok")
