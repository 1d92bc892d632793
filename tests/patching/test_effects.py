"""Effects against closed forms, against a loop over prompts, and against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from gradattr.attribution.quadrature import quadrature
from gradattr.patching import (
    SCORES,
    Corrupted,
    RandomPrompt,
    ZeroPrompt,
    activation_patching,
    attribution_patching,
    faithfulness,
    language_model,
)
from gradattr.patching.effects import residuals

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def plain_score(logits, answer, foil, name):
    """The score of one answer, written out."""
    if name == "logit":
        return logits[answer]
    if name == "logit_difference":
        return logits[answer] - logits[foil]
    log_p = logits - torch.logsumexp(logits, 0)
    return log_p[answer] if name == "log_prob" else log_p[answer].exp()


def plain_run(network, x, put=None):
    """Logits at the end of one prompt x (1, L, d), and what stands at each site; ``put`` is a
    (site, position, value) that is written in on the way. GPT-2, part by part."""
    h = x.clone()
    sites = []
    for site in range(1 + len(network.transformer.h)):
        if site:
            if site == 1:
                h = h + network.transformer.wpe(torch.arange(x.shape[1]))
            h = network.transformer.h[site - 1](h, attention_mask=causal(x.shape[1], x.dtype))
        if put is not None and put[0] == site:
            h = h.clone()
            h[0, put[1]] = put[2]
        sites.append(h)
    return network.lm_head(network.transformer.ln_f(h))[0, -1], sites


def causal(length, dtype):
    mask = torch.full((length, length), torch.finfo(dtype).min, dtype=dtype).triu(1)
    return mask[None, None]


def prompts(batch):
    for i, length in enumerate(batch.lengths.tolist()):
        yield i, length, int(batch.answer[i]), int(batch.foil[i])


@pytest.mark.parametrize("score", SCORES)
def test_activation_patching_is_the_loop(model, network, batch, score):
    """The loop knows no batch, no padding and no hooks."""
    given = batch(model)
    start = RandomPrompt().draw(model, given)
    found = activation_patching(model, given, start, score=score, batch_size=7)
    for i, length, answer, foil in prompts(given):
        x, other = given.x[i : i + 1, :length], start[i : i + 1, :length]
        with torch.no_grad():
            _, clean = plain_run(network, x)
            before = plain_score(plain_run(network, other)[0], answer, foil, score)
            for site in range(3):
                for position in range(length):
                    put = (site, position, clean[site][0, position])
                    logits, _ = plain_run(network, other, put)
                    after = plain_score(logits, answer, foil, score)
                    torch.testing.assert_close(found[i, site, position], after - before, **CLOSE)
        assert not found[i, :, length:].any()


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("rule", [quadrature("left", 1), quadrature("gauss_legendre", 3)])
def test_attribution_patching_is_the_loop(model, network, batch, score, rule):
    given = batch(model)
    start = RandomPrompt("sphere", 2.0).draw(model, given)
    found = attribution_patching(model, given, start, score=score, batch_size=2, rule=rule)
    for i, length, answer, foil in prompts(given):
        x, other = given.x[i : i + 1, :length], start[i : i + 1, :length]
        clean, moved = (plain_run(network, e)[1] for e in (x, other))
        change = [a - b for a, b in zip(clean, moved, strict=True)]
        expected = torch.zeros(3, length, dtype=torch.float64)
        for alpha, weight in zip(*rule, strict=True):
            point = (other + alpha * (x - other)).detach().requires_grad_(True)
            logits, sites = plain_run(network, point)
            slopes = torch.autograd.grad(plain_score(logits, answer, foil, score), sites)
            for site in range(3):
                expected[site] += weight * (change[site] * slopes[site])[0].sum(1).detach()
        torch.testing.assert_close(found[i, :, :length], expected, **CLOSE)
        assert not found[i, :, length:].any()


def test_a_linear_model_is_estimated_exactly(linear, batch):
    """Of a score that is linear in the residual stream, too: then both are a(x) - a(x') through
    the rest of the model."""
    model = language_model(linear)
    assert model.sites == 4
    given = batch(model)
    start = Corrupted().draw(model, given)
    for score in ("logit", "logit_difference"):
        exact = activation_patching(model, given, start, score=score)
        estimate = attribution_patching(model, given, start, score=score)
        torch.testing.assert_close(estimate, exact, **CLOSE)
        compared = faithfulness(estimate, exact, given.real)
        assert compared.l2.max() < 1e-12
        assert compared.relative_l2.max() < 1e-12
    # The last block's output at the last position is all that the head sees.
    difference = linear.head.weight[given.answer] - linear.head.weight[given.foil]
    change = residuals(model, given.x, given.last, [3]) - residuals(model, start, given.last, [3])
    rows = torch.arange(len(given))
    closed = (change[rows, 0, given.last] * difference).sum(1)
    torch.testing.assert_close(exact[rows, 3, given.last], closed.detach(), **CLOSE)
    # Nothing else is mixed in after it.
    exact[rows, 3, given.last] = 0
    assert not exact[:, 3].any()


def test_laws(model, batch):
    given = batch(model)
    start = ZeroPrompt().draw(model, given)
    with torch.no_grad():
        ends = [
            F.softmax(model.logits(e, given.last), 1).gather(1, given.answer[:, None])[:, 0]
            for e in (given.x, start)
        ]
    # The last site's last position carries the whole answer.
    exact = activation_patching(model, given, start)
    rows = torch.arange(len(given))
    torch.testing.assert_close(exact[rows, -1, given.last], ends[0] - ends[1], **CLOSE)
    # One token: its embedding is the whole prompt.
    torch.testing.assert_close(exact[4, 0, 0], ends[0][4] - ends[1][4], **CLOSE)
    # Integrated gradients at the embedding are complete.
    rule = quadrature("gauss_legendre", 64)
    estimate = attribution_patching(model, given, start, rule=rule)
    torch.testing.assert_close(estimate[:, 0].sum(1), ends[0] - ends[1], rtol=1e-4, atol=1e-7)
    # No change, no effect.
    for method in (activation_patching, attribution_patching):
        assert not method(model, given, given.x).any()


@pytest.mark.parametrize("method", [activation_patching, attribution_patching])
def test_batches_padding_and_sites_do_not_matter(model, batch, method):
    given = batch(model)
    start = RandomPrompt().draw(model, given)
    whole = method(model, given, start, batch_size=1000)
    torch.testing.assert_close(method(model, given, start, batch_size=1), whole, **CLOSE)
    for i, length in enumerate(given.lengths.tolist()):
        alone = given.part(i, i + 1)
        assert alone.x.shape[1] == length
        found = method(model, alone, start[i : i + 1, :length])
        torch.testing.assert_close(found[0], whole[i, :, :length], **CLOSE)
    some = method(model, given, start, sites=[0, 2])
    torch.testing.assert_close(some, whole[:, [0, 2]], **CLOSE)
    torch.testing.assert_close(method(model, given, start, sites=[1]), whole[:, [1]], **CLOSE)


def test_the_model_is_left_as_it_was(model, network, batch):
    given = batch(model)
    with pytest.raises(ValueError, match="foil"):
        attribution_patching(model, replace(given, foil=None), given.x, score="logit_difference")
    attribution_patching(model, given, ZeroPrompt().draw(model, given))
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert not network.training


@pytest.mark.parametrize("sites", [[], [1, 0], [0, 0], [-1], [3]])
def test_sites_that_are_not_there(model, batch, sites):
    given = batch(model)
    with pytest.raises(ValueError, match="sites"):
        activation_patching(model, given, given.x, sites=sites)
