"""Whether a manifest's checks can ever be made: what they name is what the run will hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradattr.errors import QueryError, UsageError
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.attributing import AttributingManifest
from gradattr.manifest.check_base import CheckBase
from gradattr.manifest.checks import SqlCheck, SummaryCheck, TrainingCheck
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.hints import nearest
from gradattr.manifest.kinds import Manifest
from gradattr.manifest.methods import LinearMethod
from gradattr.manifest.metrics import measures_of
from gradattr.manifest.model import AnyModel
from gradattr.manifest.patching import PatchingManifest
from gradattr.manifest.scores import score_id
from gradattr.manifest.tfa import TfaManifest
from gradattr.manifest.train import TrainManifest
from gradattr.manifest.training_maps import map_id
from gradattr.storage.commit import find_commit
from gradattr.storage.objects import ObjectStore
from gradattr.storage.query import check_select
from gradattr.storage.run_json import read_run
from gradattr.work.context import MAIN, linear_role, method_id
from gradattr.work.planning.prepare_audit import for_every_job
from gradattr.work.planning.prepared import Prepared

#: Table -> key of its checks -> the values that there will be.
Known = dict[str, dict[str, Sequence[Any]]]


def check_checks(manifest: Manifest, store: ObjectStore) -> None:
    """Raise UsageError that names every check which no run of this manifest could pass, because
    what it looks at will not be there, and what was probably meant.

    ``store``: where runs that checks name must be committed.
    """
    known = known_numbers(manifest)
    problems = [
        f"checks[{at}]{problem}"
        for at, check in enumerate(manifest.checks)
        for problem in _problems(manifest, check, known, store)
    ]
    if problems:
        raise UsageError("\n".join(problems))


def check_planned(prepared: Prepared, store: ObjectStore) -> None:
    """``check_checks`` of a plan's manifest and, of an audit, of its jobs' manifests."""
    check_checks(prepared.context.manifest, store)
    for_every_job(
        {name: job.context for name, job in prepared.jobs.items()},
        lambda context: check_checks(context.manifest, store),
    )


def known_numbers(manifest: Manifest) -> Known | None:
    """What checks of a run of this manifest can name; None: of this kind nothing is known."""
    if isinstance(manifest, AttributingManifest):
        return _of_attributions(manifest)
    if isinstance(manifest, DiffRoarManifest):
        return _of_audit(manifest)
    if isinstance(manifest, TfaManifest):
        return _of_training_attribution(manifest)
    if isinstance(manifest, PatchingManifest):
        starts = [start.id or start.baseline for start in manifest.baselines]
        if not manifest.estimates:
            return {}
        return {"faithfulness": {"baseline": starts, "method": manifest.estimates}}
    if isinstance(manifest, TrainManifest):
        return {"training": {"model": [MAIN]}}
    return None


def _of_attributions(manifest: AttributingManifest) -> Known:
    ids = [method_id(method) for method in manifest.methods]
    known: Known = {"predictions": {}, "attributions": {"method": ids}}
    if manifest.measured_levels:
        known["leakage"] = {"method": ids, "level": manifest.measured_levels}
    linear = [linear_role(one) for one in manifest.methods if isinstance(one, LinearMethod)]
    trained = [*([MAIN] if manifest.model.train else []), *linear]
    if isinstance(manifest, EvaluateManifest):
        known["summary"] = {"metric": manifest.measures, "method": ids, "better_than": ids}
        known["training"] = {}  # metrics train models too
    elif trained:
        known["training"] = {"model": trained}
    return known


def _of_audit(manifest: DiffRoarManifest) -> Known:
    methods = [method_id(method) for method in manifest.methods]
    schemes = [f"{model}/{method}" for model in manifest.models for method in methods]
    variants = ["no_retrain"] if manifest.retrain is False else ["retrain"]
    if manifest.retrain is not False and manifest.mask_only:
        variants.append("mask_only")
    trained = [name for name, model in manifest.models.items() if model.train is not None]
    return {
        "diffroar": {
            "scheme": [*schemes, *manifest.baselines],
            "level": manifest.levels,
            "learner": list(manifest.models),
            "variant": variants,
        },
        "training": {"model": [*trained, *(b for b in manifest.baselines if b == "linear")]},
    }


def _of_training_attribution(manifest: TfaManifest) -> Known:
    scores = [score_id(score) for score in manifest.scores]
    maps = [map_id(one) for one in manifest.maps]
    known: Known = {"predictions": {}}
    if manifest.model.train is not None:
        known["training"] = {"model": [MAIN]}
    if maps:
        known["tfa_map_scores"] = {"method": scores, "map_method": maps}
    if manifest.insertion is not None:
        test = manifest.insertion
        known["tfa_summary"] = {
            "method": scores,
            "map_method": maps,
            "side": test.sides,
            "test": test.tests,
            "steps": test.steps,
            "level": test.levels,
        }
    if manifest.index is not None and manifest.index.recall_queries:
        known["index_recall"] = {"method": scores}
    return known


def _problems(
    manifest: Manifest, check: CheckBase, known: Known | None, store: ObjectStore
) -> list[str]:
    problems = _of_earlier_run(manifest, check, store)
    if isinstance(check, SqlCheck):
        try:
            check_select(check.sql)
        except QueryError as error:
            problems.append(f".sql: {_printable(str(error))}")
        return problems
    if known is None:
        return [*problems, f".check: kind '{manifest.kind}' has no table '{check.table}'; use sql"]
    if check.table not in known:
        return [*problems, f".check: {_no_table(manifest, str(check.table), known)}"]
    problems += _unknown_values(check, known[check.table])
    if isinstance(check, SummaryCheck) and isinstance(manifest, EvaluateManifest):
        problems += _of_direction(manifest, check)
    if isinstance(check, TrainingCheck):
        problems += _of_training(_trained_model(manifest, check.model), check.measure)
    return problems


def _no_table(manifest: Manifest, table: str, known: Known) -> str:
    tables = ", ".join(f"'{name}'" for name in known) or "none that checks look at, but for 'sql'"
    why = {
        "leakage": isinstance(manifest, AttributeManifest) and "its data has no masks",
        "training": "it trains nothing",
        "tfa_summary": isinstance(manifest, TfaManifest) and "it states no 'insertion'",
        "tfa_map_scores": isinstance(manifest, TfaManifest) and "it states no 'maps'",
        "index_recall": isinstance(manifest, TfaManifest) and "it states no 'index'",
        "faithfulness": isinstance(manifest, PatchingManifest)
        and "it compares no estimate with 'activation_patching'",
    }.get(table)
    because = f" ({why})" if why else ""
    return (
        f"a run of this manifest (kind '{manifest.kind}') has no table '{table}'{because}; "
        f"it has {tables}"
    )


def _unknown_values(check: CheckBase, options: Mapping[str, Sequence[Any]]) -> list[str]:
    problems = []
    for key, values in options.items():
        value = getattr(check, key)
        if value is None or value in values:
            continue
        listed = ", ".join(_shown(one) for one in values)
        meant = nearest(value, values) if isinstance(value, str) else None
        hint = f"; did you mean '{meant}'?" if meant else ""
        problems.append(f".{key}: {_shown(value)} is not in this manifest; it has {listed}{hint}")
    return problems


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else f"'{_printable(str(value))}'"


def _printable(text: str) -> str:
    """Without characters that could drive a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def _of_direction(manifest: EvaluateManifest, check: SummaryCheck) -> list[str]:
    """What cannot be said of a metric of which neither direction is better."""
    better = {
        one.name: one.higher_is_better for metric in manifest.metrics for one in measures_of(metric)
    }
    if better.get(check.metric, True) is not None:
        return []
    neither = f"of '{check.metric}' neither direction is better"
    problems = []
    if check.better_than is not None:
        problems.append(f".better_than: {neither}; state a bound, or use sql")
    if check.statistic in ("rank", "mean_rank"):
        problems.append(f".statistic: {neither}, so methods are not ranked by it")
    elif check.not_worse_than is not None and check.higher_is_better is None:
        problems.append(f".not_worse_than: {neither}; state higher_is_better: true or false")
    return problems


def _trained_model(manifest: Manifest, name: str) -> AnyModel | None:
    """The model of this name, where its own training block says how it is measured."""
    if isinstance(manifest, DiffRoarManifest):
        return manifest.models.get(name)
    if name == MAIN and isinstance(manifest, AttributingManifest | TrainManifest | TfaManifest):
        return manifest.model
    return None


def _of_training(model: AnyModel | None, measure: str) -> list[str]:
    if model is None or model.train is None or "test" not in measure:
        return []
    if model.train.test is None:
        return [f".measure: '{measure}' needs test data; state it under the model's train.test"]
    if measure == "robust_test_accuracy" and model.train.adversary is None:
        return [".measure: 'robust_test_accuracy' needs an adversarial training (train.adversary)"]
    return []


def _of_earlier_run(manifest: Manifest, check: CheckBase, store: ObjectStore) -> list[str]:
    if check.not_worse_than in (None, "last"):
        return []
    run_id = str(check.not_worse_than).removeprefix("run:")
    if find_commit(store, run_id) is None:
        return [
            f".not_worse_than: there is no committed run '{run_id}' in {store.spec.url}; "
            "'gradattr ls' lists runs"
        ]
    kind = read_run(store, run_id)["manifest"]["kind"]
    if kind != manifest.kind and not isinstance(check, SqlCheck):
        return [
            f".not_worse_than: run '{run_id}' is of kind '{kind}', this manifest of kind "
            f"'{manifest.kind}'; their numbers are not the same"
        ]
    return []
