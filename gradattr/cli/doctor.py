"""``gradattr doctor``: what a person would check by hand before a long run."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gradattr.cli.output import print_json, print_table
from gradattr.errors import CheckError, GradattrError

PACKAGES = ("gradattr", "torch", "torchvision", "ray", "pyarrow", "duckdb", "fsspec", "s3fs")


def examine(store: str, endpoint_url: str | None, as_json: bool) -> None:
    checks = [*_versions(), *_machine(), _store(store, endpoint_url)]
    if as_json:
        print_json([{"check": name, "ok": ok, "found": found} for name, ok, found in checks])
    else:
        print_table(
            "Doctor",
            ["", "check", "found"],
            [["ok" if ok else "BAD", name, found] for name, ok, found in checks],
        )
    bad = [name for name, ok, _ in checks if not ok]
    if bad:
        raise CheckError(f"doctor: {', '.join(bad)} need attention")


def _versions() -> list[tuple[str, bool, str]]:
    found = [("python", sys.version_info >= (3, 11), platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, True, version(name)))
        except PackageNotFoundError:
            found.append((name, False, "not installed"))
    return found


def _machine() -> list[tuple[str, bool, str]]:
    import torch

    from gradattr.work.resources import bfloat16_units

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    checks: list[tuple[str, bool, str]] = [
        ("cpus", True, f"{os.cpu_count()} ({platform.machine()})"),
        ("cuda", True, ", ".join(cuda) or "none; tasks run on the CPU"),
        ("bfloat16", True, bfloat16_units()),
        ("ray address", True, os.environ.get("RAY_ADDRESS") or "none set; a local Ray is started"),
        ("torchvision", *_torchvision()),
    ]
    return checks


def _torchvision() -> tuple[bool, str]:
    try:
        import torchvision

        torchvision.ops.nms  # noqa: B018  # the compiled part loads on first use
    except (ImportError, RuntimeError, AttributeError) as error:
        return False, f"its compiled part does not load: {error}"
    return True, "compiled part loads"


def _store(url: str, endpoint_url: str | None) -> tuple[str, bool, str]:
    from gradattr.manifest.operation import Store
    from gradattr.storage.objects import open_store

    if "://" not in url and not Path(url).exists():
        return f"store {url}", True, "not there yet; the first run makes it"
    try:
        found: dict[str, Any] = open_store(Store(url=url, endpoint_url=endpoint_url)).probe()
    except (GradattrError, ValueError) as error:
        return f"store {url}", False, str(error)
    text = ", ".join(f"{key} {value}" for key, value in found.items())
    return f"store {url}", True, text
