"""``engine:``, ``runtime:``, ``store:``, ``errors:`` -- how a run is carried out and kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gradattr.manifest.base import SecretRef, Spec, Url

Positive = Annotated[int, Field(gt=0)]


class Engine(Spec):
    """How the mathematics is evaluated in one worker."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """'auto': CUDA where there is one, else CPU."""
    precision: Literal["fp32", "mixed"] = "fp32"
    """'mixed': float32 forward, bfloat16 backward. The run records its agreement with fp32."""
    batch_size: Positive | Literal["auto"] = "auto"
    """Model evaluations at once. 'auto': from the measured size of the model's activations."""
    tune: bool = True
    """Fold batch-norm into convolutions, use channels-last, evaluate a first affine layer once
    per image. Off: the model exactly as built (slower; same values up to rounding)."""


class Runtime(Spec):
    """Where tasks run. Not part of the run's identity."""

    address: Annotated[str, Field(pattern=r"^(auto|local|inline|ray://[^\s]+|[\w.-]+:\d+)$")] = (
        "auto"
    )
    """'auto': the cluster named by RAY_ADDRESS, else a local Ray; 'local': a local Ray of its
    own; 'inline': this process, without Ray; 'ray://host:port': a cluster."""
    workers: Positive | Literal["auto"] = "auto"
    """Tasks at once. 'auto': as many as the CPUs (or GPUs) allow."""
    cpus_per_task: Annotated[float, Field(gt=0)] = 1.0
    gpus_per_task: Annotated[float, Field(ge=0)] = 0.0
    """GPUs (or a fraction) that each task reserves. With device 'auto', 0 means CPU on Ray."""
    retries: Annotated[int, Field(ge=0, le=20)] = 2
    """How often a task is tried again after its worker died."""
    task_memory: Positive | None = None
    """Bytes of memory that Ray reserves per task."""


MapStorage = Annotated[
    str,
    Field(pattern=r"^(float16|float32|int8|none|pooled:[1-9][0-9]{0,3}|topk:[1-9][0-9]{0,6})$"),
]


class Store(Spec):
    """Where results are written: a local folder or an object store."""

    url: Url = "results"
    """Root of the store; runs stand under <url>/runs/<run id>/."""
    maps: MapStorage = "float16"
    """How maps are kept: 'float16' (with a float32 scale per map), 'float32', 'int8',
    'pooled:<n>' (mean over an n x n grid, float16), 'topk:<k>' (the k largest |scores|),
    'none'."""
    endpoint_url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] | None = None
    """S3 endpoint other than AWS (AWS_ENDPOINT_URL works too)."""
    region: str | None = None
    profile: str | None = None
    """Profile of the AWS configuration files."""
    access_key: SecretRef | None = None
    """'${NAME}'. Default: the usual AWS environment and files."""
    secret_key: SecretRef | None = None
    """'${NAME}'."""


def _expand_store(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


StoreSpec = Annotated[Store, BeforeValidator(_expand_store)]


class Errors(Spec):
    """How many bad rows a run may have and still be committed."""

    max: Annotated[float, Field(ge=0)] = 0.0
    """Up to 1: a share of the rows; above 1: a number of rows. 1 stands for all."""
