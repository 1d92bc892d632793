"""A small language model that can add, trained in seconds: runs of kind patching, with fixtures.

It knows sums of two digits in two wordings of different lengths, so both must reach the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradattr.manifest.patching import PatchingManifest

#: Digits that are added, from 0.
DIGITS = 5
WORDINGS = ("{a} plus {b} is", "the sum of {a} and {b} is")
WORDS = ("[UNK]", *map(str, range(2 * DIGITS)), "plus", "is", "the", "sum", "of", "and")

MakePatching = Callable[..., PatchingManifest]


def prompt(wording: int, a: int, b: int) -> str:
    return WORDINGS[wording].format(a=a, b=b)


def rows(count: int = 8) -> list[dict[str, str]]:
    """Prompts with everything that the data can have."""
    found = []
    for i in range(count):
        a, b = 3 * i % DIGITS, (2 * i + 1) % DIGITS
        found.append(
            {
                "name": f"sum-{i}",
                "prompt": prompt(i % 2, a, b),
                "answer": str(a + b),
                "foil": str(a + b + 1),
                "corrupted": prompt(i % 2, (a + 1) % DIGITS, b),
            }
        )
    return found


def write_rows(path: Path, values: Sequence[Any]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def make_tokenizer() -> Any:
    """A token for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")


@cache
def train_adder(steps: int = 120) -> nn.Module:
    """Every sum in both wordings, until it knows them; the same at every call."""
    from transformers import GPT2Config, GPT2LMHeadModel

    state = torch.get_rng_state()
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=16,
        vocab_size=len(WORDS),
        n_positions=16,
        initializer_range=0.2,
        attn_implementation="eager",
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    network = GPT2LMHeadModel(config).train()
    tokenizer = make_tokenizer()
    sums = [(a, b) for a in range(DIGITS) for b in range(DIGITS)]
    goal = torch.tensor([1 + a + b for a, b in sums])
    inputs = [
        torch.tensor(tokenizer([prompt(w, a, b) for a, b in sums])["input_ids"])
        for w in range(len(WORDINGS))
    ]
    adam = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0)
    for _ in range(steps):
        adam.zero_grad()
        losses = [
            nn.functional.cross_entropy(network(input_ids=ids).logits[:, -1], goal)
            for ids in inputs
        ]
        sum(losses).backward()
        adam.step()
    torch.set_rng_state(state)
    return network.eval()


def save_model(folder: Path, network: nn.Module) -> Path:
    network.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the trained model."""
    torch.set_num_threads(1)
    return save_model(tmp_path_factory.mktemp("adder"), train_adder())


@pytest.fixture
def make_patching(tmp_path: Path, adder: Path) -> MakePatching:
    """A manifest over eight sums; keyword arguments replace whole parts."""

    def make(**changes: Any) -> PatchingManifest:
        data = tmp_path / "sums.jsonl"
        if not data.exists():
            write_rows(data, rows())
        value: dict[str, Any] = {
            "kind": "patching",
            "name": "sums",
            "data": {
                "file": str(data),
                "answer": "answer",
                "foil": "foil",
                "corrupted": "corrupted",
                "id": "name",
            },
            "model": {"path": str(adder)},
            "baselines": ["uni", "zero", "random"],
            "shard_rows": 3,
            "runtime": {"address": "inline"},
            "store": {"url": str(tmp_path / "store")},
        }
        return PatchingManifest.model_validate(value | changes)

    return make
