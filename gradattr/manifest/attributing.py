"""What the kinds of manifest that attribute a data set have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gradattr.manifest.common import ManifestBase
from gradattr.manifest.data import DataSpec, Preprocess
from gradattr.manifest.method_base import Target
from gradattr.manifest.methods import LinearMethod, MethodSpec, check_unique_ids
from gradattr.manifest.model import ModelSpec
from gradattr.manifest.operation import Errors


class AttributingManifest(ManifestBase):
    """A data set, a model, and methods that explain what the model says of every image."""

    data: DataSpec
    """What to attribute."""
    model: ModelSpec
    """What is explained."""
    preprocess: Preprocess | Literal["weights"] = Field(default_factory=Preprocess)
    """From pixels to model input; 'weights': the transforms that come with torchvision's
    published weights. Applies to training data too."""
    methods: list[MethodSpec] = Field(min_length=1, max_length=64)
    """Methods, by name or with parameters. Those that need the same passes share them."""
    target: Target = "logit_pred"
    """The scalar that is differentiated."""
    shard_rows: Annotated[int, Field(gt=0, le=100_000)] = 512
    """Rows per task: what is lost at most when a worker dies. Results do not depend on it."""
    errors: Errors = Field(default_factory=Errors)

    @property
    def measured_levels(self) -> list[float]:
        """Levels of the table 'leakage'; empty: the run has none."""
        return []

    @model_validator(mode="after")
    def _methods_fit(self) -> AttributingManifest:
        check_unique_ids(self.methods)
        for method in self.methods:
            if isinstance(method, LinearMethod) and method.train is None and not self.model.train:
                raise ValueError(
                    "methods: 'linear' needs a 'train' block, because the model itself has none"
                )
        if self.preprocess == "weights" and not (self.model.weights or "").startswith(
            "torchvision:"
        ):
            raise ValueError(
                "preprocess: 'weights' needs a model whose weights are 'torchvision:...'"
            )
        return self
