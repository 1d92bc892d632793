"""Threads and devices of the process that a task runs in."""

from __future__ import annotations

import os

import torch

from gradattr.errors import UsageError
from gradattr.manifest.operation import Engine, Runtime


def set_threads(threads: int) -> None:
    """Let torch use so many threads, and no more, from now on."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def choose_device(engine: Engine, runtime: Runtime) -> torch.device:
    """The device that the manifest asks for, as this process has it.

    'auto' is CUDA where there is one; but on Ray a task that reserves no GPU must not take one
    that another task has reserved. Raises UsageError for a CUDA device that is not there.
    """
    available = torch.cuda.is_available()
    if engine.device == "auto":
        reserved = runtime.address == "inline" or runtime.gpus_per_task > 0
        return torch.device("cuda" if available and reserved else "cpu")
    device = torch.device(engine.device)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not available or (device.index or 0) >= count:
            raise UsageError(
                f"engine.device {engine.device}: this process sees {count} CUDA devices; "
                "set runtime.gpus_per_task, or engine.device: cpu"
            )
    return device


def runs_here(runtime: Runtime) -> bool:
    """Whether tasks run on this machine alone."""
    if runtime.address == "auto":
        return not os.environ.get("RAY_ADDRESS")
    return runtime.address in ("inline", "local")


def bfloat16_units() -> str:
    """What this machine has for bfloat16 matrix products: 'mixed' precision pays only there."""
    if torch.cuda.is_available():
        return "CUDA" if torch.cuda.is_bf16_supported() else "CUDA device without bfloat16"
    if torch.cpu._is_amx_tile_supported():
        return "AMX tiles"
    if torch.cpu._is_avx512_bf16_supported():
        return "AVX-512 dot products, no matrix tiles: 'mixed' gains less"
    return "none: 'mixed' precision would be slower than fp32 here"
