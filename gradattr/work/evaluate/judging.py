"""Which function judges by which metric, and which methods it applies to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradattr.attribution.catalogue import method_info
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.paths.baseline_points import walks_one_path
from gradattr.attribution.requests import MethodRequest
from gradattr.manifest.methods import MethodSpec
from gradattr.manifest.metric_base import ForwardMetric
from gradattr.manifest.metrics import AnyMetric
from gradattr.work.evaluate.baseline import judge_baseline
from gradattr.work.evaluate.faithfulness import (
    judge_deletion,
    judge_infidelity,
    judge_insertion,
    judge_mu_fidelity,
    judge_road,
)
from gradattr.work.evaluate.of_maps import (
    judge_completeness,
    judge_complexity,
    judge_cost,
    judge_localisation,
    judge_path,
)
from gradattr.work.evaluate.robustness import (
    judge_attack,
    judge_label_randomisation,
    judge_randomisation,
    judge_sensitivity,
    judge_stability,
)
from gradattr.work.evaluate.subject import Judged, Subject

#: Metrics that only ask the model about changed images: they take an evaluator, whose precision is
#: the metric's.
FORWARD: dict[str, Callable[[Any, Subject, Evaluator], Judged]] = {
    "deletion": judge_deletion,
    "insertion": judge_insertion,
    "mu_fidelity": judge_mu_fidelity,
    "road": judge_road,
    "infidelity": judge_infidelity,
}

#: All others but 'agreement', which looks at pairs of methods.
OTHERS: dict[str, Callable[[Any, Subject], Judged]] = {
    "path_monotonicity": judge_path,
    "completeness": judge_completeness,
    "localisation": judge_localisation,
    "complexity": judge_complexity,
    "cost": judge_cost,
    "baseline": judge_baseline,
    "attack": judge_attack,
    "sensitivity": judge_sensitivity,
    "stability": judge_stability,
    "randomisation": judge_randomisation,
    "label_randomisation": judge_label_randomisation,
}


def applies(metric: AnyMetric, method: MethodSpec, request: MethodRequest) -> bool:
    """Whether a metric says anything of a method's maps. Where it does not, there are no rows."""
    if metric.metric in ("path_monotonicity", "baseline"):
        return walks_one_path(request)
    if metric.metric == "completeness":
        return method_info(method.name).completeness and request.smooth is None
    if metric.metric == "stability":
        return hasattr(request.source, "steps")
    return True


def judge(metric: AnyMetric, subject: Subject) -> Judged:
    """The metric's numbers and curves of all methods of the subject, which it must apply to, in the
    precision that it asks for."""
    if isinstance(metric, ForwardMetric):
        loaded = subject.loaded
        evaluator = loaded.evaluator if metric.precision == "fp32" else loaded.bfloat16
        return FORWARD[metric.metric](metric, subject, evaluator)
    return OTHERS[metric.metric](metric, subject)
