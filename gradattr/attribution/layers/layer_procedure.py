"""What the methods that look at one layer have in common: which layer that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from gradattr.attribution.block import Block
from gradattr.attribution.layers.spatial_layers import (
    SeenLayer,
    choose_layer,
    named_layer,
    probe,
    survey,
)
from gradattr.attribution.procedure import Procedure
from gradattr.errors import MethodError


@dataclass(frozen=True)
class LayerProcedure(Procedure):
    """A method that looks at one layer with locations: the module called ``layer``, or the one
    found by ``choose_layer``, the same for all samples."""

    layer: str | None = None
    needs_gradient: ClassVar[bool] = True

    def seen(self, block: Block) -> SeenLayer:
        """The layer. Raises MethodError where ``obstacle`` has a reason."""
        network = block.evaluator.network
        return self._choose(network, _layers(network, block.x))

    def obstacle(self, network: nn.Module, x: Tensor) -> str | None:
        try:
            self._choose(network, _layers(network, x))
        except MethodError as reason:
            return str(reason)
        return None

    def chosen(self, network: nn.Module, x: Tensor) -> str | None:
        if self.layer is not None:
            return None
        return f"layer '{self._choose(network, _layers(network, x)).name}'"

    def _choose(self, network: nn.Module, layers: list[SeenLayer]) -> SeenLayer:
        if self.layer is None:
            return choose_layer(layers)
        return named_layer(network, layers, self.layer, gradients=self.needs_gradient)


#: What was seen of a network, as long as it lives and has the same modules.
_SEEN: WeakKeyDictionary[nn.Module, tuple[object, list[SeenLayer]]] = WeakKeyDictionary()


def _layers(network: nn.Module, x: Tensor) -> list[SeenLayer]:
    if x.dim() != 4:
        raise MethodError(
            f"inputs of shape {tuple(x.shape[1:])} were given; a map of a layer needs images "
            "(channels, height, width)"
        )
    asked = (x.shape[1:], x.dtype, x.device, tuple(map(id, network.modules())))
    known = _SEEN.get(network)
    if known is None or known[0] != asked:
        known = _SEEN[network] = (asked, survey(network, probe(x)))
    return known[1]
