"""Catalogue entries of the methods that only ask for answers to masked images."""

from __future__ import annotations

from gradattr.attribution.catalogue_entry import LABELS, MethodInfo, Parameter

_NEEDS = ("inputs that are images", LABELS)
_NO_CLAIM = "none claimed"
_BASELINE = Parameter("baseline", "black", "what stands where a part is taken away: as of IG")
_BLIND = "parts that equal the baseline's count for nothing: a black baseline is blind to black"
_SEGMENTS = (
    Parameter("samples", 1000, "combinations of segments"),
    Parameter("segments", "grid", "cells of a grid; also slic (superpixels)"),
    Parameter("count", 49, "segments, about"),
)

PERTURBATION_METHODS = (
    MethodInfo(
        "occlusion",
        "E f(x) − f(x with the window replaced by x'), over the windows that cover a pixel",
        "Zeiler, Fergus 2014, Visualizing and understanding convolutional networks",
        None,
        "a forward pass per window: ⌈(H − window) / stride + 1⌉ · ⌈(W − window) / stride + 1⌉",
        _NEEDS,
        False,
        _NO_CLAIM,
        (_BLIND, "what matters in two places at once, and what is larger than the window"),
        (
            Parameter("window", None, "side in pixels; default an eighth of the shorter side"),
            Parameter("stride", None, "pixels between windows; default half a window"),
            _BASELINE,
        ),
        per_pixel=True,
        contributions=True,
    ),
    MethodInfo(
        "lime",
        "b_j at the pixels of segment j; min_b Σ_k w_k (f(x_k) − b_0 − Σ_j z_kj b_j)² + ridge |b|²",
        "Ribeiro, Singh, Guestrin 2016, Why should I trust you?",
        "samples",
        "samples forward passes",
        _NEEDS,
        False,
        _NO_CLAIM,
        (
            _BLIND,
            "fewer samples than segments: mostly the penalty's choice",
            "'slic': superpixels differ from image to image, and with them the size of a value",
        ),
        (
            *_SEGMENTS,
            Parameter("kernel_width", 0.25, "of w_k = √exp(−d_k² / width²), d_k cosine distance"),
            Parameter("ridge", 1.0, "penalty on the squared coefficients"),
            _BASELINE,
        ),
        per_pixel=True,
        contributions=True,
    ),
    MethodInfo(
        "kernel_shap",
        "φ_j / |segment j|, φ the Shapley values of f(x with the other segments replaced by x')",
        "Lundberg, Lee 2017, A unified approach to interpreting model predictions",
        None,
        "at most samples forward passes (2^m − 2 if they are fewer, of m segments), and one at x'",
        _NEEDS,
        True,
        "gap = Σ map − (f(x) − f(x')); 0 but for rounding, however few the samples",
        (_BLIND, "few samples: values that masks leave open are split evenly"),
        (*_SEGMENTS, _BASELINE),
        per_pixel=True,
        contributions=True,
    ),
    MethodInfo(
        "rise",
        "Σ_k f(x ⊙ M_k + x' ⊙ (1 − M_k)) M_k / (samples · keep), M_k smooth random masks",
        "Petsiuk, Das, Saenko 2018, RISE: randomized input sampling for explanation",
        "samples",
        "samples forward passes",
        _NEEDS,
        False,
        _NO_CLAIM,
        (
            _BLIND,
            "target 'logit_*' and few samples: an offset that is the same everywhere, and its "
            "noise, hide the map; published for 'prob_*'",
        ),
        (
            Parameter("samples", 4000, "masks, the same for every image"),
            Parameter("cells", 7, "cells of a mask, on a side"),
            Parameter("keep", 0.5, "probability that a cell is kept"),
            _BASELINE,
        ),
        per_pixel=True,
        contributions=True,
    ),
)
