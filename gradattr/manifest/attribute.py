"""``kind: attribute`` -- attribution maps of a whole data set by several methods."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gradattr.manifest.common import ManifestBase
from gradattr.manifest.data import DataSpec, Preprocess
from gradattr.manifest.method_base import Target
from gradattr.manifest.methods import LinearMethod, MethodSpec, check_unique_ids
from gradattr.manifest.model import ModelSpec
from gradattr.manifest.operation import Errors


class AttributeManifest(ManifestBase):
    """Attribution maps of every image of a data set, by each of the methods."""

    kind: Literal["attribute"]
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
    leakage_levels: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default=[0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3], max_length=100
    )
    """Of data with masks: for these shares of the highest-ranked pixels of each map, the table
    'leakage' says how many lie in the marked region: where there can be no signal, or in the
    patch. Empty: no such table."""
    errors: Errors = Field(default_factory=Errors)

    @property
    def measures_leakage(self) -> bool:
        """Whether the run has a table 'leakage'."""
        return self.data.has_masks and bool(self.leakage_levels)

    @model_validator(mode="after")
    def _consistent(self) -> AttributeManifest:
        check_unique_ids(self.methods)
        if self.leakage_levels != sorted(set(self.leakage_levels)):
            raise ValueError("leakage_levels: give them in ascending order, each once")
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
