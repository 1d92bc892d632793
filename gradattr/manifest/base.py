"""What every part of a manifest has in common: strictness, and the types used all over."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

#: Schemes a URL may have. A bare path counts as ``file``.
URL_SCHEMES = ("file", "s3", "gs", "az")

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


class Spec(BaseModel):
    """Base of all manifest parts: unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )


def _check_url(url: str) -> str:
    if "::" in url:
        raise ValueError("chained URLs ('::') are not allowed; give the file's own URL")
    if "\0" in url or "\n" in url:
        raise ValueError("a URL has no control characters")
    if "${" in url:
        raise ValueError("'${...}' is only allowed where a secret is due")
    match = _SCHEME.match(url)
    scheme = match.group(1).lower() if match else "file"
    if scheme not in URL_SCHEMES:
        allowed = ", ".join(f"{name}://" for name in URL_SCHEMES)
        raise ValueError(f"scheme '{scheme}' is not allowed; use a path or one of {allowed}")
    rest = url[match.end() :] if match else url
    if match and scheme != "file" and "@" in rest.split("/", 1)[0]:
        raise ValueError("credentials in a URL; use the environment or a profile")
    if ".." in re.split(r"[/\\]", rest):
        raise ValueError("'..' is not allowed; give an absolute path, or one below this folder")
    if not rest.strip("/") and scheme != "file":
        raise ValueError("the URL names no bucket")
    return url


# For editors: the rules of _check_url that a pattern can say (JSON Schema has look-ahead).
_URL_PATTERN = (
    r"^(?!.*(::|\$\{|[\x00\n]))(?!(.*[/\\])?\.\.([/\\]|$))"
    r"((file|FILE)://|(s3|S3|gs|GS|az|AZ)://(?!/*$)(?![^/]*@)|(?![A-Za-z][A-Za-z0-9+.\-]*://))"
)

Url = Annotated[
    str,
    Field(min_length=1, max_length=2048, json_schema_extra={"pattern": _URL_PATTERN}),
    AfterValidator(_check_url),
]
"""A path, or a file://, s3://, gs:// or az:// URL. No chains, no '..', no credentials."""

Slug = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
"""Lower-case letters, digits and inner hyphens, at most 40: it becomes part of paths."""

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$")]
"""A short label that becomes a value in tables: letters, digits, '_', '.', '+', '-'."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""64 lower-case hex digits."""

SecretRef = Annotated[str, Field(pattern=r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$")]
"""'${NAME}': the environment variable NAME, read where it is used and written nowhere."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
