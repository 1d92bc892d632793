"""SQL over a committed run: DuckDB that can read the commit's files and nothing else.

The lock is closed in this order: the commit's own files are allowed, Python replacements and
extensions are switched off, limits are set, the views are made, then external access is disabled
and the configuration locked. Besides, only one SELECT is accepted: COPY could otherwise write to
the files that may be read.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

from gradattr.errors import QueryError, StoreError, UsageError
from gradattr.storage.commit import Commit, read_commit
from gradattr.storage.filesystem import S3Options, open_filesystem, remote_errors, split_url
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.reader import check_files
from gradattr.storage.schemas import TABLES

#: A larger answer belongs into a narrower question.
MAX_RESULT_BYTES = 1 << 30
_MAX_TEXT = 100_000
_BATCH_ROWS = 65_536
_ADVICE = "one SELECT (or WITH ... SELECT) over predictions, attributions, maps, errors, training"

_SQL_TYPES = {
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "large_binary": "BLOB",
    "list<item: int64>": "BIGINT[]",
    "list<item: string>": "VARCHAR[]",
    "list<item: double>": "DOUBLE[]",
}


def open_query(
    store: ObjectStore,
    run: str | Commit,
    *,
    jobs: Mapping[str, Commit] | None = None,
    memory: str = "2GB",
) -> Query:
    """A locked-down DuckDB with one view per table of a committed run; of an audit also the tables
    of its ``jobs``, each in a schema with the job's name.

    UsageError: no such committed run. IntegrityError: a commit or a file it names is damaged.
    """
    commit = read_commit(store, run) if isinstance(run, str) else run
    for one in (commit, *(jobs or {}).values()):
        check_files(store, one)
    return Query(store, commit, memory, jobs or {})


def check_select(text: str) -> None:
    """QueryError unless ``text`` is one SELECT, as far as can be told without any table."""
    with duckdb.connect(":memory:", config={"temp_directory": ""}) as connection:
        _one_select(connection, text)


def _one_select(connection: duckdb.DuckDBPyConnection, text: str) -> Any:
    if len(text) > _MAX_TEXT:
        raise QueryError(f"the SQL text has {len(text)} characters, at most {_MAX_TEXT}")
    try:
        statements = connection.extract_statements(text)
    except duckdb.Error as error:
        raise QueryError(f"SQL: {error}") from None
    if len(statements) != 1:
        raise QueryError(f"SQL: {len(statements)} statements, expected {_ADVICE}")
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        raise QueryError(f"SQL: a {kind.name} statement is refused; expected {_ADVICE}")
    return statements[0]


class Query:
    """SQL over one run. A context manager; not to be used from two threads at once."""

    def __init__(
        self, store: ObjectStore, commit: Commit, memory: str, jobs: Mapping[str, Commit]
    ) -> None:
        self.commit = commit
        self._jobs = jobs
        self._connection = duckdb.connect(":memory:", config={"temp_directory": ""})
        try:
            with _errors(60.0):
                self._prepare(store, commit, memory)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Query:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the connection."""
        self._connection.close()

    def sql(self, text: str, timeout_s: float = 60.0, max_rows: int | None = None) -> pa.Table:
        """The answer to one SELECT as an Arrow table, of at most ``max_rows`` rows.

        QueryError: anything but one SELECT, a mistake in it, an access to anything but the run's
        tables, longer than ``timeout_s`` seconds, or larger than 1 GiB.
        """
        statement = _one_select(self._connection, text)
        alarm = threading.Timer(timeout_s, self._connection.interrupt)
        alarm.daemon = True
        alarm.start()
        try:
            with _errors(timeout_s):
                return self._answer(statement, time.monotonic() + timeout_s, timeout_s, max_rows)
        finally:
            alarm.cancel()
            # It holds the connection, and must not do so while the interpreter ends.
            alarm.join()

    def _prepare(self, store: ObjectStore, commit: Commit, memory: str) -> None:
        # An audit has none of the tables of other kinds, not even empty ones: whoever leaves the
        # job's name out shall be told.
        known = commit.tables if self._jobs else {**TABLES, **commit.tables}
        views = {_quoted(name): (name, _urls(store, commit, name)) for name in known}
        for job, one in self._jobs.items():
            for name in one.tables:
                view = f"{_quoted(job)}.{_quoted(name)}"
                views[view] = name, _urls(store, one, name)
        if split_url(store.spec.url)[0] != "file":
            options = S3Options.from_store(store.spec)
            self._connection.register_filesystem(open_filesystem(store.spec.url, options)[0])
        everything = [url for _, urls in views.values() for url in urls]
        threads = max(1, min(4, os.cpu_count() or 1))
        self._run(f"SET allowed_paths = {_list(everything)}")
        for setting in (
            "python_enable_replacements = false",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "allow_community_extensions = false",
            f"memory_limit = {_literal(memory)}",
            f"threads = {threads}",
        ):
            self._run(f"SET {setting}")
        for job in self._jobs:
            self._run(f"CREATE SCHEMA {_quoted(job)}")
        for view, (name, urls) in views.items():
            source = f"SELECT * FROM read_parquet({_list(urls)})" if urls else _empty(name)
            self._run(f"CREATE VIEW {view} AS {source}")
        self._run("SET enable_external_access = false")
        self._run("SET lock_configuration = true")
        # DuckDB imports parts of pyarrow on first use: not within a question's time limit.
        self._connection.sql("SELECT 1").to_arrow_table()

    def _run(self, text: str) -> None:
        self._connection.execute(text)

    def _answer(
        self, statement: Any, deadline: float, timeout_s: float, max_rows: int | None
    ) -> pa.Table:
        # A relation streams; execute() would hold the whole answer outside of DuckDB's limit.
        relation = self._connection.sql(statement)
        reader = relation.to_arrow_reader(_BATCH_ROWS)
        batches, rows, size = [], 0, 0
        for batch in _stream(reader, timeout_s):
            if max_rows is not None and rows + batch.num_rows >= max_rows:
                batches.append(batch.slice(0, max_rows - rows))
                break
            batches.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if size > MAX_RESULT_BYTES:
                raise QueryError("the answer is larger than 1 GiB; select less, or add a LIMIT")
            if time.monotonic() > deadline:
                raise QueryError(_late(timeout_s))
        return pa.Table.from_batches(batches, schema=reader.schema)


def _stream(reader: pa.RecordBatchReader, timeout_s: float) -> Iterator[pa.RecordBatch]:
    """Errors of a running query arrive as Arrow's, with DuckDB's text."""
    while True:
        try:
            yield reader.read_next_batch()
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:
            raise _translate(error, timeout_s) from error


@contextmanager
def _errors(timeout_s: float) -> Iterator[None]:
    try:
        with remote_errors("query"):
            yield
    except duckdb.Error as error:
        raise _translate(error, timeout_s) from error
    except FileNotFoundError as error:
        raise StoreError(f"query: {error} vanished while it was read") from error


def _translate(error: Exception, timeout_s: float) -> QueryError | StoreError:
    text = str(error)
    if isinstance(error, duckdb.InterruptException) or "INTERRUPT Error" in text:
        return QueryError(_late(timeout_s))
    remote = isinstance(error, duckdb.IOException | duckdb.HTTPException)
    if remote or text.startswith(("IO Error", "HTTP Error")):
        return StoreError(f"query: {text}")
    if isinstance(error, duckdb.OutOfMemoryException) or text.startswith("Out of Memory"):
        return QueryError(f"SQL: {text.splitlines()[0]}; ask for less")
    return QueryError(f"SQL: {text}")


def _late(timeout_s: float) -> str:
    return f"the query took longer than {timeout_s:g} s and was interrupted; ask for less"


def _urls(store: ObjectStore, commit: Commit, table: str) -> list[str]:
    paths = RunPaths(commit.run_id)
    entry = commit.tables.get(table)
    urls = [store.url(paths.absolute(file.key)) for file in entry.files] if entry else []
    if any(character in url for url in urls[:1] for character in "*?["):
        raise UsageError(f"{urls[0]}: DuckDB takes '*', '?' and '[' for a pattern; move the store")
    return urls


def _empty(table: str) -> str:
    """A view with the table's columns and no rows."""
    columns = [
        f'NULL::{_SQL_TYPES[str(field.type)]} AS "{field.name}"' for field in TABLES[table].schema
    ]
    return f"SELECT {', '.join(columns)} WHERE false"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _list(urls: list[str]) -> str:
    return "[" + ", ".join(_literal(url) for url in urls) + "]"
