"""Every architecture builds, is deterministic, and leaves the caller's randomness alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from gradattr.errors import ModelError
from gradattr.models.architectures import build_model

CASES = [
    ("linear", {}, (1, 8, 8), 650),
    ("mlp", {"hidden": [16, 12]}, (1, 8, 8), 64 * 16 + 16 + 16 * 12 + 12 + 12 * 10 + 10),
    ("cnn", {"width": 4}, (2, 9, 8), None),
    ("resnet18", {"stem": "cifar"}, (1, 16, 16), None),
    ("resnet18", {}, (3, 32, 32), 11_181_642),
    ("resnet50", {}, (4, 32, 32), None),
    ("resnet20", {}, (3, 16, 16), 272_474),
    ("resnet32", {}, (1, 16, 16), None),
    ("resnet56", {}, (3, 16, 16), None),
    ("vit", {"patch": 2, "depth": 2, "heads": 4, "width": 32}, (1, 8, 8), None),
    ("vit", {}, (3, 32, 32), None),
    ("torchvision:squeezenet1_1", {}, (3, 32, 32), None),
    ("torchvision:inception_v3", {}, (3, 80, 80), None),
    ("torchvision:vit_b_32", {}, (3, 32, 32), None),
]


@pytest.mark.parametrize(("arch", "fields", "shape", "parameters"), CASES)
def test_builds_and_maps_images_to_logits(make_spec, arch, fields, shape, parameters):
    model = build_model(make_spec(arch, **fields), shape=shape, num_classes=10, seed=3)
    assert not model.training
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    with torch.no_grad():
        assert model(torch.randn(2, *shape)).shape == (2, 10)
    if parameters is not None:
        assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("arch", ["mlp", "cnn", "resnet18", "resnet20", "torchvision:mobilenet_v2"])
def test_initial_weights_are_a_function_of_the_seed(make_spec, arch):
    def weights(seed):
        return build_model(
            make_spec(arch), shape=(3, 32, 32), num_classes=4, seed=seed
        ).state_dict()

    torch.manual_seed(0)
    first = weights(5)
    torch.manual_seed(1)
    again, other = weights(5), weights(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_global_random_state_is_not_disturbed(make_spec, user_module):
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    expected = (torch.rand(3), np.random.rand(3), random.random())
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    spec = make_spec(f"python:{user_module}:draws")
    first = build_model(spec, shape=(3, 4, 4), num_classes=3, seed=1)
    second = build_model(spec, shape=(3, 4, 4), num_classes=3, seed=1)
    assert torch.equal(first[1].bias, second[1].bias)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    assert random.random() == expected[2]


@pytest.mark.parametrize("arch", ["mlp", "cnn", "resnet18", "resnet20"])
def test_traceable_with_relu_modules_that_keep_their_input(make_spec, arch):
    model = build_model(make_spec(arch), shape=(3, 16, 16), num_classes=3, seed=0)
    traced = fx.symbolic_trace(model)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(traced(x), model(x))
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_function"}
    assert not any("relu" in name for name in called)
    relus = [m for m in model.modules() if isinstance(m, nn.ReLU)]
    assert relus
    assert not any(relu.inplace for relu in relus)


def test_cifar_resnet_uses_each_relu_once(make_spec):
    model = build_model(make_spec("resnet20"), shape=(3, 16, 16), num_classes=3, seed=0)
    calls = [str(n.target) for n in fx.symbolic_trace(model).graph.nodes if n.op == "call_module"]
    assert len(calls) == len(set(calls))
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 20 + 2


def test_cifar_stem_keeps_the_resolution(make_spec):
    shapes = {}
    for stem in ("cifar", "imagenet"):
        spec = make_spec("resnet18", stem=stem)
        model = build_model(spec, shape=(3, 32, 32), num_classes=3, seed=0)
        features = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
        shapes[stem] = tuple(features(torch.zeros(1, 3, 32, 32)).shape[2:])
    assert shapes == {"cifar": (32, 32), "imagenet": (8, 8)}


def test_cnn_refuses_images_that_pooling_would_use_up(make_spec):
    with pytest.raises(ModelError, match="at least 8x8 pixels, the data has 7x9"):
        build_model(make_spec("cnn"), shape=(1, 7, 9), num_classes=3, seed=0)


def test_unknown_torchvision_name_gets_a_suggestion(make_spec):
    with pytest.raises(ModelError, match="did you mean 'resnet34'"):
        build_model(make_spec("torchvision:resnet_34"), shape=(3, 32, 32), num_classes=3, seed=0)


def test_torchvision_detector_is_no_classifier(make_spec):
    spec = make_spec("torchvision:fasterrcnn_resnet50_fpn")
    with pytest.raises(ModelError, match="no classifier"):
        build_model(spec, shape=(3, 32, 32), num_classes=3, seed=0)


def test_torchvision_on_grey_images_says_what_to_do(make_spec):
    with pytest.raises(ModelError, match=r"data has 1; set 'preprocess.color: rgb'"):
        build_model(make_spec("torchvision:vgg11"), shape=(1, 32, 32), num_classes=3, seed=0)


def test_images_that_are_too_small_for_the_model(make_spec):
    with pytest.raises(ModelError, match="alexnet cannot take images of 3 x 8 x 8"):
        build_model(make_spec("torchvision:alexnet"), shape=(3, 8, 8), num_classes=3, seed=0)


def test_contradicting_class_counts(make_spec):
    with pytest.raises(ModelError, match="num_classes is 7, but 10 classes"):
        build_model(make_spec("linear", num_classes=7), shape=(1, 8, 8), num_classes=10, seed=0)


@pytest.mark.parametrize(("arch", "parameters"), [("linear", 65), ("mlp", 64 * 16 + 16 + 16 + 1)])
def test_margin_is_one_output_as_two_logits(make_spec, arch, parameters):
    fields = {"output": "margin"} | ({"hidden": [16]} if arch == "mlp" else {})
    model = build_model(make_spec(arch, **fields), shape=(1, 8, 8), num_classes=2, seed=3)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    x, y = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 1, 0, 1])
    f = model[:-1](x)[:, 0]
    logits = model(x)
    assert torch.equal(logits, torch.stack([-f / 2, f / 2], dim=1))
    logistic = torch.log(1 + torch.exp(-(2 * y - 1) * f))
    torch.testing.assert_close(F.cross_entropy(logits, y, reduction="none"), logistic)
    assert model.double()(x.double()).dtype == torch.float64


def test_margin_needs_two_classes(make_spec):
    with pytest.raises(ModelError, match="'margin' is for two classes, the data has 10"):
        build_model(make_spec("linear", output="margin"), shape=(1, 8, 8), num_classes=10, seed=0)


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({"patch": 3}, (3, 32, 32), "patches of 3 pixels do not tile images of 32x32"),
        ({}, (3, 32, 16), "do not tile images of 32x16; set preprocess.resize"),
        ({"width": 30}, (3, 32, 32), "30 numbers cannot be shared among 4 heads"),
    ],
    ids=["patch", "not square", "heads"],
)
def test_a_vision_transformer_whose_sizes_do_not_fit(make_spec, fields, shape, message):
    with pytest.raises(ModelError, match=message):
        build_model(make_spec("vit", **fields), shape=shape, num_classes=10, seed=0)


def test_a_fresh_vision_transformer_has_gradients(make_spec):
    model = build_model(make_spec("vit"), shape=(3, 32, 32), num_classes=4, seed=0)
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    (slope,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    assert (slope.flatten(1).norm(dim=1) > 1e-3).all()
