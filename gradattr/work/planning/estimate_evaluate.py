"""What judging costs: model evaluations per image of every metric, and their time.

An evaluation is an image that goes forward through the model once, with its way back if there is
one. Metrics that change images only go forward; those that make maps again pay for each map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gradattr.attribution.paths.baseline_points import ONE_PATH
from gradattr.attribution.paths.unlearning import Unlearned
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.sampling import AtInput, RandomPaths
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.faithfulness_metrics import (
    DeletionMetric,
    InfidelityMetric,
    InsertionMetric,
    MuFidelityMetric,
    RoadMetric,
)
from gradattr.manifest.metric_base import ForwardMetric
from gradattr.manifest.metrics import AnyMetric, BaselineMetric, metric_id
from gradattr.manifest.robustness_metrics import (
    AttackMetric,
    LabelRandomisationMetric,
    RandomisationMetric,
    SensitivityMetric,
    StabilityMetric,
)
from gradattr.metrics.randomisation import modules_with_parameters
from gradattr.metrics.stability import with_steps
from gradattr.work.context import RunContext
from gradattr.work.evaluate.judging import applies
from gradattr.work.methods import stand_in_requests
from gradattr.work.modules import example_input
from gradattr.work.planning.probe import (
    evaluation_seconds,
    evaluations_per_row,
    forward_seconds,
    groups,
    imputation_seconds,
)


@dataclass(frozen=True)
class MetricCost:
    """Of one metric, over all methods that it applies to."""

    metric: str
    methods: tuple[str, ...]
    images: int
    """How many it looks at."""
    evaluations: float
    """Per image that it looks at."""
    forward_only: bool
    """No way back: about a third of the time."""
    fillings: int = 0
    """Images per image whose removed pixels are filled in by a system of equations."""


@dataclass(frozen=True)
class JudgeCost:
    """Of the stage 'judge'."""

    rows: int
    maps: float
    """Evaluations per image of the maps that are judged."""
    metrics: tuple[MetricCost, ...]

    @property
    def total(self) -> int:
        """Evaluations of all images."""
        judged = sum(one.images * one.evaluations for one in self.metrics)
        return round(self.rows * self.maps + judged)

    def per_row(self, weight: Callable[[MetricCost], float]) -> float:
        """Mean over all images of something that grows with a metric's work on one."""
        return sum(one.images * weight(one) for one in self.metrics) / max(1, self.rows)


def judge_cost(context: RunContext, network: nn.Module, rows: int) -> JudgeCost:
    """What judging ``rows`` images takes; the ``network`` says how many modules it has."""
    manifest, size = context.evaluate_manifest, (context.num_classes, context.shape)
    requests = stand_in_requests(manifest, context.shape, context.num_classes)
    counter = _Counter(manifest, requests, network, context)
    metrics = tuple(counter.cost(metric, rows) for metric in manifest.metrics)
    stored = manifest.attributions is not None
    return JudgeCost(rows, 1 if stored else evaluations_per_row(requests, *size), metrics)


def judge_seconds(context: RunContext, network: nn.Module, cost: JudgeCost) -> float:
    """Seconds per image on this machine, from a few batches. Not counted: comparing the maps."""
    spec = context.evaluate_manifest.model
    requests = stand_in_requests(context.evaluate_manifest, context.shape, context.num_classes)
    both_ways = evaluation_seconds(context, network, spec, requests)
    forward = forward_seconds(context, network, spec)
    filled = any(one.fillings for one in cost.metrics)
    filling = imputation_seconds(context) if filled else 0.0

    def seconds(one: MetricCost) -> float:
        each = forward if one.forward_only else both_ways
        return one.evaluations * each + one.fillings * filling

    return cost.maps * both_ways + cost.per_row(seconds)


def metrics_json(cost: JudgeCost) -> list[dict[str, Any]]:
    """A line per metric for ``plan``."""
    return [
        {
            "metric": one.metric,
            "evaluations": round(one.evaluations, 1),
            "images": one.images,
            "methods": list(one.methods),
            "forward_only": one.forward_only,
        }
        for one in cost.metrics
    ]


def map_evaluations(
    requests: Sequence[MethodRequest], classes: int, shape: tuple[int, int, int]
) -> float:
    """Evaluations per image of one call that makes all these maps; with those that a method's own
    cost leaves out, which fix the class and score a baseline."""
    count = evaluations_per_row(requests, classes, shape)
    if not any(isinstance(r.source, AtInput) and r.smooth is None for r in requests):
        count += 1
    # Baselines are scored once for all methods that start there; equal ones once for all images.
    starts = set()
    for first in (group[0] for group in groups(requests)):
        start = getattr(first.source, "baseline", None)
        copies = 1 if first.smooth is None else first.smooth.samples
        if isinstance(first.source, RandomPaths) and start is not None and start.varies:
            pool = hasattr(start, "pool")
            count += 0 if pool else copies * first.source.samples
        elif isinstance(first.source, ONE_PATH):
            key = first.source if start is None else start
            if getattr(start, "same_for_all", False) or (key, first.smooth) in starts:
                continue
            starts.add((key, first.smooth))
            count += copies
    return count


@dataclass
class _Counter:
    """Counts a metric's evaluations as the functions of ``work/evaluate`` make them."""

    manifest: EvaluateManifest
    requests: Sequence[MethodRequest]
    network: nn.Module
    context: RunContext

    def cost(self, metric: AnyMetric, rows: int) -> MetricCost:
        pairs = zip(self.manifest.methods, self.requests, strict=True)
        own = [request for method, request in pairs if applies(metric, method, request)]
        alike: dict[str, list[MethodRequest]] = {}
        for request in own:
            explained = str(request.target).rpartition("_")[2]
            alike.setdefault(explained, []).append(request)
        return MetricCost(
            metric=metric_id(metric),
            methods=tuple(request.id for request in own),
            images=rows if metric.images is None else min(rows, metric.images),
            evaluations=sum(
                self._of_images(metric, some)
                if isinstance(metric, ForwardMetric)
                else self._of_maps(metric, some)
                for some in alike.values()
            ),
            forward_only=isinstance(metric, ForwardMetric),
            fillings=2 * len(metric.percentages) * len(own)
            if isinstance(metric, RoadMetric)
            else 0,
        )

    def _of_images(self, metric: ForwardMetric, requests: list[MethodRequest]) -> float:
        """Of a metric that asks about changed images; of the others the answers are known, but
        those in another precision."""
        again = metric.precision != "fp32"
        if isinstance(metric, DeletionMetric | InsertionMetric):
            end = metric.fill if isinstance(metric, DeletionMetric) else metric.start
            return len(requests) * (metric.steps - 1) + (end == "blur") + again
        if isinstance(metric, MuFidelityMetric):
            return metric.subsets + again
        if isinstance(metric, RoadMetric):
            return 2 * len(metric.percentages) * len(requests)
        assert isinstance(metric, InfidelityMetric)
        # Contributions are against baselines, some of which have to be searched for.
        return metric.samples + again + _searches(requests)

    def _of_maps(self, metric: AnyMetric, requests: list[MethodRequest]) -> float:
        """Of a metric that makes maps again; those of the images are known if made here."""
        first = 0.0 if self.manifest.attributions is None else self._maps(requests)
        if isinstance(metric, AttackMetric):
            alone = sum(self._maps([request]) for request in requests)
            if metric.kind == "gradient":
                # The derivative of a likeness: of one softened map, and of the other it is like.
                alone += len(requests) * (2 if metric.objective == "top_k" else 3)
            return first + metric.candidates * self._maps(requests) + metric.steps * alone
        if isinstance(metric, SensitivityMetric):
            return first + metric.samples * self._maps(requests)
        if isinstance(metric, StabilityMetric):
            return self._maps([with_steps(r, count) for r in requests for count in metric.steps])
        if isinstance(metric, RandomisationMetric):
            return first + len(self._modules(metric)) * self._maps(requests)
        if isinstance(metric, LabelRandomisationMetric):
            return first + self._maps(requests)
        if isinstance(metric, BaselineMetric):
            return _searches(requests)
        return 0.0

    def _maps(self, requests: Sequence[MethodRequest]) -> float:
        return map_evaluations(requests, self.context.num_classes, self.context.shape)

    def _modules(self, metric: RandomisationMetric) -> Sequence[str]:
        if metric.modules is not None:
            return metric.modules
        return modules_with_parameters(self.network, example_input(self.context)[:1])


def _searches(requests: Sequence[MethodRequest]) -> float:
    """Evaluations of finding the baselines of these methods, with the prediction there."""
    starts = {getattr(request.source, "baseline", None) for request in requests}
    found = [start.evaluations + 1 for start in starts if isinstance(start, Unlearned)]
    return float(sum(found))
