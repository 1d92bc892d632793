"""Grad-CAM and its like against Captum, plain loops and closed forms."""

from __future__ import annotations

import warnings

import captum.attr
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from gradattr.attribution import (
    grad_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
    layer_activation,
    layer_gradient_x_activation,
)
from gradattr.attribution.layers.cam import GradCam
from gradattr.attribution.layers.layer_capture import capture
from gradattr.attribution.layers.spatial_layers import located
from gradattr.errors import MethodError
from tests.small_transformers import swin, vit

ALL = (
    grad_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
    layer_activation,
    layer_gradient_x_activation,
)
EVERY = pytest.mark.parametrize("method", ALL, ids=lambda method: method.__name__)
LAYERS = pytest.mark.parametrize("layer", ["layer3", "layer2.0.conv1"])


def enlarged(maps):
    return F.interpolate(maps.detach(), (32, 32), mode="bilinear", align_corners=False)


@LAYERS
def test_captum(layer, network, images, assert_close):
    model, x = network("resnet18"), images(3)
    module = model.get_submodule(layer)
    cam = captum.attr.LayerGradCam(model, module).attribute(x, target=2, relu_attributions=True)
    found = grad_cam(model, x, 2, layer=layer)
    assert_close(found.maps, enlarged(cam))
    assert found.evaluations == 1
    product = captum.attr.LayerGradientXActivation(model, module).attribute(x, target=2)
    assert_close(
        layer_gradient_x_activation(model, x, 2, layer=layer).maps, enlarged(product.sum(1, True))
    )
    seen = captum.attr.LayerActivation(model, module).attribute(x)
    assert_close(layer_activation(model, x, 2, layer=layer).maps, enlarged(seen.mean(1, True)))


def test_guided_grad_cam_is_captums(network, images, assert_close):
    model, x = network("resnet18"), images(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = captum.attr.GuidedGradCam(model, model.layer3)
        expected = oracle.attribute(
            x.clone().requires_grad_(), target=1, interpolate_mode="bilinear"
        )
    found = guided_grad_cam(model, x, 1, layer="layer3")
    assert_close(found.maps, expected.detach())
    assert found.maps.shape == x.shape
    assert found.evaluations == 2
    assert found.maps.equal(guided_grad_cam(model, x, 1).maps)


@pytest.mark.parametrize("layer", ["4", "5"])
def test_plus_plus_by_hand(layer, network, images, assert_close):
    """Equations 10 and 19 as they stand, with Y = exp(S) differentiated; up to exp(S)."""
    model, x = network("cnn"), images(3)
    maps = []
    for row in range(3):
        with torch.no_grad():
            a = model[: int(layer) + 1](x[row : row + 1].clone())
        a.requires_grad_()
        score = model[int(layer) + 1 :](a.clone())[0, 2]
        (first,) = torch.autograd.grad(score.exp(), a)
        slope = first / score.exp().detach()
        a, first, slope = a.detach()[0], first[0], slope[0]
        total = torch.zeros(a.shape[1:], dtype=a.dtype)
        for k in range(len(a)):
            weight = 0.0
            for i in range(a.shape[1]):
                for j in range(a.shape[2]):
                    g = slope[k, i, j]
                    bottom = 2 * g**2 + a[k].sum() * g**3
                    if g != 0:
                        weight += g**2 / bottom * max(first[k, i, j], torch.tensor(0.0))
            total += weight * a[k]
        maps.append(total.clamp(min=0) / score.exp().detach())
    expected = enlarged(torch.stack(maps)[:, None])
    assert_close(grad_cam_plus_plus(model, x, 2, layer=layer).maps, expected)


def test_a_linear_head_on_pooled_channels_is_cam(images, assert_close):
    """There Grad-CAM is CAM: the head's weights, over the number of locations."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        conv, head = nn.Conv2d(3, 5, 4, 4), nn.Linear(5, 6)
    net = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).double()
    x = images(2)
    a = conv(x).relu()
    cam = (head.weight[3][:, None, None] * a).sum(1, keepdim=True).relu() / 64
    assert_close(grad_cam(net, x, 3).maps, enlarged(cam))


@pytest.mark.parametrize(
    ("make", "layer"), [(vit, "encoder.layers.encoder_layer_1.ln_1"), (swin, "permute")]
)
def test_transformers(make, layer, images, assert_close):
    x = images(3)
    found = grad_cam(make(), x, 1)
    held = capture(make(), layer, x)
    (slope,) = torch.autograd.grad(held.logits[:, 1].sum(), held.activation)
    a, g = located(held.activation.detach()), located(slope)
    expected = torch.einsum("nk,nkhw->nhw", g.mean((2, 3)), a)[:, None].relu()
    assert_close(found.maps, enlarged(expected))
    with pytest.raises(MethodError, match="its activation functions are gelu"):
        guided_grad_cam(make(), x)
    if make is swin:
        last = captum.attr.LayerGradCam(swin(), swin().norm)
        values = held.activation.permute(0, 2, 3, 1)
        assert torch.equal(layer_activation(swin(), x, layer="norm").maps,
                           layer_activation(swin(), x).maps)  # fmt: skip
        assert last.attribute(x, target=1).shape[-2:] == values.shape[-2:]


@EVERY
@settings(max_examples=4, deadline=None)
@given(batch_size=st.integers(1, 5), rows=st.permutations(range(4)))
def test_neighbours_and_batch_size_do_not_matter(method, network, images, batch_size, rows):
    model, x = network("cnn"), images(4)
    alone = torch.cat([method(model, x[row : row + 1]).maps for row in rows])
    together = method(model, x[rows], batch_size=batch_size).maps
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("target", ["logit_true", "loss_true", "loss_pred", "prob_pred", 5])
def test_every_target(target, network, images, assert_close):
    model, x, labels = network("cnn"), images(3), torch.tensor([1, 0, 5])
    found = grad_cam(model, x, target, labels=labels)
    index = found.index if not str(target).endswith("true") else labels
    with torch.no_grad():
        a = model[:6](x.clone())
    a.requires_grad_()
    logits = model[6:](a)
    log_p = torch.log_softmax(logits, 1)[range(3), index]
    kind = "logit" if isinstance(target, int) else target.partition("_")[0]
    score = {"logit": logits[range(3), index], "prob": log_p.exp(), "loss": -log_p}[kind]
    (slope,) = torch.autograd.grad(score.sum(), a)
    expected = (slope.mean((2, 3), keepdim=True) * a.detach()).sum(1, keepdim=True).relu()
    assert_close(found.maps, enlarged(expected))


@EVERY
def test_the_network_is_left_as_it_was(method, images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 4, 3, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(900, 6))
    model = nn.Sequential(*layers).double().train()
    x = images(2)
    before = x.clone()
    with torch.no_grad():
        found = method(model, x, 1)
    assert found.status == ("ok", "ok")
    assert torch.equal(x, before)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    with pytest.raises(MethodError, match="no module '9'"):
        method(model, x, layer="9")
    assert model.training


def test_a_map_without_evidence_is_degenerate(network, images):
    """Where the mean gradient of every channel and its activation differ in sign."""
    net = nn.Sequential(nn.Conv2d(3, 2, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)).double()
    net[0].weight.data.fill_(0.1)
    net[3].weight.data[0] = 1.0
    net[3].weight.data[1] = -1.0
    x = torch.cat([images(1), torch.full((1, 3, 32, 32), torch.nan, dtype=torch.float64)])
    assert grad_cam(net, x, 1).status == ("degenerate", "non_finite")
    assert grad_cam_plus_plus(net, x, 1).status == ("degenerate", "non_finite")
    assert grad_cam(net, x, 0).status == ("ok", "non_finite")


@EVERY
def test_networks_without_locations_are_refused(method, network, images):
    for name in ("linear", "mlp"):
        with pytest.raises(MethodError, match="it has no spatial layer"):
            method(network(name), images(1))


def test_weightings():
    with pytest.raises(ValueError, match="weighting: 'max' given, 'mean' or 'plus_plus' expected"):
        GradCam(weighting="max")
