"""Loss and accuracy over batches equal those of one pass."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gradattr.errors import DataError
from gradattr.retraining import evaluate


@pytest.mark.parametrize("batch_size", [1, 7, 61, 500])
def test_any_batch_size_gives_the_same(few, make_net, batch_size):
    x, y = few
    model = make_net().train()
    before = model[1].running_mean.clone()
    result = evaluate(model, x, y, batch_size)
    assert model.training
    assert torch.equal(model[1].running_mean, before)
    logits = model.eval()(x)
    assert result.loss == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert result.accuracy == (logits.argmax(1) == y).sum().item() / len(y)


def test_model_that_fails_is_left_in_its_mode(few, make_net):
    x, y = few
    model = make_net().train()
    with pytest.raises(RuntimeError):
        evaluate(model, x[:, :, 1:], y)
    assert model.training


def test_nothing_to_evaluate(few, make_net):
    x, y = few
    with pytest.raises(DataError, match="no images to evaluate"):
        evaluate(make_net(), x[:0], y[:0])
