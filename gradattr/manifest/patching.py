"""``kind: patching`` -- which positions of which layers carry a language model's answer?"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gradattr.manifest.base import Spec, Url
from gradattr.manifest.common import ManifestBase
from gradattr.manifest.operation import Errors
from gradattr.manifest.starts import (
    CorruptedStart,
    RandomStart,
    StartSpec,
    UniStart,
    ZeroStart,
    check_unique_starts,
)

Positive = Annotated[int, Field(gt=0)]
Column = Annotated[str, Field(min_length=1)]

#: The exact effects, which the others are compared with.
EXACT: Literal["activation_patching"] = "activation_patching"


class PromptData(Spec):
    """A file of prompts."""

    file: Url
    """Lines of text, JSON lines, CSV with a header, or Parquet."""
    format: Literal["auto", "text", "jsonl", "csv", "parquet"] = "auto"
    """'auto': by the file's name (.txt, .jsonl, .csv, .parquet)."""
    prompt: Column = "prompt"
    """Column of the prompt. Of 'text' every line is one, and there are no columns."""
    answer: Column | None = None
    """Column of the next token that is explained, written with the space before it (' Paris').
    Default: none."""
    foil: Column | None = None
    """Column of another next token, for the score 'logit_difference'."""
    corrupted: Column | None = None
    """Column of another prompt of as many tokens, for the baseline 'corrupted'."""
    id: Column | None = None
    """Column of unique sample ids. Default: the row number."""
    limit: Positive | None = None
    """Use only the first N prompts. Default: all."""

    @property
    def kind(self) -> str:
        """The format, 'auto' resolved; '' if the file's name does not tell."""
        if self.format != "auto":
            return self.format
        endings = {
            ".txt": "text",
            ".text": "text",
            ".jsonl": "jsonl",
            ".ndjson": "jsonl",
            ".csv": "csv",
            ".parquet": "parquet",
        }
        name = self.file.lower()
        return next((kind for end, kind in endings.items() if name.endswith(end)), "")

    @property
    def columns(self) -> dict[str, str]:
        """What is read -> the name of its column."""
        names = {
            "prompt": self.prompt,
            "answer": self.answer,
            "foil": self.foil,
            "corrupted": self.corrupted,
            "id": self.id,
        }
        return {what: name for what, name in names.items() if name is not None}

    @model_validator(mode="after")
    def _known(self) -> PromptData:
        if not self.kind:
            raise ValueError(
                "format: the file's name does not say what it is; state format: text, jsonl, csv "
                "or parquet"
            )
        others = sorted(set(self.columns) - {"prompt"})
        if self.kind == "text" and others:
            raise ValueError(f"{others[0]}: lines of text have no columns; use jsonl, csv, parquet")
        return self


class LanguageModelSpec(Spec):
    """A causal language model in the files of the transformers library: config.json, the tokenizer,
    and weights as safetensors. Nothing in it is executed, and no pickle is read."""

    path: Url
    """Its folder, or its name on the Hugging Face hub ('openai-community/gpt2')."""
    revision: Annotated[str, Field(min_length=1)] | None = None
    """Of a hub's model: branch, tag or commit. Default: the newest."""
    blocks: Annotated[str, Field(min_length=1)] | None = None
    """Pattern of the names of its blocks ('transformer.h.*'). Default: found by itself."""


class Integration(Spec):
    """The path of 'integrated_patching': straight, from the baseline to the prompt."""

    steps: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Points at which gradients are taken."""
    rule: Literal["gauss_legendre", "right", "left", "trapezoid", "midpoint"] = "right"
    """Quadrature rule."""

    @model_validator(mode="after")
    def _both_ends(self) -> Integration:
        if self.rule == "trapezoid" and self.steps < 2:
            raise ValueError("steps: the rule 'trapezoid' needs at least 2")
        return self


def _starts() -> list[Any]:
    return [
        UniStart(baseline="uni"),
        ZeroStart(baseline="zero"),
        RandomStart(baseline="random"),
    ]


Patching = Literal["attribution_patching", "integrated_patching", "activation_patching"]


def _patchings() -> list[Patching]:
    return ["attribution_patching", "activation_patching"]


class PatchingManifest(ManifestBase):
    """Effects of a language model's residual stream, position by position and site by site: exact
    by activation patching, estimated by attribution patching, and how well these agree."""

    kind: Literal["patching"]
    data: PromptData
    """The prompts."""
    model: LanguageModelSpec
    """What is explained."""
    answer: Literal["auto", "given", "predicted"] = "auto"
    """The next token that is explained: the data's, or the one that the model predicts. 'auto':
    the data's where it has one."""
    score: Literal["prob", "log_prob", "logit", "logit_difference"] = "prob"
    """What is looked at: the answer's probability, its logarithm, the answer's logit, or that
    minus the foil's."""
    sites: Literal["all"] | list[Annotated[int, Field(ge=0)]] = "all"
    """Where the residual stream is patched: 0 is the input embedding, i the output of block i."""
    baselines: list[StartSpec] = Field(default_factory=_starts, min_length=1, max_length=32)
    """Runs that the prompt's activations are patched into."""
    methods: list[Patching] = Field(default_factory=_patchings, min_length=1)
    """'activation_patching': exact, a forward pass for every site and position;
    'attribution_patching': a first-order estimate from one backward pass;
    'integrated_patching': with the gradients along a path. The estimates are compared with the
    exact effects."""
    integration: Integration = Field(default_factory=Integration)
    max_tokens: Positive = 512
    """Longer prompts are refused as 'too_long'; so are those that the model cannot take."""
    shard_rows: Annotated[int, Field(gt=0, le=100_000)] = 64
    """Prompts per task: what is lost at most when a worker dies. Results do not depend on it."""
    errors: Errors = Field(default_factory=Errors)

    @property
    def estimates(self) -> list[Patching]:
        """The methods that are compared with the exact effects; none without these."""
        if EXACT not in self.methods:
            return []
        return [method for method in self.methods if method != EXACT]

    @model_validator(mode="after")
    def _consistent(self) -> PatchingManifest:
        check_unique_starts(self.baselines)
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("methods: one of them stands there twice")
        if self.sites != "all" and (not self.sites or self.sites != sorted(set(self.sites))):
            raise ValueError("sites: give them in ascending order, each once; or 'all'")
        if any(isinstance(start, CorruptedStart) for start in self.baselines):
            self._need("corrupted", "baselines: 'corrupted'")
        if self.score == "logit_difference":
            self._need("foil", "score: 'logit_difference'")
        if self.answer == "given":
            self._need("answer", "answer: 'given'")
        if self.engine.precision != "fp32":
            raise ValueError("engine.precision: kind 'patching' computes in fp32 only")
        return self

    def _need(self, column: str, who: str) -> None:
        if column not in self.data.columns:
            raise ValueError(f"{who} needs the data's column of it: state data.{column}")
