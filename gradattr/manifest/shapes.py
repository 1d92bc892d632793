"""What may stand at a place of a manifest, read off the models, and in plain words.

pydantic's errors name the inner parts of types ("constrained-int", "function-after[...]"). These
shapes are the same types as a person thinks of them: a whole number above 0, one of these words, a
mapping with these keys.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Leaf:
    """One scalar value. ``words`` complete the sentence "... is not ..."."""

    words: str
    choices: tuple[str, ...] = ()
    """Texts that are allowed, where the allowed values can be listed."""
    numeric: bool = False
    whole: bool = False
    share: bool = False
    """A number from 0 to 1, which somebody may write in per cent."""
    text: bool = False


@dataclass(frozen=True)
class ListOf:
    item: Shape
    words: str


@dataclass(frozen=True)
class MapOf:
    value: Shape
    words: str
    key: Shape
    """What a name must look like."""


@dataclass(frozen=True)
class Model:
    """A mapping with the fields of one model."""

    cls: type[BaseModel]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(field.alias or name for name, field in self.cls.model_fields.items())

    @property
    def words(self) -> str:
        return f"a mapping with keys such as {listing(self.keys[:4], 'and')}"

    def field(self, key: str) -> Shape:
        return field_shape(self.cls, key)


@dataclass(frozen=True)
class Tagged:
    """A mapping whose ``key`` says which of the models it is."""

    key: str
    arms: tuple[tuple[str, Model], ...]

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(tag for tag, _ in self.arms)

    @property
    def words(self) -> str:
        return f"a mapping with the key '{self.key}' ({listing(quoted(self.tags))})"

    def arm(self, tag: object) -> Model | None:
        return next((model for name, model in self.arms if name == tag), None)


@dataclass(frozen=True)
class Either:
    """Any of several shapes."""

    arms: tuple[Shape, ...]

    @property
    def words(self) -> str:
        return listing([arm.words for arm in self.arms])


Shape = Leaf | ListOf | MapOf | Model | Tagged | Either

#: What a text must look like, for every pattern in the models (held by a test).
PATTERN_WORDS = {
    r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$": (
        "a name of at most 40 lower-case letters, digits and inner hyphens"
    ),
    r"^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$": (
        "a name of at most 30 lower-case letters, digits and inner hyphens"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$": (
        "a label of at most 64 letters, digits, '_', '.', '+' and '-'"
    ),
    r"^[0-9a-f]{64}$": "a sha256 digest of 64 lower-case hex digits",
    r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$": "the name of an environment variable as '${NAME}'",
    r"^[A-Za-z0-9_]+$": "a name of letters, digits and '_'",
    r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$": "a function as 'package.module:function'",
    r"^(auto|cpu|cuda(:\d+)?)$": "'auto', 'cpu', 'cuda' or 'cuda:<number>'",
    r"^(auto|local|inline|ray://[^\s]+|[\w.-]+:\d+)$": (
        "'auto', 'local', 'inline' or 'ray://host:port'"
    ),
    r"^(float16|float32|int8|none|pooled:[1-9][0-9]{0,3}|topk:[1-9][0-9]{0,6})$": (
        "'float16', 'float32', 'int8', 'pooled:<n>', 'topk:<k>' or 'none'"
    ),
    r"^(full|none|top:[1-9][0-9]{0,5}|above:[0-9]*\.?[0-9]+(e-?[0-9]+)?)$": (
        "'full', 'none', 'top:<k>' or 'above:<score>'"
    ),
    r"^run:[A-Za-z0-9._-]+$": "a run of this store as 'run:<run id>'",
    r"^(run|job):[A-Za-z0-9._-]+$": (
        "a run of this store as 'run:<run id>', or in an audit an earlier job as 'job:<name>'"
    ),
    r"^(last|run:[A-Za-z0-9._-]+)$": "'last' or a run of this store as 'run:<run id>'",
    r"^https?://[^\s@]+$": "an address such as 'https://host:port', without credentials",
}


def listing(words: Iterable[str], last: str = "or") -> str:
    """``a, b or c``."""
    found = list(words)
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} {last} {found[-1]}"


def quoted(words: Iterable[str]) -> list[str]:
    return [f"'{word}'" for word in words]


def named_field(cls: type[BaseModel], key: str) -> FieldInfo | None:
    """The field that is called ``key`` in a file: 'class' is no name in Python."""
    fields = cls.model_fields.items()
    return next((field for name, field in fields if key == (field.alias or name)), None)


@lru_cache(maxsize=1024)
def field_shape(cls: type[BaseModel], key: str) -> Shape:
    """The shape of one field of a model."""
    field = named_field(cls, key)
    assert field is not None
    metadata = list(field.metadata)
    if field.discriminator is not None:
        metadata.append(field)
    return shape_of(field.annotation, metadata)


def shape_of(annotation: Any, metadata: Iterable[Any] = ()) -> Shape:
    """The shape of a type with its ``Annotated`` metadata; ``None`` arms are left out."""
    metadata = list(metadata)
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        for part in more:
            metadata.extend([part, *part.metadata] if isinstance(part, FieldInfo) else [part])
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _union(get_args(annotation), metadata)
    if origin is Literal:
        return _literal(get_args(annotation))
    if origin is list:
        item = shape_of(get_args(annotation)[0])
        return ListOf(item, f"a list of {_plural(item)}")
    if origin is dict:
        value = shape_of(get_args(annotation)[1])
        named = {"arch": "models", "kind": "jobs"}
        values = named.get(value.key, "values") if isinstance(value, Tagged) else "plain values"
        return MapOf(value, f"a mapping of names to {values}", shape_of(get_args(annotation)[0]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Model(annotation)
    return _leaf(annotation, metadata)


def _union(arms: tuple[Any, ...], metadata: list[Any]) -> Shape:
    arms = tuple(arm for arm in arms if arm is not type(None))
    if len(arms) == 1:
        return shape_of(arms[0], metadata)
    tag = next((str(part.discriminator) for part in metadata if _is_discriminated(part)), None)
    if tag is None:
        return Either(tuple(shape_of(arm) for arm in arms))
    models = [
        (str(name), Model(arm))
        for arm in arms
        for name in get_args(arm.model_fields[tag].annotation)
    ]
    return Tagged(tag, tuple(models))


def _is_discriminated(part: Any) -> bool:
    return isinstance(part, FieldInfo) and part.discriminator is not None


def _literal(values: tuple[Any, ...]) -> Leaf:
    shown = [_as_yaml(value) for value in values]
    texts = tuple(value for value in values if isinstance(value, str))
    words = f"one of {listing(shown)}" if len(shown) > 1 else shown[0]
    if len(shown) == 1 and not texts and not isinstance(values[0], bool):
        words += ", the only value"
    numeric = not texts and not isinstance(values[0], bool)
    return Leaf(words, choices=texts, numeric=numeric, whole=numeric, text=bool(texts))


def _as_yaml(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _leaf(annotation: Any, metadata: list[Any]) -> Leaf:
    if annotation is bool:
        return Leaf("true or false")
    if annotation is int:
        return Leaf(_bounded("a whole number", metadata), numeric=True, whole=True)
    if annotation is float:
        words = _bounded("a number", metadata)
        return Leaf(words, numeric=True, share=words.endswith("of at most 1"))
    pattern = next((p for p in (getattr(m, "pattern", None) for m in metadata) if p), None)
    return Leaf(PATTERN_WORDS.get(str(pattern), "text") if pattern else "text", text=True)


def _bounded(words: str, metadata: list[Any]) -> str:
    bounds = {
        name: getattr(part, name)
        for part in metadata
        for name in ("gt", "ge", "lt", "le")
        if getattr(part, name, None) is not None
    }
    parts = []
    if "gt" in bounds:
        parts.append(f"above {bounds['gt']}")
    if "ge" in bounds:
        parts.append(f"of at least {bounds['ge']}")
    if "lt" in bounds:
        parts.append(f"below {bounds['lt']}")
    if "le" in bounds:
        parts.append(f"of at most {bounds['le']}")
    return f"{words} {' and '.join(parts)}" if parts else words


def _plural(item: Shape) -> str:
    if isinstance(item, Leaf) and item.choices:
        return f"any of {listing(quoted(item.choices), 'and')}"
    if isinstance(item, Leaf):
        return "numbers" if item.numeric else "texts"
    return "mappings" if isinstance(item, Model | Tagged | MapOf) else "values"
