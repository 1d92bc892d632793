"""Maps from attention: numbers worked out by hand, finite differences, laws, and refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradattr.attribution import (
    PlainEvaluator,
    attention,
    attention_rollout,
    attention_x_gradient,
    attribute,
    method_request,
    tune,
)
from gradattr.attribution.transformer.attention_maps import AttentionRollout, RawAttention
from gradattr.attribution.transformer.attention_tokens import Tokens, tokens_of
from gradattr.errors import MethodError
from tests.small_transformers import CLASSES, Attending, Patches, by_hand, swin, vit

METHODS = (attention, attention_rollout, attention_x_gradient)
NAMES = [method.__name__ for method in METHODS]

# Rows: what the class token and four patches take from each other, in two blocks.
FIRST = torch.tensor(
    [
        [0.2, 0.2, 0.2, 0.2, 0.2],
        [0.0, 0.6, 0.4, 0.0, 0.0],
        [0.5, 0.0, 0.5, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.2, 0.8],
        [0.1, 0.1, 0.1, 0.1, 0.6],
    ]
)
SECOND = torch.full((5, 5), 0.2)
SECOND[0] = torch.tensor([0.2, 0.4, 0.2, 0.1, 0.1])


class Given(nn.Module):
    """Two blocks whose attention is FIRST and SECOND in head 0, uniform in head 1: queries are 0,
    and masks are the logarithms."""

    def __init__(self, both_heads: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.MultiheadAttention(4, 2) for _ in range(2))
        self.both_heads = both_heads
        for block in self.blocks:
            block.in_proj_weight.data[:8] = 0
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        tokens = F.pad(x.mean(1).flatten(1), (1, 0)).t()[..., None].expand(-1, -1, 4)
        for block, a in zip(self.blocks, (FIRST, SECOND), strict=True):
            other = a if self.both_heads else torch.full((5, 5), 0.2)
            mask = torch.stack([a, other]).log().repeat(len(x), 1, 1).to(x)
            tokens = tokens + block(tokens, tokens, tokens, attn_mask=mask)[0]
        return self.head(tokens[0])


@pytest.mark.parametrize("head", ["mean", 0])
def test_rollout_of_two_layers_worked_out_by_hand(head):
    model, x = Given(head == "mean").double().eval(), torch.rand(3, 3, 2, 2).double()
    kept = attention_rollout(model, x, head=head)
    # 0.6 b_0 + 0.2 b_1 + 0.1 b_2 + 0.05 b_3 + 0.05 b_4, b_i the rows of (FIRST + I) / 2.
    by_hand = torch.tensor([[0.2225, 0.1775], [0.0925, 0.12]]).double()
    torch.testing.assert_close(kept.maps, by_hand.expand(3, 1, 2, 2), rtol=1e-6, atol=0)
    bare = attention_rollout(model, x, head=head, residual=False)
    # 0.2 a_0 + 0.4 a_1 + 0.2 a_2 + 0.1 a_3 + 0.1 a_4, a_i the rows of FIRST.
    by_hand = torch.tensor([[0.29, 0.31], [0.07, 0.18]]).double()
    torch.testing.assert_close(bare.maps, by_hand.expand(3, 1, 2, 2), rtol=1e-6, atol=0)


def test_raw_attention_of_given_weights():
    model, x = Given(False).double().eval(), torch.rand(1, 3, 2, 2).double()
    for block, head, row in (
        (-1, 0, [0.4, 0.2, 0.1, 0.1]),
        (1, 1, [0.2, 0.2, 0.2, 0.2]),
        (-1, "mean", [0.3, 0.2, 0.15, 0.15]),
        (0, 0, [0.2, 0.2, 0.2, 0.2]),
        (-2, "mean", [0.2, 0.2, 0.2, 0.2]),
    ):
        found = attention(model, x, block=block, head=head)
        expected = torch.tensor(row).double().view(1, 1, 2, 2)
        torch.testing.assert_close(found.maps, expected, rtol=1e-6, atol=0)


def on_grid(a, class_token):
    """(n, t, t) -> (n, 1, 32, 32), for 4 x 4 patches."""
    rows = a[:, 0, 1:] if class_token else a.mean(1)
    return F.interpolate(
        rows.reshape(-1, 1, 4, 4), size=(32, 32), mode="bilinear", align_corners=False
    )


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("head", ["mean", 1])
def test_networks_written_out(images, assert_close, class_token, head):
    model, x = Patches([Attending(), Attending(), Attending()], class_token), images(3)
    _, weights = by_hand(model, x)
    of_head = [a.mean(1) if head == "mean" else a[:, head] for a in weights]
    for block in (0, 1, 2, -1, -3):
        found = attention(model, x, block=block, head=head)
        assert_close(found.maps, on_grid(of_head[block], class_token))
    steps = [(a + torch.eye(a.shape[1])) / 2 for a in of_head]
    rolled = on_grid(steps[2] @ steps[1] @ steps[0], class_token)
    assert_close(attention_rollout(model, x, head=head).maps, rolled)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("target", ["logit_pred", "prob_pred", "loss_true", 2])
def test_gradients_in_the_weights_are_finite_differences(images, class_token, target):
    """Of the score, when every weight of a block is moved for itself."""
    model, x = Patches([Attending(), Attending()], class_token), images(2)
    model.head.weight.data /= 10  # no certain predictions
    labels = torch.tensor([4, 1])
    tokens = 16 + class_token
    steps = torch.eye(2 * tokens * tokens).view(-1, 2, tokens, tokens).double() * 1e-5
    for block in (0, 1):
        found = attention_x_gradient(model, x, target, block=block, labels=labels)
        for row in range(2):
            with torch.no_grad():
                _, weights = by_hand(model, x[row : row + 1])

            def score(bumps, block=block, row=row, c=int(found.index[row])):
                inputs = x[row : row + 1].expand(len(bumps), -1, -1, -1)
                logits = by_hand(model, inputs, {block: bumps})[0]
                if target == "loss_true":
                    return -logits.log_softmax(1)[:, c]
                return (logits.softmax(1) if target == "prob_pred" else logits)[:, c]

            with torch.no_grad():
                slopes = (score(steps) - score(-steps)) / 2e-5
            products = weights[block] * slopes.view(1, 2, tokens, tokens)
            expected = on_grid(products.mean(1), class_token)
            torch.testing.assert_close(
                found.maps[row : row + 1],
                expected,
                rtol=1e-5,
                atol=1e-7 * float(expected.abs().max()),
            )


@pytest.mark.parametrize("make", [vit, swin, lambda: Patches([Attending()] * 2, False)])
def test_neighbours_batches_and_other_methods_change_nothing(images, assert_close, make):
    model, x, labels = make(), images(5), torch.arange(5)
    requests = [
        method_request(name, id=f"{name} {target}", target=target)
        for name in NAMES
        for target in ("logit_pred", "prob_pred", "loss_true", 3)
        if (name, make) != ("attention_rollout", swin)
    ]
    tuned = tune(model, x[:2])
    together = attribute(tuned, x, requests, seeds=range(5), labels=labels, batch_size=5)
    for size in (1, 2):
        parts = attribute(tuned, x, requests, seeds=range(5), labels=labels, batch_size=size)
        for one, other in zip(together, parts, strict=True):
            assert_close(one.maps, other.maps, 1e-9)
    alone = attribute(PlainEvaluator(model), x[3:4], requests, seeds=[3], labels=labels[3:4])
    for one, other in zip(together, alone, strict=True):
        assert one.maps.shape == (5, 1, 32, 32)
        assert one.evaluations == 1
        assert one.status == ("ok",) * 5
        assert_close(other.maps, one.maps[3:4], 1e-9)


def test_only_the_gradient_knows_the_class(images):
    model, x = vit(), images(2)
    for method in (attention, attention_rollout):
        assert torch.equal(method(model, x, target=0).maps, method(model, x, target=1).maps)
        assert (method(model, x).maps > 0).all()
    one, other = (attention_x_gradient(model, x, target=c).maps for c in (0, 1))
    assert not torch.allclose(one, other)
    assert (one < 0).any() and (one > 0).any()


@pytest.mark.parametrize("version", [1, 2])
def test_swin_is_read_where_a_window_is_the_image(images, version):
    model, x = swin(version), images(2)
    for block in (2, 3, -1):
        assert attention(model, x, block=block).maps.sum() > 0
        assert attention_x_gradient(model, x, block=block).status == ("ok", "ok")
    inside = r"attention [01] \('features.1.[01].attn'\) attends inside windows of 4 x 4 .* 8 x 8"
    for block in (0, 1, -3):
        with pytest.raises(MethodError, match=inside):
            attention(model, x, block=block)
    with pytest.raises(MethodError, match=inside):
        attention_rollout(model, x)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
@pytest.mark.parametrize("trainable", [True, False])
def test_the_network_is_left_as_it_was(images, method, trainable):
    model, x = copy.deepcopy(vit()).requires_grad_(trainable), images(2)
    before = copy.deepcopy(model.state_dict())
    method(model, x)
    with pytest.raises(MethodError, match="head 7 is asked for, and attention"):
        method(model, x, head=7)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad == trainable for p in model.parameters())
    assert not x.requires_grad
    assert torch.is_grad_enabled()


class Deaf(Patches):
    """Takes the token before attention: nothing depends on the weights."""

    def forward(self, x):
        super().forward(x)
        return self.head(self.cut(x).mean((2, 3)))


class Behind(Patches):
    """The class token stands behind the patches."""

    def __init__(self):
        super().__init__([_Rolled()], True)


class _Rolled(Attending):
    def forward(self, x):
        return super().forward(x.roll(-1, 1)).roll(1, 1)


class Halved(Attending):
    def forward(self, x):
        return super().forward(x[:, :4])


MISFITS = {
    "no attention": ("cnn", NAMES, "it has no attention"),
    "class token behind": (Behind, NAMES, "the first of its 17 tokens depends on the image"),
    "odd tokens": (
        lambda: Patches([Attending(), Pooled()], False),
        ["attention", "attention_x_gradient"],
        "its 15 tokens are no grid over 32 x 32 pixels",
    ),
    "fewer tokens": (
        lambda: Patches([Attending(), Halved()], False),
        ["attention_rollout"],
        "attention 1 .'blocks.1.attention'. has 4 tokens where those before have 16",
    ),
    "deaf": (
        lambda: Deaf([Attending()], False),
        ["attention_x_gradient"],
        "attention 0 .* no differentiable function of its weights",
    ),
}


class Pooled(Attending):
    def forward(self, x):
        return super().forward(x[:, 1:])


@pytest.mark.parametrize("case", MISFITS)
def test_networks_that_do_not_fit_are_refused_the_same_way_before_and_in_a_run(
    network, images, case
):
    make, names, why = MISFITS[case]
    model, x = network(make) if isinstance(make, str) else make(), images(2)
    for name in names:
        request = method_request(name)
        reason = request.obstacle(model, x)
        with pytest.raises(MethodError, match=why) as refusal:
            attribute(PlainEvaluator(model), x, [request], seeds=[0, 1])
        assert reason is not None
        assert reason in str(refusal.value)
        assert request.obstacle(vit(), x) is None


def test_blocks_and_heads_that_are_not_there(images):
    x = images(1)
    for name in ("attention", "attention_x_gradient"):
        for block in (2, -3):
            reason = method_request(name, block=block).obstacle(vit(), x)
            assert (
                reason == f"block {block} is asked for, and attention is called 2 times (-2 to 1)"
            )
    for name in NAMES:
        for head in (-1, "max", 0.5, True):
            with pytest.raises(ValueError, match=r"head: .* given, expected 'mean' or a number"):
                method_request(name, head=head)
        assert "head 2 is asked for" in method_request(name, head=2).obstacle(vit(), x)
    assert RawAttention() == method_request("attention").source
    assert AttentionRollout(False, 1) == AttentionRollout(residual=False, head=1)


def test_a_score_without_gradient_is_degenerate(images):
    model, x = copy.deepcopy(vit()), images(2)
    model.heads.head.weight.data[:] = 0
    assert attention_x_gradient(model, x).status == ("degenerate", "degenerate")
    assert attention(model, x).status == ("ok", "ok")


def test_tokens_are_a_grid_of_the_images_shape():
    def found(count, height, width):
        return tokens_of(count, torch.zeros(1, 3, height, width))

    assert found(197, 224, 224) == Tokens(True, 14, 14)
    assert found(49, 224, 224) == Tokens(False, 7, 7)
    assert found(33, 32, 64) == Tokens(True, 4, 8)
    assert found(8, 64, 32) == Tokens(False, 4, 2)
    assert found(17, 50, 50) == Tokens(True, 4, 4)
    for count, height, width in ((1, 8, 8), (2, 8, 8), (18, 32, 32), (16, 32, 64), (12, 30, 50)):
        with pytest.raises(MethodError, match=f"its {count} tokens are no grid over {height} x"):
            found(count, height, width)
    with pytest.raises(MethodError, match="are no images"):
        tokens_of(16, torch.zeros(1, 3, 32))
