"""What a metric is given: images, the class that is explained of each, and maps by some methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.result import Attribution, concatenate
from gradattr.data.types import Batch
from gradattr.manifest.methods import MethodSpec
from gradattr.metrics.masked_forwards import Score, scores_of
from gradattr.seeds import sample_seeds
from gradattr.work.attribute.loaded import Loaded
from gradattr.work.attribute.rows import Group
from gradattr.work.context import RunContext


@dataclass(frozen=True)
class Subject:
    """n images of a batch, and maps of them by m methods that explain the same class of each."""

    context: RunContext
    loaded: Loaded
    x: Tensor
    """(n, c, h, w) on the run's device."""
    index: Tensor
    """(n,) int64: the class explained."""
    labels: Tensor
    """(n,) int64; -1 where there is none."""
    rows: tuple[int, ...]
    sample_ids: tuple[str, ...]
    methods: tuple[MethodSpec, ...]
    requests: tuple[MethodRequest, ...]
    results: tuple[Attribution, ...]
    """One per method, of these images."""
    masks: Tensor | None
    """(n, h, w) booleans, of data that has them."""

    @cached_property
    def seeds(self) -> list[int]:
        """Those that the maps were made with: a random method draws the same numbers again."""
        return sample_seeds(self.context.attribute_manifest.seed, "sample", self.sample_ids)

    @cached_property
    def maps(self) -> list[Tensor]:
        """One (n, c or 1, h, w) per method; NaN where the method has no map of an image."""
        return [
            result.maps.masked_fill(
                torch.tensor([s != "ok" for s in result.status], device=result.maps.device).view(
                    -1, 1, 1, 1
                ),
                torch.nan,
            )
            for result in self.results
        ]

    @property
    def known_labels(self) -> Tensor | None:
        """(n,) the labels, if every image has one."""
        return self.labels if bool((self.labels >= 0).all()) else None

    def unchanged(self, score: Score) -> Tensor:
        """(n,) float64: the model's score of each image, known since its maps were made."""
        return scores_of(self.results[0].logits, self.index, score)

    def at(self, places: Sequence[int]) -> Subject:
        """The images at these places alone."""
        if len(places) == len(self.rows):
            return self
        chosen = torch.tensor(places, dtype=torch.int64)
        there = chosen.to(self.x.device)
        return replace(
            self,
            x=self.x[there],
            index=self.index[there],
            labels=self.labels[there],
            rows=tuple(self.rows[i] for i in places),
            sample_ids=tuple(self.sample_ids[i] for i in places),
            results=tuple(_rows_of(result, chosen) for result in self.results),
            masks=None if self.masks is None else self.masks[chosen],
        )

    def of(self, numbers: Sequence[int]) -> Subject:
        """Some of the methods alone."""
        if len(numbers) == len(self.methods):
            return self
        return replace(
            self,
            methods=tuple(self.methods[i] for i in numbers),
            requests=tuple(self.requests[i] for i in numbers),
            results=tuple(self.results[i] for i in numbers),
        )


def joined(parts: Sequence[Subject]) -> Subject:
    """Images of several batches with maps by the same methods, as one subject."""
    if len(parts) == 1:
        return parts[0]
    masks = [part.masks for part in parts if part.masks is not None]
    return replace(
        parts[0],
        x=torch.cat([part.x for part in parts]),
        index=torch.cat([part.index for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        rows=tuple(row for part in parts for row in part.rows),
        sample_ids=tuple(sample for part in parts for sample in part.sample_ids),
        results=tuple(
            concatenate(column) for column in zip(*(part.results for part in parts), strict=True)
        ),
        masks=torch.cat(masks) if len(masks) == len(parts) else None,
    )


@dataclass(frozen=True)
class Judged:
    """What a metric says of n images and m methods."""

    values: dict[str, list[Tensor]]
    """By measure: (n,) float64 per method; NaN where there is no value."""
    curves: dict[str, list[Tensor]]
    """By curve: (n, k) float64 per method."""
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By curve: names of its k steps, where numbers do not say where they are."""


def subjects_of(
    context: RunContext, loaded: Loaded, batch: Batch, groups: Sequence[Group]
) -> list[Subject]:
    """The batch's images with their maps: one subject for all methods that explain the same class
    of the same images."""
    methods = {request.id: number for number, request in enumerate(loaded.requests)}
    specs = context.attribute_manifest.methods
    found: list[Subject] = []
    for positions, results in groups:
        by_class: dict[str, list[Attribution]] = {}
        for result in results:
            by_class.setdefault(_explained(result), []).append(result)
        for alike in by_class.values():
            numbers = [methods[result.method] for result in alike]
            found.append(
                Subject(
                    context=context,
                    loaded=loaded,
                    x=batch.x[positions].to(loaded.device),
                    index=alike[0].index.to(loaded.device),
                    labels=batch.labels[positions].to(loaded.device),
                    rows=tuple(batch.rows[i] for i in positions),
                    sample_ids=tuple(batch.sample_ids[i] for i in positions),
                    methods=tuple(specs[number] for number in numbers),
                    requests=tuple(loaded.requests[number] for number in numbers),
                    results=tuple(alike),
                    masks=None if batch.masks is None else batch.masks[positions],
                )
            )
    return found


def _explained(result: Attribution) -> str:
    """'pred', 'true', or the number of a class."""
    return str(result.target).rpartition("_")[2]


def _rows_of(result: Attribution, places: Tensor) -> Attribution:
    """The attribution of some of its images."""

    def some(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[places.to(values.device)]

    there = places.to(result.maps.device)
    return replace(
        result,
        maps=result.maps[there],
        index=result.index[places.to(result.index.device)],
        score=result.score[places.to(result.score.device)],
        logits=result.logits[places.to(result.logits.device)],
        baseline_score=some(result.baseline_score),
        completeness_gap=some(result.completeness_gap),
        baseline_confidence=some(result.baseline_confidence),
        path_spearman=some(result.path_spearman),
        status=tuple(result.status[i] for i in places.tolist()),
    )
