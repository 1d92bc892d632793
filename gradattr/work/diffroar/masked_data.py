"""What a worker keeps between trials: both data sets, and the ranks of the scheme it read last.

The cache is module state on purpose: a worker process lives through many trials, and this module is
imported once in each.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gradattr.data.registry import make_shards
from gradattr.data.types import Batch, DataIndex
from gradattr.retraining.masking import Masking
from gradattr.seeds import derive_seed
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.ranks import read_ranks
from gradattr.work.context import RunContext
from gradattr.work.diffroar.design import RANDOM, Arm, mask_fill, schemes
from gradattr.work.diffroar.rank import bins_shape, level_bins
from gradattr.work.planning.prepare_diffroar import RANK_STAGE, TRAIN, rank_key
from gradattr.work.training_data import load_labelled

#: Images whose coordinates are renamed at once: copies of all would take as much memory again.
_RENAMED_AT_ONCE = 1024


@dataclass
class MaskedData:
    """The data sets of an audit in memory, and masks of their images."""

    context: RunContext
    store: ObjectStore
    sets: dict[str, Batch] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    """The weights that the ranks in memory were computed with: role -> sha256."""
    _scheme: str | None = None
    _ranks: dict[str, Tensor] = field(default_factory=dict)

    def images(self, split: str) -> tuple[Tensor, Tensor]:
        """(n, c, h, w) and labels (n,) of 'train' or 'test', on the CPU; read once."""
        if split not in self.sets:
            manifest = self.context.diffroar_manifest
            data = manifest.data if split == TRAIN else manifest.test
            index = DataIndex.from_json(self.context.indexes[split])
            self.sets[split] = load_labelled(data, index, self.context)
        return self.sets[split].x, self.sets[split].labels

    def masking(
        self,
        split: str,
        scheme: str,
        level: float,
        arm: Arm,
        *,
        mask_only: bool = False,
        draw: int | None = None,
    ) -> Masking:
        """The masks of a split's images at a level.

        ``draw``: number of the seed. The scheme 'random' deals its masks out anew for each, so that
        an interval over seeds counts the luck of the draw too; other schemes have one order.
        """
        manifest = self.context.diffroar_manifest
        bins = level_bins(manifest, self.context.shape)
        keep = {"top": bins.top, "bottom": bins.bottom, "rest": bins.rest}[arm](level)
        ranks = self._bins(split, scheme)
        if scheme == RANDOM and draw is not None:
            ranks = self._dealt(ranks, split, draw)
        return Masking(ranks, keep, self.fill(), mask_only)

    def _dealt(self, ranks: Tensor, split: str, draw: int) -> Tensor:
        """The random orders as a seed deals them: to other images, and with the coordinates renamed
        (in all images alike). They were drawn without regard to either, so any assignment is as
        good a draw, and none has to be computed or stored. Without new names all seeds would share
        the luck of the set: how often it happens to keep the coordinates that matter."""
        manifest = self.context.diffroar_manifest
        generator = torch.Generator().manual_seed(
            derive_seed(manifest.seed, "random draw", split, draw)
        )
        dealt = ranks[torch.randperm(len(ranks), generator=generator)]
        names = torch.randperm(dealt[0].numel(), generator=generator)
        flat = dealt.flatten(1)
        for first in range(0, len(flat), _RENAMED_AT_ONCE):
            rows = slice(first, first + _RENAMED_AT_ONCE)
            flat[rows] = flat[rows, names]
        return dealt

    def fill(self) -> tuple[float, ...]:
        """What a removed coordinate becomes, in the units of the model's input."""
        return mask_fill(self.context.diffroar_manifest.mask, self.context.preprocess)

    def _bins(self, split: str, scheme: str) -> Tensor:
        if scheme != self._scheme:
            # One scheme at a time: trials come scheme after scheme, and ranks are large.
            self._ranks.clear()
            self.models.clear()
            self._scheme = scheme
        if split not in self._ranks:
            self._ranks[split] = torch.from_numpy(self._read(split, scheme))
        return self._ranks[split]

    def _read(self, split: str, scheme: str) -> np.ndarray:
        context = self.context
        manifest = context.diffroar_manifest
        index = DataIndex.from_json(context.indexes[split])
        ranker = next(s.ranker for s in schemes(manifest) if s.scheme == scheme)
        keys = [
            (RANK_STAGE, rank_key(ranker, split, shard.index))
            for shard in make_shards(index, manifest.shard_rows)
        ]
        return read_ranks(
            self.store,
            context.run_id,
            context.fingerprint,
            keys,
            scheme,
            index.rows,
            bins_shape(manifest, context.shape),
            self.models,
        )


_cache: dict[str, MaskedData] = {}


def masked_data(context: RunContext) -> MaskedData:
    """The data of an audit in this process: loaded by the first trial that needs it."""
    if context.fingerprint not in _cache:
        _cache.clear()
        _cache[context.fingerprint] = MaskedData(context, open_store(context.manifest.store))
    return _cache[context.fingerprint]
