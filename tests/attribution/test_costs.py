"""What a method says that it costs is what it does: the model's passes are counted.

An evaluation is a row of a forward pass, together with its backward pass if there is one. Not
counted, as documented: the pass that fixes the explained class, and one that scores a baseline.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradattr.attribution import PlainEvaluator, Sample, Uniform, attribute, method_request
from gradattr.attribution.catalogue import catalogue
from gradattr.attribution.sampling import NoisyCopies
from tests.small_transformers import vit

IMAGES, CLASSES = 3, 6
POOL = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
PARAMETERS: dict[str, dict[str, Any]] = {
    "expected_gradients": {"baseline": Sample(POOL), "samples": 20},
    "gradient_shap": {"baseline": Uniform(), "samples": 20},
    "deep_shap": {"baseline": Sample(POOL), "samples": 20},
    "smoothgrad": {"samples": 20},
    "blur_ig": {"steps": 30},
    "guided_ig": {"steps": 40},
    "agi": {"iterations": 5},
    "lime": {"samples": 60},
    "kernel_shap": {"samples": 60},
    "rise": {"samples": 60},
    "layer_integrated_gradients": {"steps": 20},
    "layer_conductance": {"steps": 20},
}
#: No pass of the explained model at all.
FREE = {"random", "linear"}
#: Passes that are not counted: prediction, and the score of a baseline.
BESIDES = 2


def _model(name: str) -> nn.Module:
    if name.startswith("attention"):
        return vit()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = (nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * 169, CLASSES))
    return model.double().eval()


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[int]]:
    """A number that grows by the rows of every forward pass, and by those of every backward pass
    but the first one of a forward pass."""
    total = [0]

    def after(module: nn.Module, given: Any, logits: Tensor) -> None:
        total[0] += len(logits)
        passes = [0]

        def back(slope: Tensor) -> None:
            total[0] += len(slope) if passes[0] else 0
            passes[0] += 1

        if logits.requires_grad:
            # The hook is this test's own: methods that look at every operation need not see it.
            with torch._C.DisableTorchFunction():
                logits.register_hook(back)

    handle = model.register_forward_hook(after)
    try:
        yield total
    finally:
        handle.remove()


@pytest.mark.parametrize("name", [info.name for info in catalogue() if info.name not in FREE])
@pytest.mark.parametrize("smooth", [None, NoisyCopies(3, 0.1)], ids=["once", "smoothed"])
def test_a_plan_predicts_what_is_evaluated(name: str, smooth: NoisyCopies | None) -> None:
    model = _model(name)
    request = method_request(name, smooth=smooth, **PARAMETERS.get(name, {}))
    x = torch.rand(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    with _counted(model) as total:
        (found,) = attribute(PlainEvaluator(model), x, [request], seeds=range(IMAGES))
    measured = total[0] / IMAGES
    copies = 1 if smooth is None else smooth.samples
    assert found.evaluations == request.evaluations(CLASSES, (3, 32, 32))
    # A pool's own score is one pass for all images; draws of noise are scored one by one.
    besides = BESIDES * copies + (20 * copies if name == "gradient_shap" else 0)
    besides += len(POOL) if name in ("expected_gradients", "deep_shap") else 0
    if name == "agi":
        # An upper bound: a class that is reached needs no further step.
        assert measured <= found.evaluations + copies * (CLASSES + 1)
        return
    assert 0.9 * found.evaluations <= measured <= 1.1 * found.evaluations + besides
