"""Folders of language models: what is loaded, and what is refused, with reasons."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from gradattr.errors import ModelError
from gradattr.manifest.patching import LanguageModelSpec
from gradattr.models import language_models
from gradattr.models.language_models import find_checkpoint, load_language_model
from tests.small_language import WORDS, adder, prompt

assert adder  # a fixture


@pytest.fixture
def copied(adder, tmp_path):
    """A copy of the model that a test may damage."""
    return shutil.copytree(adder, tmp_path / "model")


def load(folder, **more):
    return load_language_model(LanguageModelSpec(path=str(folder), **more))


def test_it_is_the_model_that_was_saved(adder):
    network, tokenizer = load(adder)
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    ids = tokenizer(prompt(0, 2, 3))["input_ids"]
    with torch.no_grad():
        best = int(network(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
    assert WORDS[best] == "5"
    assert tokenizer.decode([best]) == "5"


def test_other_precisions_become_float32(copied):
    path = copied / "model.safetensors"
    state = {name: value.bfloat16() for name, value in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})
    network, _ = load(copied)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_every_file_is_part_of_the_digest(copied, name):
    spec = LanguageModelSpec(path=str(copied))
    first = find_checkpoint(spec).digest
    (copied / "README.md").write_text("no part of it")
    assert find_checkpoint(spec).digest == first
    with (copied / name).open("ab") as file:
        file.write(b" ")
    assert find_checkpoint(spec).digest != first
    with pytest.raises(ModelError, match="not those that the run was planned with"):
        load_language_model(spec, first)


def replace_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop(folder, name):
    state = load_file(folder / "model.safetensors")
    del state[name]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def poison(folder):
    state = load_file(folder / "model.safetensors")
    state["transformer.wpe.weight"][0, 0] = torch.nan
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def pickle(folder):
    state = load_file(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def index(folder, file):
    text = json.dumps({"weight_map": {"a": file}})
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
        (pickle, r"refused: its weights are a pickle \(pytorch_model.bin\).*save_pretrained"),
        (lambda f: index(f, "../x.safetensors"), "names '../x.safetensors', refused"),
        (lambda f: index(f, "x.safetensors"), "x.safetensors, named in .* is missing"),
        (lambda f: index(f, 3), "names '3', refused"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "is damaged"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "is an adapter; merge it"),
        (lambda f: (f / "model.safetensors").write_bytes(b"{}"), "cannot be loaded"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be loaded"),
        (lambda f: replace_config(f, model_type="mine"), "cannot be loaded.*mine"),
        (lambda f: drop(f, "transformer.h.1.mlp.c_fc.weight"), "missing weights.*h.1.mlp.c_fc"),
        (lambda f: replace_config(f, n_embd=8), "cannot be loaded|mismatched"),
        (poison, "weights are not finite: transformer.wpe.weight"),
    ],
)
def test_folders_that_are_refused(copied, damage, reason):
    damage(copied)
    with pytest.raises(ModelError, match=reason):
        load(copied)


def test_code_that_comes_with_a_model_is_not_run(copied, tmp_path):
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    (copied / "mine.py").write_text(code)
    classes = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    replace_config(copied, model_type="mine", auto_map=classes)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(copied)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nobody/has-this-model", "the hub did not give a model of that name"),
        ("no/such/folder", "no such folder"),
        ("/nowhere", "no such folder"),
        ("s3://bucket/model", "expected a local folder, or a name on the Hugging Face hub"),
    ],
)
def test_models_that_are_nowhere(path, reason, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=reason):
        load(path)


def test_a_file_is_no_folder_and_a_folder_has_no_revision(adder):
    with pytest.raises(ModelError, match="is a file; expected the folder"):
        load(adder / "config.json")
    with pytest.raises(ModelError, match=r"model\.revision"):
        load(adder, revision="main")


def test_without_the_library_it_says_how_to_get_it(adder, monkeypatch):
    monkeypatch.setattr(language_models, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'gradattr\[nlp\]'"):
        load(adder)
