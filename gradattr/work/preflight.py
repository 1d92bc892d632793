"""What can be known to fail before anything is written: models that do not load or do not fit."""

from __future__ import annotations

from torch import nn

from gradattr.errors import UsageError
from gradattr.models import build_model, load_model
from gradattr.storage.objects import open_store
from gradattr.work.context import MAIN, RunContext
from gradattr.work.resources import choose_device


def preflight(context: RunContext) -> list[str]:
    """Load or build the run's model and try it on one input. Returns notes for people.

    Raises ModelError for weights that are missing, damaged, not finite or of another
    architecture, and for a model that does not take the data's shape; UsageError for a CUDA
    device that the tasks will not have.
    """
    _check_device(context)
    model = main_model(context)
    return [
        f"model {context.manifest.model.arch}: {sum(p.numel() for p in model.parameters()):,} "
        f"parameters, input {'x'.join(map(str, context.shape))}, {context.num_classes} classes"
    ]


def _check_device(context: RunContext) -> None:
    """A CUDA device that this machine lacks, where the tasks will run on this machine too."""
    engine, runtime = context.manifest.engine, context.manifest.runtime
    if not engine.device.startswith("cuda"):
        return
    if runtime.address == "inline":
        choose_device(engine, runtime)
    elif not runtime.gpus_per_task:
        raise UsageError(
            f"engine.device {engine.device}: Ray hides the GPUs from tasks that reserve none; "
            "set runtime.gpus_per_task (1, or a fraction)"
        )


def main_model(context: RunContext) -> nn.Module:
    """The explained model on the CPU: with its weights where they exist already, as initialised
    where this run trains them."""
    spec = context.manifest.model
    if spec.train is not None:
        return build_model(
            spec, shape=context.shape, num_classes=context.num_classes, seed=spec.train.seed
        )
    return load_model(
        spec,
        open_store(context.manifest.store),
        shape=context.shape,
        num_classes=context.num_classes,
        expected_digest=context.model(MAIN).digest,
    )
