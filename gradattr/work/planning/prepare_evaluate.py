"""The plan of ``kind: evaluate``: train what has no weights, judge shard by shard, then compare the
methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradattr.data.types import DataIndex
from gradattr.errors import UsageError
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.evaluate import STAND_INS, EvaluateManifest
from gradattr.manifest.kinds import KINDS
from gradattr.manifest.metrics import AgreementMetric, curves_of, measures_of
from gradattr.manifest.model import AnyModel
from gradattr.manifest.robustness_metrics import LabelRandomisationMetric
from gradattr.plan import Stage, Task
from gradattr.storage.commit import read_commit
from gradattr.storage.objects import ObjectStore
from gradattr.storage.run_json import read_run
from gradattr.work.context import method_id
from gradattr.work.evaluate.label_model import label_role, label_spec
from gradattr.work.planning.check_evaluate import check_label_models
from gradattr.work.planning.indexes import Indexes
from gradattr.work.planning.prepare_attribute import expected_rows, models_of, shard_tasks, survey
from gradattr.work.planning.prepared import Prepared, assemble_run

JUDGE_STAGE = "judge"
STATISTICS_STAGE = "statistics"

#: Ways of keeping maps that keep all of them.
_WHOLE = ("float16", "float32", "int8")


def prepare_evaluate(
    manifest: EvaluateManifest,
    store: ObjectStore,
    indexes: Indexes,
    planned: Mapping[str, dict[str, Any]] | None = None,
) -> Prepared:
    """Look at data and models, and plan. ``planned``: ``run.json`` of runs that will be there when
    this one begins. Raises DataError, ModelError, MethodError, UsageError."""
    manifest, theirs = with_attributions(manifest, store, planned or {})
    found = survey(manifest, judged_models(manifest), store, indexes)
    check_label_models(manifest, found.index, found.space, indexes)
    inputs = found.inputs(manifest.data.has_masks)
    if theirs is not None:
        inputs |= _same_inputs(theirs, inputs)
    stages = (
        *found.trainings.stages(),
        _judge_stage(manifest, found.index, theirs),
        _statistics_stage(manifest, found.rows),
    )
    return assemble_run(
        manifest, store, inputs, stages, found.space, found.trainings, pools=found.pools
    )


def judged_models(manifest: EvaluateManifest) -> dict[str, AnyModel]:
    """By role: the explained model, those of the methods 'linear', and those of the sanity checks
    that train one."""
    return models_of(manifest) | {
        label_role(metric): label_spec(manifest, metric)
        for metric in manifest.metrics
        if isinstance(metric, LabelRandomisationMetric)
    }


def with_attributions(
    manifest: EvaluateManifest, store: ObjectStore, planned: Mapping[str, dict[str, Any]]
) -> tuple[EvaluateManifest, dict[str, Any] | None]:
    """The manifest with the keys of the run whose maps it judges, and that run's ``run.json``; the
    manifest itself and None if it names no run. ``planned``: runs that need not be there yet.

    UsageError: there is no such committed run, it keeps no whole maps, or the manifest says
    otherwise than it does.
    """
    if manifest.attributions is None:
        return manifest, None
    if manifest.attributions.startswith("job:"):
        raise UsageError(
            f"attributions: '{manifest.attributions}' is for jobs of an audit; name a run, as "
            "'run:<run id>' ('gradattr ls' lists them)"
        )
    run_id = manifest.attributions.removeprefix("run:")
    try:
        theirs = planned[run_id] if run_id in planned else _committed(store, run_id)
    except UsageError as error:
        raise UsageError(f"attributions: {error}") from None
    kind, maps = theirs["manifest"]["kind"], theirs["manifest"]["store"]["maps"]
    if kind != "attribute":
        raise UsageError(
            f"attributions: run {run_id} is of kind '{kind}'; maps of a whole data set are those "
            "of kind 'attribute'"
        )
    if maps not in _WHOLE:
        raise UsageError(
            f"attributions: run {run_id} keeps maps as '{maps}', which are not whole; run it with "
            f"store.maps {', '.join(_WHOLE)}, or state its methods here in place of 'attributions'"
        )
    body = {**theirs["manifest"], "runtime": {}, "errors": {}, "store": {"url": store.url("")}}
    original = KINDS["attribute"].model_validate(body)
    assert isinstance(original, AttributeManifest)
    return _merged(manifest, original, run_id), theirs


def _committed(store: ObjectStore, run_id: str) -> dict[str, Any]:
    """``run.json`` of a committed run; UsageError if there is none."""
    read_commit(store, run_id)
    return read_run(store, run_id)


def _merged(
    manifest: EvaluateManifest, original: AttributeManifest, run_id: str
) -> EvaluateManifest:
    stand_ins = EvaluateManifest.model_validate(
        {"kind": "evaluate", "name": "x", "metrics": ["cost"], **STAND_INS}
    )
    stated: set[str] = {"preprocess", "target", "seed"} & manifest.model_fields_set
    for key in ("data", "model"):
        if getattr(manifest, key) != getattr(stand_ins, key):
            stated.add(key)
    for key in sorted(stated):
        if getattr(manifest, key) != getattr(original, key):
            raise UsageError(
                f"attributions: run {run_id} was made with another '{key}'; leave the key out, it "
                "is that run's"
            )
    methods = list(original.methods)
    if manifest.methods != stand_ins.methods:
        known = {method_id(method): method for method in methods}
        for method in manifest.methods:
            label = method_id(method)
            if known.get(label) != method:
                raise UsageError(
                    f"attributions: run {run_id} has no method '{label}' with these parameters; it "
                    f"has {', '.join(known)}. Leave 'methods' out to judge all of them"
                )
        methods = list(manifest.methods)
    keys = ("data", "model", "preprocess", "target", "seed")
    body = {key: getattr(original, key) for key in keys} | {"methods": methods}
    return _checked(manifest.model_copy(update=body))


def _checked(manifest: EvaluateManifest) -> EvaluateManifest:
    """The manifest, whose metrics fit the run's data and model. UsageError if they do not."""
    whole = {**manifest.model_dump(mode="json"), "attributions": None}
    try:
        EvaluateManifest.model_validate(whole)
    except ValueError as error:
        raise UsageError(f"attributions: {_reason(error)}") from None
    return manifest


def _reason(error: ValueError) -> str:
    first = str(error.errors()[0]["msg"]) if hasattr(error, "errors") else str(error)
    return first.removeprefix("Value error, ")


def _same_inputs(theirs: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """The run's part of the inputs. UsageError if data or model are not what they were then."""
    run_id, then = theirs["run_id"], theirs["inputs"]
    if then["data"]["digest"] != inputs["data"]["digest"]:
        raise UsageError(
            f"attributions: the data changed since run {run_id} was made; run its manifest again, "
            "and name the new run here"
        )
    for role, digest in then["models"].items():
        if inputs["models"].get(role, digest) != digest:
            raise UsageError(
                f"attributions: the model changed since run {run_id} was made; run its manifest "
                "again, and name the new run here"
            )
    return {"attributions": {"run": run_id, "fingerprint": theirs["fingerprint"]}}


def _judge_stage(
    manifest: EvaluateManifest, index: DataIndex, theirs: dict[str, Any] | None
) -> Stage:
    payload: dict[str, Any] = {"rows": index.rows}
    if theirs is None:
        expected = expected_rows(manifest, index.rows)
    else:
        payload["attributions"] = {"run": theirs["run_id"], "fingerprint": theirs["fingerprint"]}
        expected = {"predictions": index.rows}
    tables = [*expected, "scores", "errors"]
    if any(curves_of(metric) for metric in manifest.metrics):
        tables.append("sample_curves")
    if _compares(manifest):
        tables.append("sample_agreement")
    tasks = shard_tasks(JUDGE_STAGE, index, manifest.shard_rows, payload)
    return Stage(JUDGE_STAGE, tasks, tuple(tables), expected)


def _statistics_stage(manifest: EvaluateManifest, rows: int) -> Stage:
    payload = {
        "stage": JUDGE_STAGE,
        "methods": [method_id(method) for method in manifest.methods],
        "metrics": [
            {"metric": one.name, "higher_is_better": one.higher_is_better}
            for metric in manifest.metrics
            for one in measures_of(metric)
        ],
        "curves": [
            {"curve": one.name, "x": None if one.x is None else list(one.x), "labels": None}
            for metric in manifest.metrics
            for one in curves_of(metric)
        ],
        "agreement": _compares(manifest),
    }
    tables = ["summary", "differences"]
    if payload["curves"]:
        tables.append("curves")
    if payload["agreement"]:
        tables.append("agreement")
    task = Task(STATISTICS_STAGE, "statistics", rows, payload)
    return Stage(STATISTICS_STAGE, (task,), tuple(tables), {})


def _compares(manifest: EvaluateManifest) -> bool:
    return any(isinstance(metric, AgreementMetric) for metric in manifest.metrics)
