"""A committed run, opened for questions: SQL, tables, maps."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gradattr.errors import UsageError
from gradattr.manifest.operation import Store
from gradattr.report.summary import summarise
from gradattr.storage.audits import job_commits
from gradattr.storage.commit import read_commit
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.query import open_query
from gradattr.storage.reader import find_map, read_table, training_maps
from gradattr.storage.run_json import read_run

if TYPE_CHECKING:
    import pandas


def open_run(uri: str, *, store: Store | None = None) -> Run:
    """Open a committed run by its URL (``<store>/runs/<run id>``) or, with ``store``, by its id.

    Raises StoreError if there is no such run or it is not committed, IntegrityError if its
    commit is damaged.
    """
    if store is not None:
        return Run(open_store(store), uri)
    root, separator, run_id = uri.rstrip("/").rpartition("/runs/")
    if not separator:
        raise UsageError(f"{uri}: expected <store>/runs/<run id>, or a run id with store=")
    return Run(open_store(root), run_id)


class Run:
    """A committed run. Every answer comes from files that its commit names, and no others."""

    def __init__(self, store: ObjectStore, run_id: str) -> None:
        self.store = store
        self.run_id = run_id
        self.commit = read_commit(store, run_id)
        self._run_json = read_run(store, run_id)
        self._jobs = job_commits(store, self._run_json, self.commit.records)
        self._query = open_query(store, self.commit, jobs=self._jobs)

    @property
    def uri(self) -> str:
        return self.store.url(f"runs/{self.run_id}")

    @property
    def manifest(self) -> dict[str, Any]:
        """The resolved manifest, as JSON."""
        return self._run_json["manifest"]

    @property
    def inputs(self) -> dict[str, Any]:
        """Digests and shapes of data and models."""
        return self._run_json["inputs"]

    @property
    def rows(self) -> int:
        """Input rows of the run's last stage; of an audit its jobs."""
        return self.commit.rows[self.commit.records[-1].stage]

    @property
    def methods(self) -> list[str]:
        """Method ids, in the manifest's order; of kind tfa those of its scores."""
        if self.manifest["kind"] == "tfa":
            return [score["id"] or score["score"] for score in self.manifest["scores"]]
        if self.manifest["kind"] == "patching":
            return list(self.manifest["methods"])
        return [method["id"] or method["name"] for method in self.manifest.get("methods", [])]

    @property
    def map_methods(self) -> list[str]:
        """Ids of the maps of training images, in the manifest's order; of kind tfa alone."""
        return [one["id"] or one["map"] for one in self.manifest.get("maps", [])]

    @property
    def tables(self) -> list[str]:
        """Names of the tables that can be queried; of an audit also those of its jobs, as
        '<job>.<table>'."""
        of_jobs = [f"{job}.{name}" for job, one in self._jobs.items() for name in one.tables]
        return [*self.commit.tables, *of_jobs]

    @property
    def jobs(self) -> list[str]:
        """Names of an audit's jobs, in its order; of any other kind none."""
        return list(self._jobs)

    def job(self, name: str) -> Run:
        """The run of one of an audit's jobs. UsageError if it has no such job."""
        if name not in self._jobs:
            known = f"it has {', '.join(self._jobs)}" if self._jobs else "it is no audit"
            raise UsageError(f"run {self.run_id} has no job {name!r}; {known}")
        return Run(self.store, self._jobs[name].run_id)

    def sql(self, text: str, *, timeout_s: float = 60.0, max_rows: int | None = None) -> pa.Table:
        """The answer to one SELECT over the run's tables, as an Arrow table.

        Raises QueryError for anything but one SELECT, for wrong SQL, and on the time limit.
        """
        return self._query.sql(text, timeout_s=timeout_s, max_rows=max_rows)

    def table(self, name: str) -> pa.Table:
        """A whole table (for 'maps', mind its size), of a job as '<job>.<table>'. ``.to_pandas()``
        makes a data frame."""
        job, dot, of_job = name.partition(".")
        if dot and job in self._jobs:
            return read_table(self.store, self._jobs[job], of_job)
        return read_table(self.store, self.commit, name)

    def frame(self, name: str) -> pandas.DataFrame:
        """A whole table as a pandas data frame."""
        return self.table(name).to_pandas()

    def map(self, sample_id: str, method: str) -> np.ndarray:
        """The map of one sample by one method: (channels, height, width) float32.

        Raises UsageError if there is no such row, or if the row has no map (with its status).
        """
        return find_map(self.store, self.commit, sample_id, method)

    def pairs(self, query: int | None = None, method: str | None = None) -> pa.Table:
        """The table 'tfa_pairs', of one query and one score if they are named."""
        table = read_table(self.store, self.commit, "tfa_pairs")
        for name, value in (("query", query), ("method", method)):
            if value is not None:
                table = table.filter(pc.equal(table[name], value))
        return table

    def training_map(
        self,
        query: int,
        train_id: str,
        method: str | None = None,
        map_method: str | None = None,
    ) -> np.ndarray:
        """The map of a training image for a query: (channels, height, width) float32, (1, height,
        width) of a layer. ``method``: the score that chose the image; ``map_method``: which of its
        maps. Default: the manifest's first.

        Raises UsageError if the pair has no such map (with its status).
        """
        method = method or self.methods[0]
        map_method = map_method or next(iter(self.map_methods), "")
        wanted = (train_id, method, map_method)
        for one in training_maps(self.store, self.commit, query):
            if (one.train_id, one.method, one.map_method) != wanted:
                continue
            if one.values is None:
                raise UsageError(
                    f"run {self.run_id}: training image {train_id!r} has no map {map_method!r} for "
                    f"query {query}: its status is {one.status!r}"
                )
            return one.values
        raise UsageError(
            f"run {self.run_id}: no map {map_method!r} of training image {train_id!r} for query "
            f"{query} by {method!r}; the table 'tfa_pairs' lists the pairs"
        )

    def __repr__(self) -> str:
        return f"<Run {self.run_id}: {self.rows} rows, tables {', '.join(self.tables)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the summary as a small table."""
        summary = summarise(self)
        accuracy = summary["accuracy"]
        head = f"<b>{html.escape(self.run_id)}</b>: {self.rows} {'jobs' if self.jobs else 'rows'}"
        if accuracy is not None:
            head += f", accuracy {accuracy:.2%}"
        names: tuple[str, ...]
        if summary["tfa"]:
            names = (
                "method",
                "query",
                "label",
                "predicted",
                "helpful",
                "score",
                "harmful",
                "score",
            )
            cells = [_strongest(entry) for entry in summary["tfa"]["strongest"]]
        elif summary["diffroar"]:
            names = ("scheme", "learner", "variant", "level", "diffroar", "low", "high", "verdict")
            cells = [[_shown(row[name]) for name in names] for row in summary["diffroar"]]
        elif summary["patching"]:
            names = ("baseline", "method", "measure", "n", "mean", "low", "high")
            rows_of = summary["patching"]["faithfulness"]
            cells = [[_shown(row[name]) for name in names] for row in rows_of]
        elif summary["jobs"]:
            names = ("job", "kind", "run", "found")
            cells = [
                [job["job"], job["kind"], job["run_id"], "; ".join(job["headlines"])]
                for job in summary["jobs"]
            ]
        elif summary["evaluation"]:
            names = ("metric", "method", "n", "mean", "low", "high", "rank", "tied with")
            cells = [
                _judged(metric["metric"], row)
                for metric in summary["evaluation"]["metrics"]
                for row in metric["methods"]
            ]
        else:
            names = ("method", "rows", "bad", "median completeness gap")
            cells = [
                [m["method"], m["rows"], m["bad"], _percent(m["median_gap"])]
                for m in summary["methods"]
            ]
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
            for row in cells
        )
        columns = "".join(f"<th>{name}</th>" for name in names)
        return f"<p>{head}</p><table><tr>{columns}</tr>{rows}</table>"


def _strongest(entry: dict[str, Any]) -> list[object]:
    """A query and its most helpful and most harmful training image, if there is one."""
    sides = [entry[side] or {} for side in ("helpful", "harmful")]
    pairs = [_shown(side.get(name)) for side in sides for name in ("train_id", "score")]
    names = ("method", "query_id", "query_label", "query_predicted")
    return [*(_shown(entry[name]) for name in names), *pairs]


def _judged(metric: str, row: dict[str, Any]) -> list[object]:
    """A method's place in a metric."""
    numbers = [_shown(row[name]) for name in ("n", "mean", "low", "high", "rank")]
    return [metric, row["method"], *numbers, ", ".join(row["tied_with"] or ())]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _shown(value: object) -> object:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else value
