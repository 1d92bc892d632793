"""From what is found of prompts to rows of tables. Every prompt yields a row, also the bad ones."""

from __future__ import annotations

import math
from typing import Any

from gradattr.manifest.patching import PatchingManifest
from gradattr.manifest.starts import start_id
from gradattr.storage.schemas import make_table, table_schema
from gradattr.storage.shards import ShardWriter
from gradattr.work.patching.patch import AtStart, Patched
from gradattr.work.patching.tokens import Tokenizer, Tokens, pieces

#: Examples of bad rows that are kept for the driver's message.
MAX_EXAMPLES = 3

_NOT_FINITE = "the model's output has a NaN or an infinity"


class PatchingRows:
    """Hands the rows of one shard to its writer, prompt by prompt, and counts the bad ones."""

    def __init__(
        self,
        writer: ShardWriter,
        manifest: PatchingManifest,
        sites: tuple[int, ...],
        tokenizer: Tokenizer,
    ) -> None:
        self._writer, self._sites, self._tokenizer = writer, sites, tokenizer
        self._starts = [start_id(spec) for spec in manifest.baselines]
        self._estimates = manifest.estimates
        self.row_ids: list[int] = []
        self.bad_rows: set[int] = set()
        self.statuses: dict[str, int] = {}
        self.examples: list[str] = []

    def add(self, tokens: Tokens, found: Patched | None) -> None:
        """A prompt; ``found`` None: it is a bad one, and its tokens say why."""
        prompt = tokens.prompt
        self.row_ids.append(prompt.row)
        own = {"row": prompt.row, "sample_id": prompt.sample_id}
        status, error = tokens.status, tokens.error
        if found is not None and not found.finite:
            status, error, found = "non_finite", _NOT_FINITE, None
        texts = pieces(self._tokenizer, tokens.ids)
        self._append("prompts", [own | self._answers(tokens, found, texts, status, error)])
        if found is None:
            self._failure(own, "read", None, status, error)
        for name in self._starts:
            at = AtStart(status, error) if found is None else found.starts[name]
            if found is not None and at.status != "ok":
                self._failure(own, "patch", name, at.status, at.error)
            self._at_start(own | {"baseline": name}, at, texts)

    def _answers(
        self,
        tokens: Tokens,
        found: Patched | None,
        texts: list[str],
        status: str,
        error: str | None,
    ) -> dict[str, Any]:
        readable = tokens.prompt.error is None
        values: dict[str, Any] = {
            "prompt": tokens.prompt.prompt if readable else None,
            "tokens": texts if tokens.ids else None,
            "answer_id": tokens.answer,
            "foil_id": tokens.foil,
            "status": status,
            "error": error,
        }
        if found is not None:
            values |= {
                "answer_id": found.answer,
                "answer_prob": found.answer_prob,
                "predicted_id": found.predicted,
                "predicted_prob": found.predicted_prob,
            }
        for name in ("answer", "foil", "predicted"):
            token = values.get(f"{name}_id")
            values[name] = None if token is None else self._tokenizer.decode([token])
        return values

    def _at_start(self, own: dict[str, Any], at: AtStart, texts: list[str]) -> None:
        numbers = {name: _finite(value) for name, value in at.numbers.items()}
        row = own | numbers | {"status": at.status, "error": at.error}
        self._append("patching_baselines", [row])
        good = at.status == "ok"
        self._append(
            "patching_agreement",
            [
                own
                | {"method": method, "status": at.status}
                | {
                    name: _finite(value) if good else None
                    for name, value in at.agreement.get(method, {}).items()
                }
                for method in self._estimates
            ],
        )
        if not good:
            return
        for method, effects in at.effects.items():
            count, length = len(self._sites), len(texts)
            same = {name: [value] * (count * length) for name, value in own.items()}
            columns = same | {
                "method": [method] * (count * length),
                "site": [site for site in self._sites for _ in texts],
                "position": list(range(length)) * count,
                "token": texts * count,
                "effect": effects.flatten().tolist(),
            }
            self._writer.append("patching", make_table("patching", columns))

    def _failure(
        self, own: dict[str, Any], stage: str, name: str | None, status: str, error: str | None
    ) -> None:
        # A baseline that is the prompt itself is no fault of the row.
        if status != "degenerate":
            self.bad_rows.add(own["row"])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"row {own['row']} ({own['sample_id']}): {status}: {error}")
        values = {"stage": stage, "method": name, "status": status, "error": error}
        self._append("errors", [own | values])

    def _append(self, table: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            names = table_schema(table).names
            columns = {name: [row.get(name) for row in rows] for name in names}
            self._writer.append(table, make_table(table, columns))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
