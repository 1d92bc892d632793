"""``--set``: paths, short forms, values, and faults that name the option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gradattr.manifest.loading import parse_manifest, resolved

BASE = """\
kind: attribute
name: tiny
data: digits
model: {arch: mlp, train: {data: 'torchvision:MNIST', epochs: 3}}
methods:
  - saliency
  - {name: integrated_gradients, id: ig, baseline: blur}
  - {name: integrated_gradients, id: ig2}
store: results
"""


def value(option: str | list[str], path: str) -> Any:
    found: Any = resolved(
        parse_manifest(BASE, overrides=[option] if isinstance(option, str) else option)
    )
    for step in path.split("."):
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


@pytest.mark.parametrize(
    ("option", "path", "expected"),
    [
        ("seed=7", "seed", 7),
        ("seed = 7", "seed", 7),
        ("name=other", "name", "other"),
        ("name='12'", "name", "12"),
        ("data.limit=10", "data.limit", 10),
        ("data.limit=10", "data.format", "digits"),
        ("model.train.data.split=test", "model.train.data.name", "MNIST"),
        ("model.train.data.split=train", "model.train.data.split", "train"),
        ("model.train.test.split=test", "model.train.test", None),
        ("model.train.test={format: digits, split: test}", "model.train.test.split", "test"),
        ("model.train.lr=1e-3", "model.train.lr", 0.001),
        ("model.hidden=[8, 9]", "model.hidden", [8, 9]),
        ("model.hidden.0=8", "model.hidden", [8]),
        ("methods.0.target=3", "methods.0", {"id": None, "target": 3, "name": "saliency"}),
        ("methods.saliency.id=s", "methods.0.id", "s"),
        ("methods.ig.steps=5", "methods.1.steps", 5),
        ("methods.1.baseline.sigma=2", "methods.1.baseline.sigma", 2.0),
        ("methods.1.baseline.sigma=2", "methods.1.baseline.kind", "blur"),
        ("methods.2.baseline={kind: noise}", "methods.2.baseline.kind", "noise"),
        ("methods.1=random", "methods.1.name", "random"),
        ("methods.3=random", "methods.3.name", "random"),
        ("methods=[gradient]", "methods", [{"id": None, "target": None, "name": "gradient"}]),
        ("store.maps=int8", "store.maps", "int8"),
        ("store.maps=int8", "store.url", "results"),
        ("store=s3://b/x", "store.url", "s3://b/x"),
        ("store.profile=", "store.profile", None),
        ("engine.batch_size=8", "engine.batch_size", 8),
        ("errors.max=0.5", "errors.max", 0.5),
        ("preprocess.resize=[8, 8]", "preprocess.resize", [8, 8]),
        ("target=logit_true", "target", "logit_true"),
    ],
)
def test_sets(option: str, path: str, expected: object) -> None:
    if path == "model.train.test":
        with pytest.raises(Exception, match="the required key 'format' is missing"):
            value(option, path)
    else:
        assert value(option, path) == expected


AUDIT = """\
kind: diffroar
name: audit
data: digits
test: {format: digits, split: test}
models:
  standard: {arch: mlp, train: {epochs: 3}}
"""


@pytest.mark.parametrize(
    ("option", "path", "expected"),
    [
        ("models.standard.train.epochs=5", "models.standard.train.epochs", 5),
        ("models.robust={arch: cnn, train: {}}", "models.robust.arch", "cnn"),
        ("models.standard.train.data.limit=9", "models.standard.train.data.limit", 9),
        ("data.limit=9", "models.standard.train.data.limit", 9),
        ("test.limit=9", "models.standard.train.test.limit", 9),
        ("levels=[0.5, 1]", "levels", [0.5, 1]),
        ("levels.0=0.01", "levels.0", 0.01),
        ("retrain=false", "retrain", False),
        ("retrain.epochs=2", "retrain.epochs", 2),
        ("methods=[gradient]", "methods.0.name", "gradient"),
    ],
)
def test_sets_in_an_audit(option: str, path: str, expected: object) -> None:
    text = AUDIT
    if option == "models.standard.train.data.limit=9":
        text = text.replace("epochs: 3", "data: digits")
    if option == "levels.0=0.01":
        text += "levels: [0.1, 0.5]\n"
    found: Any = resolved(parse_manifest(text, overrides=[option]))
    for step in path.split("."):
        found = found[int(step)] if isinstance(found, list) else found[step]
    assert found == expected


TFA = """\
kind: tfa
name: why
data: digits
queries: {data: digits}
model: {arch: mlp, train: {epochs: 3}}
scores:
  - grad_cos
  - {score: influence, id: koh}
  - random
maps: [tfa, {map: two_step, id: plain, method: saliency}]
"""


@pytest.mark.parametrize(
    ("option", "path", "expected"),
    [
        ("scores.0=grad_dot", "scores.0.score", "grad_dot"),
        ("scores.0.id=cos", "scores.0", {"id": "cos", "score": "grad_cos"}),
        ("scores.1.damping=0.1", "scores.1.damping", 0.1),
        ("scores.koh.damping=0.1", "scores.1.damping", 0.1),
        ("scores.influence.inverse=cg", "scores.1.inverse", "cg"),
        ("scores.random.seed=3", "scores.2.seed", 3),
        ("scores.3={score: relatif, damping: 1}", "scores.3.score", "relatif"),
        ("scores=[grad_dot]", "scores", [{"id": None, "score": "grad_dot"}]),
        ("maps.0.samples=10", "maps.0.samples", 10),
        ("maps.tfa.samples=10", "maps.0.samples", 10),
        ("maps.plain.method=gradient", "maps.1.method.name", "gradient"),
        ("maps.two_step.method.target=3", "maps.1.method.target", 3),
        ("maps=[]", "maps", []),
        ("queries.data=digits", "queries.data.format", "digits"),
        ("queries.data.split=test", "queries.data.split", "test"),
        ("queries.data.split=test", "model.train.test", None),
        ("queries.ids=['00000003']", "queries.ids", ["00000003"]),
        ("queries.count=5", "queries.count", 5),
        ("data.limit=9", "model.train.data.limit", 9),
        ("insertion={fill: 0}", "insertion.fill", 0.0),
        ("insertion.fill=0", "insertion.tests", ["insertion"]),
        ("index={}", "index.buckets", 4096),
        ("index.buckets=64", "index.buckets", 64),
        ("keep=full", "keep", "full"),
    ],
)
def test_sets_in_a_training_attribution(option: str, path: str, expected: object) -> None:
    found: Any = resolved(parse_manifest(TFA, overrides=[option]))
    for step in path.split("."):
        found = found[int(step)] if isinstance(found, list) else found[step]
    assert found == expected


def test_the_last_setting_of_a_path_wins() -> None:
    assert value(["seed=1", "seed=2"], "seed") == 2
    assert value(["store.maps=int8", "store=s3://b"], "store.maps") == "float16"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("seed", "--set seed: expected key.path=value, for example methods.0.steps=100"),
        ("seed=x", "--set seed=x: seed: 'x' is not a whole number of at least 0"),
        (
            "methods.1.stepz=1",
            "--set methods.1.stepz=1: methods[1].stepz: unknown key; did you mean",
        ),
        ("methods.9=x", "--set methods.9=x: methods has 3 entries, 0 to 2; 3 adds one"),
        ("methods.-1=x", "methods is a list; expected an index (from 0) or a name in it"),
        ("methods.integrated_gradients.steps=1", "stands in it more than once, so use the index"),
        ("seed.a=1", "--set seed.a=1: "),
        ("name.a=1", "--set name.a=1: name is a single value; set it as a whole"),
        ("a..b=1", "--set a..b=1: the path has an empty step"),
        ("=1", "the path has an empty step"),
        ("a.b=c: d", "--set a.b: the value is a block of YAML"),
        ("target=[1", "--set target: not valid YAML"),
        ("target=*x", "the alias '*x' is not allowed"),
        ("target=!!python/object:x y", "the tag '!!python/object:x'"),
        ("target=a\nb", "more than one line"),
        ("target={a: 1, a: 2}", "stands here twice"),
        ("target=" + "[" * 200, "nested deeper than 100 levels"),
        ("data=idx", "--set data=idx: data: 'idx' is too short here"),
        ("data.limit=x", "--set data.limit=x: data.limit: 'x' is not a whole number above 0"),
        ("shard_rows=" + "9" * 300, "shard_rows"),
    ],
)
def test_faults_name_the_option(fault: Callable[..., str], option: str, expected: str) -> None:
    text = BASE.replace("tiny", "tiny\nseed: 3") if option.startswith("seed.") else BASE
    assert expected in fault(text, [option])


def test_option_faults_stand_beside_those_of_the_file(faults: Callable[..., list[str]]) -> None:
    found = faults(BASE.replace("tiny", "A B"), ["seed=x", "zz"])
    assert [line.split(": ")[0] for line in found] == ["--set zz", "--set seed=x", "m.yaml:2:7"]


def test_long_values_are_shortened(fault: Callable[..., str]) -> None:
    assert len(fault(BASE, ["seed=" + "x" * 1000])) < 300


def test_a_key_set_over_a_faulty_one_mends_it() -> None:
    text = BASE.replace("name: tiny", "name: A B")
    assert parse_manifest(text, overrides=["name=mended"]).name == "mended"
