"""What planning ends with: a plan, and what its tasks share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradattr.data.registry import input_shape, sample_shards
from gradattr.data.types import DataIndex
from gradattr.errors import DataError
from gradattr.manifest.attributing import AttributingManifest
from gradattr.manifest.baselines import SampleBaseline
from gradattr.manifest.data import Preprocess
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.manifest.kinds import Manifest
from gradattr.plan import Plan, Stage, assemble
from gradattr.seeds import derive_seed
from gradattr.storage.objects import ObjectStore
from gradattr.work.context import RunContext, method_id
from gradattr.work.planning.indexes import Indexes
from gradattr.work.planning.trainings import Trainings


@dataclass(frozen=True)
class Prepared:
    """A plan, and what its tasks share."""

    plan: Plan
    context: RunContext
    jobs: dict[str, Prepared] = field(default_factory=dict)
    """Of an audit: its jobs in order; each is a run of its own."""


@dataclass(frozen=True)
class InputSpace:
    """What a model takes and gives."""

    shape: tuple[int, int, int]
    """(channels, height, width) of its input."""
    classes: int
    preprocess: Preprocess
    """In full, 'weights' resolved."""

    def inputs(self, index: DataIndex) -> dict[str, Any]:
        """Its part of a plan's inputs."""
        return {
            "shape": list(self.shape),
            "num_classes": self.classes,
            "class_names": list(index.class_names) if index.class_names else None,
            "preprocess": self.preprocess.model_dump(mode="json"),
        }


Pools = dict[str, tuple[str, list[dict[str, Any]]]]
"""Method id -> digest of the baseline pool's source, and the pool's rows as shards (JSON)."""


def plan_pools(
    manifest: AttributingManifest | DiffRoarManifest, indexes: Indexes, space: InputSpace
) -> Pools:
    """The pools of the methods with a 'sample' baseline. DataError if the images of one are not
    of the model's size."""
    pools = {}
    for method in manifest.methods:
        baseline = getattr(method, "baseline", None)
        if not isinstance(baseline, SampleBaseline):
            continue
        source = baseline.data or manifest.data
        index = indexes.get(source)
        shape = input_shape(source, index, space.preprocess)
        if shape != space.shape:
            raise DataError(
                f"method '{method_id(method)}': the images of its baseline pool are "
                f"{'x'.join(map(str, shape))}, the model's input is "
                f"{'x'.join(map(str, space.shape))}; set preprocess.resize or crop"
            )
        count = min(baseline.count, index.rows)
        shards = sample_shards(index, count, derive_seed(manifest.seed, "pool", count))
        pools[method_id(method)] = (index.digest(), [shard.to_json() for shard in shards])
    return pools


def opened_store(manifest: Manifest, store: ObjectStore) -> dict[str, Any]:
    """The opened store's own spec, whose local path is absolute, for workers elsewhere; with maps
    as the manifest keeps them: a job of an audit may keep them otherwise than the audit says."""
    return store.spec.model_dump(mode="json") | {"maps": manifest.store.maps}


def assemble_run(
    manifest: Manifest,
    store: ObjectStore,
    inputs: dict[str, Any],
    stages: tuple[Stage, ...],
    space: InputSpace,
    trainings: Trainings,
    *,
    pools: Pools | None = None,
    indexes: dict[str, DataIndex] | None = None,
) -> Prepared:
    """Put stages under a fingerprint, and write down what their tasks share."""
    resolved = manifest.model_dump(mode="json")
    plan = assemble(resolved, inputs, stages)
    context = RunContext(
        run_id=plan.run_id,
        fingerprint=plan.fingerprint,
        manifest_json=resolved | {"store": opened_store(manifest, store)},
        shape=space.shape,
        num_classes=space.classes,
        preprocess_json=space.preprocess.model_dump(mode="json"),
        models=trainings.refs,
        pools={name: shards for name, (_, shards) in (pools or {}).items()},
        indexes={name: index.to_json() for name, index in (indexes or {}).items()},
        sources=trainings.sources,
    )
    return Prepared(plan, context)
