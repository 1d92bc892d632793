"""Attention that is watched: the same logits, the weights that torch reports, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradattr.attribution.transformer.attention_capture import watch_attention
from gradattr.errors import MethodError
from tests.small_transformers import Attending, Patches, by_hand, swin, vit


def encoder(**options):
    def layer():
        return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, **options)

    return Patches([layer(), layer()], class_token=False)


BOOLEAN = torch.triu(torch.ones(16, 16, dtype=torch.bool), 1)
PADDING = (torch.arange(16) > 12).expand(3, -1)
NETWORKS = {
    "vit": vit,
    "swin": swin,
    "swin v2": lambda: swin(2),
    "encoder layers": encoder,
    "encoder layers, norm first": lambda: encoder(norm_first=True, activation="gelu"),
    "batch first": lambda: Patches([Attending(batch_first=True)] * 2, True),
    "sequence first": lambda: Patches([Attending()] * 2, True),
    "no bias": lambda: Patches([Attending(bias=False, heads=4)], False),
    "without weights": lambda: Patches([Attending({"need_weights": False})], True),
    "weights per head": lambda: Patches([Attending({"average_attn_weights": False})], True),
    "boolean mask": lambda: Patches([Attending({"attn_mask": BOOLEAN})], False),
    "causal": lambda: Patches(
        [Attending({"attn_mask": BOOLEAN, "is_causal": True, "need_weights": False})], False
    ),
    "mask per head": lambda: Patches(
        [Attending({"attn_mask": torch.linspace(-1, 1, 1536).view(6, 16, 16).double()})], False
    ),
    "padding": lambda: Patches([Attending({"key_padding_mask": PADDING}, batch_first=True)], False),
}


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "no graph"])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_network(images, name, graph):
    model, x, told = NETWORKS[name](), images(3), []
    with torch.set_grad_enabled(graph):
        logits = watch_attention(model, x, told.append)
        torch.testing.assert_close(logits, model(x.clone()), rtol=1e-10, atol=1e-10)
    assert [attended.number for attended in told] == list(range(len(told)))
    assert told
    for attended in told:
        if attended.weights is not None:
            assert attended.weights.shape[0] == 3
            rows = attended.weights.sum(-1)
            torch.testing.assert_close(rows, torch.ones_like(rows))


def test_fast_paths_that_never_call_the_module_are_seen_through(images):
    model, x, told = encoder(), images(3), []
    with torch.no_grad():
        kernels = _kernels(lambda: model(x))
        seen = _kernels(lambda: watch_attention(model, x, told.append))
    assert "aten::_transformer_encoder_layer_fwd" in kernels
    assert "aten::_transformer_encoder_layer_fwd" not in seen
    assert len(told) == 2
    attending = Patches([Attending({"need_weights": False}, batch_first=True)], True)
    with torch.no_grad():
        assert "aten::_native_multi_head_attention" in _kernels(lambda: attending(x))
        watch_attention(attending, x, told.append)
    assert len(told) == 3


def _kernels(work):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_weights_are_those_that_the_module_reports(images, heads):
    model, x, told = Patches([Attending(heads=heads)] * 2, True), images(3), []
    watch_attention(model, x, told.append)
    logits, expected = by_hand(model, x)
    torch.testing.assert_close(model(x), logits)
    for attended, weights in zip(told, expected, strict=True):
        torch.testing.assert_close(attended.weights, weights)


def test_weights_of_a_vision_transformer(images):
    model, x, told, inputs = vit(), images(3), [], []
    modules = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    hooks = [m.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for m in modules]
    watch_attention(model, x, told.append)
    for hook in hooks:
        hook.remove()
    for module, given, attended in zip(modules, inputs, told, strict=True):
        _, weights = module(given, given, given, need_weights=True, average_attn_weights=False)
        torch.testing.assert_close(attended.weights, weights, rtol=1e-10, atol=1e-12)
    assert told[1].name == "attention 1 ('encoder.layers.encoder_layer_1.self_attention')"


def test_weights_in_the_one_window_of_a_swin_transformer(images):
    model, x, told, scores = swin(), images(2), [], []
    block = model.features[3][1]

    def expected(_, args):
        (given,) = args
        tokens = given.flatten(1, 2)
        q, k, _ = block.attn.qkv(tokens).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        bias = block.attn.get_relative_position_bias()
        scores.append(torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + bias, -1))

    hook = block.attn.register_forward_pre_hook(expected)
    watch_attention(model, x, told.append)
    hook.remove()
    torch.testing.assert_close(told[3].weights, scores[0])
    assert told[1].weights is None
    assert told[1].why.startswith("attends inside windows of 4 x 4 tokens of the image's 8 x 8")
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_windows_with_padding_are_not_the_image(images):
    told = []
    watch_attention(swin(), images(1)[..., :24, :24], told.append)
    assert [attended.weights for attended in told] == [None] * 4
    assert told[3].why == (
        "attends inside windows of 4 x 4 tokens where the image has 3 x 3: to padding"
    )


class Crossing(Attending):
    def forward(self, x):
        return x + self.attention(x.flip(1), x, x)[0]


class Unbatched(Attending):
    def forward(self, x):
        return torch.stack([one + self.attention(one, one, one)[0] for one in x])


class Bare(nn.Module):
    def forward(self, x):
        return x + F.scaled_dot_product_attention(x, x, x)


class OtherWidth(Attending):
    def __init__(self):
        super().__init__(kdim=8, vdim=8)

    def forward(self, x):
        return x + self.attention(x, x[..., :8], x[..., :8])[0]


REFUSED = {
    "kdim": (OtherWidth(), r"has keys or values of another width than its queries \(kdim"),
    "cross-attention": (Crossing(batch_first=True), "attends to other tokens than its queries"),
    "add_bias_kv": (Attending(add_bias_kv=True), r"has a key that is no token \(add_bias_kv\)"),
    "add_zero_attn": (Attending(add_zero_attn=True), "has a key that is no token"),
    "unbatched": (Unbatched(), r"is given \(16, 16\) .*: not one sequence of tokens for each"),
    "training": (Attending(dropout=0.5), r"drops weights at random \(training mode\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_attention_that_is_something_else_is_refused_by_name(images, name):
    block, why = REFUSED[name]
    model, x = Patches([Attending(), block], class_token=False), images(2)
    if name == "training":
        block.attention.train()
    told = []
    with pytest.raises(MethodError, match=rf"attention 1 \('blocks.1.attention'\) {why}"):
        watch_attention(model, x, told.append)
    model(x)
    assert len(told) == 1, "nothing watches any more"


def test_networks_without_attention_modules_are_refused(images, network):
    with pytest.raises(MethodError, match="it has no attention"):
        watch_attention(network("cnn"), images(1), lambda _: None)
    told = []
    watch_attention(Patches([Bare()], False), images(1), told.append)
    with pytest.raises(MethodError, match="attention 0 is scaled_dot_product_attention without nn"):
        told[0].whole()
