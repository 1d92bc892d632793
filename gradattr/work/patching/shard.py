"""The task that patches one shard of prompts: read, tokenise, run, write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gradattr.data.prompts import read_prompts
from gradattr.plan import Task
from gradattr.storage.objects import open_store
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import MAIN, RunContext
from gradattr.work.patching.loaded import Loaded, load_for
from gradattr.work.patching.patch import Patched, patch_prompts
from gradattr.work.patching.rows import PatchingRows
from gradattr.work.patching.tokens import Tokens, tokenise


def patch_shard(context: RunContext, task: Task) -> dict[str, Any]:
    """Patch the prompts of ``task.payload``; write the shard's files and its record; return the
    record's ``extra``."""
    manifest = context.patching_manifest
    loaded = load_for(context)
    writer = ShardWriter(
        open_store(manifest.store), context.run_id, context.fingerprint, task.stage, task.key
    )
    payload = task.payload
    prompts = read_prompts(
        manifest.data, payload["start"], task.rows, payload["digest"], context.data_options
    )
    tokens = [
        tokenise(one, loaded.tokenizer, manifest, loaded.model.vocabulary, loaded.longest)
        for one in prompts
    ]
    found: dict[int, Patched] = {}
    for some in _together(loaded, [one for one in tokens if one.status == "ok"]):
        for one, patched in zip(some, patch_prompts(loaded, manifest, some), strict=True):
            found[one.prompt.row] = patched
    rows = PatchingRows(writer, manifest, loaded.sites, loaded.tokenizer)
    for one in tokens:
        rows.add(one, found.get(one.prompt.row))
    extra = {
        "rows": len(rows.row_ids),
        "bad_rows": len(rows.bad_rows),
        "statuses": dict(sorted(rows.statuses.items())),
        "examples": rows.examples,
        "models": {MAIN: loaded.digest},
        "tokens": sum(len(one.ids) for one in tokens if one.status == "ok"),
        "device": loaded.device.type,
        "torch": torch.__version__,
    }
    writer.finish(rows=task.rows, row_ids=rows.row_ids, extra=extra)
    return extra


def _together(loaded: Loaded, good: list[Tokens]) -> Iterator[list[Tokens]]:
    """Prompts of about one length, as many as fit."""
    left = sorted(good, key=lambda one: len(one.ids), reverse=True)
    while left:
        count = loaded.prompts_at_once(len(left[0].ids))
        yield left[:count]
        left = left[count:]
