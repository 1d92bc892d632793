"""Every example under manifests/ plans, on small data put where the example looks for it."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from gradattr.data.ingest import ingest
from gradattr.manifest.data import NpzData
from gradattr.manifest.loading import parse_manifest
from gradattr.models import save_weights
from gradattr.work.planning.prepare import make_plan

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "manifests").rglob("*.yaml"))
RANDOM = np.random.default_rng(0)


def _png(size: int, channels: int = 3) -> bytes:
    shape = (size, size, 3) if channels == 3 else (size, size)
    buffer = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _cifar10(folder: Path) -> None:
    for split in ("train", "test"):
        path = folder / f"data/cifar10/plain_text/{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        images = [{"bytes": _png(32), "path": None} for _ in range(20)]
        pq.write_table(pa.table({"img": images, "label": [i % 10 for i in range(20)]}), path)


def _ingested(folder: Path, classes: list[str], sets: list[str]) -> None:
    """Sets as ``gradattr ingest`` writes them."""
    rows = 20
    images = RANDOM.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "some.npz", images=images, labels=np.arange(rows) % len(classes))
    spec = NpzData(format="npz", file=str(folder / "some.npz"), classes=classes)
    for name in sets:
        ingest(spec, str(folder / "data" / name), shard_rows=10)


def _cifar10_in_three(folder: Path) -> None:
    names = [f"class {number}" for number in range(10)]
    _ingested(folder, names, [f"cifar10/{part}" for part in ("train", "holdout", "test")])


def _cifar10_of_three(folder: Path) -> None:
    names = ["dog", "ship", "automobile"]
    _ingested(folder, names, [f"cifar10_three/{part}" for part in ("train", "test")])


def _mnist(folder: Path, name: str = "mnist") -> None:
    target = folder / "data" / name
    target.mkdir(parents=True)
    for name in ("train", "t10k"):
        images = RANDOM.integers(0, 256, (20, 28, 28), dtype=np.uint8)
        labels = np.arange(20, dtype=np.uint8) % 10
        header = struct.pack(">HBBIII", 0, 8, 3, 20, 28, 28)
        (target / f"{name}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(header + images.tobytes())
        )
        header = struct.pack(">HBBI", 0, 8, 1, 20)
        (target / f"{name}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(header + labels.tobytes())
        )


def _svhn(folder: Path) -> None:
    target = folder / "data/svhn"
    target.mkdir(parents=True)
    for split in ("train", "test"):
        images = RANDOM.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
        labels = (np.arange(20) % 10 + 1).astype(np.uint8)[:, None]
        savemat(target / f"{split}_32x32.mat", {"X": images, "y": labels})


def _imagenet10(folder: Path) -> None:
    target = folder / "imagenet10"
    target.mkdir()
    for split in ("train", "val"):
        _tar(target / f"{split}-000.tar", count=10)


def _photos(folder: Path) -> None:
    for name in ("cats/1.png", "cats/2.png", "dogs/1.png"):
        path = folder / "data/photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(40))


def _scans(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "models").mkdir()
    images = RANDOM.integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    np.savez(folder / "data/scans.npz", x=images, y=np.arange(8) % 2)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 2))
    (folder / "models/small_net.safetensors").write_bytes(save_weights(model))
    (folder / "my_models.py").write_text(
        "import torch\n\n\ndef small_net(hidden, dropout):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 2))\n"
    )


def _imagenet(folder: Path) -> None:
    target = folder / "imagenet"
    target.mkdir()
    _tar(target / "val-000.tar", count=4)
    (folder / "models").mkdir()
    weights = save_weights(torch.nn.Linear(2, 2))
    (folder / "models/convnext_tiny.safetensors").write_bytes(weights)


def _imagenet_validation(folder: Path) -> None:
    (folder / "data/imagenet").mkdir(parents=True)
    _tar(folder / "data/imagenet/val-000.tar", count=4)


def _tar(path: Path, count: int) -> None:
    with tarfile.open(path, "w") as archive:
        for i in range(count):
            for suffix, data in (("png", _png(240)), ("cls", str(i).encode())):
                member = tarfile.TarInfo(f"{i:04d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def _language_model(folder: Path, path: str) -> None:
    """Files that look like one: planning loads nothing."""
    target = folder / path
    target.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (target / name).write_text("{}")
    (folder / "data").mkdir()


def _gpt2(folder: Path) -> None:
    _language_model(folder, "openai-community/gpt2")
    row = '{"prompt": "The Eiffel Tower is in", "answer": " Paris", "corrupted": "Big Ben is in"}'
    (folder / "data/facts.jsonl").write_text(f"{row}\n{row}\n")


def _own_language_model(folder: Path) -> None:
    _language_model(folder, "models/my-model")
    (folder / "data/prompts.txt").write_text("One and one is\nTwo and two is\n")


NEEDS: dict[str, Callable[[Path], None]] = {
    "cifar10_parquet": _cifar10,
    "mnist_idx": _mnist,
    "blockmnist": _mnist,
    "blockmnist_robust": _mnist,
    "blockmnist_top": _mnist,
    "imagefolder_torchvision": _photos,
    "own_model_python": _scans,
    "ray_cluster": _imagenet,
    "paper_svhn_mlp": _svhn,
    "paper_fashion_mnist_mlp": lambda folder: _mnist(folder, "fashion_mnist"),
    "paper_cifar10_resnet50": _cifar10,
    "paper_imagenet10_resnet18": _imagenet10,
    "paper_tfa_insertion": _cifar10_in_three,
    "paper_tfa_patch": _cifar10_of_three,
    "paper_uni_cifar10": _cifar10,
    "paper_uni_imagenet": _imagenet_validation,
    "patching_gpt2": _gpt2,
    "patching_folder": _own_language_model,
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_plans(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("GRADATTR_S3_KEY", "a")
    monkeypatch.setenv("GRADATTR_S3_SECRET", "b")
    NEEDS.get(path.stem, lambda folder: None)(tmp_path)
    text = path.read_text()
    # Buckets become folders: planning reads the same things from both.
    text = text.replace("s3://bucket/gradattr", "results").replace("s3://bucket/", "")
    weights = tmp_path / "models/convnext_tiny.safetensors"
    if weights.exists():
        text = text.replace("0" * 64, hashlib.sha256(weights.read_bytes()).hexdigest())
    plan = make_plan(parse_manifest(text, file=path.name))
    again = make_plan(parse_manifest(text, file=path.name))
    assert plan == again
    assert plan.run_id.startswith(plan.manifest["name"])
    assert plan.rows > 0
    written = {file.name for file in tmp_path.iterdir()}
    assert "results" not in written


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8
    assert set(NEEDS) <= {path.stem for path in EXAMPLES}
