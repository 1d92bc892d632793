"""Files of prompts: every format the same rows, bad rows with reasons, faults of the file told."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradattr.data.prompts import Prompt, index_prompts, read_prompts
from gradattr.errors import DataError
from gradattr.manifest.patching import PromptData

ROWS = [
    {"text": "one, two", "next": " three", "name": "a"},
    {"text": 'a "quoted"\nline', "next": None, "name": "b"},
    {"text": "ümlaut", "next": "x", "name": "c"},
]
COLUMNS = {"prompt": "text", "answer": "next", "id": "name"}
EXPECTED = [Prompt(i, r["name"], r["text"], r["next"]) for i, r in enumerate(ROWS)]


def write(tmp_path, kind, rows=ROWS):
    path = tmp_path / f"prompts.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif kind == "csv":
        quoted = [
            ",".join('"' + (row[k] or "").replace('"', '""') + '"' for k in row) for row in rows
        ]
        path.write_bytes(("\ufeff" + "\r\n".join(["text,next,name", *quoted])).encode())
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return PromptData(file=str(path), **COLUMNS)


def read(spec):
    index = index_prompts(spec)
    return read_prompts(spec, 0, index.rows, index.digest)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_formats_agree(tmp_path, kind):
    spec = write(tmp_path, kind)
    assert read(spec) == EXPECTED
    index = index_prompts(spec)
    assert read_prompts(spec, 1, 1, index.digest) == EXPECTED[1:2]
    limited = spec.model_copy(update={"limit": 2})
    assert index_prompts(limited).rows == 2


def test_lines_of_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\n\ntwo \xff\n three ")
    found = read(PromptData(file=str(path)))
    assert [one.prompt for one in found] == ["one", "", "", " three "]
    assert [one.sample_id for one in found] == [f"{i:08d}" for i in range(4)]
    assert "not UTF-8" in (found[2].error or "")


def test_bad_rows_are_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = ['{"text": "a", "name": 7}', "{", "[1]", '{"text": 5, "name": "x"}', '{"text": "b"}']
    lines += ['{"name": "y", "text": null}', '{"name": "z", "text": "c", "next": 1}']
    path.write_text("\n".join(lines) + "\n\n")
    spec = PromptData(file=str(path), prompt="text", id="name")
    found = read(spec)
    assert found[0] == Prompt(0, "7", "a")
    told = [one.error for one in found[1:]]
    for text, error in zip(
        ["not JSON", "a list, expected", "a int stands there", "no id here", "nothing stands"],
        told,
        strict=False,
    ):
        assert text in error
    with_answers = spec.model_copy(update={"answer": "next", "id": None, "limit": None})
    path.write_text('{"text": "a", "next": null}\n{"text": "c", "next": 1}\n')
    assert [one.error is None for one in read(with_answers)] == [True, False]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"", "no prompts"),
        ("a.jsonl", b'{"prompts": "x"}\n', "no column 'prompt'.*'prompts'"),
        ("a.csv", b"text\nx\n", "no column 'prompt'.*'text'"),
        ("a.csv", b"", "no column 'prompt'.*none"),
        ("a.csv", b"prompt\n\xff\n", "not UTF-8"),
        ("a.csv", b'prompt\n"x\n', "line [23]: not CSV: unexpected end"),
        ("a.parquet", b"PAR1 nonsense", "not Parquet, or damaged"),
    ],
)
def test_faults_of_the_file(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=told):
        index_prompts(PromptData(file=str(path)))


def test_ids_are_unique(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "n": "x"}\n{"prompt": "b", "n": "x"}\n')
    with pytest.raises(DataError, match="rows 0 and 1 have the sample id 'x'"):
        index_prompts(PromptData(file=str(path), id="n"))


def test_a_file_that_changed_or_went(tmp_path):
    spec = write(tmp_path, "jsonl")
    digest = index_prompts(spec).digest
    (tmp_path / "prompts.jsonl").write_text('{"text": "other", "name": "q", "next": ""}')
    with pytest.raises(DataError, match="the data changed since the plan"):
        read_prompts(spec, 0, 1, digest)
    with pytest.raises(DataError, match="no such file"):
        index_prompts(PromptData(file=str(tmp_path / "none.txt")))
