"""Causal language models and their tokenizers, in the files of the transformers library.

Weights are read from safetensors alone, no code that comes with a model is run, and what is loaded
is what was planned: every file is hashed. transformers is imported here, when it is needed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from gradattr.canonical import digest_json
from gradattr.errors import ModelError
from gradattr.manifest.patching import LanguageModelSpec
from gradattr.models.state import check_finite
from gradattr.storage.filesystem import sha256_of

#: The files that make a model: configuration, weights, tokenizer.
PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model")
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_EXTRA = "pip install 'gradattr[nlp]'"


@dataclass(frozen=True)
class Checkpoint:
    """A model's files on this machine."""

    name: str
    """As the manifest has it."""
    folder: Path
    digest: str
    """Of the names and bytes of all its files."""


def find_checkpoint(spec: LanguageModelSpec) -> Checkpoint:
    """The model's files, from its folder, or from the hub (whose own cache keeps them).

    Raises ModelError: they are not there, or the weights are not safetensors, or transformers is
    not installed.
    """
    _check_installed()
    folder = _folder(spec)
    name = spec.path
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.path: {name}: there is no config.json in {folder}")
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"model.path: {name} is an adapter; merge it into its model (merge_and_unload()) and "
            "save that"
        )
    _check_weights(name, folder)
    files = sorted({path for pattern in PATTERNS for path in folder.glob(pattern)})
    digest = digest_json([[path.name, sha256_of(str(path))] for path in files])
    return Checkpoint(name, folder, digest)


def load_language_model(
    spec: LanguageModelSpec, expected_digest: str | None = None
) -> tuple[nn.Module, Any]:
    """The model in float32 and eval mode on the CPU, and its tokenizer.

    Raises ModelError as ``find_checkpoint`` does, and if the files are not those that were planned,
    the architecture needs code of its own, or weights are missing, of other shapes, or not finite.
    """
    checkpoint = find_checkpoint(spec)
    if expected_digest is not None and checkpoint.digest != expected_digest:
        raise ModelError(
            f"model.path: {spec.path}: its files are not those that the run was planned with; the "
            "same command plans a new run"
        )
    library = _transformers()

    where = str(checkpoint.folder)
    shared = {"local_files_only": True, "trust_remote_code": False}
    try:
        network, loaded = library.AutoModelForCausalLM.from_pretrained(
            where,
            use_safetensors=True,
            dtype=torch.float32,
            # Eager attention is the one that torch.func can stack over parameters.
            attn_implementation="eager",
            output_loading_info=True,
            **shared,
        )
        tokenizer = library.AutoTokenizer.from_pretrained(where, **shared)
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        raise ModelError(
            f"model.path: {spec.path} cannot be loaded: {type(error).__name__}: {text}"
        ) from error
    for what in ("missing_keys", "mismatched_keys"):
        wrong = sorted(map(str, loaded[what]))
        if wrong:
            kind = what.partition("_")[0]
            raise ModelError(
                f"model.path: {spec.path}: {kind} weights, which would be random: "
                f"{', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}"
            )
    check_finite(network, spec.path)
    return network.eval(), tokenizer


def _check_installed() -> None:
    """ModelError, saying how to get it, without the library. Planning need not load it."""
    if find_spec("transformers") is None:
        raise ModelError(
            f"kind 'patching' needs the library transformers, which is not installed: {_EXTRA}"
        )


def _transformers() -> ModuleType:
    """The library, quiet."""
    import transformers as library

    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


def _folder(spec: LanguageModelSpec) -> Path:
    path = spec.path.removeprefix("file://")
    if "://" in path:
        raise ModelError(
            f"model.path: {spec.path}: expected a local folder, or a name on the Hugging Face hub; "
            "copy the folder to where the tasks run"
        )
    folder = Path(path).expanduser()
    if folder.is_dir():
        if spec.revision is not None:
            raise ModelError(
                f"model.revision: {spec.path} is a folder; revisions are those of a hub's models"
            )
        return folder.absolute()
    if folder.exists():
        raise ModelError(f"model.path: {spec.path} is a file; expected the folder of a model")
    if not _HUB_NAME.match(path):
        raise ModelError(f"model.path: {spec.path}: there is no such folder")
    return _from_hub(spec)


def _from_hub(spec: LanguageModelSpec) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            spec.path,
            revision=spec.revision,
            allow_patterns=list(PATTERNS),
            ignore_patterns=["*/*"],
        )
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model.path: {spec.path}: there is no such folder, and the hub did not give a model "
            f"of that name: {type(error).__name__}: {text}"
        ) from error
    return Path(found)


def _check_weights(name: str, folder: Path) -> None:
    """ModelError unless there are safetensors, all of those that an index names."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = dict.fromkeys(map(str, json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"model.path: {name}: {index.name} is damaged: {error}") from None
        for file in named:
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise ModelError(f"model.path: {name}: {index.name} names {file!r}, refused")
            if not (folder / file).is_file():
                raise ModelError(f"model.path: {name}: {file}, named in {index.name}, is missing")
        return
    if (folder / "model.safetensors").is_file():
        return
    pickled = sorted(path.name for end in ("*.bin", "*.pt", "*.pth") for path in folder.glob(end))
    if pickled:
        raise ModelError(
            f"model.path: {name}: refused: its weights are a pickle ({pickled[0]}), which could "
            "run code. Save them as safetensors: model.save_pretrained(folder)"
        )
    raise ModelError(f"model.path: {name}: there is no model.safetensors in {folder}")
