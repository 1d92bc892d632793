"""Whether metrics fit the methods, the model and the images that they are to judge."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from torch import nn

from gradattr.attribution.catalogue import method_info
from gradattr.attribution.post_steps import channels_after
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.tuning.mixed import bfloat16_obstacle
from gradattr.data.registry import input_shape
from gradattr.data.types import DataIndex
from gradattr.errors import DataError, MethodError, ModelError, UsageError
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.faithfulness_metrics import (
    DeletionMetric,
    InfidelityMetric,
    InsertionMetric,
    MuFidelityMetric,
    RoadMetric,
)
from gradattr.manifest.metric_base import ForwardMetric
from gradattr.manifest.metrics import AnyMetric, metric_id
from gradattr.manifest.robustness_metrics import (
    AttackMetric,
    LabelRandomisationMetric,
    RandomisationMetric,
    StabilityMetric,
)
from gradattr.metrics.map_derivative import check_differentiable
from gradattr.metrics.mu_fidelity import Cells
from gradattr.metrics.randomisation import modules_with_parameters
from gradattr.metrics.stability import with_steps
from gradattr.work.context import RunContext
from gradattr.work.evaluate.judging import applies
from gradattr.work.evaluate.label_model import label_spec
from gradattr.work.methods import stand_in_requests
from gradattr.work.modules import example_input
from gradattr.work.planning.checks import check_class_names
from gradattr.work.planning.estimate_evaluate import judge_cost
from gradattr.work.planning.indexes import Indexes
from gradattr.work.planning.prepared import InputSpace
from gradattr.work.resources import choose_device, runs_here

#: Evaluations per image above which a person is told what takes them.
MANY = 2000

#: What a metric asks of a method, where it does not judge every one.
_WANTED = {
    "path_monotonicity": "follow one path from a baseline, such as integrated_gradients, uni, "
    "blur_ig and guided_ig, without 'smooth'",
    "baseline": "follow one path from a baseline, such as integrated_gradients, uni, blur_ig and "
    "guided_ig, without 'smooth'",
    "completeness": "claim that their map adds up ('gradattr methods' tells), without 'smooth'",
    "stability": "walk a path in a number of steps, such as integrated_gradients, uni, blur_ig and "
    "guided_ig",
}


def evaluation_notes(context: RunContext, network: nn.Module) -> list[str]:
    """What a person should know before it starts; the ``network`` is the explained model, in eval
    mode or not.

    UsageError that names every metric which cannot judge these methods or images, and why; a metric
    that says nothing of any of the methods is told of, unless all of them are so.
    """
    manifest = context.evaluate_manifest
    requests = stand_in_requests(manifest, context.shape, context.num_classes)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        faults = [
            f"metrics: '{metric_id(metric)}' {fault}"
            for metric in manifest.metrics
            for fault in _faults(metric, context, requests, network)
        ]
        unused = _unused(manifest, requests)
        if len(unused) == len(manifest.metrics):
            faults += [f"metrics: {one}; add such a method, or another metric" for one in unused]
        if faults:
            raise UsageError("\n".join(faults))
        told = [f"metric {one}, and has no numbers here" for one in unused]
        told += _training_notes(manifest)
        return [*told, *_fill_notes(context), *_cost_notes(context, network)]
    finally:
        for module, training in modes.items():
            module.training = training


def check_label_models(
    manifest: EvaluateManifest, explained: DataIndex, space: InputSpace, indexes: Indexes
) -> None:
    """Raise DataError or ModelError where a recipe for permuted labels does not fit the model."""
    for metric in manifest.metrics:
        if not isinstance(metric, LabelRandomisationMetric):
            continue
        train, key = label_spec(manifest, metric).train, f"metrics: '{metric_id(metric)}'"
        assert train is not None
        index = indexes.get(train.data)
        if index.num_classes is None:
            raise DataError(f"{key}: its training data has no labels that could be permuted")
        if index.num_classes > space.classes:
            raise DataError(
                f"{key}: its training data has {index.num_classes} classes, the model "
                f"{space.classes} outputs"
            )
        check_class_names(explained, index, "data")
        shape = input_shape(train.data, index, space.preprocess)
        if shape != space.shape:
            raise ModelError(
                f"{key}: its training images are {'x'.join(map(str, shape))}, the model's input "
                f"is {'x'.join(map(str, space.shape))}; set preprocess.resize or crop"
            )


def _unused(manifest: EvaluateManifest, requests: Sequence[MethodRequest]) -> list[str]:
    """Metrics that judge none of the methods, as sentences."""
    pairs = list(zip(manifest.methods, requests, strict=True))
    return [
        f"'{metric_id(metric)}' says nothing of {', '.join(one.id for one in requests)}: it judges "
        f"methods that {_WANTED[metric.metric]}"
        for metric in manifest.metrics
        if not any(applies(metric, method, request) for method, request in pairs)
    ]


def _faults(
    metric: AnyMetric, context: RunContext, requests: Sequence[MethodRequest], network: nn.Module
) -> Iterator[str]:
    """Ends of sentences that begin with the metric's name."""
    methods = context.evaluate_manifest.methods
    pairs = zip(methods, requests, strict=True)
    own = [request for method, request in pairs if applies(metric, method, request)]
    pixels = context.shape[1] * context.shape[2]
    top = getattr(metric, "top", None)
    if isinstance(top, int) and top > pixels:
        yield f"compares the top {top} pixels, and a map has {pixels}; set a smaller 'top'"
    if isinstance(metric, AttackMetric) and metric.kind == "gradient":
        yield from _without_derivative(requests)
    if isinstance(metric, StabilityMetric):
        yield from _without_steps(metric, own)
    if isinstance(metric, RandomisationMetric):
        yield from _modules_missing(metric, context, network)
    if isinstance(metric, ForwardMetric):
        yield from _image_faults(metric, context)
        yield from _precision_faults(metric, context)


def _without_derivative(requests: Sequence[MethodRequest]) -> Iterator[str]:
    refused = []
    for request in requests:
        try:
            check_differentiable(request)
        except MethodError:
            refused.append(request.id)
    if refused:
        yield (
            f"goes along the derivative of a map, and {', '.join(refused)} cannot be "
            "differentiated so: that is for gradient, saliency and input_x_gradient, without "
            "'smooth'; set kind: random_sign, which attacks every method"
        )


def _without_steps(metric: StabilityMetric, requests: Sequence[MethodRequest]) -> Iterator[str]:
    for request in requests:
        for count in metric.steps:
            try:
                with_steps(request, count)
            except ValueError as error:
                yield f"walks the path of {request.id} in {count} steps: {error}"


def _modules_missing(
    metric: RandomisationMetric, context: RunContext, network: nn.Module
) -> Iterator[str]:
    known = modules_with_parameters(network, example_input(context)[:1])
    if not known:
        yield "makes a model's weights random, and this model has none"
        return
    modules = dict(network.named_modules())
    asked = metric.modules or []
    for name in asked:
        if name not in modules:
            near = difflib.get_close_matches(name, [one for one in modules if one], n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(known[:8])}"
            yield f"names the module '{name}', which the model does not have; {hint}"
        elif next(modules[name].parameters(), None) is None:
            yield (
                f"names the module '{name}', which has no parameters; those that have are "
                f"{', '.join(known[:8])}"
            )
    twice = sorted({name for name in asked if asked.count(name) > 1})
    if twice:
        yield f"names {', '.join(twice)} more than once"


def _image_faults(metric: ForwardMetric, context: RunContext) -> Iterator[str]:
    """Parameters that images of this size cannot have."""
    channels, height, width = context.shape
    if isinstance(metric, MuFidelityMetric):
        cells = Cells(height, width, metric.grid)
        count = cells.rows * cells.columns
        if not 0 < round(metric.share * count) < count:
            yield (
                f"takes {metric.share:g} of {count} cells, which is {round(metric.share * count)}; "
                "give a share that takes one at least, and not all"
            )
    elif isinstance(metric, RoadMetric):
        pixels = height * width
        if round(metric.percentages[-1] * pixels / 100) >= pixels:
            yield (
                f"removes {metric.percentages[-1]:g} % of {pixels} pixels, which leaves none to "
                "fill in the others from; give smaller percentages"
            )
    elif isinstance(metric, InfidelityMetric):
        if metric.size is not None and metric.size > min(height, width):
            yield f"moves a square of {metric.size} pixels in images of {height}x{width}"
    elif isinstance(metric, DeletionMetric | InsertionMetric) and not metric.per_pixel:
        flat = [
            method.id or method.name
            for method in context.evaluate_manifest.methods
            if channels > 1
            and (method_info(method.name).per_pixel or channels_after(method.post, channels) == 1)
        ]
        if flat:
            yield (
                f"ranks every channel on its own, and {', '.join(flat)} have one value per pixel; "
                "set per_pixel: true"
            )


def _precision_faults(metric: ForwardMetric, context: RunContext) -> Iterator[str]:
    """Why its precision would not pay here, where the tasks will run on this machine too."""
    engine, runtime = context.manifest.engine, context.manifest.runtime
    if metric.precision == "fp32" or not runs_here(runtime):
        return
    obstacle = bfloat16_obstacle(choose_device(engine, runtime))
    if obstacle is not None:
        yield f"asks for precision bf16, but {obstacle}; leave the key out (fp32)"


def _fill_notes(context: RunContext) -> list[str]:
    if context.preprocess.mean is not None:
        return []
    filled = [
        metric_id(metric)
        for metric in context.evaluate_manifest.metrics
        if "mean" in (getattr(metric, "fill", None), getattr(metric, "start", None))
    ]
    if not filled:
        return []
    return [
        f"'mean' of {', '.join(filled)} is black here: pre-processing subtracts no mean "
        "(preprocess.mean)"
    ]


def _training_notes(manifest: EvaluateManifest) -> list[str]:
    recipes = {
        metric_id(metric): label_spec(manifest, metric).train
        for metric in manifest.metrics
        if isinstance(metric, LabelRandomisationMetric)
    }
    return [
        f"metric '{name}' trains another model, on permuted labels, for at most {train.epochs} "
        "epochs; 'gradattr show' tells whether it has learned them"
        for name, train in recipes.items()
        if train is not None
    ]


def _cost_notes(context: RunContext, network: nn.Module) -> list[str]:
    """What takes most, where that is much."""
    cost = judge_cost(context, network, 1)
    whole = cost.maps + sum(one.evaluations for one in cost.metrics)
    large = [one for one in cost.metrics if one.evaluations > max(MANY, 10 * cost.maps)]
    given = {metric_id(metric): metric.images for metric in context.evaluate_manifest.metrics}
    return [
        f"metric '{one.metric}' takes {one.evaluations:,.0f} of {whole:,.0f} model evaluations per "
        "image; with 'images' it looks at so many of them only"
        for one in sorted(large, key=lambda one: -one.evaluations)
        if given[one.metric] is None
    ]
