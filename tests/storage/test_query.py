"""SQL: what works, and what is refused or interrupted with every file unchanged."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gradattr.errors import QueryError
from gradattr.storage import query
from gradattr.storage.commit import Commit
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.query import Query, open_query

from .conftest import SmallRun

Make = Callable[..., SmallRun]


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> tuple[ObjectStore, Commit]:
    store = open_store(str(tmp_path_factory.mktemp("query") / "it's here"))
    return store, SmallRun().write(store)


@pytest.fixture(scope="module")
def opened(committed: tuple[ObjectStore, Commit]) -> Iterator[Query]:
    with open_query(*committed) as query:
        yield query


def _tree(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("SELECT count(*) AS n FROM predictions", [{"n": 12}]),
        ("SELECT 1 AS one;", [{"one": 1}]),
        ("FROM predictions SELECT max(row) AS r", [{"r": 11}]),
        ("WITH p AS (SELECT * FROM predictions) SELECT sum(row) AS s FROM p", [{"s": 66}]),
        ("SELECT ';' AS text -- ; two?", [{"text": ";"}]),
        ("SELECT count(*) AS n FROM errors", [{"n": 0}]),
        ("SELECT count(epoch) AS n FROM training", [{"n": 0}]),
        (
            "SELECT method, count(*) AS n FROM attributions JOIN predictions USING (row) "
            "GROUP BY method ORDER BY method",
            [{"method": "gradient", "n": 12}, {"method": "saliency", "n": 12}],
        ),
        (
            "SELECT list_avg(map) * scale AS mean, len(map) AS n, height FROM maps "
            "WHERE sample_id = 'img-3' AND method = 'saliency'",
            [{"mean": -3.0, "n": 16, "height": 4}],
        ),
        (
            "SELECT list_max(list_transform(map, lambda x: abs(x) * scale)) AS top FROM maps "
            "WHERE row = 7 AND method = 'gradient'",
            [{"top": 7.0}],
        ),
    ],
)
def test_ordinary_questions(opened: Query, text: str, answer: list[dict[str, object]]) -> None:
    assert opened.sql(text).to_pylist() == answer


REFUSED = [
    "COPY predictions TO '{outside}/stolen.csv'",
    "COPY predictions TO '{file}'",
    "COPY predictions FROM '{secret}'",
    "ATTACH '{outside}/new.db'",
    "DETACH memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET threads = 64",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA database_list",
    "PRAGMA memory_limit = '100GB'",
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM read_parquet('{root}/run.json')",
    "SELECT * FROM read_text('{root}/_COMMIT.json')",
    "SELECT * FROM glob('{outside}/*')",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM 'https://example.org/x.parquet'",
    "SELECT * FROM read_csv('s3://bucket/x.csv')",
    "SELECT * FROM opened",
    "SELECT * FROM duckdb_secrets()",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW predictions",
    "CREATE TABLE x AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "DROP VIEW predictions",
    "INSERT INTO predictions VALUES (1)",
    "UPDATE predictions SET row = 1",
    "DELETE FROM predictions",
    "EXPORT DATABASE '{outside}/all'",
    "IMPORT DATABASE '{outside}/all'",
    "CALL pragma_version()",
    "EXPLAIN ANALYZE SELECT 1",
    "PREPARE x AS SELECT 1",
    "BEGIN",
    "CHECKPOINT",
    "VACUUM",
    "",
    "-- nothing",
    "SELEC 1",
    "SELECT nothing FROM predictions",
    "SELECT * FROM nowhere",
    "SELECT CAST('a' AS INTEGER)",
    "SELECT " + "1+" * 60_000 + "1",
]


@pytest.mark.parametrize("text", REFUSED, ids=[text[:40] for text in REFUSED])
def test_refused(
    committed: tuple[ObjectStore, Commit], opened: Query, text: str, tmp_path: Path
) -> None:
    store, commit = committed
    root = store.local_path(RunPaths(commit.run_id).root)
    assert root is not None
    (tmp_path / "secret.txt").write_text("a,b\n1,hidden")
    before = _tree(root), _tree(tmp_path)
    places = {
        "{outside}": str(tmp_path),
        "{secret}": str(tmp_path / "secret.txt"),
        "{root}": str(root).replace("'", "''"),
        "{file}": str(root / commit.tables["predictions"].files[0].key).replace("'", "''"),
    }
    for name, place in places.items():
        text = text.replace(name, place)
    with pytest.raises(QueryError) as caught:
        opened.sql(text, timeout_s=20)
    assert "hidden" not in str(caught.value)
    assert (_tree(root), _tree(tmp_path)) == before
    assert opened.sql("SELECT count(*) AS n FROM predictions").to_pylist() == [{"n": 12}]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT count(*) FROM range(1000000000000) WHERE range % 7 = 8",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n FROM r) SELECT count(*) FROM r",
    ],
)
def test_endless_questions_are_interrupted(opened: Query, text: str) -> None:
    start = time.monotonic()
    with pytest.raises(QueryError, match=r"longer than 0\.5 s"):
        opened.sql(text, timeout_s=0.5)
    assert time.monotonic() - start < 10
    assert opened.sql("SELECT 1 AS a").num_rows == 1


def test_endless_answers_end(opened: Query, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "MAX_RESULT_BYTES", 1 << 20)
    with pytest.raises(QueryError, match="larger than"):
        opened.sql("SELECT * FROM range(1000000000000)", timeout_s=20)
    assert opened.sql("SELECT * FROM range(1000000000000)", max_rows=5).num_rows == 5
    assert opened.sql("SELECT * FROM predictions", max_rows=100).num_rows == 12
    assert opened.sql("SELECT * FROM predictions", max_rows=0).num_rows == 0


def test_too_much_memory_is_refused(committed: tuple[ObjectStore, Commit]) -> None:
    with (
        open_query(*committed, memory="50MB") as small,
        pytest.raises(QueryError, match="Memory"),
    ):
        small.sql("SELECT count(*) FROM (SELECT DISTINCT range FROM range(100000000))")


@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_the_same_on_s3(server: str, request: pytest.FixtureRequest, small_run: Make) -> None:
    store = open_store(request.getfixturevalue(f"s3_{server}"))
    run = small_run(shards=4)
    run.write(store)
    with open_query(store, run.run_id) as opened:
        answer = opened.sql(
            "SELECT method, sum(list_avg(map) * scale) AS s FROM maps JOIN predictions USING (row) "
            "WHERE label >= 0 GROUP BY method ORDER BY method"
        ).to_pylist()
        assert answer == [{"method": "gradient", "s": 120.0}, {"method": "saliency", "s": -120.0}]
        url = store.url(RunPaths(run.run_id).run_json)
        for text in (
            f"SELECT * FROM read_text('{url}')",
            f"COPY predictions TO '{store.url('stolen.csv')}'",
        ):
            with pytest.raises(QueryError):
                opened.sql(text)
    assert store.head("stolen.csv") is None


@pytest.mark.parametrize("choice", ["float32", "int8", "pooled:2", "topk:3", "float16"])
def test_every_choice_of_maps_can_be_queried(
    local: ObjectStore, small_run: Make, choice: str
) -> None:
    run = small_run(choice=choice)
    run.write(local)
    with open_query(local, run.run_id) as opened:
        table = opened.sql("SELECT * FROM maps WHERE row = 3 AND method = 'gradient'")
    assert table.num_rows == 1
    assert table["height"].to_pylist() == [4]
