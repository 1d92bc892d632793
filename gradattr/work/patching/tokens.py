"""From a row of text to tokens, or to the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from gradattr.data.prompts import Prompt
from gradattr.manifest.patching import PatchingManifest


class Tokenizer(Protocol):
    """What is needed of a tokenizer of the transformers library."""

    unk_token_id: int | None

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Any: ...
    def decode(self, ids: list[int]) -> str: ...


@dataclass
class Tokens:
    """A prompt in tokens; of a bad one only what is known of it."""

    prompt: Prompt
    ids: list[int] = field(default_factory=list)
    answer: int | None = None
    """None: the token that the model predicts."""
    foil: int | None = None
    corrupted: list[int] | None = None
    status: str = "ok"
    error: str | None = None


def tokenise(
    prompt: Prompt, tokenizer: Tokenizer, manifest: PatchingManifest, vocabulary: int, longest: int
) -> Tokens:
    """``vocabulary``: tokens that the model knows; ``longest``: tokens that it takes at once."""
    found = Tokens(prompt)
    if prompt.error is not None:
        return _bad(found, "decode_error", prompt.error)
    if not prompt.prompt:
        return _bad(found, "empty", "the prompt is empty")
    found.ids = _ids(tokenizer, prompt.prompt)
    if not found.ids:
        return _bad(found, "empty", "the prompt has no tokens")
    if len(found.ids) > longest:
        limit = "max_tokens" if longest == manifest.max_tokens else "the model's context"
        return _bad(found, "too_long", f"{len(found.ids)} tokens, {longest} are allowed by {limit}")
    if max(found.ids) >= vocabulary:
        text = f"token {max(found.ids)}, but the model has embeddings of 0 to {vocabulary - 1}"
        return _bad(found, "decode_error", text)
    if manifest.answer != "predicted":
        if prompt.answer is not None:
            found.answer, error = _one(tokenizer, prompt.answer, vocabulary)
            if error:
                return _bad(found, "answer_error", f"answer {error}")
        elif manifest.answer == "given":
            return _bad(found, "answer_error", "the row has no answer")
    if prompt.foil is not None:
        found.foil, error = _one(tokenizer, prompt.foil, vocabulary)
        if error:
            return _bad(found, "foil_error", f"foil {error}")
    elif manifest.score == "logit_difference":
        return _bad(found, "foil_error", "the row has no foil")
    if prompt.corrupted is not None:
        found.corrupted = _ids(tokenizer, prompt.corrupted)
    return found


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """Each token as text."""
    return [tokenizer.decode([one]) for one in ids]


def _bad(found: Tokens, status: str, error: str) -> Tokens:
    found.status, found.error = status, error
    return found


def _ids(tokenizer: Tokenizer, text: str, special: bool = True) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def _one(tokenizer: Tokenizer, text: str, vocabulary: int) -> tuple[int | None, str | None]:
    """The one token of an answer, or why it is not one."""
    ids = _ids(tokenizer, text, special=False)
    if len(ids) == 1:
        if ids[0] >= vocabulary or ids[0] == tokenizer.unk_token_id:
            return None, f"{text!r} is not in the model's vocabulary"
        return ids[0], None
    shown = " ".join(repr(piece) for piece in pieces(tokenizer, ids[:6]))
    for other in (f" {text}", text.strip()):
        tried = _ids(tokenizer, other, special=False)
        if len(tried) == 1 and tried[0] != tokenizer.unk_token_id:
            return None, f"{text!r} is {len(ids)} tokens ({shown}); {other!r} is one"
    return None, f"{text!r} is {len(ids)} tokens ({shown}), expected one"
