"""The JSON Schema of manifests, for editors: completion, hover text, and squiggles as you type.

It is generated from the models, with what they accept beyond their fields: the short forms
(``data: digits``), and the rule that a model has either weights or a ``train`` block. Rules across
other keys (unique method ids, as many means as deviations ...) are left to ``gradattr validate``.
Unions are written as if/then on their tag, because editors then show the errors of one arm only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from typing import Any

from pydantic import TypeAdapter

from gradattr.manifest.audit import AuditManifest, Common
from gradattr.manifest.check_base import DEMANDS
from gradattr.manifest.evaluate import STAND_INS
from gradattr.manifest.job_kinds import JOB_KINDS
from gradattr.manifest.kinds import KINDS, Manifest

DIALECT = "https://json-schema.org/draft/2020-12/schema"

JsonSchema = dict[str, Any]

#: Discriminator of each union -> its name in ``$defs``.
_UNIONS = {
    "format": "Data",
    "arch": "Model",
    "name": "Method",
    "kind": "Baseline",
    "score": "Score",
    "map": "Map",
    "baseline": "Start",
    "metric": "Metric",
    "check": "Check",
}

_JOB = "Job"

#: Tags that take the rest of a short form: ``torchvision:vgg16``; the key that it stands for.
_PREFIXED = {"Data": {"torchvision": "name"}, "Model": {"torchvision": "name", "python": "factory"}}


def manifest_schema() -> JsonSchema:
    """Return the schema (draft 2020-12) of every kind of manifest."""
    generated = TypeAdapter(Manifest).json_schema()
    definitions: JsonSchema = generated["$defs"]
    _name_jobs(definitions)
    unions: JsonSchema = {}
    for name, definition in definitions.items():
        definitions[name] = _name_unions(definition, definitions, unions)
    definitions.update(unions)
    _allow_store_url(definitions)
    _state_origin_of_weights(definitions)
    _need_train_block(definitions)
    _need_training_data(definitions)
    _bring_keys_of_a_run(definitions)
    _need_maps_to_test(definitions)
    _ask_something(definitions)
    _allow_no_other_names(definitions)
    _define_jobs(definitions)
    kinds = {kind: f"#/$defs/{model.__name__}" for kind, model in KINDS.items()}
    return {
        "$schema": DIALECT,
        "title": "gradattr manifest",
        "description": "What is asked of gradattr: one page of YAML.",
        **_by_tag("kind", kinds),
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """The schema as the text of a file."""
    return json.dumps(manifest_schema(), indent=2, ensure_ascii=False) + "\n"


def _by_tag(tag: str, arms: dict[str, str]) -> JsonSchema:
    """An object whose ``tag`` picks the schema that holds for it."""
    return {
        "type": "object",
        "required": [tag],
        "properties": {tag: {"enum": list(arms)}},
        "allOf": [
            {"if": {"properties": {tag: {"const": name}}, "required": [tag]}, "then": {"$ref": ref}}
            for name, ref in arms.items()
        ],
    }


def _name_unions(part: Any, definitions: JsonSchema, unions: JsonSchema) -> Any:
    """Replace every discriminated union below ``part`` by a reference to one definition."""
    if isinstance(part, list):
        return [_name_unions(item, definitions, unions) for item in part]
    if not isinstance(part, dict):
        return part
    if "discriminator" in part and "oneOf" in part:
        tag = part["discriminator"]["propertyName"]
        name = _UNIONS[tag]
        if name not in unions:
            unions[name] = _union(name, tag, part["discriminator"]["mapping"], definitions)
        kept = {key: part[key] for key in ("title", "description", "default") if key in part}
        return {"$ref": f"#/$defs/{name}", **kept}
    return {key: _name_unions(value, definitions, unions) for key, value in part.items()}


def _union(name: str, tag: str, arms: dict[str, str], definitions: JsonSchema) -> JsonSchema:
    chosen = _by_tag(tag, arms)
    prefixed = _PREFIXED.get(name, {})
    if name == "Model":
        for prefix, key in prefixed.items():
            _allow_prefix(chosen, tag, prefix, key, arms[prefix], definitions)
        return {"title": name, **chosen}
    if name == "Check":  # a word alone asks nothing
        return {"title": name, **chosen}
    bare = [word for word, ref in arms.items() if _required(ref, definitions) == [tag]]
    short: list[JsonSchema] = [{"enum": bare}]
    short += [{"type": "string", "pattern": f"^{prefix}:[A-Za-z0-9_]+$"} for prefix in prefixed]
    return {"title": name, "anyOf": [*short, chosen]}


def _allow_prefix(
    chosen: JsonSchema, tag: str, prefix: str, key: str, ref: str, definitions: JsonSchema
) -> None:
    """``arch: torchvision:vgg16`` beside ``arch: torchvision`` with ``name: vgg16``."""
    definition = definitions[ref.removeprefix("#/$defs/")]
    rest = definition["properties"][key]["pattern"].removeprefix("^")
    written = {"type": "string", "pattern": f"^{prefix}:{rest}"}
    definition["required"].remove(key)
    definition["properties"][tag] = {"title": "Arch", "anyOf": [{"const": prefix}, written]}
    definition["if"] = {"properties": {tag: {"const": prefix}}, "required": [tag]}
    definition["then"] = {"required": [key]}
    tags = chosen["properties"][tag]
    if "enum" in tags:
        chosen["properties"][tag] = tags = {"anyOf": [{"enum": tags["enum"]}]}
    tags["anyOf"].append(written)
    starts = {"properties": {tag: {"pattern": f"^{prefix}:"}}, "required": [tag]}
    chosen["allOf"].append({"if": starts, "then": {"$ref": ref}})


def _required(ref: str, definitions: JsonSchema) -> list[str]:
    return list(definitions[ref.removeprefix("#/$defs/")].get("required", []))


def _allow_store_url(definitions: JsonSchema) -> None:
    url = {**definitions["Store"]["properties"]["url"], "description": "Root of the store."}
    for model in KINDS.values():
        stores = definitions[model.__name__]["properties"]
        stores["store"] = {"title": "Store", "anyOf": [url, {"$ref": "#/$defs/Store"}]}


def _state_origin_of_weights(definitions: JsonSchema) -> None:
    """One of ``weights`` and ``train`` in every model; neither where it may bring its own."""
    given = {"weights": {"type": "string"}, "train": {"type": "object"}}
    one_of = [{"required": [key], "properties": {key: kind}} for key, kind in given.items()]
    neither = {"not": {"anyOf": one_of}}
    for name, definition in definitions.items():
        if given.keys() <= definition.get("properties", {}).keys():
            definition["oneOf"] = [*one_of, neither] if name == "PythonModel" else one_of


def _need_train_block(definitions: JsonSchema) -> None:
    train = definitions["TrainManifest"]["properties"]
    train["model"] = {**train["model"], "required": ["train"]}


def _need_training_data(definitions: JsonSchema) -> None:
    """``data`` of a ``train`` block may be left out in kinds that have data of their own."""
    definitions["TrainSpec"]["required"].remove("data")
    needed = {"required": ["data"]}
    for name in ("AttributeManifest", "EvaluateManifest", "TrainManifest"):
        definitions[name]["properties"]["model"]["properties"] = {"train": needed}
    common = definitions[Common.__name__]["properties"]["model"]["anyOf"][0]
    common["properties"] = {"train": needed}
    for name in ("LinearMethod", "LabelRandomisationMetric"):
        definitions[name]["properties"]["train"] |= needed


def _bring_keys_of_a_run(definitions: JsonSchema) -> None:
    """``attributions`` of a run in place of data, model and methods."""
    evaluate = definitions["EvaluateManifest"]
    required = evaluate["required"]
    evaluate["required"] = [key for key in required if key not in STAND_INS]
    of_a_run = {"properties": {"attributions": {"type": "string"}}, "required": ["attributions"]}
    evaluate["anyOf"] = [of_a_run, {"required": list(STAND_INS)}]


def _name_jobs(definitions: JsonSchema) -> None:
    """Jobs are no union of whole manifests; ``_define_jobs`` says what they are."""
    jobs = definitions[AuditManifest.__name__]["properties"]["jobs"]
    (pattern,) = jobs["patternProperties"]
    jobs["patternProperties"] = {pattern: {"$ref": f"#/$defs/{_JOB}"}}


def _define_jobs(definitions: JsonSchema) -> None:
    """A job is a manifest of its kind without what stands at the top of the audit. What is required
    of it may stand under 'common', so that nothing but its kind is."""
    for kind, model in JOB_KINDS.items():
        whole = definitions[model.__name__]
        properties = _referred(model.__name__, definitions)
        del properties["name"], properties["version"]
        properties["store"] = _some_of("Store", ("maps",), definitions)
        runtime = definitions["Runtime"]["properties"]
        properties["runtime"] = _some_of("Runtime", set(runtime) - {"address"}, definitions)
        job = {key: value for key, value in whole.items() if key != "anyOf"}
        job |= {"title": f"Job of kind {kind}", "properties": properties, "required": ["kind"]}
        definitions[_job_name(kind)] = job
    _name_jobs_of_checks(definitions)
    kinds = {kind: f"#/$defs/{_job_name(kind)}" for kind in JOB_KINDS}
    definitions[_JOB] = {
        "title": _JOB,
        "description": "A job of an audit.",
        **_by_tag("kind", kinds),
    }


def _name_jobs_of_checks(definitions: JsonSchema) -> None:
    """A check of an audit names the job that it is a check of; SQL may ask all of them."""
    audit = definitions[AuditManifest.__name__]["properties"]
    job = {
        "title": "Job",
        "description": "The job that this is a check of.",
        "type": "string",
        "pattern": next(iter(audit["jobs"]["patternProperties"])),
    }
    arms = {}
    for arm in definitions["Check"]["allOf"]:
        word = arm["if"]["properties"]["check"]["const"]
        name = arm["then"]["$ref"].removeprefix("#/$defs/")
        check = definitions[name]
        needed = [] if word == "sql" else ["job"]
        definitions[f"{name}OfJob"] = {
            **check,
            "properties": _referred(name, definitions) | {"job": job},
            "required": [*check["required"], *needed],
        }
        arms[word] = f"#/$defs/{name}OfJob"
    definitions["CheckOfJob"] = {
        "title": "Check of a job",
        "description": "A check of one of the audit's jobs.",
        **_by_tag("check", arms),
    }
    audit["checks"] = audit["checks"] | {"items": {"$ref": "#/$defs/CheckOfJob"}}


def _job_name(kind: str) -> str:
    return f"{kind.capitalize()}{_JOB}"


def _referred(name: str, definitions: JsonSchema) -> JsonSchema:
    """The properties of a definition, each by reference: what is said of them stands once."""
    keys = definitions[name]["properties"]
    return {key: {"$ref": f"#/$defs/{name}/properties/{key}"} for key in keys}


def _some_of(name: str, keys: Collection[str], definitions: JsonSchema) -> JsonSchema:
    whole = definitions[name]
    properties = {k: ref for k, ref in _referred(name, definitions).items() if k in keys}
    return {**whole, "properties": properties}


def _need_maps_to_test(definitions: JsonSchema) -> None:
    tested = {"properties": {"insertion": {"type": "object"}}, "required": ["insertion"]}
    definitions["TfaManifest"]["if"] = tested
    definitions["TfaManifest"]["then"] = {"properties": {"maps": {"minItems": 1}}}


def _ask_something(definitions: JsonSchema) -> None:
    """A check asks one thing or more of its number."""
    for definition in definitions.values():
        keys = definition.get("properties", {})
        if DEMANDS[0] in keys:
            asked = [key for key in (*DEMANDS, "better_than") if key in keys]
            not_null = {"not": {"type": "null"}}
            definition["anyOf"] = [{"required": [k], "properties": {k: not_null}} for k in asked]


def _allow_no_other_names(definitions: JsonSchema) -> None:
    """pydantic writes names as patternProperties, which alone allow every other name too."""
    for definition in definitions.values():
        for part in definition.get("properties", {}).values():
            if "patternProperties" in part:
                part["additionalProperties"] = False


if __name__ == "__main__":
    sys.stdout.write(schema_text())
