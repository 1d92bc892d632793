"""Maps of activations: the definition by hand, both readings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.attribution.layers.spatial_layers import located
from gradattr.errors import MethodError
from gradattr.influence import GradientProducts, agreement_maps, layer_maps

Network = Callable[[str], nn.Module]
Examples = Callable[..., tuple[Tensor, Tensor]]


@pytest.mark.parametrize("layer", ["0", "1", "2", "6"])
def test_gradient_by_an_activation_equals_the_definition(
    network: Network, examples: Examples, layer: str
) -> None:
    """Also of a convolution that would be folded, and of what an in-place ReLU overwrites."""
    model, (x, y) = network("cnn"), examples("cnn", 2)
    products = GradientProducts(model)
    queries = products.directions(x[:1], y[:1])
    found = layer_maps(products, x, y, queries, [(1, 0)], layer)
    kept: list[Tensor] = []

    def note(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    with model.get_submodule(layer).register_forward_hook(note):
        loss = F.cross_entropy(model(x[1:2].clone()), y[1:2])
    grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    score = F.cosine_similarity(torch.cat([g.flatten() for g in grads]), queries.flat()[0], dim=0)
    (slope,) = torch.autograd.grad(score, kept[0])
    expected = F.interpolate(slope.mean(1, keepdim=True), size=(12, 12), mode="bilinear")[0]
    torch.testing.assert_close(found.values[0], expected, rtol=1e-9, atol=1e-12)
    assert float(found.scores[0]) == pytest.approx(score.item())
    assert found.values.shape == (1, 1, 12, 12)


def test_agreement_is_the_cosine_at_each_location(network: Network, examples: Examples) -> None:
    model, (x, y), (qx, qy) = network("cnn"), examples("cnn", 2), examples("cnn", 2, seed=4)
    products = GradientProducts(model)
    found = agreement_maps(products, x, y, qx, qy, [(1, 0), (0, 1)], "3")
    grads = []
    for images, labels in ((x, y), (qx, qy)):
        middle = model[:3](images.clone())
        middle = model[3](middle).detach().requires_grad_()
        loss = F.cross_entropy(model[4:](middle.clone()), labels, reduction="sum")
        grads.append(torch.autograd.grad(loss, middle)[0])
    for place, (image, query) in enumerate([(1, 0), (0, 1)]):
        cosines = F.cosine_similarity(grads[0][image], grads[1][query], dim=0)
        expected = F.interpolate(cosines[None, None], size=(12, 12), mode="bilinear")[0]
        torch.testing.assert_close(found.values[place], expected)
    assert not found.undefined.any()


def test_an_image_agrees_with_itself(network: Network, examples: Examples) -> None:
    model, (x, y) = network("vit"), examples("vit", 1)
    found = agreement_maps(GradientProducts(model), x, y, x, y, [(0, 0)], "conv_proj")
    torch.testing.assert_close(found.values, torch.ones(1, 1, 16, 16).double())


def test_tokens_of_a_vision_transformer_are_locations(network: Network, examples: Examples) -> None:
    model, (x, y) = network("vit"), examples("vit", 2)
    products = GradientProducts(model)
    layer = "encoder.layers.encoder_layer_0.ln_2"
    found = layer_maps(
        products, x, y, products.directions(x, y), [(0, 1)], layer, copies=2, sigma=0.1, seeds=[1]
    )
    assert found.values.shape == (1, 1, 16, 16)
    assert found.values.abs().max() > 0
    tokens = torch.arange(2 * 5 * 3).view(2, 5, 3)
    grid = located(tokens)
    assert grid.shape == (2, 3, 2, 2)
    assert torch.equal(grid[0, :, 0, 1], tokens[0, 2])


@pytest.mark.parametrize(
    ("layer", "message"), [("99", "no module '99'"), ("14", "has no locations")]
)
def test_layers_without_maps(
    network: Network, examples: Examples, layer: str, message: str
) -> None:
    model, (x, y) = network("cnn"), examples("cnn", 1)
    products = GradientProducts(model)
    with pytest.raises(MethodError, match=message):
        layer_maps(products, x, y, products.directions(x, y), [(0, 0)], layer)
