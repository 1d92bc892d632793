"""The plan of ``kind: patching``: one task per shard of prompts, then the faithfulness table."""

from __future__ import annotations

from gradattr.data.prompts import index_prompts
from gradattr.manifest.patching import PatchingManifest
from gradattr.models.language_models import find_checkpoint
from gradattr.plan import Stage, Task, assemble
from gradattr.storage.objects import ObjectStore
from gradattr.work.context import MAIN, ModelRef, RunContext, data_options
from gradattr.work.patching.summarise import FAITHFULNESS_STAGE, PATCH_STAGE
from gradattr.work.planning.prepared import Prepared, opened_store


def prepare_patching(manifest: PatchingManifest, store: ObjectStore) -> Prepared:
    """Look at prompts and model, and plan. Raises DataError or ModelError."""
    index = index_prompts(manifest.data, data_options(manifest))
    checkpoint = find_checkpoint(manifest.model)
    inputs = {
        "data": {"digest": index.digest, "format": manifest.data.kind, "rows": index.rows},
        "models": {MAIN: checkpoint.digest},
    }
    resolved = manifest.model_dump(mode="json")
    plan = assemble(resolved, inputs, _stages(manifest, index.rows, index.digest))
    context = RunContext(
        run_id=plan.run_id,
        fingerprint=plan.fingerprint,
        manifest_json=resolved | {"store": opened_store(manifest, store)},
        # What images need; prompts have none of it.
        shape=(1, 1, 1),
        num_classes=0,
        preprocess_json={},
        models=(ModelRef(MAIN, checkpoint.digest, trained=False),),
        pools={},
    )
    return Prepared(plan, context)


def _stages(manifest: PatchingManifest, rows: int, digest: str) -> tuple[Stage, ...]:
    starts = range(0, rows, manifest.shard_rows)
    tasks = tuple(
        Task(
            PATCH_STAGE,
            f"{number:05d}",
            min(manifest.shard_rows, rows - start),
            {"start": start, "digest": digest},
        )
        for number, start in enumerate(starts)
    )
    pairs = rows * len(manifest.baselines)
    expected = {"prompts": rows, "patching_baselines": pairs}
    if manifest.estimates:
        expected["patching_agreement"] = pairs * len(manifest.estimates)
    patch = Stage(PATCH_STAGE, tasks, (*expected, "patching", "errors"), expected)
    if not manifest.estimates:
        return (patch,)
    last = Task(FAITHFULNESS_STAGE, FAITHFULNESS_STAGE, rows, {})
    return (patch, Stage(FAITHFULNESS_STAGE, (last,), ("faithfulness",), {}))
