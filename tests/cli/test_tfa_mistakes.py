"""What a user gets wrong in a manifest of kind tfa: exit code 2 and a sentence before anything is
written; what only a stage can know: exit code 3 (1 for bad rows), a sentence, and what was done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.small_tfa import PLAIN, TRAIN, digits_npz

Command = Callable[..., Any]
Change = dict[str, Any]

QUERIES = {"data": {"format": "digits", "split": "test", "limit": 40}, "count": 3}
CNN = {"arch": "cnn", "width": 2, "train": TRAIN}
NEVER_REACHED = TRAIN | {"epochs": 4, "keep_epochs": [3, 4], "stop_below": 100.0}
INDEFINITE = {"score": "influence", "inverse": "cg", "matrix": "hessian", "damping": 1e-6}
NO_LABELS = {"format": "npz", "file": "unlabelled.npz", "labels": None}


def _manifest(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "kind": "tfa",
        "name": "wrong",
        "data": {"format": "digits", "split": "train", "limit": 60},
        "preprocess": {"mean": [0.3], "std": [0.4]},
        "model": {"arch": "mlp", "hidden": [8], "train": TRAIN},
        "queries": QUERIES,
        "maps": [PLAIN],
        "top": 2,
        "shard_rows": 25,
        "runtime": {"address": "inline"},
        "store": {"url": "store"},
    }
    return value | changes


def _file(name: str) -> Change:
    return {"format": "npz", "file": name}


#: Name -> (what is changed, what the message says).
REFUSED: dict[str, tuple[Change, str]] = {
    "unknown query": (
        {"queries": {"data": QUERIES["data"], "ids": ["1", "nobody"]}},
        "queries.ids: '1' is not in the query data (2 of 2 are not); ids look like",
    ),
    "ids and more": (
        {"queries": {"data": QUERIES["data"], "ids": ["1"], "per_class": 2}},
        "ids say which queries; leave out per_class",
    ),
    "class name": (
        {"queries": QUERIES | {"classes": ["seven"]}},
        "queries.classes: the query data has no class 'seven'; its classes are 0, 1",
    ),
    "class number": ({"queries": QUERIES | {"classes": [12]}}, "has classes 0 to 9, not 12"),
    "index of no run": (
        {"index_of": "run:nothing-12345678"},
        "index_of: ... /store/runs/nothing-12345678/_COMMIT.json: the run does not exist",
    ),
    "index both ways": ({"index_of": "run:a-1", "index": {}}, "give either index"),
    "index_of without run:": ({"index_of": "tiny"}, "'run:<run id>'"),
    "index of no gradients": ({"index": {}, "scores": ["random"]}, "score one of them"),
    "parameters": ({"parameters": ["conv*"]}, "no parameter matches 'conv*'; the model has"),
    "layer": ({"maps": [PLAIN | {"layer": "layer9"}]}, "the model has no module 'layer9'"),
    "tracin, nothing kept": (
        {"scores": ["tracin"], "model": {"arch": "linear", "train": {"epochs": 2}}},
        "state them in model.train.keep_epochs",
    ),
    "tracin, epoch not kept": (
        {"scores": [{"score": "tracin", "epochs": [1, 2]}]},
        "'tracin' needs the weights after epochs 2",
    ),
    "tracin, no such file": (
        {"scores": [{"score": "tracin", "checkpoints": [{"weights": "gone.pt", "lr": 0.1}]}]},
        "gone.pt: there is no such file",
    ),
    "tracin, no such run": (
        {"scores": ["tracin"], "model": {"arch": "linear", "weights": "run:none-00000000"}},
        "runs/none-00000000/_COMMIT.json: the run does not exist",
    ),
    "ekfac of the hessian": (
        {"scores": [{"score": "influence", "matrix": "hessian"}]},
        "use inverse: cg",
    ),
    "damping of 0": (
        {"scores": [{"score": "influence", "damping": 0}]},
        "0 is not a number above 0",
    ),
    "score": ({"scores": ["gradcos"]}, "did you mean 'grad_cos'?"),
    "score twice": ({"scores": ["grad_cos", "grad_cos"]}, "give each an 'id' of its own"),
    "map": ({"maps": ["tfaa"]}, "did you mean 'tfa'?"),
    "method": ({"maps": [{"map": "two_step", "method": "salency"}]}, "did you mean 'saliency'?"),
    "pool": (
        {"maps": [{"map": "two_step", "method": "expected_gradients"}]},
        "a two-step map takes methods without",
    ),
    "keep": ({"keep": "best:10"}, "'best:10' is not"),
    "key": ({"query_blok": 3}, "did you mean 'query_block'?"),
    "channels": ({"preprocess": {"mean": [0.1, 0.2], "std": [1.0, 1.0]}}, "have 1 channel"),
    "size": ({"queries": {"data": _file("wide.npz")}}, "images of 1x9x9"),
    "classes": (
        {"data": _file("big.npz"), "model": CNN | {"num_classes": 10}},
        "12 classes, but the model has 10 outputs",
    ),
    "training data without labels": (
        {"data": NO_LABELS, "model": CNN | {"num_classes": 10}},
        "a training example acts through the loss",
    ),
    "queries without labels": (
        {"queries": {"data": NO_LABELS}, "model": CNN | {"train": TRAIN | {"test": None}}},
        "target loss_true needs labels",
    ),
    "no data": ({"data": _file("gone.npz")}, "gone.npz: there is no such file"),
    "empty data": ({"data": _file("empty.npz")}, "the data set is empty"),
    "weights": ({"model": {"arch": "linear", "weights": "gone.pt"}}, "gone.pt: there is no such"),
    "weights and training": (
        {"model": CNN | {"weights": "gone.pt"}},
        "give either weights or train",
    ),
    "insertion without maps": ({"maps": [], "insertion": {}}, "there are no maps to test"),
    "insertion without a mean": ({"preprocess": {}, "insertion": {}}, "or insertion.fill"),
    "fill": ({"insertion": {"fill": [0.1, 0.2]}}, "insertion.fill has 2 numbers"),
}


@pytest.fixture
def call(gradattr: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command on a manifest in a folder with some data; message, code, and whether a store is
    there afterwards."""
    monkeypatch.chdir(tmp_path)
    np.savez("wide.npz", images=np.zeros((20, 9, 9), np.float32), labels=np.arange(20) % 10)
    np.savez("empty.npz", images=np.zeros((0, 8, 8), np.float32), labels=np.zeros(0, int))
    digits_npz(Path("big.npz"), range(20), labels=[0] * 19 + [11])
    digits_npz(Path("unlabelled.npz"), range(20), labels=None)

    def done(command: str, value: dict[str, Any]) -> tuple[int, str]:
        Path("m.yaml").write_text(json.dumps(value))
        found = gradattr(command, "m.yaml")
        text = " ".join((found.err + found.out).split())
        assert "Traceback" not in text
        return found.code, text

    return done


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_that_planning_meets(call: Command, name: str) -> None:
    change, text = REFUSED[name]
    for command in ("validate", "plan", "run"):
        code, said = call(command, _manifest(**change))
        assert code == 2, (command, code, said)
        assert all(part in said for part in text.split(" ... ")), said
    assert not Path("store").exists()


@pytest.mark.parametrize(
    ("maps", "text"),
    [
        (PLAIN | {"layer": "output"}, "has no locations; choose a layer with feature maps"),
        (PLAIN | {"layer": "hidden1", "reading": "agreement"}, "has no locations"),
    ],
)
def test_a_layer_that_has_no_maps(call: Command, maps: Change, text: str) -> None:
    """Known by trying, before anything is trained."""
    for command in ("validate", "run"):
        code, said = call(command, _manifest(maps=[maps]))
        assert (code, text in said) == (2, True), said
        assert "maps: 'tfa': " in said
    assert not Path("store").exists()


#: Name -> (what is changed, exit code, what the message says).
MET_LATER: dict[str, tuple[Change, int, str]] = {
    "tracin, stopped before": (
        {"scores": ["tracin"], "model": {"arch": "mlp", "train": NEVER_REACHED}},
        3,
        "needs the weights after epochs of the training: any; there are: none. It stopped before",
    ),
    "negative curvature": (
        {"scores": [INDEFINITE]},
        3,
        "the curvature (hessian) plus damping 1e-06 is not positive",
    ),
    "bad rows": (
        {"data": _file("big.npz"), "model": CNN, "queries": QUERIES | {"count": 2}},
        0,
        "Committed",
    ),
    "no query": (
        {"queries": QUERIES | {"classes": [3], "select": "misclassified", "per_class": 1}},
        0,
        "Committed",
    ),
}


@pytest.mark.parametrize("name", MET_LATER)
def test_a_mistake_that_a_stage_meets(call: Command, name: str) -> None:
    change, code, text = MET_LATER[name]
    assert call("validate", _manifest(**change))[0] == 0
    for _ in range(2):
        got, said = call("run", _manifest(**change))
        assert got == code, said
        assert text in said or "already complete" in said, said
    if code == 3:
        assert "The other shards are kept; the same command tries these again" in said


def test_a_bad_row_ends_the_run_and_may_be_allowed(call: Command) -> None:
    labels = [n % 10 for n in range(29)] + [-1]
    digits_npz(Path("bad.npz"), range(30), labels=labels)
    value = _manifest(
        data=_file("bad.npz"),
        model=CNN | {"train": TRAIN | {"data": {"format": "digits", "limit": 60}}},
    )
    code, said = call("run", value)
    assert code == 1, said
    assert "1 of 70 rows are bad (1 label_error), 0 allowed by errors.max" in said
    assert "row 29" in said and "--set errors.max=2" in said
    assert not list(Path("store").glob("runs/*/_COMMIT.json"))
    code, said = call("run", value | {"errors": {"max": 2}})
    assert code == 0, said
    assert "1 rows bad" in said or "1 of them bad" in said


def test_an_index_of_something_else(call: Command) -> None:
    """Asked with another model, other data, other parameters, or of a run without an index."""
    code, said = call("run", _manifest(index={"buckets": 16, "recall_queries": 0}))
    assert code == 0, said
    (run,) = Path("store/runs").iterdir()
    asks = {"index_of": f"run:{run.name}"}
    data = {"format": "digits", "split": "train", "limit": 50}
    model = {"arch": "mlp", "hidden": [8], "train": TRAIN}
    own = {"train": TRAIN | {"data": _manifest()["data"]}}
    for change, text in [
        ({"model": model | {"train": TRAIN | {"seed": 5}}}, "is of another 'model'"),
        ({"data": data, "model": model | own}, "is of another 'data'"),
        ({"parameters": ["output.*"]}, "is of another 'parameters'"),
        ({"preprocess": {"mean": [0.5], "std": [0.4]}}, "is of another"),
        ({"scores": ["grad_cos", "random"]}, "'random' is not in an index"),
        ({"keep": "full"}, "an index finds the highest and lowest scores"),
    ]:
        code, said = call("run", _manifest(**asks | change))
        assert (code, text in said) == (2, True), said
    code, said = call("run", _manifest(**asks, name="asks"))
    assert code == 0, said
    (asked,) = Path("store/runs").glob("asks-*")
    code, said = call("plan", _manifest(index_of=f"run:{asked.name}"))
    assert (code, "has built no index; state 'index' there" in said) == (2, True), said
    assert len(list(Path("store/runs").iterdir())) == 2
