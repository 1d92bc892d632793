"""Which layer is found, what is refused, and how a location's value gets to pixels."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from gradattr.attribution.layers.cam import GradCam
from gradattr.attribution.layers.layer_attributions import LayerActivation
from gradattr.attribution.layers.layer_capture import activation_of, capture, with_activation
from gradattr.attribution.layers.spatial_layers import (
    find_spatial_layer,
    located,
    probe,
    spread,
    survey,
    upsampled,
)
from gradattr.errors import MethodError
from tests.small_transformers import Attending, Patches, swin, vit


class ChannelsLast(nn.Module):
    """Blocks that work on (n, h, w, c), as many transformers' do."""

    def __init__(self):
        super().__init__()
        self.cut, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.mix, self.drop, self.head = nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 6)
        self.double().eval()

    def forward(self, x):
        x = self.drop(self.mix(self.norm(self.cut(x).permute(0, 2, 3, 1))))
        return self.head(x.mean((1, 2)))


def sequential(*layers):
    return nn.Sequential(*layers).double().eval()


def test_the_last_feature_map_of_convolutional_networks(network, images):
    assert find_spatial_layer(network("cnn"), images(1)) == "5"
    assert find_spatial_layer(network("resnet18"), torch.rand(1, 3, 64, 64).double()) == "layer4"
    # 32 pixels leave one location in layer4
    assert find_spatial_layer(network("resnet18"), images(1)) == "layer3"
    # as a VGG ends: pooled to the 4 x 4 that the classifier expects
    end = (nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 6))
    assert find_spatial_layer(sequential(nn.Conv2d(3, 4, 16, 16), *end), images(1)) == "0"
    block = torchvision.models.convnext.CNBlockConfig(8, None, 2)
    convnext = torchvision.models.ConvNeXt([block], num_classes=6).eval()
    assert find_spatial_layer(convnext, torch.rand(1, 3, 32, 32)) == "features"


def test_transformers_are_looked_at_where_patches_have_gradients(images):
    x = images(2)
    layer = find_spatial_layer(vit(), x)
    assert layer == "encoder.layers.encoder_layer_1.ln_1"
    found = capture(vit(), layer, x)
    (slope,) = torch.autograd.grad(found.logits[:, 0].sum(), found.activation)
    assert (located(slope) != 0).any(1).all()
    assert find_spatial_layer(swin(), x) == "permute"
    pooled = Patches([Attending(batch_first=True), Attending(batch_first=True)], False)
    assert find_spatial_layer(pooled, x) == "blocks.1"
    untrained = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=6).eval()
    assert not any(p.any() for p in untrained.heads.parameters())
    assert find_spatial_layer(untrained, x.float()) == layer


def test_channels_last(images):
    model, x = ChannelsLast(), images(2)
    seen = {one.name: one for one in survey(model, x)}
    assert find_spatial_layer(model, x) == "drop"
    assert {name: one.channels_last for name, one in seen.items() if one.locations} == {
        "cut": False,
        "norm": True,
        "mix": True,
        "drop": True,
    }
    assert seen["mix"].locations == (8, 8)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("layer9", r"it has no module 'layer9'; did you mean 'layer.'"),
        ("zzz", r"it has no module 'zzz'; it has 'conv1', 'bn1'"),
        ("layer1.0.relu", "'layer1.0.relu' is called 2 times in a forward pass, not once"),
        ("avgpool", r"'avgpool' returns \(512, 1, 1\) per image, which has no locations"),
        ("fc", r"'fc' returns \(6,\) per image, which has no locations"),
    ],
)
def test_layers_that_cannot_be_looked_at(layer, words, network, images):
    reason = GradCam(layer).obstacle(network("resnet18"), images(1))
    with pytest.raises(MethodError, match=words):
        raise MethodError(str(reason))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.aside, self.unused = (nn.Conv2d(3, 4, 3) for _ in range(3))
        self.many, self.same, self.head = nn.Identity(), nn.Conv2d(4, 4, 1), nn.Linear(4, 6)
        self.double().eval()

    def forward(self, x):
        self.aside(x)
        x = self.same(self.same(self.conv(x)))
        self.pair(x)
        return self.head(x.mean((2, 3)))

    def pair(self, x):
        return self.many((x, x))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("aside", "'aside' is not on the way to the output: it gets no gradient"),
        ("unused", "'unused' is not called in a forward pass"),
        ("many", "'many' returns something else than one tensor"),
        ("same", "'same' is called 2 times"),
    ],
)
def test_odd_layers(layer, words, images):
    model = Odd()
    assert words in str(GradCam(layer).obstacle(model, images(1)))
    assert find_spatial_layer(model, images(1)) == "conv"
    if layer != "aside":
        with pytest.raises(MethodError, match=f"'{layer}'"):
            capture(model, layer, images(1))


def test_behind_the_last_attention_only_activations_are_to_be_had(images):
    layer = "encoder.layers.encoder_layer_1.mlp"
    assert "is zero: what is behind it does not look there" in str(
        GradCam(layer).obstacle(vit(), images(1))
    )
    assert LayerActivation(layer).obstacle(vit(), images(1)) is None


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (sequential(nn.Flatten(), nn.Linear(3072, 6)), "it has no spatial layer"),
        (sequential(nn.Identity(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3072, 6)), "no spat"),
        (
            sequential(nn.Conv2d(3, 6, 8, (8, 10)), nn.Flatten(2), nn.Linear(12, 6), nn.Flatten(),
                       nn.Linear(36, 6)),
            "behind '0', its last feature map, it works on tokens",
        ),
    ],
)  # fmt: skip
def test_networks_without_a_spatial_layer(model, words, images):
    with pytest.raises(MethodError, match=words):
        find_spatial_layer(model, images(1))
    assert words in str(GradCam().obstacle(model, images(1)))


def test_a_network_is_looked_at_anew_when_its_modules_have_changed(images):
    model = sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 6))
    assert GradCam("2").obstacle(model, images(1)) == (
        "'2' returns (3600,) per image, which has no locations; a layer with feature maps or a "
        "square grid of tokens is needed"
    )
    model[2] = sequential(nn.Conv2d(4, 4, 3), nn.Flatten())
    model[3] = nn.Linear(3136, 6).double()
    assert GradCam("2.0").obstacle(model, images(1)) is None


def test_inputs_that_are_no_images():
    reason = GradCam().obstacle(nn.Linear(4, 2), torch.rand(1, 4))
    assert reason == (
        "inputs of shape (4,) were given; a map of a layer needs images (channels, height, width)"
    )


def test_the_choice_does_not_depend_on_the_images(images):
    assert torch.equal(probe(images(5)), probe(images(1, seed=3)))
    assert probe(images(1).float()).dtype == torch.float32


def test_what_is_captured_is_not_what_is_written_there_afterwards(network, images):
    model, x = network("cnn"), images(2)
    found = capture(model, "4", x)
    assert (found.activation < 0).any()
    with torch.no_grad():
        assert torch.equal(found.activation, model[:5](x.clone()))
        assert torch.equal(found.logits, model(x.clone()))
        kept, logits = activation_of(model, "4", x)
        assert torch.equal(kept, found.activation)
        assert torch.equal(with_activation(model, "4", x, kept * 1.0), logits)
        assert torch.equal(kept, found.activation)
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_go_when_the_network_fails():
    model = sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2))
    for look in (survey, lambda net, x: capture(net, "0", x)):
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            look(model, torch.rand(1, 3, 9, 9).double())
    assert not any(module._forward_hooks for module in model.modules())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
def test_spreading_keeps_the_sum(height, width, rows, columns):
    grid = torch.randn(2, 1, height, width, dtype=torch.float64)
    maps = spread(grid, (rows, columns))
    assert maps.shape == (2, 1, rows, columns)
    torch.testing.assert_close(maps.sum((2, 3)), grid.sum((2, 3)), rtol=1e-9, atol=1e-9)
    if rows % height == 0 and columns % width == 0:
        pixels = rows * columns / (height * width)
        torch.testing.assert_close(maps, upsampled(grid, (rows, columns)) / pixels)


def test_locations():
    tokens = torch.arange(2 * 10 * 3.0).view(2, 10, 3)
    assert torch.equal(located(tokens)[1, :, 2, 1], tokens[1, 8])
    assert torch.equal(located(tokens[:, 1:]), located(tokens))
    grid = torch.rand(2, 4, 5, 3)
    assert torch.equal(located(grid, channels_last=True), grid.permute(0, 3, 1, 2))
    with pytest.raises(MethodError, match="has no locations"):
        located(torch.zeros(2, 6))
    assert F.interpolate(grid, size=(4, 4)).shape == (2, 4, 4, 4)
