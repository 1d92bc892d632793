"""What benchmarks share: fair timing, numerics, tables.

Times are process CPU seconds at one thread, because other work on the machine moves wall time far
more. Contenders take turns (A B A B ...), after one warm-up each; the median counts. ``x`` is
speed relative to the first row.
"""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from gradattr.attribution.agreement import agreement

Work = Callable[[], Tensor]


@dataclass(frozen=True)
class Timing:
    """CPU seconds of one contender, run by run, and the maps of its last run."""

    seconds: tuple[float, ...]
    maps: Tensor

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def one_thread() -> None:
    torch.set_num_threads(1)


def clocked(work: Work) -> tuple[float, Tensor]:
    start = time.process_time()
    maps = work()
    return time.process_time() - start, maps


def interleaved(contenders: Mapping[str, Work], rounds: int) -> dict[str, Timing]:
    """Each contender once to warm up, then ``rounds`` times in turn."""
    for work in contenders.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    maps: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, work in contenders.items():
            spent, maps[name] = clocked(work)
            seconds[name].append(spent)
    return {name: Timing(tuple(seconds[name]), maps[name]) for name in contenders}


def fastest(candidates: Mapping[str, Work]) -> tuple[str, Work]:
    """The quickest of two runs each, in turn: for settings that a careful user would try."""
    best: dict[str, float] = {}
    for _ in range(2):
        for name, work in candidates.items():
            spent, _maps = clocked(work)
            best[name] = min(spent, best.get(name, spent))
    winner = min(best, key=lambda name: best[name])
    print(f"settings tried: { {name: round(spent, 2) for name, spent in best.items()} }")
    return winner, candidates[winner]


def numerics(reference: Tensor, maps: Tensor) -> str:
    """Least Spearman of |map|, least top-10 % overlap, median relative error of an image's map."""
    found = agreement(reference, maps)
    error = (maps - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)
    return (
        f"{float(found.spearman.min()):.5f} | {float(found.top_overlap.min()):.3f} | "
        f"{float(error.median()):.1e}"
    )


HEADER = (
    "| work | contender | CPU ms per image | spread | x | Spearman | top 10 % | median error |\n"
    "|---|---|---|---|---|---|---|---|"
)


def rows(
    work: str, timings: Mapping[str, Timing], images: int, references: Mapping[str, Tensor]
) -> list[str]:
    """Markdown rows; ``references`` are the maps that a contender's are held against, if any."""
    first = next(iter(timings.values())).median
    lines = []
    for name, timing in timings.items():
        per_image = [1e3 * second / images for second in timing.seconds]
        reference = references.get(name)
        check = "- | - | -" if reference is None else numerics(reference, timing.maps)
        lines.append(
            f"| {work} | {name} | {1e3 * timing.median / images:.4g} | "
            f"{min(per_image):.4g} to {max(per_image):.4g} | {first / timing.median:.2f} | "
            f"{check} |"
        )
    return lines


def machine() -> str:
    """One paragraph: CPU, its bfloat16 instructions, versions, date."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    models = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    units = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in text]
    versions = [f"{name} {_version(name)}" for name in ("torch", "torchvision", "captum")]
    return (
        f"{models[0] if models else platform.processor()} ({', '.join(units) or 'no AVX-512'}), "
        f"{len(models)} cores, one thread; Python {platform.python_version()}, "
        f"{', '.join(versions)}; {datetime.datetime.now(datetime.UTC).date()}"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def print_table(lines: Sequence[str]) -> None:
    print("\n".join([HEADER, *lines]), flush=True)
