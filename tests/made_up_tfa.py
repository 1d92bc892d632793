"""A committed run of kind tfa whose scores and maps are made up: nothing is differentiated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gradattr.data import Batch, DataIndex, index_data, load_all
from gradattr.manifest.scores import score_id
from gradattr.manifest.tfa import TfaManifest
from gradattr.manifest.training_maps import map_id
from gradattr.metrics.diffroar import interval
from gradattr.storage.commit import Commit, commit_run
from gradattr.storage.maps import encode_maps
from gradattr.storage.objects import ObjectStore
from gradattr.storage.run_json import create_run
from gradattr.storage.schemas import TABLES, make_table, maps_schema, sketches_schema
from gradattr.storage.shards import ShardWriter

Row = dict[str, Any]

SCORES: Sequence[Any] = ("grad_cos", "random")
MAPS: Sequence[Any] = (
    "tfa",
    {"map": "two_step", "id": "plain", "method": "saliency"},
    {"map": "tfa", "id": "deep", "layer": "layer4"},
)
#: Data with masks: a digit, and a block without signal.
BLOCKS: Mapping[str, Any] = {
    "data": {"format": "blockmnist", "split": "train"},
    "queries": {"format": "blockmnist", "split": "test"},
}
#: (query, side, rank) of a pair whose maps failed.
FAILED = (0, "harmful", 2)


class MadeUpTfa:
    """Some queries, each with its helpful and harmful training images of every score. Maps of
    queries stand in shards of ``chunk`` queries."""

    def __init__(
        self,
        *,
        name: str = "made-up",
        data: Mapping[str, Any] | None = None,
        queries: Mapping[str, Any] | None = None,
        count: int = 5,
        top: int = 3,
        scores: Sequence[Any] = SCORES,
        maps: Sequence[Any] = MAPS,
        choice: str = "float16",
        insertion: bool = True,
        index: bool = True,
        chunk: int = 2,
    ) -> None:
        self.name, self.choice, self.chunk = name, choice, chunk
        tested = {"insertion": {"fill": 0.0, "sides": ["helpful", "harmful"]}} if insertion else {}
        self.manifest = TfaManifest.model_validate(
            {
                "kind": "tfa",
                "name": name,
                "data": dict(data or {"format": "digits", "split": "train"}),
                "queries": {
                    "data": dict(queries or {"format": "digits", "split": "test"}),
                    "count": count,
                },
                "model": {"arch": "mlp", "train": {"epochs": 3}},
                "scores": list(scores),
                "maps": list(maps),
                "top": top,
                **tested,
                **({"index": {"buckets": 16}} if index else {}),
            }
        )
        self.run_id, self.fingerprint = f"{name}-00000000", "0" * 64

    @property
    def scores(self) -> list[str]:
        return [score_id(score) for score in self.manifest.scores]

    @cached_property
    def train_index(self) -> DataIndex:
        return index_data(self.manifest.data)

    @cached_property
    def train(self) -> Batch:
        return load_all(self.manifest.data, self.train_index, self.manifest.preprocess)

    @cached_property
    def query_rows(self) -> list[Row]:
        """The table ``queries``: every other one is taken for the class after its own."""
        data = self.manifest.queries.data
        batch = load_all(data, index_data(data), self.manifest.preprocess)
        rows = []
        for query in range(self.manifest.queries.count):
            at, wrong = 7 * query, query % 2 == 0
            label = int(batch.labels[at])
            rows.append(
                {
                    "query": query,
                    "query_row": at,
                    "sample_id": batch.sample_ids[at],
                    "label": label,
                    "predicted": self.said(label, wrong),
                    "correct": not wrong,
                    "confidence": 0.5 + 0.1 * (query % 5),
                    "loss": 1.5 if wrong else 0.2,
                }
            )
        return rows

    def said(self, label: int, wrong: bool) -> int:
        return (label + wrong) % int(self.train_index.num_classes or 1)

    @cached_property
    def pairs(self) -> list[Row]:
        """The table ``tfa_pairs``."""
        random = np.random.default_rng(0)
        return [
            pair
            for query in self.query_rows
            for method in self.scores
            for pair in self._pairs_of(query, method, random)
        ]

    def _pairs_of(self, query: Row, method: str, random: Any) -> Iterator[Row]:
        top = self.manifest.top
        chosen = random.choice(len(self.train), 2 * top, replace=False)
        for place, at in enumerate(chosen):
            helpful, rank = place < top, place % top + 1
            label = int(self.train.labels[at])
            marked = self.marked(int(at))
            yield {
                "query": query["query"],
                "train_row": int(at),
                "train_id": self.train.sample_ids[at],
                "method": method,
                "side": "helpful" if helpful else "harmful",
                "rank": rank,
                "score": (1 if helpful else -1) * 0.9 / rank,
                "query_id": query["sample_id"],
                "query_label": query["label"],
                "query_predicted": query["predicted"],
                "train_label": label,
                "train_predicted": self.said(label, rank == 2),
                "train_loss": 0.3,
                "marked_area": None if marked is None else float(marked.mean()),
            }

    def marked(self, at: int) -> np.ndarray | None:
        return None if self.train.masks is None else self.train.masks[at].numpy()

    def values(self, pair: Row, map_method: str) -> np.ndarray | None:
        """The map (c, h, w) of a pair: large where the image is bright, of the score's sign on
        one half and of the other on the other half. One channel of a layer."""
        if (pair["query"], pair["side"], pair["rank"]) == FAILED:
            return None
        image = self.train.x[pair["train_row"]].numpy()
        ramp = np.linspace(1, -0.6, image.shape[-1], dtype=np.float32)
        found = image * ramp * np.float32(pair["score"])
        return found.mean(axis=0, keepdims=True) if map_method == "deep" else found

    def mapped(self, pairs: Sequence[Row]) -> Iterator[tuple[str, Row]]:
        for pair in pairs:
            for spec in self.manifest.maps:
                layer = getattr(spec, "layer", None) is not None
                yield (
                    ("tfa_layer_maps" if layer else "tfa_maps"),
                    {
                        **{key: pair[key] for key in _PAIR},
                        "map_method": map_id(spec),
                        "status": "ok" if self.values(pair, "tfa") is not None else "non_finite",
                    },
                )

    def insertions(self, pairs: Sequence[Row]) -> list[Row]:
        test = self.manifest.insertion
        if test is None:
            return []
        random = np.random.default_rng(len(pairs))
        return [
            {
                **{key: row[key] for key in (*_PAIR, "map_method")},
                "test": name,
                "steps": steps,
                "level": level,
                "random": (by_chance := float(-0.02 * level + random.normal(0, 0.002))),
                "top": by_chance
                - (0.01 if row["side"] == "helpful" else -0.01) * (1 - level)
                + float(random.normal(0, 0.004)) * (1 - level),
            }
            for _, row in self.mapped(pairs)
            if row["status"] == "ok" and row["map_method"] != "deep" and row["side"] in test.sides
            for name in test.tests
            for steps in test.steps
            for level in test.levels
        ]

    def summary(self) -> list[Row]:
        keys = ("method", "side", "map_method", "test", "steps", "level")
        cells: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.insertions(self.pairs):
            cells.setdefault(tuple(row[key] for key in keys), []).append(row)
        found = []
        for cell, rows in cells.items():
            ends = interval([row["top"] - row["random"] for row in rows])
            means = {name: float(np.mean([r[name] for r in rows])) for name in ("top", "random")}
            found.append(
                {
                    **dict(zip(keys, cell, strict=True)),
                    **means,
                    "n": len(rows),
                    "difference": ends.mean,
                    "sd": ends.sd,
                    "low": ends.low,
                    "high": ends.high,
                }
            )
        return found

    def recall(self) -> list[Row]:
        return [
            {
                "query": query,
                "method": self.scores[0],
                "side": side,
                "top": 20,
                "candidates": 50,
                "recall": 0.95,
                "ranked_recall": 0.8,
            }
            for query in range(2)
            for side in ("helpful", "harmful")
        ]

    def write(self, store: ObjectStore) -> Commit:
        """The run, committed."""
        run_json = self.run_json(store)
        create_run(store, run_json)
        self._task(store, "select", "queries", 1, {"queries": self.query_rows})
        self._score(store)
        for first in self.chunks:
            self._map(store, first)
        self._task(store, "summary", "summary", 1, {"tfa_summary": self.summary()})
        return commit_run(store, run_json)

    @property
    def chunks(self) -> list[int]:
        return list(range(0, self.manifest.queries.count, self.chunk))

    def _task(
        self,
        store: ObjectStore,
        stage: str,
        key: str,
        rows: int,
        tables: Mapping[str, Any],
        row_ids: range | None = None,
    ) -> None:
        writer = ShardWriter(store, self.run_id, self.fingerprint, stage, key)
        for name, found in tables.items():
            if isinstance(found, list):
                names = [column for column, *_ in TABLES[name].columns]
                found = make_table(name, {c: [row.get(c) for row in found] for c in names})
            writer.append(name, found)
        writer.finish(rows, row_ids, {"rows": rows})

    def _score(self, store: ObjectStore) -> None:
        tables: dict[str, Any] = {
            "tda_scores": [{key: pair[key] for key in _SCORED} for pair in self.pairs]
        }
        if self.manifest.index is not None:
            rows, buckets = len(self.train), self.manifest.index.buckets
            sketches = np.arange(rows)[:, None] / 1024 + np.zeros((1, buckets))
            schema = sketches_schema(buckets)
            storage = sketches.astype(np.float16)
            tables["sketches"] = make_table(
                "sketches",
                {
                    "train_row": list(range(rows)),
                    "train_id": self.train.sample_ids,
                    "train_label": self.train.labels.tolist(),
                    "norm": [1.0] * rows,
                    "sketch": _tensors(storage, schema.field("sketch").type),
                },
                schema,
            )
            tables["index_recall"] = self.recall()
        self._task(store, "tda", "0000-00000", len(self.train), tables)

    def _map(self, store: ObjectStore, first: int) -> None:
        numbers = range(first, min(first + self.chunk, self.manifest.queries.count))
        pairs = [pair for pair in self.pairs if pair["query"] in numbers]
        tables: dict[str, Any] = {"tfa_pairs": pairs, "tfa_insertion": self.insertions(pairs)}
        mapped = list(self.mapped(pairs))
        channels, height, width = self.train.x.shape[1:]
        for name, count in (("tfa_maps", channels), ("tfa_layer_maps", 1)):
            rows = [row for table, row in mapped if table == name]
            if rows:
                tables[name] = self._maps(name, rows, (count, height, width))
        tables["tfa_map_scores"] = [self._judged(row) for _, row in mapped]
        self._task(store, "map", f"{first:06d}", len(numbers), tables, numbers)

    def _maps(self, table: str, rows: list[Row], shape: tuple[int, int, int]) -> Any:
        values = [self.values(row | self._pair_of(row), row["map_method"]) for row in rows]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        columns |= encode_maps(values, self.choice, shape)
        return make_table(table, columns, maps_schema(self.choice, shape, table))

    def _pair_of(self, row: Row) -> Row:
        return next(pair for pair in self.pairs if all(pair[key] == row[key] for key in _PAIR))

    def _judged(self, row: Row) -> Row:
        pair = self._pair_of(row)
        marked, first = pair["marked_area"] is not None, row["map_method"] == "tfa"
        return {
            **row,
            "total": 0.1,
            "abs_total": 1.0,
            "marked_share": (0.75 if first else 0.5) if marked else None,
            "marked_area": pair["marked_area"],
            "mass_ratio": 0.6 if marked else None,
            "spearman": None if first else 0.4,
            "top_overlap": None if first else 0.3,
        }

    def run_json(self, store: ObjectStore) -> Row:
        manifest = self.manifest.model_dump(mode="json")
        index, preprocess = self.train_index, self.manifest.preprocess.model_dump(mode="json")
        chunks = [
            [f"{first:06d}", min(self.chunk, self.manifest.queries.count - first)]
            for first in self.chunks
        ]
        stages = {
            "select": [["queries", 1]],
            "tda": [["0000-00000", len(self.train)]],
            "map": chunks,
            "summary": [["summary", 1]],
        }
        return {
            "format": "gradattr/run",
            "protocol": 1,
            "run_id": self.run_id,
            "fingerprint": self.fingerprint,
            "manifest": manifest | {"store": store.spec.model_dump(mode="json")},
            "inputs": {
                "shape": list(self.train.x.shape[1:]),
                "num_classes": index.num_classes,
                "class_names": list(index.class_names) if index.class_names else None,
                "preprocess": preprocess,
            },
            "stages": [
                {"name": name, "tables": [], "expected_rows": {}, "shards": shards}
                for name, shards in stages.items()
            ],
        }


_PAIR = ("query", "train_row", "train_id", "method", "side", "rank")
_SCORED = ("query", "train_row", "method", "score")


def _tensors(values: np.ndarray, kind: Any) -> Any:
    import pyarrow as pa

    storage = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.ExtensionArray.from_storage(kind, storage)
