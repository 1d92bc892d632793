"""Names of keys."""

from __future__ import annotations

import pytest

from gradattr.errors import UsageError
from gradattr.storage import layout
from gradattr.storage.layout import RunPaths


def test_the_keys_of_a_run() -> None:
    paths = RunPaths("demo-12345678")
    assert paths.run_json == "runs/demo-12345678/run.json"
    assert paths.commit == "runs/demo-12345678/_COMMIT.json"
    assert paths.record("attribute", "00001") == "runs/demo-12345678/shards/attribute/00001.json"
    data = paths.data_file("maps", "00001", "ab" * 32, "0123456789abcdef")
    assert data == "data/maps/part-00001-abababababababab-0123456789abcdef.parquet"
    assert paths.absolute(data).startswith("runs/demo-12345678/data/maps/")
    compacted = paths.compacted_file("errors", 0, "cd" * 32)
    assert compacted == "data/errors/all-000-cdcdcdcdcdcdcdcd.parquet"
    assert paths.log("a1", "driver.json") == "runs/demo-12345678/log/a1/driver.json"


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "a..b", "/x", "x" * 201, "a\n", ".hidden", "a b"]
)
def test_names_that_would_leave_the_directory(name: str) -> None:
    with pytest.raises(UsageError):
        RunPaths(name)
    with pytest.raises(UsageError):
        RunPaths("run").record("stage", name)
    with pytest.raises(UsageError):
        RunPaths("run").log("attempt", name)


@pytest.mark.parametrize("key", ["/etc/passwd", "../other/run.json", "data/../../x"])
def test_keys_that_would_leave_the_directory(key: str) -> None:
    with pytest.raises(UsageError, match="outside"):
        RunPaths("run").absolute(key)


def test_the_keys_of_a_trained_model() -> None:
    digest = "0123456789abcdef" * 4
    assert layout.trained_record_key(digest) == "models/0123456789abcdef/record.json"
    weights = layout.trained_weights_key(digest, "ff" * 32, "aa")
    assert weights == "models/0123456789abcdef/weights-ffffffffffffffff-aa.safetensors"
    kept = layout.trained_kept_key(digest, 12, "ee" * 32, "bb")
    assert kept == "models/0123456789abcdef/kept-000012-eeeeeeeeeeeeeeee-bb.safetensors"
    assert layout.trained_checkpoint_key(digest) == "models/0123456789abcdef/checkpoint.json"
    data = layout.trained_checkpoint_data_key(digest, 7, "aa")
    assert data == "models/0123456789abcdef/checkpoint-000007-aa.bin"
    with pytest.raises(UsageError):
        layout.trained_dir("../x")


def test_nonces_differ() -> None:
    assert len({layout.new_nonce() for _ in range(100)}) == 100
