"""A run of kind patching on one screen: its baselines, and how faithful the estimates are."""

from __future__ import annotations

from typing import Any

from gradattr.report.summarised import Summarised

_BASELINES = """
SELECT baseline, count(*) FILTER (status = 'ok') AS prompts, avg(confidence) AS confidence,
       avg(baseline_confidence) AS baseline_confidence, avg(distance) AS distance
FROM patching_baselines GROUP BY baseline
"""

_PLACES = """
SELECT baseline, site, avg(abs(effect)) AS size
FROM patching WHERE method = '{method}' GROUP BY baseline, site ORDER BY baseline, site
"""


def summarise_patching(run: Summarised) -> dict[str, Any] | None:
    """A line for each baseline, in the manifest's order; the faithfulness table; and the mean
    |effect| of every site. None: the run is of another kind."""
    if run.manifest["kind"] != "patching":
        return None
    names = [start["id"] or start["baseline"] for start in run.manifest["baselines"]]
    found = {row["baseline"]: row for row in run.sql(_BASELINES).to_pylist()}
    exact = "activation_patching"
    method = exact if exact in run.methods else run.methods[0]
    sizes: dict[str, list[dict[str, Any]]] = {}
    if "patching" in run.tables:
        for row in run.sql(_PLACES.replace("{method}", method)).to_pylist():
            sizes.setdefault(row["baseline"], []).append({k: row[k] for k in ("site", "size")})
    return {
        "baselines": [found[name] for name in names if name in found],
        # Not by SQL, which need not keep the order of the manifest.
        "faithfulness": (
            run.table("faithfulness").to_pylist() if "faithfulness" in run.tables else []
        ),
        "sites": {"method": method, "baselines": {n: sizes[n] for n in names if n in sizes}},
    }
