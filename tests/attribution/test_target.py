import pytest
import torch

from gradattr.attribution.target import cross_entropy, logit, probability, resolve_target

LOGITS = torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([2, 1])


@pytest.mark.parametrize(
    ("target", "index", "scalar"),
    [
        ("logit_pred", [1, 0], logit),
        ("logit_true", [2, 1], logit),
        ("loss_true", [2, 1], cross_entropy),
        ("loss_pred", [1, 0], cross_entropy),
        ("prob_pred", [1, 0], probability),
        (2, [2, 2], logit),
    ],
)
def test_class_and_scalar_of_every_target(target, index, scalar):
    found, objective = resolve_target(target, LOGITS, LABELS)
    assert found.tolist() == index
    assert objective is scalar


def test_scalars_agree_with_softmax():
    p = LOGITS.softmax(1)
    index = torch.tensor([2, 1])
    picked = torch.stack([p[0, 2], p[1, 1]])
    torch.testing.assert_close(probability(LOGITS, index), picked)
    torch.testing.assert_close(cross_entropy(LOGITS, index), -picked.log())
    assert logit(LOGITS, index).tolist() == [1.0, -1.0]


def test_a_certain_prediction_keeps_a_finite_loss_and_gradient():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    index = torch.tensor([1])
    loss = cross_entropy(logits, index)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.item() == 200
    assert grad.tolist() == [[1.0, -1.0]]
    assert probability(logits, index).item() == 0


@pytest.mark.parametrize(
    ("target", "labels", "text"),
    [
        ("logit_true", None, "needs a label"),
        ("loss_true", torch.tensor([0, -1]), "needs a label"),
        ("loss_true", torch.tensor([0, 3]), "label 3: the model has 3 classes"),
        (3, None, "target class 3: the model has 3 classes"),
        (-1, None, "the model has 3 classes"),
        ("score_pred", None, "unknown target"),
        ("logit_best", None, "unknown target"),
    ],
)
def test_what_cannot_be_resolved_is_refused(target, labels, text):
    with pytest.raises(ValueError, match=text):
        resolve_target(target, LOGITS, labels)
