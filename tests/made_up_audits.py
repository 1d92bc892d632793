"""A committed DiffROAR audit whose accuracies are made up: nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gradattr.plan import Task
from gradattr.storage.commit import Commit, commit_run
from gradattr.storage.objects import ObjectStore
from gradattr.storage.run_json import create_run
from gradattr.storage.schemas import TABLES, make_table
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.diffroar.score import score_trials

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)

#: By how much the top coordinates predict better than the bottom ones, at most.
EFFECTS = {"standard/saliency": -0.06, "robust/saliency": 0.2, "random": 0.0, "linear": 0.1}


class MadeUpAudit:
    """Trials of a standard and a robust model that share a learner, and of both baselines."""

    def __init__(
        self,
        *,
        name: str = "made-up",
        levels: tuple[float, ...] = LEVELS,
        effects: Mapping[str, float] = EFFECTS,
        seeds: int = 5,
        variants: tuple[str, ...] = ("retrain", "mask_only"),
        noise: float = 0.004,
    ) -> None:
        self.name, self.levels, self.effects = name, levels, effects
        self.seeds, self.variants, self.noise = seeds, variants, noise
        self.schemes = [
            {
                "scheme": scheme,
                "model": scheme.split("/")[0] if "/" in scheme else None,
                "method": scheme.split("/")[-1],
                "learner": "standard",
            }
            for scheme in effects
        ]
        self.rows = self._rows()

    def _rows(self) -> list[dict[str, Any]]:
        if self.variants == ("no_retrain",):
            return list(self._evaluations())
        random = np.random.default_rng(0)
        cells = dict.fromkeys(self._cells())
        return [
            {
                "row": row,
                "trial": f"{row:05d}-{variant}-{arm}",
                "scheme": scheme,
                "learner": "standard",
                "variant": variant,
                "level": level,
                "arm": arm,
                "seed": seed,
                "kept": round(64 * level),
                "accuracy": (accuracy := self._accuracy(scheme, variant, level, arm, random)),
                "best_accuracy": accuracy + 0.01,
                "best_epoch": 3,
                "test_loss": 0.5,
                "train_accuracy": 0.99,
                "train_loss": 0.1,
                "epochs": 5,
                "stopped": "epochs",
            }
            for row, (scheme, variant, level, arm, seed) in enumerate(cells)
        ]

    def _cells(self) -> Iterator[tuple[str | None, str, float, str, int]]:
        for scheme in self.effects:
            for variant in self.variants:
                for level in self.levels:
                    if level == 1 and variant != "retrain":
                        continue
                    arms = ("rest",) if variant == "roar" else ("top", "bottom")
                    for arm in arms:
                        for seed in range(self.seeds):
                            yield scheme if level < 1 else None, variant, level, arm, seed

    def _accuracy(
        self, scheme: str | None, variant: str, level: float, arm: str, random: Any
    ) -> float:
        plain = 0.9 * level**0.15 if variant == "retrain" else 0.15
        effect = self.effects[scheme] if scheme is not None and variant == "retrain" else 0.0
        half = 0.5 * effect * (1 - level)
        return float(plain + (half if arm == "top" else -half) + random.normal(0, self.noise))

    def _evaluations(self) -> Iterator[dict[str, Any]]:
        """One row per scheme, level and arm: a base model evaluated on 1 000 masked images."""
        for scheme, effect in self.effects.items():
            for level in self.levels:
                counts = self.pair(effect, level)
                for arm in ("top", "bottom"):
                    right = counts["both"] + counts[f"{arm}_only"]
                    yield {
                        "trial": f"{scheme}-no_retrain".replace("/", "="),
                        "scheme": scheme,
                        "learner": "standard",
                        "variant": "no_retrain",
                        "level": level,
                        "arm": arm,
                        "seed": None,
                        "kept": round(64 * level),
                        "accuracy": right / counts["n"],
                        "best_accuracy": None,
                        "test_loss": 0.5,
                    }

    @staticmethod
    def pair(effect: float, level: float) -> dict[str, Any]:
        apart = round(1000 * abs(effect) * (1 - level))
        more, less = (apart + 10, 10) if effect > 0 else (10, apart + 10)
        if level == 1 or not effect:
            more = less = 0 if level == 1 else 10
        counts = {"both": 500, "top_only": more, "bottom_only": less, "n": 1000}
        return {"level": level, **counts}

    def shards(self) -> dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
        """Key -> rows and 'extra' of each shard of the stage 'trial'. Without retraining there is
        one per scheme, as in a real audit; else few, because writing files takes longest."""
        found: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {}
        for number, row in enumerate(self.rows):
            key = row["trial"] if row["seed"] is None else row["variant"]
            rows, _ = found.setdefault(key, ([], {}))
            rows.append({"row": number, **row})
        if self.variants == ("no_retrain",):
            for rows, extra in found.values():
                effect = self.effects[rows[0]["scheme"]]
                extra["pairs"] = [self.pair(effect, level) for level in self.levels]
        return found

    def context(self, store: ObjectStore) -> RunContext:
        train = {"data": "digits", "test": "digits", "epochs": 5}
        return RunContext(
            run_id=f"{self.name}-00000000",
            fingerprint="0" * 64,
            manifest_json={
                "version": 1,
                "kind": "diffroar",
                "name": self.name,
                "data": {"format": "digits"},
                "test": {"format": "digits"},
                "models": {"standard": {"arch": "linear", "train": train}},
                "methods": [{"name": "saliency"}],
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

    def write(self, store: ObjectStore) -> Commit:
        """The run with its trials, scored and committed."""
        context = self.context(store)
        run_json = self.run_json(context)
        create_run(store, run_json)
        for key, (rows, extra) in self.shards().items():
            writer = ShardWriter(store, context.run_id, context.fingerprint, "trial", key)
            names = [name for name, *_ in TABLES["trials"].columns]
            columns = {name: [row.get(name) for row in rows] for name in names}
            writer.append("trials", make_table("trials", columns))
            writer.finish(len(rows), [row["row"] for row in rows], {"rows": len(rows), **extra})
        score_trials(
            context, Task("score", "scores", 1, {"schemes": self.schemes, "stage": "trial"})
        )
        return commit_run(store, run_json)

    def run_json(self, context: RunContext) -> dict[str, Any]:
        shards = [[key, len(rows)] for key, (rows, _) in self.shards().items()]
        return {
            "format": "gradattr/run",
            "protocol": 1,
            "run_id": context.run_id,
            "fingerprint": context.fingerprint,
            "manifest": context.manifest_json,
            "inputs": {},
            "stages": [
                {"name": "trial", "tables": ["trials"], "expected_rows": {}, "shards": shards},
                {
                    "name": "score",
                    "tables": ["pred_power", "diffroar"],
                    "expected_rows": {},
                    "shards": [["scores", 1]],
                },
            ],
        }
