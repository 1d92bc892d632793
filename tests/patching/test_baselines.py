"""Baselines: UNI against a loop over prompts, and what each of the others is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from gradattr.attribution.paths import unlearning
from gradattr.patching import (
    Corrupted,
    MeanToken,
    NoisyPrompt,
    PromptBatch,
    RandomPrompt,
    UnlearnedPrompt,
    ZeroPrompt,
    language_model,
)

STARTS = [
    UnlearnedPrompt(iterations=3),
    ZeroPrompt(),
    RandomPrompt(),
    RandomPrompt("sphere", 0.5),
    NoisyPrompt(),
    MeanToken(),
    Corrupted(),
]


def plain_uni(network, x, answer, eta, iterations, eps, mu):
    """UNI of one prompt x (1, L, d): a copy of the model, a step of SGD, steps towards it."""
    forgetful = copy.deepcopy(network)
    loss = F.cross_entropy(forgetful(inputs_embeds=x).logits[:, -1], torch.tensor([answer]))
    loss.backward()
    slopes = [p.grad for p in forgetful.parameters() if p.grad is not None]
    length = torch.sqrt(sum((slope**2).sum() for slope in slopes))
    # Ascent is descent at a negative rate.
    for group in (sgd := torch.optim.SGD(forgetful.parameters(), lr=1.0)).param_groups:
        group["lr"] = -float(eta / length)
    sgd.step()
    with torch.no_grad():
        goal = F.softmax(forgetful(inputs_embeds=x).logits[:, -1], 1)
    delta = torch.zeros_like(x)
    for _ in range(iterations):
        point = (x + delta).requires_grad_(True)
        now = F.log_softmax(network(inputs_embeds=point).logits[:, -1], 1)
        divergence = F.kl_div(now, goal, reduction="sum")
        delta = delta - mu * torch.autograd.grad(divergence, point)[0]
        delta = eps * delta / delta.norm()
    return x + delta, goal.log()


@pytest.mark.parametrize("stack", [unlearning.STACK_BYTES, 1])
@pytest.mark.parametrize("eta", [1.0, 0.2])
def test_uni_is_the_loop_over_prompts(network, batch, monkeypatch, stack, eta):
    monkeypatch.setattr(unlearning, "STACK_BYTES", stack)
    model = language_model(network)
    given = batch(model)
    start = UnlearnedPrompt(eta=eta, iterations=4, eps=0.5)
    found, goal = start.draw(model, given), start.goal(model, given)
    for i, length in enumerate(given.lengths.tolist()):
        x = given.x[i : i + 1, :length]
        expected, log_p = plain_uni(network, x, int(given.answer[i]), eta, 4, 0.5, 0.1)
        torch.testing.assert_close(goal[i], log_p[0], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found[i, :length], expected[0], rtol=1e-6, atol=1e-9)
        assert not found[i, length:].any()
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("start", STARTS)
def test_a_draw_is_the_prompts_own(model, batch, start):
    """Neither the other prompts nor the padding change it."""
    given = batch(model)
    whole = start.draw(model, given)
    assert whole.shape == given.x.shape
    for i, length in enumerate(given.lengths.tolist()):
        alone = start.draw(model, given.part(i, i + 1))
        torch.testing.assert_close(alone[0], whole[i, :length], rtol=1e-9, atol=1e-12)
        assert not whole[i, length:].any()


def test_uni_lowers_the_answer(model, batch):
    """The answer is unlearned, so it is less likely in the goal, and at the baseline."""
    given = batch(model)
    start = UnlearnedPrompt(eps=0.25)
    ends = [model.logits(x, given.last) for x in (given.x, start.draw(model, given))]
    before, after = (F.log_softmax(e, 1).gather(1, given.answer[:, None])[:, 0] for e in ends)
    assert (after < before).all()
    goal = start.goal(model, given).gather(1, given.answer[:, None])[:, 0]
    assert (goal < before).all()


def test_distances(model, batch):
    given = batch(model)
    for start in (UnlearnedPrompt(eps=0.5, iterations=2), RandomPrompt("sphere", 0.5)):
        distance = (start.draw(model, given) - given.x).flatten(1).norm(dim=1)
        torch.testing.assert_close(distance, torch.full_like(distance, 0.5))
    norms = RandomPrompt().draw(model, given).norm(dim=2)
    torch.testing.assert_close(norms, given.x.norm(dim=2))
    assert (RandomPrompt().draw(model, given) - given.x).norm(dim=2)[given.real].min() > 0.1


def test_what_the_embedding_table_says(model, network, batch):
    table = network.transformer.wte.weight.detach()
    mean, spread = model.embedding_moments
    torch.testing.assert_close(mean, table.mean(0))
    assert spread == pytest.approx(float(table.std(correction=0)))
    given = batch(model)
    assert torch.equal(MeanToken().draw(model, given)[0, 4], mean)
    noise = NoisyPrompt(sigma=2.0).draw(model, given) - given.x
    once = NoisyPrompt(sigma=1.0).draw(model, given) - given.x
    torch.testing.assert_close(noise, 2 * once)
    assert 1.5 * spread < float(noise[given.real].std()) < 2.5 * spread


def test_other_seeds_are_other_draws(model):
    rows = [[1, 2, 3]] * 2
    one, other = (PromptBatch.of(model, rows, [0, 0], seeds) for seeds in ([1, 1], [1, 2]))
    first, second = (RandomPrompt().draw(model, given) for given in (one, other))
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(second[0], second[1])


def test_what_cannot_be(model):
    given = PromptBatch.of(model, [[1, 2], [3]], [0, 0], [1, 2])
    with pytest.raises(ValueError, match="without corrupted"):
        Corrupted().draw(model, given)
    with pytest.raises(ValueError, match="equal length"):
        PromptBatch.of(model, [[1, 2]], [0], [1], corrupted=[[1]])
    with pytest.raises(ValueError, match="numbers of"):
        PromptBatch.of(model, [[1, 2]], [0], [1, 2])
    with pytest.raises(ValueError, match="lengths: expected 1 to 2"):
        PromptBatch(given.x, given.lengths * 0, given.answer, given.seeds)


@pytest.mark.parametrize(
    ("start", "changes", "text"),
    [
        (UnlearnedPrompt, {"eps": 0.0}, "eps: 0.0 given"),
        (UnlearnedPrompt, {"iterations": 0}, "iterations: 0"),
        (RandomPrompt, {"eps": -1.0}, "eps: -1.0"),
        (RandomPrompt, {"at": "cube"}, "at: 'cube'"),
        (NoisyPrompt, {"sigma": float("nan")}, "sigma: nan"),
    ],
)
def test_numbers_that_cannot_be(start, changes, text):
    with pytest.raises(ValueError, match=text):
        start(**changes)
