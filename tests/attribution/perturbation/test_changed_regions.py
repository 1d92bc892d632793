"""Occlusion from changed regions alone: equal to the whole network, and where it keeps away."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from gradattr.attribution import occlusion, tune
from gradattr.attribution.perturbation.changed_regions import changed_regions, crops
from gradattr.attribution.perturbation.local_stages import Reach, local_stages
from gradattr.attribution.perturbation.sliding_windows import Occlusion
from gradattr.models.cifar_resnet import CifarResNet


class Odd(nn.Module):
    """Uneven kernels, dilation, branches that are joined, two kinds of pooling, functional ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(0, 2))
        self.left = nn.Conv2d(4, 3, 3, padding=2, dilation=2)
        self.right = nn.Conv2d(4, 3, 2, padding=1)
        self.average = nn.AvgPool2d(3, 2, 1)
        self.pool = nn.MaxPool2d((2, 3), padding=(0, 1))
        self.last = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.first(x) - 0.1)
        right = self.right(x)[:, :, :-1, :-1]
        x = torch.cat([self.left(x), right], dim=1)
        return self.head(self.last(self.pool(self.average(x))).relu().mean((2, 3)))


class Straight(Odd):
    def forward(self, x):
        x = F.relu(self.first(x) - 0.1)
        x = torch.cat([self.left(x), self.left(x) * 0.5], dim=1)
        return self.head(self.last(self.pool(self.average(x))).relu().mean((2, 3)))


def network_of(name, network):
    torch.manual_seed(3)
    made = {"odd": Odd, "straight": Straight, "resnet20": lambda: CifarResNet(3, 3, 6)}
    return made[name]().double().eval() if name in made else network(name)


def small_transformer():
    return VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=16,
        num_classes=6,
    ).double()


def regions_of(model, x, window, stride):
    tuned = tune(model, x)
    windows = Occlusion(None, window, stride).windows(*x.shape[-2:])
    return tuned, changed_regions(tuned, x, windows.rows, windows.columns)


@pytest.mark.parametrize(
    ("name", "size", "window", "stride"),
    [
        ("odd", (48, 48), 5, 4),
        ("odd", (37, 61), 5, 4),
        ("straight", (48, 48), 4, 4),
        ("straight", (37, 61), 7, 5),
        ("cnn", (32, 32), 5, 3),
        ("resnet20", (32, 32), 4, 4),
        ("resnet18", (37, 61), 9, 9),
    ],
)
def test_maps_are_those_of_the_whole_network(network, assert_close, name, size, window, stride):
    model, x = network_of(name, network), torch.rand(2, 3, *size, dtype=torch.float64)
    tuned, regions = regions_of(model, x, window, stride)
    assert regions is not None
    found = occlusion(tuned, x, window=window, stride=stride, batch_size=9)
    assert_close(found.maps, occlusion(model, x, window=window, stride=stride).maps)


def test_crops_are_small(network):
    _, regions = regions_of(
        network_of("resnet20", network), torch.rand(1, 3, 64, 64).double(), 8, 4
    )
    sizes = [rows.size for rows, _ in regions.axes]
    assert sizes[:2] == [12, 18]
    assert all(
        rows.size < whole.shape[2]
        for (rows, _), whole in zip(regions.axes, regions.whole, strict=False)
    )


@given(
    st.integers(8, 60),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(0, 5),
    st.lists(st.integers(0, 59), min_size=1, max_size=5),
)
@settings(max_examples=200, deadline=None)
def test_a_crop_holds_all_that_a_changed_output_needs(size, stride, before, after, places):
    size_out = (size - 1) // stride + 1
    spans = [(min(p, size - 3), min(p, size - 3) + 3) for p in places]
    axis = crops(spans, size, size_out, Reach(stride, before, after))
    for (first, end), start, (low, high), inside in zip(
        spans, axis.starts, axis.changed, axis.inside, strict=True
    ):
        assert start % stride == 0
        assert 0 <= start <= start + axis.size <= size
        assert inside == low - start // stride
        for o in range(size_out):
            needs = range(o * stride - before, o * stride + after + 1)
            if any(first <= i < end for i in needs):
                assert low <= o < high
            if low <= o < high:
                assert all(start <= i < start + axis.size for i in needs if 0 <= i < size)


def test_a_broken_image_leaves_its_neighbours_alone(network, images, assert_close):
    x = images(3)
    tuned = tune(network("cnn"), x)
    clean = occlusion(tuned, x)
    x[1, 0, 5, 5] = float("nan")
    found = occlusion(tuned, x)
    assert found.status == ("ok", "non_finite", "ok")
    assert_close(found.maps[[0, 2]], clean.maps[[0, 2]])


def test_it_keeps_away_from_what_it_does_not_know(network, images):
    x = images(2)
    assert changed_regions(network("cnn"), x, [(0, 4)], [(0, 4)]) is None
    for model in (network("mlp"), small_transformer()):
        _, regions = regions_of(model.eval(), x, 4, 4)
        assert regions is None
    _, large = regions_of(network("cnn"), x, 30, 30)
    assert large is None


def test_stages_end_where_something_else_begins(network):
    tuned = tune(network("resnet18"), torch.rand(1, 3, 32, 32, dtype=torch.float64))
    stages, _ = local_stages(tuned.rest)
    assert [stage.reaches[0].stride for stage in stages] == [2, 1, 1, 2, 1, 2, 1, 2, 1]
    assert stages[0].reaches[0] == Reach(2, 1, 1)
