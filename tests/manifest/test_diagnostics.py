"""Every fault: its place, its key, what was written, what was expected, what was meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gradattr.manifest.kinds import KINDS
from gradattr.manifest.shapes import PATTERN_WORDS

Fault = Callable[..., str]
Faults = Callable[..., list[str]]

HEAD = "kind: attribute\nname: t\n"
DATA = "data: digits\n"
MODEL = "model: {arch: mlp, weights: w.pt}\n"
METHODS = "methods: [saliency]\n"
BODY = HEAD + DATA + MODEL + METHODS


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("seed: -1", "m.yaml:6:7: seed: -1 is not a whole number of at least 0"),
        ("seed: 1.5", "m.yaml:6:7: seed: 1.5 is not a whole number"),
        ("seed: 3.0", "write 3"),
        ("shard_rows: '5'", "m.yaml:6:13: shard_rows: '5' is not a whole number above 0"),
        ("shard_rows: '5'", "write 5 without quotes"),
        ("shard_rows: 1_000", "'1_000' is not a whole number"),
        ("shard_rows: 1_000", "; write 1000"),
        ("shard_rows: 1,000", "; write 1000"),
        ("shard_rows: 1e3", "1e3 is not a whole number above 0 and of at most 100000; write 1000"),
        ("shard_rows: 5k", "the number alone, without a unit"),
        ("shard_rows: true", "true is not a whole number"),
        ("shard_rows:", "nothing stands here; expected a whole number"),
        ("shard_rows: null", "null stands here; expected a whole number"),
        ("shard_rows: [5]", "a list is not a whole number"),
        ("shard_rows: [5]", "write the value without brackets"),
        ("errors: {max: 5%}", "5 percent as a share: 0.05"),
        ("errors: {max: 1/4}", "; write 0.25"),
        ("errors: {max: 0,5}", "errors.5: unknown key; expected 'max'"),
        ("errors: {max: '0,5'}", "; write 0.5"),
        ("errors: {max: .nan}", "m.yaml:6:15: errors.max: .nan is not a number"),
        ("errors: {max: 1e999}", "errors.max: 1e999 is not a number"),
        ("errors: {max: −1}", "-1 with a plain minus sign"),
        ("errors:", "m.yaml:6:8: errors: nothing stands here; expected a mapping"),
        ("errors: 5", "m.yaml:6:9: errors: 5 is not a mapping"),
        ("engine: {tune: yes}", "m.yaml:6:16: engine.tune: 'yes' is not true or false; write true"),
        ("engine: {tune: 'false'}", "write false without quotes"),
        ("engine: {tune: 1}", "1 is not true or false"),
        ("engine: {precision: fp3}", "not one of 'fp32' or 'mixed'; did you mean 'fp32'?"),
        ("engine: {device: gpu}", "'gpu' is not 'auto', 'cpu', 'cuda' or 'cuda:<number>'"),
        ("engine: {batch_size: atuo}", "above 0 or 'auto'; did you mean 'auto'?"),
        ("engine: {batch_size: 0}", "m.yaml:6:22: engine.batch_size: 0 is not a whole number"),
        ("engine: {batch-size: 5}", "m.yaml:6:10: engine.batch-size: unknown key; did you mean"),
        ("batch_size: 5", "m.yaml:6:1: batch_size: unknown key; it belongs under 'engine'"),
        ("targt: 5", "m.yaml:6:1: targt: unknown key; did you mean 'target'?"),
        ("dataset: x", "unknown key; did you mean 'data'?"),
        ("zzz: 5", "m.yaml:6:1: zzz: unknown key; expected 'version'"),
        ("target: -1", "m.yaml:6:9: target: -1 is not one of 'logit_pred'"),
        ("target: logit_preds", "did you mean 'logit_pred'?"),
        ("version: 2", "m.yaml:6:10: version: 2 is not 1, the only value"),
        ("preprocess: weight", "did you mean 'weights'?"),
        ("preprocess: weights", "m.yaml:6:1: preprocess: 'weights' needs a model whose weights"),
        ("preprocess: {resize: 0}", "m.yaml:6:22: preprocess.resize: 0 is not a whole number"),
        ("preprocess: {resize: [8, x]}", "m.yaml:6:26: preprocess.resize[1]: 'x' is not a whole"),
        ("preprocess: {resize: [8]}", "preprocess.resize: 1 entries; expected at least 2"),
        ("preprocess: {mean: [0.5]}", "m.yaml:6:13: preprocess: mean and std come together"),
        (
            "preprocess: {mean: 0.5, std: [1]}",
            "is not a list of numbers; write it as a list: [0.5]",
        ),
        ("preprocess: [resize]", "m.yaml:6:13: preprocess: a list is not a mapping with keys"),
        ("store: ftp://x", "m.yaml:6:8: store: 'ftp://x': scheme 'ftp' is not allowed"),
        ("store: {url: http://x}", "m.yaml:6:14: store.url: 'http://x': scheme 'http'"),
        ("store: {url: a/../b}", "'..' is not allowed"),
        ("store: {url: 's3://a::b'}", "chained URLs"),
        ("store: {maps: int7}", "'int7' is not 'float16', 'float32', 'int8'"),
        ("store: {maps: 'pooled:0'}", "'pooled:0' is not 'float16'"),
        ("store: {region: 5}", "5 is not text; to mean text, write it in quotes: '5'"),
        ("runtime: {address: 'http://x'}", "'auto', 'local', 'inline' or 'ray://host:port'"),
        ("runtime: {num_workers: 2}", "did you mean 'workers'?"),
    ],
)
def test_top_level_faults(fault: Fault, tail: str, expected: str) -> None:
    assert expected in fault(BODY + tail)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("digit", "m.yaml:3:7: data: 'digit' is not one of 'digits', 'idx'"),
        ("digit", "did you mean 'digits'?"),
        ("idx", "m.yaml:3:7: data: 'idx' is too short here: the required key 'images' is missing"),
        ("5", "m.yaml:3:7: data: 5 is not a mapping with the key 'format'"),
        ("[digits]", "a list is not a mapping with the key 'format'"),
        ("torchvision:a-b", "m.yaml:3:7: data: 'torchvision:a-b' is not a name of letters"),
        ("torchvison:MNIST", "did you mean 'torchvision:MNIST'?"),
        ("{format: idx}", "m.yaml:3:7: data: the required key 'images' is missing (The idx3"),
        ("{format: idx, imges: x}", "m.yaml:3:21: data.imges: unknown key; did you mean 'images'?"),
        ("{format: ixd, images: x}", "m.yaml:3:16: data.format: 'ixd' is not one of"),
        ("{type: idx, images: x}", "the required key 'format' is missing"),
        ("{type: idx, images: x}", "is 'type' meant to be it?"),
        ("{digits: {limit: 5}}", "write 'format: digits', with its parameters beside it"),
        (
            "{format: npz, file: x, split: all}",
            "it is a key of 'digits', 'torchvision' or 'blockmnist'",
        ),
        ("{format: parquet, files: a.pq}", "is not a list of texts; write it as a list: [a.pq]"),
        ("{format: parquet, files: []}", "data.files: 0 entries; expected at least 1"),
        ("{format: parquet, files: [a, 5]}", "m.yaml:3:36: data.files[1]: 5 is not text"),
        ("{format: parquet, files: [../a]}", "data.files[0]: '../a': '..' is not allowed"),
        ("{format: digits, split: trian}", "did you mean 'train'?"),
        ("{format: folder, path: x}", "data.path: unknown key; did you mean 'url'?"),
    ],
)
def test_data_faults(fault: Fault, data: str, expected: str) -> None:
    assert expected in fault(HEAD + f"data: {data}\n" + MODEL + METHODS)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("mlp", "m.yaml:4:8: model: 'mlp' is not a mapping; write 'arch: mlp' below the key"),
        ("{arch: mpl, weights: w}", "m.yaml:4:15: model.arch: 'mpl' is not one of"),
        ("{arch: mpl, weights: w}", "did you mean 'mlp'?"),
        ("{arch: mlp}", "m.yaml:4:8: model: the model has no weights"),
        ("{arch: mlp, weights: w, train: {data: digits}}", "either weights or train"),
        ("{arch: mlp, weights: w, hiden: [5]}", "did you mean 'hidden'?"),
        ("{arch: mlp, weights: w, hidden: []}", "model.hidden: 0 entries"),
        ("{arch: cnn, weights: w, stem: cifar}", "it is a key of 'resnet18' or 'resnet50'"),
        ("{arch: cnn, weights: w, stem: cifar}", "'cnn' takes num_classes, weights"),
        ("{arch: torchvision, weights: w}", "model: the required key 'name' is missing"),
        ("{arch: 'torchvision:a-b', weights: w}", "m.yaml:4:15: model.arch: 'torchvision:a-b'"),
        ("{arch: 'python:x', weights: w}", "model.arch: 'python:x' is not a function"),
        ("{arch: 'python:a-b:f', weights: w}", "a function as 'package.module:function'"),
        ("{arch: 'python:a:f', weights: w, kwargs: {a: [1]}}", "model.kwargs.a: a list is not"),
        ("{arch: mlp, weights: w, sha256: abc}", "'abc' is not a sha256 digest"),
        ("{arch: mlp, weights: 5}", "m.yaml:4:29: model.weights: 5 is not text"),
        ("{arch: mlp, train: {}}", "model.train: the required key 'data' is missing"),
        ("{arch: mlp, train: {data: digts}}", "m.yaml:4:34: model.train.data: 'digts' is not"),
        ("{arch: mlp, train: {data: digits, learning_rate: 1}}", "did you mean 'lr'?"),
        ("{arch: mlp, train: {data: digits, augment: {flip: no}}}", "model.train.augment.flip"),
    ],
)
def test_model_faults(fault: Fault, model: str, expected: str) -> None:
    assert expected in fault(HEAD + DATA + f"model: {model}\n" + METHODS)


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ("saliency", "m.yaml:5:10: methods: 'saliency' is not a list of mappings; write it as"),
        ("[]", "methods: 0 entries; expected at least 1"),
        ("[saliancy]", "m.yaml:5:11: methods[0]: 'saliancy' is not one of"),
        ("[saliancy]", "did you mean 'saliency'?"),
        ("[random, {smoothgrad: {samples: 5}}]", "write 'name: smoothgrad', with its parameters"),
        ("[{name: smoothgrad, steps: 5}]", "m.yaml:5:30: methods[0].steps: unknown key; it is a"),
        ("[{name: smoothgrad, steps: 5}]", "it is a key of 'integrated_gradients'"),
        ("[{name: smoothgrad, n_samples: 5}]", "did you mean 'samples'?"),
        (
            "[{name: integrated_gradients, steps: fifty}]",
            "methods[0].steps: 'fifty' is not a whole",
        ),
        ("[{name: integrated_gradients, stepz: 5}]", "did you mean 'steps'?"),
        ("[{name: integrated_gradients, baseline: blakc}]", "did you mean 'black'?"),
        (
            "[{name: integrated_gradients, baseline: {kind: blur, sigma: 0}}]",
            "baseline.sigma: 0 is",
        ),
        ("[{name: integrated_gradients, baseline: {kind: blur, count: 4}}]", "a key of 'sample'"),
        ("[grad]", "did you mean 'gradient'?"),
        ("[ig]", "did you mean 'integrated_gradients'?"),
        ("[vanilla_gradient]", "did you mean 'saliency'?"),
        ("[{name: random, id: 'a b'}]", "'a b' is not a label of at most 64 letters"),
        ("[saliency, saliency]", "m.yaml:5:1: methods: saliency stands there more than once"),
        ("[linear]", "methods: 'linear' needs a 'train' block"),
        ("[5]", "methods[0]: 5 is not a mapping with the key 'name'"),
        ("[{name: 5}]", "methods[0].name: 5 is not one of"),
    ],
)
def test_method_faults(fault: Fault, methods: str, expected: str) -> None:
    assert expected in fault(HEAD + DATA + MODEL + f"methods: {methods}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: t",
            "m.yaml:1:1: the required key 'kind' is missing: 'attribute', 'train', 'diffroar', ",
        ),
        ("kid: train", "is 'kid' meant to be it?"),
        ("kind: atribute", "m.yaml:1:7: kind: 'atribute' is not one of"),
        ("kind: atribute", "did you mean 'attribute'?"),
        ("kind: [train]", "m.yaml:1:7: kind: a list is not one of"),
        ("- kind: train", "m.yaml:1:1: a manifest is a mapping"),
        ("hello", "but this is 'hello'"),
    ],
)
def test_root_faults(fault: Fault, text: str, expected: str) -> None:
    assert expected in fault(text)


def test_keys_of_another_kind_are_named(faults: Faults) -> None:
    found = faults("kind: train\nname: t\nmodel: {arch: mlp, train: {data: digits}}\n" + METHODS)
    kinds = "'attribute', 'diffroar', 'patching' or 'evaluate'"
    assert found == [f"m.yaml:4:1: methods: unknown key; it is a key of kind {kinds}"]


def test_every_fault_in_the_order_of_the_file(faults: Faults) -> None:
    text = (
        "kind: attribute\nname: My Run\ndata: {format: idx, imges: x}\nseed: x\nseed: 4\n"
        "model: {arch: mpl}\nmethods:\n  - saliency\n  - {name: smoothgrad, samples: 0}\n"
    )
    places = [line.split(": ")[0] for line in faults(text)]
    assert places == [f"m.yaml:{at}" for at in ("2:7", "3:21", "4:7", "5:1", "6:15", "9:33")]


def test_twenty_faults_and_a_count(faults: Faults) -> None:
    found = faults(BODY + "".join(f"zz{n}: 1\n" for n in range(30)))
    assert len(found) == 21
    assert found[-1] == "... and 10 more"


def test_missing_keys_of_one_mapping_are_all_named(faults: Faults) -> None:
    found = faults("kind: attribute\n")
    assert [line.split("'")[1] for line in found] == ["name", "data", "model", "methods"]


def test_long_and_strange_values_are_shortened_and_printable(fault: Fault) -> None:
    found = fault(BODY + "target: " + "x" * 500)
    assert "x" * 59 + "…'" in found
    assert "x" * 61 not in found
    assert "\\u2002" in fault(BODY + 'target: "a\\u2002b"')


def test_no_jargon_reaches_the_user(faults: Faults) -> None:
    text = BODY + "preprocess: {resize: {}}\nengine: {batch_size: []}\ntarget: {}\nruntime: 5\n"
    for line in faults(text):
        for word in ("constrained", "function-", "literal[", "Input should", "dict", "instance"):
            assert word not in line


AUDIT = "kind: diffroar\nname: t\ndata: digits\ntest: digits\n"
BASE_MODELS = AUDIT + "models: {a: {arch: mlp, train: {}}}\n"


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ("{a: {arch: mlp, train: {epoch: 5}}}", "m.yaml:5:33: models.a.train.epoch: unknown key"),
        ("{a: {arch: mlp, train: {epoch: 5}}}", "did you mean 'epochs'?"),
        ("{a: {arch: mlp, train: {data: digit}}}", "models.a.train.data: 'digit' is not one of"),
        ("{a: {arch: mlp, train: {adversary: {norm: L2, eps: 1}}}}", "did you mean 'l2'?"),
        ("{a: {arch: mlp, train: {adversary: {norm: l2, epsilon: 1}}}}", "did you mean 'eps'?"),
        ("{a: {arch: mlp, train: {adversary: {norm: linf, eps: 8/255}}}}", "write 0.03137254901"),
        ("{my model: {arch: mlp, train: {}}}", "m.yaml:5:10: models.my model: 'my model' is not a"),
        ("{my model: {arch: mlp, train: {}}}", "a label of at most 64 letters, digits"),
        ("{a: {arch: mlp, train: {adversary: {norm: l2}}}}", "image, e.g. 8/255 = 0.0314 (linf))"),
        ("{random: {arch: mlp, train: {}}}", "m.yaml:5:1: models: 'random' is the name of a base"),
        ("{a: {arch: mlp, weights: w}}", "m.yaml:5:1: models: 'a' has no 'train' block to take"),
        ("{a: mlp}", "m.yaml:5:13: models.a: 'mlp' is not a mapping; write 'arch: mlp' below"),
        ("{a: {arch: mlp}}", "m.yaml:5:13: models.a: the model has no weights"),
        ("{}", "models: 0 entries; expected at least 1"),
        ("mlp", "models: 'mlp' is not a mapping of names to models"),
    ],
)
def test_faults_of_base_models(fault: Fault, models: str, expected: str) -> None:
    assert expected in fault(f"{AUDIT}models: {models}\n")


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("levels: [5%]", "m.yaml:6:10: levels[0]: '5%' is not a number above 0 and of at most 1"),
        ("levels: [5%]", "write 5 percent as a share: 0.05"),
        ("levels: [50]", "levels[0]: 50 is not a number above 0 and of at most 1"),
        ("levels: [50]", "; as a share, 50 percent is 0.5"),
        ("levels: 0.5", "write it as a list: [0.5]"),
        ("levels: [0.5, 0.1]", "m.yaml:6:1: levels: give them in ascending order"),
        ("levels: [0.5, 0.5]", "m.yaml:6:1: levels: a value stands there twice"),
        ("k: [0.5]", "m.yaml:6:1: k: unknown key; did you mean 'levels'?"),
        ("repeats: 3", "did you mean 'seeds'?"),
        ("seeds: [0, 1]", "and of at most 1000 (Retrainings per cell: seeds 0, 1, ...)"),
        ("baselines: random", "write it as a list: [random]"),
        ("baselines: randm", "write it as a list: [random]"),
        ("baselines: none", "'signal_first' and 'null_first'; for none of them write []"),
        ("baselines: [randm]", "did you mean 'random'?"),
        ("baselines: [signal_first]", "'signal_first' needs data and test with masks"),
        ("methods: [random]", "m.yaml:6:1: methods: 'random' needs no base model; it stands under"),
        ("mask: {fill: 0}", "m.yaml:6:8: mask.fill: unknown key; did you mean 'value'?"),
        ("retrain: {epoch: 3}", "m.yaml:6:11: retrain.epoch: unknown key; did you mean 'epochs'?"),
        ("retrain: true", "true is not a mapping with keys such as optimizer, lr, lr_decay and"),
        ("retrain: true", "or false"),
        ("retrain: no", "; write false"),
        ("retrain: {data: digits}", "retrain.data: unknown key; it belongs at the top level"),
        ("preprocess: weights", "preprocess: 'weights' needs exactly one base model"),
        ("model: {arch: mlp, weights: w}", "m.yaml:6:1: model: unknown key; did you mean 'models'"),
    ],
)
def test_faults_of_audits(fault: Fault, tail: str, expected: str) -> None:
    assert expected in fault(BASE_MODELS + tail)


def test_faulty_data_of_an_audit_is_told_once(faults: Faults) -> None:
    models = "models: {a: {arch: mlp, train: {}}, b: {arch: cnn, train: {}}}\n"
    found = faults(f"kind: diffroar\nname: t\ndata: digit\ntest: {{format: idx}}\n{models}")
    assert [line.split(": ")[:2] for line in found] == [
        ["m.yaml:3:7", "data"],
        ["m.yaml:4:7", "test"],
    ]
    found = faults(f"kind: diffroar\nname: t\ndataset: digits\n{models}")
    assert len(found) == 2
    assert "the required key 'test' is missing" in found[0]
    assert "dataset: unknown key; did you mean 'data'?" in found[1]


def test_names_are_not_written_without_brackets(fault: Fault) -> None:
    found = fault(f"{AUDIT}models: [mlp]\n")
    assert found.endswith("models: a list is not a mapping of names to models")


QUERIES = "queries: {data: {format: digits, split: test}}\n"
TFA = f"kind: tfa\nname: t\ndata: digits\n{QUERIES}model: {{arch: mlp, train: {{epochs: 3}}}}\n"


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("tda: [grad_cos]", "m.yaml:6:1: tda: unknown key; did you mean 'scores'?"),
        ("influence: {}", "did you mean 'scores'?"),
        ("methods: [saliency]", "did you mean 'scores'?"),
        ("k: 3", "did you mean 'top'?"),
        ("test: digits", "did you mean 'queries'?"),
        ("select: all", "did you mean 'queries'?"),
        ("target: loss_true", "target: unknown key; it belongs under 'queries'"),
        ("layers: [fc]", "did you mean 'parameters'?"),
        ("parameters: fc", "write it as a list: [fc]"),
        ("keep: 100", "keep: 100 is not 'full', 'none', 'top:<k>' or 'above:<score>'"),
        ("index_of: why-01", "'why-01' is not a run of this store as 'run:<run id>'"),
        ("index: true", "true is not a mapping with keys such as buckets"),
        ("index: {}\nindex_of: run:a", "give either index (build one) or index_of (use one)"),
        ("index: {}\nscores: [random]", "m.yaml:6:1: index: sketches estimate grad_cos and"),
        ("scores: [grad-cos]", "m.yaml:6:10: scores[0]: 'grad-cos' is not one of 'grad_cos'"),
        ("scores: [cosine]", "did you mean 'grad_cos'?"),
        ("scores: [grad_cos, grad_cos]", "m.yaml:6:1: scores: grad_cos stands there more than on"),
        ("scores: [{influence: {damping: 1}}]", "write 'score: influence', with its parameters"),
        ("scores: [{score: influence, lambda: 1}]", "did you mean 'damping'?"),
        (
            "scores: [{score: grad_cos, damping: 1}]",
            "a key of 'influence' or 'relatif'; 'grad_cos'",
        ),
        ("scores: [{score: influence, matrix: hessian}]", "approximates matrix 'gauss_newton'"),
        ("scores: [tracin]", "m.yaml:6:1: scores: 'tracin' needs the weights after epochs: state"),
        ("maps: [{map: tfa, n_samples: 3}]", "m.yaml:6:19: maps[0].n_samples: unknown key; did"),
        ("maps: [{map: tfa, n_samples: 3}]", "did you mean 'samples'?"),
        ("maps: [{map: tfa, method: saliency}]", "it is a key of 'two_step'; 'tfa' takes id"),
        ("maps: [two_step]", "'two_step' is too short here: the required key 'method' is missing"),
        ("maps: [{map: two_step, method: saliancy}]", "maps[0].method: 'saliancy' is not one of"),
        ("maps: [{map: two_step, method: linear}]", "method 'linear' needs a model or a pool"),
        ("maps: [{map: tfa, reading: agreement}]", "m.yaml:6:19: maps[0].reading: 'agreement' is"),
        ("insertion: {k: [0.5], fill: 0}", "insertion.k: unknown key; did you mean 'levels'?"),
        ("insertion: {}", "m.yaml:6:1: insertion: removed pixels become the data's mean, which"),
        ("insertion: {fill: 0}\nmaps: []", "m.yaml:6:1: insertion: there are no maps to test"),
        ("localisation_level: 10", "; as a share, 10 percent is 0.1"),
    ],
)
def test_faults_of_training_attributions(fault: Fault, tail: str, expected: str) -> None:
    assert expected in fault(TFA + tail)


@pytest.mark.parametrize(
    ("queries", "expected"),
    [
        ("digits", "m.yaml:4:10: queries: 'digits' is not a mapping with keys such as data, ids"),
        ("{data: digts}", "m.yaml:4:17: queries.data: 'digts' is not one of"),
        ("{select: all}", "m.yaml:4:10: queries: the required key 'data' is missing"),
        ("{data: digits, select: incorrect}", "did you mean 'misclassified'?"),
        ("{data: digits, n_queries: 4}", "did you mean 'count'?"),
        ("{data: digits, limit: 4}", "did you mean 'count'?"),
        ("{data: digits, ids: [3]}", "queries.ids[0]: 3 is not text; to mean text, write it in qu"),
        ("{data: digits, ids: [a], count: 3}", "ids say which queries; leave out count"),
        ("{data: digits, classes: [-1]}", "-1 is not text or a whole number of at least 0"),
    ],
)
def test_faults_of_queries(fault: Fault, queries: str, expected: str) -> None:
    assert expected in fault(TFA.replace(QUERIES, f"queries: {queries}\n"))


def test_faulty_data_of_a_training_attribution_is_told_once(faults: Faults) -> None:
    text = TFA.replace("data: digits\n", "data: digit\n").replace(
        "{format: digits, s", "{format: idx, s"
    )
    places = [line.split(": ")[0] for line in faults(text)]
    assert places == ["m.yaml:3:7", "m.yaml:4:17", "m.yaml:4:31"]
    found = faults("kind: tfa\nname: t\n")
    assert [line.split("'")[1] for line in found] == ["data", "queries", "model"]


def test_epochs_to_keep_are_asked_of_the_training(fault: Fault) -> None:
    found = fault(TFA.replace("epochs: 3", "epochs: 3, checkpoints: [1, 3]"))
    assert found.endswith("model.train.checkpoints: unknown key; did you mean 'keep_epochs'?")


def _patterns(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return {found for item in schema for found in _patterns(item)}
    if not isinstance(schema, dict):
        return set()
    own = {schema["pattern"]} if isinstance(schema.get("pattern"), str) else set()
    own |= set(schema.get("patternProperties", {}))
    return own.union(*(_patterns(value) for value in schema.values()))


def test_every_pattern_of_the_models_has_words() -> None:
    used = {pattern for model in KINDS.values() for pattern in _patterns(model.model_json_schema())}
    looked_ahead = {pattern for pattern in used if "(?!" in pattern}
    assert len(looked_ahead) == 1, "the URL's rule for editors"
    assert used - looked_ahead == set(PATTERN_WORDS)


def test_too_many_base_models_are_counted(fault: Fault) -> None:
    many = "".join(f"  m{number}: {{arch: mlp, train: {{}}}}\n" for number in range(17))
    assert "models: 17 entries; expected at most 16" in fault(f"{AUDIT}models:\n{many}")
