"""Which models fit, how their blocks are found, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradattr.errors import ModelError
from gradattr.patching import language_model
from tests.patching.conftest import LinearResidual, gpt2


def others():
    from transformers import (
        AutoModelForCausalLM,
        BloomConfig,
        GPTNeoXConfig,
        LlamaConfig,
        OPTConfig,
    )

    shared = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3}
    shared |= {"num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    wide = {"intermediate_size": 32}
    configs = {
        "gpt_neox.layers": GPTNeoXConfig(**shared, **wide),
        "model.layers": LlamaConfig(**shared, **wide, num_key_value_heads=1),
        "transformer.h": BloomConfig(**{**shared, "n_layer": 3, "n_head": 2}),
        "model.decoder.layers": OPTConfig(**shared, ffn_dim=32, word_embed_proj_dim=16),
    }
    return {name: AutoModelForCausalLM.from_config(config) for name, config in configs.items()}


def test_blocks_of_the_usual_architectures():
    for name, network in others().items():
        model = language_model(network)
        blocks = network.get_submodule(name)
        assert model.blocks == tuple(blocks), name
        assert language_model(network, f"{name}.*").blocks == model.blocks
        assert model.sites == 4


def test_a_pattern_names_some_blocks(network):
    model = language_model(network, "transformer.h.1")
    assert model.blocks == (network.transformer.h[1],)
    with pytest.raises(ModelError, match=r"no module .* 'transformer.x.\*'.*transformer.h.0"):
        language_model(network, "transformer.x.*")
    with pytest.raises(ModelError, match=r"transformer.h.0.mlp.c_fc.*does not return the residual"):
        language_model(network, "transformer.h.*.mlp.c_fc")


def test_logits_are_those_of_the_tokens(network, model):
    tokens = torch.tensor([[4, 9, 2, 7], [1, 1, 3, 8]])
    with torch.no_grad():
        usual = network(input_ids=tokens).logits
        for last in ([3, 3], [3, 1], [0, 2]):
            found = model.logits(model.embed(tokens), torch.tensor(last))
            torch.testing.assert_close(found, usual[[0, 1], last])


class NotCausal(LinearResidual):
    def forward(self, input_ids=None, inputs_embeds=None):
        answer = super().forward(input_ids, inputs_embeds)
        answer.logits = answer.logits + answer.logits.mean(1, keepdim=True)
        return answer


class NeedsTokens(LinearResidual):
    def forward(self, input_ids=None, inputs_embeds=None):
        answer = super().forward(input_ids, inputs_embeds)
        if input_ids is not None:
            answer.logits = answer.logits + input_ids[:, :, None]
        return answer


class TwoStacks(LinearResidual):
    def __init__(self):
        super().__init__()
        self.more = nn.ModuleList(nn.Identity() for _ in range(3))

    def forward(self, input_ids=None, inputs_embeds=None):
        h = self.table(input_ids) if inputs_embeds is None else inputs_embeds
        for module in self.more:
            h = module(h)
        return super().forward(inputs_embeds=h)


class Shared(LinearResidual):
    """One block, called again and again."""

    def __init__(self):
        super().__init__(depth=1)

    def forward(self, input_ids=None, inputs_embeds=None):
        h = self.table(input_ids) if inputs_embeds is None else inputs_embeds
        return super().forward(inputs_embeds=self.layers[0](h)[0])


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (NotCausal, "not causal"),
        (NeedsTokens, "more than the embeddings"),
        (TwoStacks, "cannot be told.*layers, more.*model.blocks"),
        (Shared, "cannot be told"),
        (lambda: nn.Linear(2, 2), "no table of input embeddings"),
    ],
)
def test_models_that_do_not_fit(network, reason):
    with pytest.raises(ModelError, match=reason):
        language_model(network())


def test_embeddings_must_be_an_argument():
    class TokensOnly(LinearResidual):
        def forward(self, input_ids):
            return super().forward(input_ids)

    with pytest.raises(ModelError, match="inputs_embeds"):
        language_model(TokensOnly())


def test_it_is_put_into_eval_mode():
    network = gpt2(n_layer=1).train()
    model = language_model(network)
    assert not network.training
    assert model.sites == 2
    assert not any(module._forward_hooks for module in network.modules())
