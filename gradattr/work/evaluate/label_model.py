"""The model that has learned permuted labels: its recipe, its place in a run, and its loading."""

from __future__ import annotations

from gradattr.attribution.evaluator import Evaluator
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.metrics import metric_id
from gradattr.manifest.model import AnyModel
from gradattr.manifest.robustness_metrics import LABELS, LabelRandomisationMetric
from gradattr.storage.objects import open_store
from gradattr.work.attribute.loaded import Loaded
from gradattr.work.context import RunContext
from gradattr.work.modules import load_module, prepare_model


def label_role(metric: LabelRandomisationMetric) -> str:
    """Role of the model that a metric trains on permuted labels."""
    return f"{LABELS}{metric_id(metric)}"


def label_spec(manifest: EvaluateManifest, metric: LabelRandomisationMetric) -> AnyModel:
    """The explained model's architecture, trained as the metric says, or else as it was itself,
    on labels that are permuted by the manifest's seed unless the recipe says by which."""
    recipe = metric.train or manifest.model.train
    assert recipe is not None  # the manifest was checked for it
    seed = manifest.seed if recipe.permute_labels is None else recipe.permute_labels
    # Held-out labels have nothing to do with permuted ones, and no epoch but the last is looked at.
    changes = {"permute_labels": seed, "keep_epochs": [], "test": None}
    train = recipe.model_copy(update=changes)
    return manifest.model.model_copy(update={"weights": None, "sha256": None, "train": train})


def label_evaluator(
    context: RunContext, loaded: Loaded, metric: LabelRandomisationMetric
) -> Evaluator:
    """That model, ready to be differentiated; kept with the run's other models in this process."""
    role = label_role(metric)
    if role not in loaded.others:
        spec = label_spec(context.evaluate_manifest, metric)
        store = open_store(context.manifest.store)
        model = load_module(context, role, spec, store, loaded.model_digests)
        loaded.others[role], _ = prepare_model(context, model, spec, loaded.device)
    return loaded.others[role]
