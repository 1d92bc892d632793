"""Whether the parts of a manifest of kind tfa fit each other, once data and model are known."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gradattr.data.registry import input_shape
from gradattr.data.types import DataIndex
from gradattr.errors import DataError, MethodError
from gradattr.influence import GradientProducts, agreement_maps, layer_maps
from gradattr.influence.products import choose_parameters
from gradattr.manifest.tfa import TfaManifest
from gradattr.manifest.training_maps import TfaMap, TwoStepMap, map_id
from gradattr.work.methods import request_of
from gradattr.work.planning.checks import check_class_names, check_method
from gradattr.work.planning.indexes import Indexes
from gradattr.work.planning.prepared import InputSpace
from gradattr.work.tfa.layout import QUERY_DATA, TRAIN_DATA
from gradattr.work.tfa.queries import class_numbers
from gradattr.work.tfa.training_maps import no_model, no_pool


def check_tfa(
    manifest: TfaManifest, data: Mapping[str, DataIndex], space: InputSpace, indexes: Indexes
) -> None:
    """Raise DataError or MethodError where data, model and maps contradict each other."""
    train, queries = data[TRAIN_DATA], data[QUERY_DATA]
    if train.num_classes is None:
        raise DataError(
            "data: the training data has no labels, and a training example acts through the loss "
            "at its label; use data with labels"
        )
    for key, index in (("data", train), ("queries.data", queries)):
        if index.num_classes is not None and index.num_classes > space.classes:
            raise DataError(
                f"{key}: {index.num_classes} classes, but the model has {space.classes} outputs; "
                "set model.num_classes, or use data with the model's classes"
            )
    shape = input_shape(manifest.queries.data, queries, space.preprocess)
    if shape != space.shape:
        raise DataError(
            f"queries.data: images of {'x'.join(map(str, shape))}, the training data has "
            f"{'x'.join(map(str, space.shape))}; set preprocess.resize or crop"
        )
    trained_on = train
    if manifest.model.train is not None:
        trained_on = indexes.get(manifest.model.train.data)
        check_class_names(train, trained_on, "data")
        test = manifest.model.train.test
        if test is not None and indexes.get(test).num_classes is None:
            raise DataError(
                "model.train.test: this data has no labels; leave it out, or give data with labels"
            )
    check_class_names(queries, trained_on, "queries.data")
    _check_queries(manifest, queries)
    for spec in manifest.maps:
        if isinstance(spec, TwoStepMap):
            check_method(spec.method, spec.target, train, space.classes, space.preprocess)
            # The mathematics has the last word on every parameter.
            request_of(spec.method, spec.target, no_pool, no_model)
    _check_fill(manifest, space)


def _check_queries(manifest: TfaManifest, index: DataIndex) -> None:
    asked = manifest.queries
    if index.num_classes is None:
        if asked.target.endswith("_true"):
            raise DataError(
                f"queries: target {asked.target} needs labels, and the query data has none; use "
                "loss_pred or logit_pred"
            )
        if asked.select != "all" or asked.classes or asked.per_class:
            raise DataError("queries: select, classes and per_class need data with labels")
    numbers = class_numbers(asked, index.class_names)
    wrong = [n for n in sorted(numbers) if index.num_classes and n >= index.num_classes]
    if wrong:
        raise DataError(
            f"queries.classes: the query data has classes 0 to {(index.num_classes or 1) - 1}, "
            f"not {wrong[0]}"
        )


def _check_fill(manifest: TfaManifest, space: InputSpace) -> None:
    fill = manifest.insertion.fill if manifest.insertion is not None else None
    if isinstance(fill, list) and len(fill) not in (1, space.shape[0]):
        raise DataError(
            f"insertion.fill has {len(fill)} numbers, the model's input {space.shape[0]} channels"
        )


def check_parts(manifest: TfaManifest, model: nn.Module) -> None:
    """Raise MethodError for parameters or layers that the model does not have."""
    choose_parameters(model, manifest.parameters)
    modules = dict(model.named_modules())
    for spec in manifest.maps:
        if isinstance(spec, TfaMap) and spec.layer is not None and spec.layer not in modules:
            some = ", ".join([name for name in modules if name][:8])
            raise MethodError(
                f"maps: '{map_id(spec)}': the model has no module '{spec.layer}'; it has "
                f"{some}, ..."
            )


def check_layers(manifest: TfaManifest, model: nn.Module, examples: Tensor) -> None:
    """Raise MethodError for a layer that has no maps: map two examples (2, c, h, w) by it."""
    labels = torch.zeros(len(examples), dtype=torch.int64)
    wanted = [spec for spec in manifest.maps if isinstance(spec, TfaMap) and spec.layer]
    if not wanted:
        return
    products = GradientProducts(model, parameters=manifest.parameters)
    directions = products.directions(examples[:1], labels[:1])
    for spec in wanted:
        try:
            if spec.reading == "agreement":
                query = examples[:1], labels[:1]
                agreement_maps(products, examples, labels, *query, [(1, 0)], spec.layer or "")
            else:
                pair = [(1, 0)]
                layer_maps(products, examples, labels, directions, pair, spec.layer or "")
        except MethodError as error:
            raise MethodError(f"maps: '{map_id(spec)}': {error}") from None


def tfa_notes(manifest: TfaManifest, model: nn.Module, data: Mapping[str, DataIndex]) -> list[str]:
    """What a person should know before it starts."""
    names = choose_parameters(model, manifest.parameters)
    parameters = dict(model.named_parameters())
    count = sum(parameters[name].numel() for name in names)
    normalised = [name for name, module in model.named_modules() if _batch_norm(module)]
    notes = [
        f"gradients in {count:,} parameters of {data[TRAIN_DATA].rows:,} training examples for at "
        f"most {manifest.queries.bound:,} queries"
    ]
    if normalised:
        notes.append(
            "batch-norm keeps its running statistics: gradients are those of the model as it is "
            "used, in eval mode"
        )
    return notes


def _batch_norm(module: nn.Module) -> bool:
    return isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
