"""What two runs were asked: nobody should compare apples with pears without knowing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Where results stand and what is asked of them afterwards: no part of what was computed.
_NOT_ASKED = ("name", "kind", "version", "checks")
#: Keys by which an entry of a list is called, the first that it has.
_LABELS = ("id", "name", "metric", "score", "map", "baseline")
_ABSENT = "-"


@dataclass(frozen=True)
class Asked:
    """A key of the manifest that differs."""

    key: str
    a: Any
    """None: the key is null, or not there."""
    b: Any


def asked_differently(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Asked]:
    """Keys of two manifests (JSON) that differ, 'methods[uni].steps' with both values; of a part
    that only one has, its name and what it is called."""
    flat = [dict(_flat({k: v for k, v in one.items() if k not in _NOT_ASKED})) for one in (a, b)]
    keys = list(dict.fromkeys([*flat[0], *flat[1]]))
    found = [Asked(key, flat[0].get(key), flat[1].get(key)) for key in keys]
    found = [one for one in found if one.a != one.b]
    return _without_details(found, flat)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _flat(part, f"{path}.{key}" if path else str(key))
        return
    labels = _labels(value) if isinstance(value, list) else None
    if labels is None:
        yield path, value
        return
    for label, part in zip(labels, value, strict=True):
        inner = f"{path}[{label}]"
        # That it is there at all: so that an entry of one run alone is one line.
        yield inner, "present"
        yield from _flat(part, inner)


def _labels(entries: list[Any]) -> list[str] | None:
    """What the entries of a list of mappings are called; None where that is not clear."""
    if not entries or not all(isinstance(entry, Mapping) for entry in entries):
        return None
    labels = [
        str(next((entry[key] for key in _LABELS if entry.get(key) is not None), ""))
        for entry in entries
    ]
    return labels if all(labels) and len(set(labels)) == len(labels) else None


def _without_details(found: list[Asked], flat: list[dict[str, Any]]) -> list[Asked]:
    """Without the parameters of entries that one run has alone."""
    alone = [one.key for one in found if "present" in (one.a, one.b) and one.key.endswith("]")]
    return [
        one
        for one in found
        if one.key in alone or not any(one.key.startswith(key) for key in alone)
    ]


def digests_differ(a: Mapping[str, Any], b: Mapping[str, Any], part: str) -> bool:
    """Whether the parts 'data' or 'models' of the inputs of two runs have other digests."""
    return _digests(a.get(part)) != _digests(b.get(part))


def _digests(part: Any) -> Any:
    """The digests in a part, without formats and counts, which follow from them."""
    if not isinstance(part, Mapping):
        return part
    if "digest" in part:
        return part["digest"]
    return {key: _digests(value) for key, value in part.items()}


def in_words(a: Mapping[str, Any], b: Mapping[str, Any], asked: list[Asked]) -> str:
    """A paragraph: whether data and models are the same, and how much was asked differently.
    ``a``, ``b``: the inputs of the runs."""
    data, models = (digests_differ(a, b, part) for part in ("data", "models"))
    if not (data or models or asked):
        return "Both runs are of the same model and the same data, and were asked the same."
    parts = []
    if models:
        parts.append("THE MODELS DIFFER.")
    if data:
        parts.append(
            "THE DATA DIFFER: what both have is paired by sample id, without a look at whether an "
            "id means the same in both."
        )
    if not parts:
        parts.append("Both runs are of the same model and the same data.")
    elif len(parts) == 1:
        parts.append("The data are the same." if models else "The models are the same.")
    if asked:
        differ = (
            "key of the manifests differs" if len(asked) == 1 else "keys of the manifests differ"
        )
        parts.append(f"{len(asked)} {differ}:")
    return " ".join(parts)


def shown(value: Any) -> str:
    """A value of a manifest, short."""
    if value is None:
        return _ABSENT
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
