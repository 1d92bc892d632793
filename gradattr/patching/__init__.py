"""Patching the residual stream of causal language models: exactly, and by first-order estimates.

torch only: a model is a module and two callables (``LanguageModel``).
"""

from gradattr.patching.baselines import (
    Corrupted,
    MeanToken,
    NoisyPrompt,
    RandomPrompt,
    Start,
    UnlearnedPrompt,
    ZeroPrompt,
)
from gradattr.patching.effects import activation_patching, attribution_patching
from gradattr.patching.faithfulness import Faithfulness, faithfulness
from gradattr.patching.language_model import LanguageModel, language_model
from gradattr.patching.prompts import PromptBatch
from gradattr.patching.scores import SCORES, PatchingScore, ScoreName, patching_score

__all__ = [
    "SCORES",
    "Corrupted",
    "Faithfulness",
    "LanguageModel",
    "MeanToken",
    "NoisyPrompt",
    "PatchingScore",
    "PromptBatch",
    "RandomPrompt",
    "ScoreName",
    "Start",
    "UnlearnedPrompt",
    "ZeroPrompt",
    "activation_patching",
    "attribution_patching",
    "faithfulness",
    "language_model",
    "patching_score",
]
