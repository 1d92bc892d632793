"""What contributions are against; and which maps are contributions at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradattr.attribution import (
    Black,
    Blur,
    NoisyCopies,
    PlainEvaluator,
    Sample,
    Uniform,
    attribute,
    method_info,
    method_request,
)
from gradattr.attribution.baselines import Normalization
from gradattr.attribution.catalogue import catalogue
from gradattr.attribution.paths.baseline_points import baseline_points
from gradattr.attribution.paths.blur_path import scale_space
from gradattr.attribution.reference_points import reference_points
from tests.small_transformers import vit

UNIT = 2.0
SEEDS = [5, 6]
SPACE = Normalization.from_mean_std([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
POOL = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
#: They do not look at the explained model.
CONTROLS = ("random", "linear")
NEEDED: dict[str, dict[str, Any]] = {
    name: {"baseline": Uniform(), "samples": 3}
    for name in ("expected_gradients", "gradient_shap", "deep_shap")
}
FEW: dict[str, dict[str, Any]] = {
    "lime": {"samples": 60},
    "kernel_shap": {"samples": 60},
    "rise": {"samples": 20},
    "guided_ig": {"steps": 5},
    "agi": {"iterations": 3},
    "uni": {"eps": 0.25, "mu": 0.1},
}
#: Parameters in units of the input, and as what power of that unit they go.
IN_UNITS = {"uni": {"eps": 1, "mu": 2}}


class _InOtherUnits(nn.Module):
    """The same model of inputs that are measured in other units."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x / UNIT)  # type: ignore[no-any-return]


def _model(name: str) -> nn.Module:
    if name.startswith("attention"):
        return vit()
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 64, 6)).double().eval()


def _x() -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.rand(2, 3, 32, 32, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", [i.name for i in catalogue() if i.name not in CONTROLS])
def test_contributions_do_not_depend_on_the_unit_of_the_input_and_slopes_do(name: str) -> None:
    given = NEEDED.get(name, {}) | FEW.get(name, {})
    there = given | {key: given[key] * UNIT**power for key, power in IN_UNITS.get(name, {}).items()}
    model, x = _model(name), _x()
    (here,) = attribute(PlainEvaluator(model), x, [method_request(name, **given)], seeds=SEEDS)
    (other,) = attribute(
        PlainEvaluator(_InOtherUnits(model)),
        UNIT * x,
        [method_request(name, **there)],
        seeds=SEEDS,
        normalization=Normalization(white=(UNIT,)),
    )
    same = torch.allclose(other.maps, here.maps, rtol=1e-6, atol=1e-12)
    assert same == method_info(name).contributions
    if not same:
        factor = UNIT**2 if name in ("squaregrad", "vargrad") else UNIT
        torch.testing.assert_close(other.maps, here.maps / factor, rtol=1e-6, atol=1e-12)


def test_controls_count_as_slopes() -> None:
    assert not any(method_info(name).contributions for name in CONTROLS)


def test_what_each_method_is_against() -> None:
    evaluator, x = PlainEvaluator(_model("")), _x()
    walking = [
        method_request("uni", iterations=3),
        method_request("integrated_gradients"),
        method_request("guided_ig", baseline=Blur(5, 1.0)),
        method_request("blur_ig", max_sigma=2.0),
    ]
    others = [
        method_request("deep_lift", baseline=Uniform()),
        method_request("occlusion", baseline=Sample(POOL)),
        method_request("deep_shap", samples=4, baseline=Uniform()),
        method_request("expected_gradients", samples=2, baseline=Sample(POOL)),
        method_request("input_x_gradient"),
        method_request("lrp"),
        method_request("grad_cam"),
    ]
    asked: dict[str, Any] = {"seeds": SEEDS, "normalization": SPACE}
    found = reference_points(evaluator, x, [*walking, *others], batch_size=1, **asked)
    for point, start in zip(found, baseline_points(evaluator, x, walking, **asked), strict=False):
        torch.testing.assert_close(point, start, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], Black().draw(x, SEEDS, 0, SPACE))
    torch.testing.assert_close(found[3], scale_space(x, 2.0)[0])
    uniform = [Uniform().draw(x, SEEDS, copy, SPACE) for copy in range(4)]
    pool = [Sample(POOL).draw(x, SEEDS, copy, SPACE) for copy in range(2)]
    expected = [
        uniform[0],
        Sample(POOL).draw_other(x, SEEDS, SPACE),
        torch.stack(uniform).mean(0),
        torch.stack(pool).mean(0),
    ]
    for point, other in zip(found[4:], expected, strict=False):
        torch.testing.assert_close(point, other)
    assert not any(bool(point.any()) for point in found[8:])


def test_of_noisy_copies_it_is_that_of_the_image_itself() -> None:
    evaluator, x = PlainEvaluator(_model("")), _x()
    plain = method_request("integrated_gradients", baseline=Blur())
    smooth = method_request("integrated_gradients", baseline=Blur(), smooth=NoisyCopies(3, 0.1))
    first, second = reference_points(evaluator, x, [plain, smooth], seeds=SEEDS)
    assert torch.equal(first, second)
