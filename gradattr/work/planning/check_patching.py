"""Kind patching before anything is written: does the model load, what are the prompts, what does
it cost?"""

from __future__ import annotations

import math
import time
from collections import Counter

import torch

from gradattr.data.prompts import index_prompts, read_prompts
from gradattr.errors import UsageError
from gradattr.manifest.patching import EXACT, PatchingManifest
from gradattr.manifest.starts import UniStart
from gradattr.patching.effects import checked_sites
from gradattr.work.context import MAIN, RunContext
from gradattr.work.patching.loaded import Loaded, load, load_for
from gradattr.work.patching.tokens import Tokens, tokenise

#: Prompts that are looked at.
_LOOK = 1000


def patching_notes(context: RunContext) -> list[str]:
    """Load the model and tokenise the first prompts. Returns notes for people.

    Raises ModelError for a model that does not load or fit; UsageError for sites that it does not
    have, and where none of the prompts can be used.
    """
    loaded, some = _look(context)
    model = loaded.model
    parameters = sum(p.numel() for p in model.network.parameters())
    notes = [
        f"model {type(model.network).__name__}: {parameters:,} parameters, {model.sites - 1} "
        f"blocks, width {model.width}, {model.vocabulary:,} tokens"
    ]
    bad = Counter(one.status for one in some if one.status != "ok")
    good = [len(one.ids) for one in some if one.status == "ok"]
    if not good:
        first = some[0]
        raise UsageError(
            f"data: none of the first {len(some)} prompts can be used; the first: {first.status}: "
            f"{first.error}"
        )
    notes.append(f"prompts: {min(good)} to {max(good)} tokens, {len(loaded.sites)} sites")
    if bad:
        kinds = ", ".join(f"{count} {status}" for status, count in sorted(bad.items()))
        notes.append(f"of the first {len(some)} prompts {sum(bad.values())} are bad: {kinds}")
    return notes


def patching_cost(context: RunContext, rows: int, *, probe: bool) -> tuple[int, float]:
    """Model evaluations of all ``rows`` prompts, as many for each as for the first ones; and, with
    ``probe``, the seconds of a prompt, from a batch of forward passes on the longest of these."""
    loaded, some = _look(context)
    counted = sum(_evaluations(context.patching_manifest, loaded, one) for one in some)
    longest = max((one.ids for one in some if one.status == "ok"), key=len, default=[])
    seconds = _seconds(loaded, longest) * counted / len(some) if probe and longest else 0.0
    return math.ceil(counted / len(some) * rows), seconds


def _seconds(loaded: Loaded, ids: list[int]) -> float:
    """Of one forward pass among many."""
    count = loaded.rows_at_once(len(ids), graph=False)
    last = torch.full((count,), len(ids) - 1, device=loaded.device)
    taken = []
    with torch.no_grad():
        x = loaded.model.embed(torch.tensor([ids] * count, device=loaded.device))
        for _ in range(3):
            start = time.perf_counter()
            float(loaded.model.logits(x, last).sum())
            taken.append(time.perf_counter() - start)
    return min(taken) / count


def _evaluations(manifest: PatchingManifest, loaded: Loaded, one: Tokens) -> int:
    """Forward passes, a backward pass counted as two."""
    if one.status != "ok":
        return 0
    found = 1
    for start in manifest.baselines:
        found += 1
        if isinstance(start, UniStart):
            # The gradient in the parameters, the unlearned answer, and each step.
            found += 3 + 1 + 3 * start.iterations
        for method in manifest.methods:
            if method == EXACT:
                found += 2 + len(loaded.sites) * len(one.ids)
            else:
                steps = manifest.integration.steps if method == "integrated_patching" else 1
                found += 2 + 3 * steps
    return found


def _look(context: RunContext) -> tuple[Loaded, list[Tokens]]:
    """The model and the first prompts. UsageError for sites that it does not have."""
    manifest = context.patching_manifest
    if manifest.runtime.address == "inline":
        # The tasks of this process will have the same.
        loaded = load_for(context)
    else:
        loaded = load(manifest, context.model(MAIN).digest, torch.device("cpu"))
    try:
        checked_sites(loaded.model, loaded.sites)
    except ValueError as error:
        raise UsageError(f"manifest: {error}") from None
    options = context.data_options
    index = index_prompts(manifest.data, options)
    prompts = read_prompts(manifest.data, 0, _LOOK, index.digest, options)
    vocabulary = loaded.model.vocabulary
    return loaded, [
        tokenise(one, loaded.tokenizer, manifest, vocabulary, loaded.longest) for one in prompts
    ]
