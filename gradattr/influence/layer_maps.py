"""TFA maps of an activation: coarse, and of what the network has made of the training image.

Two readings of "the same at layer l", with A_l the layer's output:

    gradient   d S / d A_l(x_i), S as for pixels: what is upstream of the layer is held fixed
    agreement  at each location, the cosine over channels between the gradients of the losses of
               training image and query in A_l

The first is averaged over channels; both are upsampled bilinearly to the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from gradattr.attribution.layers.spatial_layers import located, upsampled
from gradattr.errors import MethodError
from gradattr.influence.differentiable import Direction, Tape
from gradattr.influence.directions import Directions, query_loss
from gradattr.influence.maps import Maps, NoisyCopies, Score, blocks, check_request, slopes
from gradattr.influence.products import GradientProducts
from gradattr.influence.wiring import Wiring, laid_out, wire


def layer_maps(
    products: GradientProducts,
    x: Tensor,
    y: Tensor,
    directions: Directions,
    pairs: Sequence[tuple[int, int]],
    layer: str,
    *,
    score: Score = "cos",
    copies: int = 1,
    sigma: float | Tensor = 0.0,
    seeds: Sequence[int] | None = None,
    batch_size: int | None = None,
    mixed: bool = False,
) -> Maps:
    """d S / d A_l for the module named ``layer``: maps (p, 1, H, W) of the size of the images.

    Everything else as for ``tfa_maps``. Raises MethodError for a layer that does not exist, is
    called more than once, has no locations, or for parameters that only the fallback covers.
    """
    check_request(x, directions, pairs, score, copies, seeds)
    values = torch.zeros(len(pairs), 1, *x.shape[-2:], dtype=x.dtype, device=x.device)
    scores, flags = x.new_zeros(len(pairs)), torch.zeros(len(pairs), dtype=torch.bool)
    if not pairs:
        return Maps(values, scores, flags)
    wiring = _unfolded(products, x, y, layer)
    middle = wiring.model.get_submodule(layer)
    size = batch_size or max(1, (products.batch_size or 1) // 2)
    for block in blocks(pairs, seeds):
        prepared = [Direction.of(wiring, directions, query) for query in block.queries]
        for rows in block.batches(copies, size):
            images = NoisyCopies(copies, sigma).of(x, rows)
            labels = y[[row.image for row in rows]]
            tape = Tape.record(wiring, images, labels, products.loss, middle, mixed=mixed)
            for query, found in zip(block.queries, slopes(tape, prepared, score), strict=True):
                grids = upsampled(located(found.slopes).mean(1, keepdim=True), x.shape[-2:])
                for number, row in enumerate(rows):
                    for place in block.places[row.image, row.seed, query]:
                        values[place] += grids[number] / copies
                        scores[place] += found.scores[number] / copies
                        flags[place] |= bool(found.undefined[number])
    return Maps(values, scores, flags)


def agreement_maps(
    products: GradientProducts,
    x: Tensor,
    y: Tensor,
    query_x: Tensor,
    query_y: Tensor,
    pairs: Sequence[tuple[int, int]],
    layer: str,
    *,
    target: str = "loss_true",
) -> Maps:
    """Per location the cosine over channels of the two activation gradients: (p, 1, H, W).

    ``pairs`` are (row of x, row of query_x). ``scores`` is the mean over locations; locations where
    a gradient is zero have cosine 0, and a map without any other is flagged.
    """
    if not pairs:
        return Maps(x.new_zeros(0, 1, *x.shape[-2:]), x.new_zeros(0), torch.zeros(0).bool())
    train = _activation_gradients(products, x, y, layer, "loss_true")
    query = _activation_gradients(products, query_x, query_y, layer, target)
    first = train[[image for image, _ in pairs]]
    second = query[[number for _, number in pairs]]
    lengths = first.norm(dim=1) * second.norm(dim=1)
    cosines = (first * second).sum(1) / lengths.masked_fill(lengths == 0, 1.0)
    return Maps(
        upsampled(cosines[:, None], x.shape[-2:]),
        cosines.mean((1, 2)),
        (lengths == 0).all(2).all(1),
    )


def _unfolded(products: GradientProducts, x: Tensor, y: Tensor, layer: str) -> Wiring:
    """Modules keep their outputs: nothing is folded, attention stays a module."""
    plan = products.wiring(x, y).plan
    _module(products.model, layer)
    wiring = wire(products.model, products.names, replace(plan, folding=False))
    if wiring.fallback is not None:
        raise MethodError(
            "maps of a layer need every parameter covered by a rule; these are not: "
            f"{wiring.fallback.names[:5]}. Restrict the parameters, or map pixels"
        )
    if layer not in dict(wiring.model.named_modules()):
        raise MethodError(f"'{layer}' lies inside an attention module; choose the module itself")
    return wiring


def _activation_gradients(
    products: GradientProducts, x: Tensor, y: Tensor, layer: str, target: str
) -> Tensor:
    """d loss / d A_l: (n, c, h, w)."""
    loss = query_loss(target, products.loss)
    model = products.model
    middle = _module(model, layer)
    products.wiring(x, y)
    size = products.batch_size or 1
    parts = []
    for first in range(0, len(x), size):
        kept: list[Tensor] = []

        def note(
            _module: nn.Module, _args: object, output: Tensor, kept: list[Tensor] = kept
        ) -> Tensor:
            kept.append(output.detach().requires_grad_())
            return kept[-1].clone()

        handle = middle.register_forward_hook(note)
        try:
            with torch.enable_grad():
                values = loss(
                    model(laid_out(model, x[first : first + size])), y[first : first + size]
                )
        finally:
            handle.remove()
        if len(kept) != 1:
            raise MethodError(f"'{layer}' is called {len(kept)} times in a forward pass, not once")
        (grads,) = torch.autograd.grad(values.sum(), kept[0])
        parts.append(located(grads))
    return torch.cat(parts)


def _module(model: nn.Module, layer: str) -> nn.Module:
    modules = dict(model.named_modules())
    if layer not in modules or not layer:
        some = ", ".join([name for name in modules if name][:8])
        raise MethodError(f"the model has no module '{layer}'; it has {some}, ...")
    return modules[layer]
