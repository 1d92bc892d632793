"""``kind: attribute`` -- attribution maps of a whole data set by several methods."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gradattr.manifest.attributing import AttributingManifest


class AttributeManifest(AttributingManifest):
    """Attribution maps of every image of a data set, by each of the methods."""

    kind: Literal["attribute"]
    leakage_levels: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default=[0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3], max_length=100
    )
    """Of data with masks: for these shares of the highest-ranked pixels of each map, the table
    'leakage' says how many lie in the marked region: where there can be no signal, or in the
    patch. Empty: no such table."""

    @property
    def measured_levels(self) -> list[float]:
        """Levels of the table 'leakage'; empty: the run has none."""
        return self.leakage_levels if self.data.has_masks else []

    @model_validator(mode="after")
    def _levels_ascend(self) -> AttributeManifest:
        if self.leakage_levels != sorted(set(self.leakage_levels)):
            raise ValueError("leakage_levels: give them in ascending order, each once")
        return self
