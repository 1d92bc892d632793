"""A causal language model as patching needs it: embeddings in, logits at some positions out, and
the modules whose outputs are its residual stream.

Shapes: n prompts, L positions (padded on the right), d the width of the residual stream, V tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gradattr.errors import ModelError
from gradattr.patching.blocks import find_blocks, hidden_of, with_hidden

#: Rows of the embedding table that are looked at together.
_ROWS = 8192


@dataclass
class LanguageModel:
    """A frozen causal language model. Site 0 of its residual stream is the input embedding, site i
    the output of block i, from 1.

    Prompts are padded on the right, and no position sees a later one, so padding needs no mask:
    what stands at a prompt's positions is what stands there without padding.
    """

    network: nn.Module
    """In eval mode; its parameters are those that UNI unlearns with."""
    blocks: tuple[nn.Module, ...]
    """In the order in which they are called; each returns (n, L, d), or a tuple that begins so."""
    embed: Callable[[Tensor], Tensor]
    """Tokens (n, L) to embeddings (n, L, d)."""
    read: Callable[[nn.Module, Tensor, Tensor], Tensor]
    """(network, embeddings (n, L, d), positions (k,)) to logits (n, k, V)."""
    vocabulary: int
    """Tokens that ``embed`` knows."""

    @property
    def sites(self) -> int:
        """The embedding, and a site for each block."""
        return 1 + len(self.blocks)

    def logits(self, x: Tensor, last: Tensor) -> Tensor:
        """(n, V): the answers at positions ``last`` (n,) to embeddings x (n, L, d)."""
        return End(self, last)(x)

    @cached_property
    def width(self) -> int:
        """Numbers at each site and position: d."""
        first = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        with torch.no_grad():
            return int(self.embed(first).shape[-1])

    @cached_property
    def embedding_moments(self) -> tuple[Tensor, float]:
        """Of all tokens' embeddings: their mean (d,), and the standard deviation of all numbers."""
        total = torch.zeros(self.width, dtype=torch.float64, device=self.device)
        squares = 0.0
        with torch.no_grad():
            for rows in torch.split(torch.arange(self.vocabulary, device=self.device), _ROWS):
                some = self.embed(rows[None])[0]
                kind, some = some.dtype, some.double()
                total += some.sum(0)
                squares += float(some.square().sum())
        count = self.vocabulary * len(total)
        variance = squares / count - float(total.sum() / count) ** 2
        return (total / self.vocabulary).to(kind), max(0.0, variance) ** 0.5

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @contextmanager
    def watched(self, see: Callable[[int, Tensor], Tensor], sites: Sequence[int]) -> Iterator[None]:
        """While inside, ``see(site, h)`` is given the output h of each of the blocks of ``sites``,
        and what it returns takes the output's place. Site 0 is the input itself: not seen here."""

        def hook(site: int) -> Callable[[nn.Module, Any, Any], Any]:
            return lambda module, given, output: with_hidden(output, see(site, hidden_of(output)))

        chosen = [site for site in sites if site > 0]
        handles = [self.blocks[site - 1].register_forward_hook(hook(site)) for site in chosen]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class End(nn.Module):
    """A language model as a classifier of whole prompts: embeddings (n, L, d) to the logits (n, V)
    at the positions ``last``: (n,), or (1,) for every prompt the same."""

    def __init__(self, model: LanguageModel, last: Tensor) -> None:
        super().__init__()
        self.network = model.network
        self._read = model.read
        self._positions, self._of_row = torch.unique(last, return_inverse=True)

    def forward(self, x: Tensor) -> Tensor:
        logits = self._read(self.network, x, self._positions)
        if len(self._positions) == 1:
            return logits[:, 0]
        return logits[torch.arange(len(x), device=x.device), self._of_row]


def language_model(network: nn.Module, blocks: str | None = None) -> LanguageModel:
    """A model of the transformers library (GPT-2, GPT-NeoX, Llama ...), or one that is called like
    them: ``get_input_embeddings()``, ``network(inputs_embeds=...)`` with ``.logits`` in its answer.

    ``blocks``: a pattern of the names of its blocks ('transformer.h.*'); found by itself by
    default. The network is put into eval mode.

    Raises ModelError: it is not called like that, its blocks are not found, a position's answer
    depends on later ones, or embeddings alone do not give the answer that tokens give.
    """
    network.eval()
    table = getattr(network, "get_input_embeddings", lambda: None)()
    if table is None or not hasattr(table, "num_embeddings"):
        raise ModelError(
            f"model: {type(network).__name__} has no table of input embeddings; expected a causal "
            "language model with get_input_embeddings()"
        )
    read = _reader(network)
    probe = torch.arange(4, device=table.weight.device)[None] * 7 % table.num_embeddings
    with torch.no_grad():
        x = table(probe)
        found = find_blocks(network, x, lambda: read(network, x, torch.tensor([3])), blocks)
    model = LanguageModel(network, found, table, read, table.num_embeddings)
    _check(model, probe, x)
    return model


def _reader(network: nn.Module) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """How to ask for logits at some positions alone, where the model can be asked that."""
    known = inspect.signature(network.forward).parameters
    if "inputs_embeds" not in known:
        raise ModelError(
            f"model: {type(network).__name__} cannot be called with embeddings (inputs_embeds)"
        )
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in known else {}
    few = "logits_to_keep" in known

    def read(network: nn.Module, x: Tensor, positions: Tensor) -> Tensor:
        positions = positions.to(x.device)
        if few:
            found = network(inputs_embeds=x, logits_to_keep=positions, **options)
            return found.logits
        return network(inputs_embeds=x, **options).logits[:, positions]

    return read


def _check(model: LanguageModel, probe: Tensor, x: Tensor) -> None:
    places = torch.arange(probe.shape[1])
    other = x.clone()
    other[:, -1] = model.embed(probe.flip(1))[:, -1] + 1
    with torch.no_grad():
        answers = model.read(model.network, x, places)
        changed = model.read(model.network, other, places)
        usual = model.network(input_ids=probe).logits
    name = type(model.network).__name__
    if not torch.allclose(answers[:, :-1], changed[:, :-1], rtol=1e-3, atol=1e-4):
        raise ModelError(
            f"model: {name} is not causal: what it says at a position depends on later tokens"
        )
    if not torch.allclose(answers, usual, rtol=1e-3, atol=1e-4):
        raise ModelError(
            f"model: {name} needs more than the embeddings of its tokens: called with them it "
            "answers otherwise than called with the tokens"
        )
