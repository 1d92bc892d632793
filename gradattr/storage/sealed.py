"""JSON that carries the digest of itself: truncation and editing are noticed by every reader."""

from __future__ import annotations

import json
from typing import Any

from gradattr.canonical import canonical_json, digest_json

_SEAL = "digest"


def seal(value: dict[str, Any]) -> bytes:
    """Canonical JSON with one more key, ``digest``: the sha256 of the rest. Ends with a newline."""
    body = {key: item for key, item in value.items() if key != _SEAL}
    return canonical_json(body | {_SEAL: digest_json(body)}) + b"\n"


def unseal(data: bytes, expected_format: str) -> dict[str, Any]:
    """The value without its digest. ValueError says what is wrong with the bytes."""
    try:
        value = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON, so it is cut short or damaged ({error})") from None
    if not isinstance(value, dict) or value.get("format") != expected_format:
        raise ValueError(f"is not of the format {expected_format!r}")
    stated = value.pop(_SEAL, None)
    if stated != digest_json(value):
        raise ValueError("has another content than its digest says, so it was edited or damaged")
    return value
