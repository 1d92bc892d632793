"""A data set that is damaged in one place: its shard fails, the others are kept."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gradattr.errors import ShardError
from gradattr.report.results import open_run
from gradattr.runtime.driver import run

Make = Callable[..., Any]


def _png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """60 images in four row groups of 15, as wide as the shards."""
    images = [{"bytes": _png(row), "path": f"{row}.png"} for row in range(60)]
    table = pa.table({"image": images, "label": [row % 10 for row in range(60)]})
    path = tmp_path / "library.parquet"
    pq.write_table(table, path, row_group_size=15, use_dictionary=False, write_page_checksum=True)
    return path


def _corrupt(path: Path, group: int) -> None:
    """Flip bytes in the middle of the images of a row group."""
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(0)
    data = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    for at in range(middle, middle + 16):
        data[at] ^= 0xFF
    path.write_bytes(data)


def test_a_corrupt_row_group_costs_its_shard_alone(
    make_small: Make, listener: Make, library: Path, tmp_path: Path
) -> None:
    original = library.read_bytes()
    _corrupt(library, 2)
    changes = {
        "data": {"format": "parquet", "files": [str(library)]},
        "preprocess": {"color": "gray"},
        "model": {"arch": "linear", "train": {"data": "digits", "epochs": 1}},
    }
    told = listener()
    with pytest.raises(ShardError) as caught:
        run(make_small(**changes), listener=told)
    assert caught.value.exit_code == 3
    assert "1 of 4 shards" in str(caught.value)
    assert f"attribute/00002: {library}: row group 2" in str(caught.value)
    store = tmp_path / "store"
    records = sorted(path.stem for path in store.glob("runs/*/shards/attribute/*.json"))
    assert records == ["00000", "00001", "00003"]
    assert not list(store.glob("runs/*/_COMMIT.json"))
    # The whole file is other data, so it is another run; the model is not trained again.
    library.write_bytes(original)
    told = listener()
    assert open_run(run(make_small(**changes), listener=told).uri).rows == 60
    assert len(list(store.glob("models/*/record.json"))) == 1
