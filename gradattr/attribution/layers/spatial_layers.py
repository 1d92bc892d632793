"""Layers with locations: which there are, which one to look at.

An activation has locations if it is a feature map (n, c, h, w), channels last or first, or the
tokens of a vision transformer: a square grid of them, with or without a class token in front.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.errors import MethodError

#: Act on the dimension behind the batch: what they return has its channels there.
_ON_THE_FIRST = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.MaxPool2d)
#: Bring a feature map into the shape that a classifier expects, and see nothing new.
_SHAPING = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class SeenLayer:
    """What became of a module in a forward pass and the backward pass after it."""

    name: str
    calls: int
    shape: tuple[int, ...] | None
    """Of the last output; None if it was not one tensor."""
    channels_last: bool
    """Of a feature map: (n, h, w, c)."""
    reached: bool
    """A gradient arrives."""
    alive: bool
    """It can be other than zero at some location."""
    learned: bool
    """Something with weights has worked on it."""
    shaping: bool

    @property
    def locations(self) -> tuple[int, int] | None:
        """(h, w); None if there are none, or a single one."""
        if self.shape is None:
            return None
        try:
            found = located(torch.empty(self.shape, device="meta"), self.channels_last).shape[-2:]
        except MethodError:
            return None
        return (found[0], found[1]) if found.numel() > 1 else None


def probe(x: Tensor) -> Tensor:
    """An image of noise (1, ...) like x (n, ...), the same for all x: a layer is chosen by it."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, *x.shape[1:], generator=generator, dtype=torch.float64).to(x)


def survey(network: nn.Module, x: Tensor) -> list[SeenLayer]:
    """The modules of a network in the order in which they return, x (n, ...) being a few inputs.

    A forward and a backward pass. ``network`` is left as it was.
    """
    order: list[str] = []
    outputs: dict[str, Any] = {}
    calls: dict[str, int] = {}

    def note(name: str) -> Callable[[nn.Module, object, Any], Any]:
        def hook(_module: nn.Module, _args: object, output: Any) -> Any:
            if name in calls:
                order.remove(name)
            order.append(name)
            calls[name] = calls.get(name, 0) + 1
            outputs[name] = output
            # What is done in place later on is done to another tensor.
            return output.clone() if isinstance(output, Tensor) else None

        return hook

    modules = {name: module for name, module in network.named_modules() if name}
    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    try:
        with torch.enable_grad():
            logits = network(x.detach().clone().requires_grad_(True))
    finally:
        for handle in handles:
            handle.remove()
    tensors = {name: one for name, one in outputs.items() if isinstance(one, Tensor)}
    slopes = _slopes(logits, {name: one for name, one in tensors.items() if one.requires_grad})
    layouts: dict[tuple[int, ...], bool] = {}
    learned = False
    seen = []
    for name in order:
        module = modules[name]
        shape = tuple(tensors[name].shape) if name in tensors else None
        if shape is not None and (layout := _channels_last(module, shape)) is not None:
            layouts[shape] = layout
        channels_last = shape is not None and layouts.get(shape, False)
        learned = learned or any(p.dim() > 1 for p in module.parameters())
        slope = slopes.get(name)
        # A layer that keeps the shape of the input, before any weights, prepares the input.
        seen.append(
            SeenLayer(
                name,
                calls[name],
                shape,
                channels_last,
                slope is not None,
                slope is not None and _alive(slope, channels_last),
                learned or shape != tuple(x.shape),
                isinstance(module, _SHAPING),
            )
        )
    return seen


def choose_layer(seen: Sequence[SeenLayer]) -> SeenLayer:
    """The last layer on the way to the output that has locations, and gradients there.

    In a convolutional network that is the last feature map, in a vision transformer that reads its
    class token the layer norm in front of the last attention: behind it, patches get no gradient.

    Raises MethodError, the end of a sentence on the model, if there is none.
    """
    fitting = [
        one
        for one in seen
        if one.locations and one.calls == 1 and one.alive and one.learned and not one.shaping
    ]
    if not fitting:
        spatial = [one.name for one in seen if one.locations and one.learned and not one.shaping]
        if spatial:
            raise MethodError(
                f"no layer with locations is called once and gets a gradient at the locations "
                f"({_some(spatial)}); name a module to look at"
            )
        raise MethodError(
            "it has no spatial layer: no module returns a feature map (n, c, h, w) or a square "
            "grid of tokens with more than one location"
        )
    chosen = fitting[-1]
    behind = seen[seen.index(chosen) + 1 :]
    tokens = [one for one in behind if one.shape and len(one.shape) == 3 and one.reached]
    if len(chosen.shape or ()) == 4 and tokens:
        raise MethodError(
            f"behind '{chosen.name}', its last feature map, it works on tokens "
            f"{tokens[-1].shape[1:] if tokens[-1].shape else ()} that form no square grid; name a "
            "layer to look at"
        )
    return chosen


def named_layer(
    network: nn.Module, seen: Sequence[SeenLayer], layer: str, *, gradients: bool = True
) -> SeenLayer:
    """The layer called ``layer``; ``gradients``: they are asked for, too.

    Raises MethodError, the end of a sentence on the model, if one cannot look at it.
    """
    names = [name for name, _ in network.named_modules(remove_duplicate=False) if name]
    if layer not in names:
        near = difflib.get_close_matches(layer, names, n=3)
        hint = f"did you mean {_some(near)}?" if near else f"it has {_some(names[:8])}, ..."
        raise MethodError(f"it has no module '{layer}'; {hint}")
    module = network.get_submodule(layer)
    own = next((one for one in seen if network.get_submodule(one.name) is module), None)
    if own is None:
        raise MethodError(f"'{layer}' is not called in a forward pass")
    if own.calls > 1:
        raise MethodError(
            f"'{layer}' is called {own.calls} times in a forward pass, not once; name the module "
            "around one of the calls"
        )
    if own.shape is None:
        raise MethodError(f"'{layer}' returns something else than one tensor")
    if own.locations is None:
        raise MethodError(
            f"'{layer}' returns {own.shape[1:]} per image, which has no locations; a layer with "
            "feature maps or a square grid of tokens is needed"
        )
    if not gradients:
        return own
    if not own.reached:
        raise MethodError(f"'{layer}' is not on the way to the output: it gets no gradient")
    if not own.alive:
        raise MethodError(
            f"the gradient at every location of '{layer}' is zero: what is behind it does not look "
            "there (as behind the last attention, where only the class token is read)"
        )
    return own


def find_spatial_layer(network: nn.Module, x: Tensor) -> str:
    """The name of the layer that Grad-CAM and its like look at, found by inputs x (n, c, H, W).

    See ``choose_layer``. Raises MethodError if there is none.
    """
    return choose_layer(survey(network, x)).name


def located(values: Tensor, channels_last: bool = False) -> Tensor:
    """Channels at locations (n, c, h, w), of a feature map or of the tokens (n, 1 + h h, c) or
    (n, h h, c) of a vision transformer; a class token is left out. ``channels_last``: a feature map
    is (n, h, w, c).

    Raises MethodError for anything else.
    """
    if values.dim() == 4:
        return values.permute(0, 3, 1, 2) if channels_last else values
    if values.dim() == 3:
        for extra in (0, 1):
            side = math.isqrt(values.shape[1] - extra)
            if side > 1 and side * side == values.shape[1] - extra:
                return torch.unflatten(values[:, extra:].transpose(1, 2), 2, (side, side))
    raise MethodError(
        f"an activation of shape {tuple(values.shape[1:])} per image has no locations; choose a "
        "layer with feature maps (channels, height, width) or a square grid of tokens"
    )


def upsampled(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(n, 1, h, w) -> (n, 1, *size), bilinearly."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def spread(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(n, 1, h, w) -> (n, 1, *size), bilinearly, with the sum that ``maps`` has.

    What a location has is shared out in proportion to its bilinear weights in the pixels: where
    the sides are multiples of h and w, that is ``upsampled`` divided by the pixels per location.
    """
    rows, columns = (
        _shares(count, pixels, maps) for count, pixels in zip(maps.shape[-2:], size, strict=True)
    )
    return rows @ maps @ columns.T


def _shares(count: int, pixels: int, like: Tensor) -> Tensor:
    """(pixels, count): how each location along a side is shared out; columns add up to 1."""
    step = count / pixels
    place = (torch.arange(pixels, dtype=torch.float64) + 0.5) * step - 0.5
    away = place.clamp(0, count - 1)[:, None] - torch.arange(count)
    # Fewer pixels than locations: each sees as far as its neighbours.
    weights = (1 - away.abs() / max(1.0, step)).clamp(min=0)
    return (weights / weights.sum(0)).to(like)


def _slopes(logits: Tensor, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a gradient of "not a number" at the logits becomes on its way: it stays one wherever a
    gradient could go, also behind weights that are zero as yet, and is 0 where none can."""
    if not logits.requires_grad or not outputs:
        return {}
    seed = torch.full_like(logits, torch.nan)
    with torch.autograd.set_detect_anomaly(False):
        found = torch.autograd.grad(logits, list(outputs.values()), seed, allow_unused=True)
    return {name: g for name, g in zip(outputs, found, strict=True) if g is not None}


def _channels_last(module: nn.Module, shape: tuple[int, ...]) -> bool | None:
    """Whether what this module returns has its channels in the last dimension; None: it is not
    known of such modules."""
    if isinstance(module, _ON_THE_FIRST):
        return False
    if type(module) is nn.Linear:
        return True
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1 and len(shape) == 4:
        # Subclasses bring the channels to the end and back.
        (channels,) = module.normalized_shape
        if shape[1] != shape[3]:
            return shape[3] == channels
        return type(module) is nn.LayerNorm
    return None


def _alive(slope: Tensor, channels_last: bool) -> bool:
    try:
        return bool((located(slope, channels_last) != 0).any())
    except MethodError:
        return bool((slope != 0).any())


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:8])
