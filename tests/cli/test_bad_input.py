"""What a user gets wrong ends with exit code 2 and a sentence, before anything is written."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

HEAD = "kind: attribute\nname: bad\nruntime: {address: inline}\nmethods: [saliency]\n"
DIGITS = "data: {format: digits, limit: 20}\n"
LINEAR = "model: {arch: linear, num_classes: 10, weights: WEIGHTS}\n"


@pytest.fixture
def refused(gradattr: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a manifest that must be refused; return the message. Nothing may be written."""
    monkeypatch.chdir(tmp_path)

    def run(text: str, code: int = 2, *options: str) -> str:
        (tmp_path / "bad.yaml").write_text(text)
        before = sorted(tmp_path.rglob("*"))
        done = gradattr("run", "bad.yaml", *options)
        assert done.code == code, done.err + done.out
        assert sorted(tmp_path.rglob("*")) == before
        return done.err

    return run


def _save(path: Path, **changes: torch.Tensor) -> None:
    state = {"1.weight": torch.zeros(10, 64), "1.bias": torch.zeros(10)} | changes
    torch.save(state, path)


def test_a_mistyped_key_is_placed_and_guessed(refused: Any) -> None:
    text = refused(HEAD + DIGITS + LINEAR + "shard_row: 5\n")
    assert "bad.yaml:7:1" in text
    assert "shard_rows" in text


def test_an_override_that_is_wrong_is_named(refused: Any) -> None:
    text = refused(HEAD + DIGITS + LINEAR, 2, "--set", "seeed=3")
    assert "--set" in text
    assert "seed" in text


def test_a_manifest_that_is_not_there(gradattr: Any, tmp_path: Path) -> None:
    done = gradattr("run", str(tmp_path / "none.yaml"))
    assert (done.code, "no such file" in done.err) == (2, True)


def test_missing_weights(refused: Any) -> None:
    assert "weights.pt" in refused(HEAD + DIGITS + LINEAR.replace("WEIGHTS", "weights.pt"))


def test_weights_of_another_model(refused: Any, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "w.pt")
    text = refused(HEAD + DIGITS + LINEAR.replace("WEIGHTS", "w.pt"))
    assert "fc.weight" in text


def test_weights_with_nan_name_the_layer(refused: Any, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    state = model.state_dict()
    from gradattr.manifest.model import LinearModel
    from gradattr.models import build_model

    spec = LinearModel(arch="linear", weights="w.pt")
    state = build_model(spec, shape=(1, 8, 8), num_classes=10, seed=0).state_dict()
    name = next(key for key in state if key.endswith("weight"))
    state[name][0, 0] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    assert name in refused(HEAD + DIGITS + LINEAR.replace("WEIGHTS", "w.pt"))


def test_weights_of_another_digest(refused: Any, tmp_path: Path) -> None:
    _save(tmp_path / "w.pt")
    wrong = LINEAR.replace("WEIGHTS", f"w.pt, sha256: {'0' * 64}")
    assert "sha256" in refused(HEAD + DIGITS + wrong)


def test_a_pickle_with_a_payload_is_never_run(refused: Any, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "owned",)

    (tmp_path / "w.pt").write_bytes(pickle.dumps({"weight": Payload()}))
    text = refused(HEAD + DIGITS + LINEAR.replace("WEIGHTS", "w.pt"))
    assert "w.pt" in text
    assert not (tmp_path / "owned").exists()


def test_a_model_that_does_not_take_the_images(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "shapes_net.py").write_text(
        "import torch\n\n\ndef net():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), "
        "torch.nn.Flatten(), torch.nn.Linear(9, 10))\n"
    )
    import sys

    sys.path.insert(0, str(tmp_path))
    try:
        from shapes_net import net

        torch.save(net().state_dict(), tmp_path / "w.pt")
        model = "model: {arch: 'python:shapes_net:net', num_classes: 10, weights: w.pt}\n"
        before = sorted(tmp_path.rglob("*"))
        assert before
        assert "1 x 8 x 8" in refused(HEAD + DIGITS + model)
    finally:
        sys.path.remove(str(tmp_path))


def _npz(path: Path, labels: list[int]) -> None:
    n = len(labels)
    np.savez(path, images=np.zeros((n, 8, 8), np.uint8), labels=np.array(labels))


def test_more_classes_in_the_data_than_in_the_model(refused: Any, tmp_path: Path) -> None:
    _npz(tmp_path / "d.npz", [0, 1, 2, 11])
    _save(tmp_path / "w.pt")
    data = "data: {format: npz, file: d.npz}\n"
    text = refused(HEAD + data + LINEAR.replace("WEIGHTS", "w.pt"))
    assert "12 classes" in text
    assert "10 outputs" in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "d.npz"), (b"PK\x03\x04 cut", "d.npz"), (b"not a zip at all", "d.npz")],
)
def test_damaged_data_is_named(refused: Any, tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    data = "data: {format: npz, file: d.npz}\n"
    assert reason in refused(HEAD + data + LINEAR)


def test_an_empty_folder(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert "photos" in refused(HEAD + "data: {format: folder, url: photos}\n" + LINEAR)


def test_targets_that_the_model_or_the_data_do_not_have(refused: Any, tmp_path: Path) -> None:
    from gradattr.manifest.model import LinearModel
    from gradattr.models import build_model

    spec = LinearModel(arch="linear", weights="w.pt")
    model = build_model(spec, shape=(1, 8, 8), num_classes=10, seed=0)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    linear = LINEAR.replace("WEIGHTS", "w.pt")
    assert "classes 0 to 9" in refused(HEAD + DIGITS + linear + "target: 10\n")
    np.savez(tmp_path / "d.npz", images=np.zeros((4, 8, 8), np.uint8))
    data = "data: {format: npz, file: d.npz, labels: null}\n"
    assert "labels" in refused(HEAD + data + linear + "target: logit_true\n")


def test_a_baseline_that_needs_more_than_it_is_given(refused: Any) -> None:
    method = "methods: [{name: integrated_gradients, baseline: mean}]\n"
    head = HEAD.replace("methods: [saliency]\n", method)
    linear = "model: {arch: linear, train: {data: digits, epochs: 1}}\n"
    assert "preprocess.mean" in refused(head + DIGITS + linear)


@pytest.mark.parametrize(
    "url", ["../outside", "http://host/x", "s3::file:///x", "s3://key:secret@bucket/x"]
)
def test_urls_that_lead_astray(refused: Any, url: str) -> None:
    refused(HEAD + f"data: {{format: folder, url: '{url}'}}\n" + LINEAR)
    refused(HEAD + DIGITS + LINEAR + f"store: '{url}'\n")


def test_a_secret_is_refused_and_not_repeated(refused: Any) -> None:
    secret = "AKIAIOSFODNN7EXAMPLE"
    text = refused(HEAD + DIGITS + LINEAR + f"store: {{url: s3://b/x, access_key: {secret}}}\n")
    assert "environment" in text
    assert secret not in text


def test_html_in_a_sample_id_is_data(gradattr: Any, tmp_path: Path) -> None:
    """A file name is shown literally on the terminal and escaped in HTML."""
    folder = tmp_path / "photos" / "0"
    folder.mkdir(parents=True)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, "PNG")
    name = "<img src=x onerror=alert(1)>[red].png"
    (folder / name).write_bytes(buffer.getvalue())
    (tmp_path / "photos" / "1").mkdir()
    (tmp_path / "photos" / "1" / "1.png").write_bytes(buffer.getvalue())
    text = (
        HEAD
        + f"data: {{format: folder, url: {tmp_path}/photos}}\npreprocess: {{color: gray}}\n"
        + "model: {arch: linear, train: {data: digits, epochs: 1}}\n"
        + f"store: {tmp_path}/store\n"
    )
    path = tmp_path / "html.yaml"
    path.write_text(text)
    done = gradattr("run", str(path))
    assert done.code == 0, done.err
    done = gradattr("query", str(path), "SELECT sample_id FROM predictions ORDER BY row")
    assert name in done.out.replace("\n", "")
    from gradattr.report.results import open_run

    (run,) = (tmp_path / "store/runs").iterdir()
    assert "<img" not in open_run(str(run))._repr_html_()


def test_a_cuda_device_that_tasks_will_not_have(refused: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    linear = "model: {arch: linear, train: {data: digits, epochs: 1}}\n"
    text = HEAD + DIGITS + linear + "engine: {device: cuda}\n"
    assert "sees 0 CUDA devices" in refused(text)
    assert "gpus_per_task" in refused(text.replace("address: inline", "address: local"))
