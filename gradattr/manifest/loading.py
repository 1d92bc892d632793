"""From a file to a checked manifest: read, override, look for secrets, validate, explain.

::

    text --read_tree--> nodes --apply_overrides--> nodes --find_secrets, KINDS--> Manifest

Every fault is reported at once, each with ``file:line:column``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ValidationError

from gradattr.errors import ManifestError
from gradattr.manifest.audit import AuditManifest
from gradattr.manifest.audit_nodes import checks_of_no_job, told_once, with_shared_keys
from gradattr.manifest.data import AnyData, DataFile
from gradattr.manifest.diagnostics import explain, report, show
from gradattr.manifest.hints import nearest
from gradattr.manifest.kinds import KINDS, Manifest
from gradattr.manifest.nodes import Fault, MappingNode, Node, Place, ScalarNode, plain
from gradattr.manifest.overrides import apply_overrides
from gradattr.manifest.patching import PatchingManifest
from gradattr.manifest.secrets import find_secrets, redact
from gradattr.manifest.shapes import listing, quoted
from gradattr.manifest.train import TrainManifest
from gradattr.manifest.yaml_source import MAX_BYTES, YamlFaults, decode, read_tree

M = TypeVar("M", bound=BaseModel)

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


def load_manifest(
    source: str | Path,
    *,
    overrides: Sequence[str] = (),
    read: Callable[[str], bytes] | None = None,
) -> Manifest:
    """Read and check one manifest.

    ``source`` is a local path or a ``file://`` URL; with ``read`` (bytes of a URL, given by a floor
    that may open stores) any other URL too. ``overrides`` are ``key.path=value`` texts.

    Raises ManifestError (exit code 2) that lists every fault.
    """
    name, text = _open(source, read)
    return parse_manifest(text, file=name, overrides=overrides)


def load_data(
    source: str | Path,
    *,
    overrides: Sequence[str] = (),
    read: Callable[[str], bytes] | None = None,
) -> AnyData:
    """The ``data:`` part of a manifest, or of a file that holds nothing else.

    Raises ManifestError as ``load_manifest`` does.
    """
    name, text = _open(source, read)
    data: AnyData = _parse(text, name, overrides, _validate_data)
    return data


def parse_manifest(
    text: str | bytes, *, file: str = "manifest.yaml", overrides: Sequence[str] = ()
) -> Manifest:
    """Check the text of a manifest; ``file`` is its name in messages.

    Raises ManifestError (exit code 2) that lists every fault, at most 20, one per line:
    ``file:line:column: key.path: what was given, what was expected, what was probably meant``.
    No message repeats a secret.
    """
    manifest: Manifest = _parse(text, file, overrides, _validate)
    return manifest


def resolved(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON values with every default filled in; ``${NAME}`` stays as it is."""
    return manifest.model_dump(mode="json")


def _open(source: str | Path, read: Callable[[str], bytes] | None) -> tuple[str, bytes]:
    """The source's name in messages, and its bytes."""
    name = str(source)
    match = _SCHEME.match(name)
    if match and match.group(1).lower() != "file":
        if read is None:
            raise ManifestError(f"{name}: only local files can be read here; download it first")
        return name, read(name)
    return name, _read_file(Path(unquote(urlsplit(name).path)) if match else Path(source))


def _parse(
    text: str | bytes,
    file: str,
    overrides: Sequence[str],
    validate: Callable[[MappingNode], tuple[Any, list[Fault]]],
) -> Any:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    decoded = decode(data, file)
    hidden: list[str] = []
    try:
        root, faults = read_tree(decoded, file)
        mapping = _mapping(root)
        option_faults, option_secrets = apply_overrides(mapping, overrides)
        secret_faults, hidden = find_secrets(mapping, decoded, file)
        hidden += option_secrets
        faults = [*faults, *option_faults, *secret_faults]
        found, more = validate(mapping)
    except YamlFaults as error:
        hidden += find_secrets(MappingNode(Place(file)), decoded, file)[1]
        raise ManifestError(redact(str(report(error.faults)), hidden)) from None
    taken = {(fault.place, fault.path) for fault in faults}
    faults += [fault for fault in more if (fault.place, fault.path) not in taken]
    if faults:
        raise ManifestError(redact(str(report(faults)), hidden))
    assert found is not None
    return found


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ManifestError(f"{path}: there is no such file{_near_file(path)}") from None
    except IsADirectoryError:
        raise ManifestError(f"{path}: this is a folder; name the manifest in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise ManifestError(f"{path}: cannot be read: {reason}") from None


def _near_file(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):
        return ""
    meant = nearest(path.name, names)
    return f"; did you mean '{path.with_name(meant)}'?" if meant else ""


def _mapping(root: Node) -> MappingNode:
    if isinstance(root, MappingNode):
        return root
    message = f"a manifest is a mapping with 'kind', 'name', 'data' ..., but this is {show(root)}"
    raise YamlFaults([Fault(root.place, (), message)])


def _validate(root: MappingNode) -> tuple[Manifest | None, list[Fault]]:
    kind = root.values.get("kind")
    words = listing(quoted(KINDS))
    if kind is None:
        meant = nearest("kind", root.values)
        hint = f"; is '{meant}' meant to be it?" if meant else ""
        message = f"the required key 'kind' is missing: {words}{hint}"
        return None, [Fault(root.place, (), message)]
    model = KINDS.get(kind.text) if isinstance(kind, ScalarNode) else None
    if model is None:
        meant = nearest(kind.text, KINDS) if isinstance(kind, ScalarNode) else None
        hint = f"; did you mean '{meant}'?" if meant else ""
        return None, [Fault(kind.place, ("kind",), f"{show(kind)} is not one of {words}{hint}")]
    if model is AuditManifest:
        root, strange = checks_of_no_job(root)
        manifest, faults = _checked(model, root)
        return manifest, [*strange, *faults]
    return _checked(model, root)


def _validate_data(root: MappingNode) -> tuple[AnyData | None, list[Fault]]:
    """A manifest of any kind, or a mapping with nothing but 'data'."""
    if "kind" in root.values:
        manifest, faults = _validate(root)
        if isinstance(manifest, PatchingManifest):
            message = "kind 'patching' has prompts, not images"
            return None, [Fault(root.values["data"].place, ("data",), message)]
        if isinstance(manifest, TrainManifest | AuditManifest):
            message = f"kind '{manifest.kind}' has no 'data' of its own"
            return None, [Fault(root.place, ("data",), message)]
        return (None if manifest is None else manifest.data), faults
    file, faults = _checked(DataFile, root)
    return (None if file is None else file.data), faults


def _checked(model: type[M], root: MappingNode) -> tuple[M | None, list[Fault]]:
    try:
        return model.model_validate(plain(root)), []
    except ValidationError as error:
        found = error
    # Outside of the handler: pydantic's text repeats values, so it is no error's context.
    if issubclass(model, AuditManifest):
        whole, moved = with_shared_keys(root)
        return None, told_once(explain(found, model, whole), moved)
    return None, explain(found, model, root)


__all__ = ["load_data", "load_manifest", "parse_manifest", "resolved"]
