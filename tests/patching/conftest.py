"""Tiny language models in float64, and prompts for them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradattr.patching import LanguageModel, PromptBatch, language_model

VOCABULARY = 50


def gpt2(**changes: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    options = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": VOCABULARY, "n_positions": 32}
    options |= {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.4}
    options |= {"attn_implementation": "eager"}
    network = GPT2LMHeadModel(GPT2Config(**(options | changes)))
    return network.double().eval()


@pytest.fixture(scope="session")
def network() -> nn.Module:
    return gpt2()


@pytest.fixture
def model(network: nn.Module) -> LanguageModel:
    return language_model(network)


class LinearBlock(nn.Module):
    """h + (mean of the positions so far) W: causal and linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width).double() / 4)

    def forward(self, h: Tensor) -> tuple[Tensor, str]:
        counts = torch.arange(1, h.shape[1] + 1, dtype=h.dtype)
        return h + h.cumsum(1) / counts[:, None] @ self.weight, "a cache"


class LinearResidual(nn.Module):
    """A linear language model with a linear head; its blocks return tuples."""

    def __init__(self, width: int = 5, depth: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(VOCABULARY, width).double()
        self.layers = nn.ModuleList(LinearBlock(width) for _ in range(depth))
        self.head = nn.Linear(width, VOCABULARY).double()

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> SimpleNamespace:
        h = self.table(input_ids) if inputs_embeds is None else inputs_embeds
        for layer in self.layers:
            h, _ = layer(h)
        return SimpleNamespace(logits=self.head(h))


@pytest.fixture
def linear() -> LinearResidual:
    return LinearResidual()


@pytest.fixture
def batch() -> Callable[..., PromptBatch]:
    """Prompts of several lengths, with foils and corrupted prompts."""

    def make(model: LanguageModel, lengths: tuple[int, ...] = (5, 3, 7, 3, 1)) -> PromptBatch:
        generator = torch.Generator().manual_seed(len(lengths))

        def tokens() -> list[list[int]]:
            return [
                torch.randint(0, VOCABULARY, (n,), generator=generator).tolist() for n in lengths
            ]

        count = len(lengths)
        return PromptBatch.of(
            model,
            tokens(),
            [7 * i % VOCABULARY for i in range(count)],
            [100 + i for i in range(count)],
            foil=[(7 * i + 1) % VOCABULARY for i in range(count)],
            corrupted=tokens(),
        )

    return make
