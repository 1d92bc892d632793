"""From a manifest's methods to requests of the mathematics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from gradattr.attribution.baselines import (
    Baseline,
    Black,
    Blur,
    Mean,
    Noise,
    Normalization,
    Sample,
    Uniform,
)
from gradattr.attribution.catalogue import method_info
from gradattr.attribution.evaluator import Evaluator, PlainEvaluator
from gradattr.attribution.paths.unlearning import Start, Unlearned
from gradattr.attribution.post_steps import channels_after
from gradattr.attribution.requests import MethodRequest, method_request
from gradattr.attribution.sampling import NoisyCopies
from gradattr.errors import MethodError
from gradattr.manifest.attributing import AttributingManifest
from gradattr.manifest.baselines import (
    AnyBaseline,
    BlurBaseline,
    NoiseBaseline,
    SampleBaseline,
    UniBaseline,
)
from gradattr.manifest.data import Preprocess
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.manifest.method_base import MethodBase, Target
from gradattr.manifest.methods import LinearMethod, MethodSpec
from gradattr.work.context import method_id

#: Manifests with methods and a target.
Attributing = AttributingManifest | DiffRoarManifest

#: Method id -> pool of baseline images (p, channels, height, width).
Pools = Callable[[str], torch.Tensor]

#: Method id -> the linear model of the method 'linear'.
LinearModels = Callable[[str], Evaluator]


def normalization(preprocess: Preprocess, channels: int) -> Normalization:
    """What black, white and the mean are in the space of the model's input."""
    if preprocess.mean is None or preprocess.std is None:
        return Normalization()
    mean, std = preprocess.mean, preprocess.std
    if len(mean) == 1:
        mean, std = mean * channels, std * channels
    return Normalization.from_mean_std(mean, std)


def method_requests(
    manifest: Attributing,
    pools: Pools,
    linear_models: LinearModels,
    methods: Sequence[MethodSpec] | None = None,
) -> list[MethodRequest]:
    """One request per method of the manifest (or of ``methods``), in order.

    Raises MethodError, naming the method, for parameters that the mathematics refuses.
    """
    wanted = manifest.methods if methods is None else methods
    return [request_of(method, manifest.target, pools, linear_models) for method in wanted]


def stand_in_requests(
    manifest: Attributing,
    shape: tuple[int, int, int],
    num_classes: int,
    methods: Sequence[MethodSpec] | None = None,
) -> list[MethodRequest]:
    """The manifest's requests (or those of ``methods``) with empty pools and untrained linear
    models: to check parameters and to count evaluations before anything is loaded. Raises as
    ``method_requests`` does."""
    pool = torch.zeros((1, *shape))
    size = shape[0] * shape[1] * shape[2]
    linear = PlainEvaluator(nn.Sequential(nn.Flatten(), nn.Linear(size, num_classes)))
    return method_requests(manifest, lambda label: pool, lambda label: linear, methods)


def map_channels(methods: Sequence[MethodSpec], channels: int) -> int:
    """Channels of the maps that are kept of images with so many: 1 if no method has more."""
    own = (
        1 if method_info(method.name).per_pixel else channels_after(method.post, channels)
        for method in methods
    )
    return max(own, default=channels)


def over_channels(maps: torch.Tensor, channels: int) -> torch.Tensor:
    """Maps (n, c, h, w) with so many channels: where there is one value per pixel, each channel
    gets its share, so that sums over channels are the map."""
    if maps.shape[1] == channels:
        return maps
    return (maps / channels).expand(-1, channels, -1, -1).contiguous()


def request_of(
    method: MethodSpec, default_target: Target, pools: Pools, linear_models: LinearModels
) -> MethodRequest:
    """The request of one method, which differentiates ``default_target`` unless it says otherwise.

    Raises MethodError, naming the method, for parameters that the mathematics refuses.
    """
    label = method_id(method)
    try:
        parameters = _parameters(method, label, pools, linear_models)
        smooth = method.smooth
        target = default_target if method.target is None else method.target
        return method_request(
            method.name,
            id=label,
            target=target,
            smooth=None if smooth is None else NoisyCopies(smooth.samples, smooth.sigma),
            post=method.post,
            **parameters,
        )
    except ValueError as error:
        raise MethodError(f"method '{label}': {error}") from None


def _parameters(
    method: MethodSpec, label: str, pools: Pools, linear_models: LinearModels
) -> dict[str, Any]:
    """Of the mathematics: they are called as in the manifest, but for models and baselines."""
    if isinstance(method, LinearMethod):
        return {"linear_model": linear_models(label)}
    left_out = {*MethodBase.model_fields, "name", "baseline"}
    if method.name == "expected_gradients":
        left_out.add("stdev")
    parameters: dict[str, Any] = {
        name: getattr(method, name) for name in type(method).model_fields if name not in left_out
    }
    baseline = getattr(method, "baseline", None)
    if baseline is not None:
        parameters["baseline"] = _baseline(baseline, label, pools)
    return parameters


def _baseline(spec: AnyBaseline, label: str, pools: Pools) -> Start:
    if isinstance(spec, BlurBaseline):
        return Blur(spec.kernel, spec.sigma)
    if isinstance(spec, NoiseBaseline):
        return Noise(spec.sigma)
    if isinstance(spec, SampleBaseline):
        return Sample(pools(label))
    if isinstance(spec, UniBaseline):
        return Unlearned(spec.eta, spec.iterations, spec.eps, spec.mu)
    flat: dict[str, Baseline] = {"black": Black(), "mean": Mean(), "uniform": Uniform()}
    return flat[spec.kind]
