"""What a person most likely meant: near words, keys of a neighbour, numbers in odd spellings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from pydantic import BaseModel

from gradattr.manifest.kinds import KINDS
from gradattr.manifest.nodes import ScalarNode
from gradattr.manifest.shapes import (
    Either,
    Leaf,
    ListOf,
    Model,
    Shape,
    Tagged,
    field_shape,
    listing,
    quoted,
)

#: Words of other libraries for keys of ours.
_SYNONYMS = {
    "architecture": ("arch",),
    "assertions": ("checks",),
    "asserts": ("checks",),
    "attribution_methods": ("methods",),
    "attribution_scores": ("scores",),
    "backbone": ("arch",),
    "baseline": ("two_step",),
    "baselines": ("baseline",),
    "batchsize": ("batch_size",),
    "checkpoint": ("weights",),
    "checkpoints": ("keep_epochs", "scores"),
    "cosine": ("grad_cos",),
    "dataset": ("data",),
    "dot": ("grad_dot",),
    "dot_product": ("grad_dot",),
    "epsilon": ("eps",),
    "errors": ("misclassified",),
    "factor": ("lr_decay",),
    "fill": ("value",),
    "filter": ("select",),
    "greater_than": ("above",),
    "hessian": ("matrix",),
    "ig": ("integrated_gradients",),
    "incorrect": ("misclassified",),
    "influence": ("scores",),
    "influence_functions": ("influence",),
    "internal_batch_size": ("batch_size",),
    "iterations": ("max_steps",),
    "k": ("levels", "top"),
    "lam": ("damping",),
    "lambda": ("damping",),
    "layers": ("hidden", "layer", "parameters"),
    "learning_rate": ("lr",),
    "less_than": ("below",),
    "limit": ("count",),
    "margin": ("by",),
    "max": ("at_most",),
    "max_iter": ("max_steps",),
    "maximum": ("at_most",),
    "method": ("methods", "name", "rule", "inverse", "scores"),
    "methods": ("scores",),
    "min": ("at_least",),
    "minimum": ("at_least",),
    "module": ("layer",),
    "n_pairs": ("top",),
    "n_queries": ("count",),
    "n_samples": ("samples",),
    "n_seeds": ("seeds",),
    "n_steps": ("steps",),
    "noise": ("sigma",),
    "noise_level": ("sigma",),
    "normalize": ("mean",),
    "nt_samples": ("samples",),
    "num_queries": ("count",),
    "num_samples": ("samples",),
    "num_seeds": ("seeds",),
    "num_steps": ("steps",),
    "num_workers": ("workers",),
    "output": ("store",),
    "output_dir": ("store",),
    "pairs": ("top",),
    "path": ("url", "file", "files"),
    "pretrained": ("weights",),
    "random_labels": ("permute_labels",),
    "recipe": ("train", "retrain"),
    "repeats": ("seeds",),
    "saliency_maps": ("maps",),
    "save_epochs": ("keep_epochs",),
    "save_scores": ("keep",),
    "schemes": ("methods",),
    "sg": ("smoothgrad",),
    "select": ("queries",),
    "shard_size": ("shard_rows",),
    "shuffle_labels": ("permute_labels",),
    "size": ("resize", "buckets"),
    "sketch": ("index",),
    "sketches": ("index",),
    "solver": ("inverse",),
    "std": ("sigma",),
    "std_dev": ("stdev", "sigma"),
    "stdevs": ("stdev", "sigma"),
    "tda": ("scores",),
    "test": ("queries",),
    "test_data": ("test", "queries"),
    "test_images": ("queries",),
    "thresholds": ("checks",),
    "tol": ("tolerance",),
    "top_k": ("top",),
    "tracincp": ("tracin",),
    "train_data": ("data",),
    "type": ("format", "arch", "kind", "name"),
    "uri": ("url",),
    "vanilla": ("saliency",),
    "vanilla_gradient": ("saliency",),
    "vanilla_gradients": ("saliency",),
    "wrong": ("misclassified",),
}

_WORDY_BOOLS = {
    **dict.fromkeys(("yes", "on", "y"), "true"),
    **dict.fromkeys(("no", "off", "n"), "false"),
}
_NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")
_GROUPED = re.compile(r"[-+]?[0-9]{1,3}(?:[_,' ][0-9]{3})+|[0-9]+(?:_[0-9]+)+")
_PERCENT = re.compile(r"([0-9.]+) ?%")
_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
_FRACTION = re.compile(r"([0-9]+) ?/ ?([0-9]+)")
_SUFFIXED = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?i:k|m|ki|mi|gi|kb|mb|gb|px|x)")


def nearest(word: str, options: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The option that ``word`` is most likely a misspelling of, or None."""
    known = list(options)
    plain = {option.lower().replace("-", "_"): option for option in known}
    wanted = word.lower().replace("-", "_").replace(" ", "_")
    if wanted in plain:
        return plain[wanted]
    for synonym in _SYNONYMS.get(wanted, ()):
        if synonym in known:
            return synonym
    begun = [option for option in plain if len(wanted) >= 4 and option.startswith(wanted)]
    if begun:
        return plain[min(begun, key=len)]
    close = difflib.get_close_matches(wanted[:80], plain, n=1, cutoff=cutoff)
    return plain[close[0]] if close else None


def key_hint(key: str, owner: Model, union: Tagged | None, tag: str, root: type[BaseModel]) -> str:
    """What to write in place of an unknown key of ``owner``."""
    others = [name for name, model in union.arms if key in model.keys] if union else []
    meant = nearest(key, owner.keys, cutoff=0.8 if others else 0.6)
    if meant:
        return f"; did you mean '{meant}'?"
    if union:
        allowed = [name for name in owner.keys if name != union.key]
        takes = f"'{tag}' takes {listing(allowed, 'and')}"
        return f"; it is a key of {listing(quoted(others))}; {takes}" if others else f"; {takes}"
    for section in root.model_fields:
        shape = field_shape(root, section)
        if isinstance(shape, Model) and key in shape.keys:
            return f"; it belongs under '{section}'"
    if owner.cls is root:
        kinds = [kind for kind, model in KINDS.items() if key in model.model_fields]
        if kinds:
            return f"; it is a key of kind {listing(quoted(kinds))}"
    if owner.cls is not root and key in root.model_fields:
        return "; it belongs at the top level of the manifest"
    return f"; expected {listing(quoted(owner.keys))}"


def text_hint(node: ScalarNode, shape: Shape) -> str:
    """A hint on how the value is spelled, or nothing."""
    leaves: tuple[Shape, ...] = shape.arms if isinstance(shape, Either) else (shape,)
    lists = [leaf for leaf in leaves if isinstance(leaf, ListOf)]
    if lists and node.value is not None:
        return _list_hint(node, lists[0])
    if isinstance(node.value, str):
        if any(isinstance(leaf, Leaf) and leaf.numeric for leaf in leaves):
            whole = any(isinstance(leaf, Leaf) and leaf.whole for leaf in leaves)
            return _number_hint(node, whole)
        meant = _WORDY_BOOLS.get(node.text.lower()) or _quoted_bool(node)
        takes = {word for leaf in leaves if isinstance(leaf, Leaf) for word in leaf.words.split()}
        return f"; write {meant}" if meant and meant.split()[0] in takes else ""
    if isinstance(node.value, bool | int | float):
        if node.value > 1 and any(isinstance(leaf, Leaf) and leaf.share for leaf in leaves):
            return f"; as a share, {node.text} percent is {_share(node.text, '100')}"
        if any(isinstance(leaf, Leaf) and leaf.text and not leaf.choices for leaf in leaves):
            return f"; to mean text, write it in quotes: '{node.text}'"
        whole = any(isinstance(leaf, Leaf) and leaf.whole for leaf in leaves)
        if whole and isinstance(node.value, float) and node.value.is_integer():
            return f"; write {int(node.value)}"
    return ""


def _list_hint(node: ScalarNode, wanted: ListOf) -> str:
    choices = wanted.item.choices if isinstance(wanted.item, Leaf) else ()
    if not choices or node.text in choices:
        return f"; write it as a list: [{_shown(node)}]"
    if node.text.lower() in ("none", "no", "false"):
        return "; for none of them write []"
    meant = nearest(node.text, choices)
    return f"; write it as a list: [{meant}]" if meant else ""


def _number_hint(node: ScalarNode, whole: bool) -> str:
    text = node.text.strip().replace("−", "-")
    if node.quoted and _NUMBER.fullmatch(text):
        return f"; write {text} without quotes"
    if _GROUPED.fullmatch(text):
        return f"; write {re.sub('[^0-9+-]', '', text)}"
    if _DECIMAL_COMMA.fullmatch(text):
        return f"; write {text.replace(',', '.')}"
    percent = _PERCENT.fullmatch(text)
    if percent and not whole:
        return f"; write {percent.group(1)} percent as a share: {_share(percent.group(1), '100')}"
    fraction = _FRACTION.fullmatch(text)
    if fraction and not whole:
        return f"; write {_share(fraction.group(1), fraction.group(2))}"
    if suffixed := _SUFFIXED.fullmatch(text):
        return f"; write the number alone, without a unit (as in {suffixed.group(1)})"
    if text != node.text and _NUMBER.fullmatch(text):
        return f"; write {text} with a plain minus sign"
    return ""


def _share(above: str, below: str) -> str:
    try:
        return f"{float(above) / float(below):.12g}"
    except (ValueError, ZeroDivisionError):
        return "a number"


def _quoted_bool(node: ScalarNode) -> str | None:
    text = node.text.lower()
    return f"{text} without quotes" if text in ("true", "false") else None


def _shown(node: ScalarNode) -> str:
    return node.text if len(node.text) <= 40 else node.text[:39] + "…"
