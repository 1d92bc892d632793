"""From the place pydantic names in a model to the place a person wrote in the file.

pydantic's ``loc`` counts the tag of a discriminated union and the arm of a plain union as steps;
the file has neither. And where a short form was written (``data: idx``), the file has less than the
model. Walking the models and the tree of nodes side by side tells these cases apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import BaseModel

from gradattr.manifest.nodes import MappingNode, Node, Path, Place, ScalarNode, SequenceNode
from gradattr.manifest.shapes import Either, ListOf, MapOf, Model, Shape, Tagged


@dataclass(frozen=True)
class Spot:
    """Where an error is, in the file's terms."""

    path: Path
    node: Node
    place: Place
    shape: Shape
    """What is expected at ``path``."""
    owner: Model | None = None
    """The model whose field the last step names."""
    union: Tagged | None = None
    """The discriminated union that ``owner`` is an arm of, if it is one."""
    tag: str = ""
    """Which arm."""
    missing: str | None = None
    """A key that the file does not have at ``path``."""
    holder: MappingNode | None = None
    """The mapping of names to values whose name is the last step, if it is one."""
    names: Shape | None = None
    """What a name of ``holder`` must look like."""
    other_arm: bool = False
    """The error is about an arm of a union that the written value does not attempt."""


def locate(model: type[BaseModel], root: Node, loc: tuple[str | int, ...]) -> Spot:
    """Follow ``loc`` through the models and the file as far as the file goes."""
    spot = Spot((), root, root.place, Model(model))
    for step in loc:
        following = _step(spot, step)
        if following is None:
            break
        spot = following
        if spot.other_arm or spot.missing is not None:
            break
    return spot


def _step(spot: Spot, step: str | int) -> Spot | None:
    """One step further, or None where the file goes no deeper."""
    shape, node = spot.shape, spot.node
    if step == "[key]" and spot.holder and spot.names:
        # pydantic's word for a name that is no name: the error is where the name stands.
        name = str(spot.path[-1])
        place = spot.holder.keys[name]
        return Spot(spot.path, ScalarNode(place, name, name), place, spot.names)
    if isinstance(shape, Tagged):
        arm = shape.arm(step)
        return replace(spot, shape=arm, union=shape, tag=str(step)) if arm else None
    if isinstance(shape, Either):
        attempted = _attempted(shape, node)
        if attempted is None:
            return None
        if not _names(str(step), attempted):
            return replace(spot, other_arm=True)
        return replace(spot, shape=attempted, union=None, tag="")
    if isinstance(shape, Model):
        return _field(spot, shape, str(step))
    if isinstance(shape, ListOf) and isinstance(node, SequenceNode) and isinstance(step, int):
        item = node.items[step]
        return Spot((*spot.path, step), item, item.place, shape.item)
    if isinstance(shape, MapOf) and isinstance(node, MappingNode) and step in node.values:
        value = node.values[str(step)]
        path = (*spot.path, str(step))
        return Spot(path, value, value.place, shape.value, holder=node, names=shape.key)
    return None


def _field(spot: Spot, owner: Model, key: str) -> Spot:
    node = spot.node
    # The arm of a union was chosen by the step just before; deeper models are no arms of it.
    union = spot.union if spot.union and spot.union.arm(spot.tag) == owner else None
    known = replace(spot, owner=owner, union=union, tag=spot.tag if union else "")
    if key not in owner.keys and isinstance(node, MappingNode):
        place = node.keys.get(key, node.place)
        return replace(known, path=(*spot.path, key), node=node.values.get(key, node), place=place)
    shape: Shape = owner.field(key) if key in owner.keys else owner
    if not isinstance(node, MappingNode) or key not in node.values:
        return replace(known, shape=shape, missing=key)
    value = node.values[key]
    return replace(known, path=(*spot.path, key), node=value, place=value.place, shape=shape)


def _attempted(shape: Either, node: Node) -> Shape | None:
    """The arm that a list or a mapping can only be meant for; None for a scalar."""
    if isinstance(node, ScalarNode):
        return None
    wanted = ListOf if isinstance(node, SequenceNode) else (Model, Tagged, MapOf)
    return next((arm for arm in shape.arms if isinstance(arm, wanted)), None)


def _names(label: str, arm: Shape) -> bool:
    """Whether pydantic's label of a union's arm means this arm."""
    if isinstance(arm, Model):
        return arm.cls.__name__ in label
    return label.startswith(("list[", "dict[")) or isinstance(arm, Tagged)
