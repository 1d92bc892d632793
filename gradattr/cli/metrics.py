"""``gradattr metrics``: all of them on a screen, or all there is to say of one; and what those of a
plan cost."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import PydanticUndefined

from gradattr.cli.output import print_json, print_table, print_text
from gradattr.errors import UsageError
from gradattr.manifest.metrics import (
    MetricSpec,
    curves_of,
    measures_of,
    metric_models,
)

_METRIC: TypeAdapter[MetricSpec] = TypeAdapter(MetricSpec)
_BETTER = {True: "higher", False: "lower", None: "neither"}


def list_metrics(name: str | None, as_json: bool) -> None:
    """Print what every metric measures, or all of ``name``. UsageError, with the nearest names, if
    there is none."""
    entries = [_entry(one) for one in metric_models()] if name is None else [_entry(_known(name))]
    if as_json:
        print_json(entries)
    elif name is None:
        print_table(
            "Metrics, their numbers (the column 'metric' of the tables), which direction is "
            "better, and what an image costs beyond its maps",
            ["metric", "number", "better", "cost"],
            [row for entry in entries for row in _rows(entry)],
        )
        print_text(
            "gradattr metrics NAME: what it says, units and ranges of its numbers, and its "
            "parameters."
        )
    else:
        _print_entry(entries[0])


def print_metric_costs(metrics: list[dict[str, Any]]) -> None:
    """Of a plan: what each metric takes per image, and in all."""
    print_table(
        "Metrics",
        ["metric", "evaluations per image", "images", "model evaluations", "methods"],
        [
            [
                one["metric"],
                f"{one['evaluations']:,.10g}" + (" forward" if one["forward_only"] else ""),
                f"{one['images']:,}",
                f"{round(one['evaluations'] * one['images']):,}",
                len(one["methods"]),
            ]
            for one in metrics
        ],
        right=["evaluations per image", "images", "model evaluations", "methods"],
    )


def _known(name: str) -> str:
    names = list(metric_models())
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise UsageError(f"metric {name!r} does not exist{hint} ('gradattr metrics' lists them)")


def _entry(name: str) -> dict[str, Any]:
    """What the manifest's model says of a metric, with its default parameters."""
    model, metric = metric_models()[name], _METRIC.validate_python(name)
    return {
        "name": name,
        "meaning": " ".join((inspect.getdoc(model) or "").split()),
        "cost": model.cost,
        "measures": [
            {"name": one.name, "higher_is_better": one.higher_is_better, "meaning": one.text}
            for one in measures_of(metric)
        ],
        "curves": [
            {"name": one.name, "x": None if one.x is None else list(one.x)}
            for one in curves_of(metric)
        ],
        "parameters": [
            {
                "name": key,
                "default": _default(field.get_default(call_default_factory=True)),
                "meaning": " ".join((field.description or "").split()),
            }
            for key, field in model.model_fields.items()
            if key != "metric"
        ],
    }


def _default(value: Any) -> Any:
    return None if value is PydanticUndefined else value


def _rows(entry: dict[str, Any]) -> list[list[str]]:
    """A line per number; of a metric without one, what it compares."""
    numbers = [[one["name"], _BETTER[one["higher_is_better"]]] for one in entry["measures"]]
    numbers = numbers or [["(table 'agreement')", ""]]
    return [
        [*([entry["name"]] if not place else [""]), *number, entry["cost"] if not place else ""]
        for place, number in enumerate(numbers)
    ]


def _print_entry(entry: dict[str, Any]) -> None:
    print_text(f"{entry['name']}: {entry['meaning']}")
    print_text(f"Cost: {entry['cost']}.")
    if entry["measures"]:
        print_table(
            "Numbers",
            ["name", "better", "meaning"],
            [[m["name"], _BETTER[m["higher_is_better"]], m["meaning"]] for m in entry["measures"]],
        )
    if entry["curves"]:
        print_table(
            "Curves",
            ["name", "steps"],
            [[one["name"], _steps(one["x"])] for one in entry["curves"]],
        )
    print_table(
        "Parameters",
        ["name", "default", "meaning"],
        [[p["name"], _shown(p["default"]), p["meaning"]] for p in entry["parameters"]],
    )


def _steps(x: list[float] | None) -> str:
    if x is None:
        return "by module"
    return f"{len(x)} from {x[0]:g} to {x[-1]:g} of the pixels"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
