"""gradattr: a distributed batch framework for gradient attribution.

>>> import gradattr
>>> manifest = gradattr.load_manifest("audit.yaml")     # doctest: +SKIP
>>> gradattr.run(manifest)                              # doctest: +SKIP
>>> run = gradattr.open_run("results/runs/audit-1a2b3c4d")  # doctest: +SKIP
>>> run.sql("SELECT method, avg(total) FROM attributions GROUP BY method")  # doctest: +SKIP

The mathematics stands alone, without Ray: ``from gradattr.attribution import
integrated_gradients``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradattr.report.results import Run, open_run
    from gradattr.runtime.driver import RunResult, run
    from gradattr.work.manifests import load_manifest
    from gradattr.work.planning.prepare import make_plan

__all__ = ["Run", "RunResult", "__version__", "load_manifest", "make_plan", "open_run", "run"]

__version__ = "0.1.0"

#: Public name -> where it lives. Loaded on first use: importing gradattr must not import torch.
_HOMES = {
    "Run": "gradattr.report.results",
    "RunResult": "gradattr.runtime.driver",
    "load_manifest": "gradattr.work.manifests",
    "make_plan": "gradattr.work.planning.prepare",
    "open_run": "gradattr.report.results",
    "run": "gradattr.runtime.driver",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gradattr' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
