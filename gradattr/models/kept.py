"""Weights that a training keeps on its way: one file per asked-for epoch, beside the final ones.

``KeptWeights`` says where one stands and how to know that it is the one. While the training goes on
they are named by its checkpoint, at the end by the trained model's record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from gradattr.canonical import digest_bytes
from gradattr.models.files import save_state
from gradattr.models.state import check_finite_state
from gradattr.storage.layout import new_nonce, trained_dir, trained_kept_key
from gradattr.storage.objects import ObjectStore


@dataclass(frozen=True)
class KeptWeights:
    """The weights after one epoch of a training."""

    epoch: int
    """Counted from 1."""
    lr: float
    """Learning rate in that epoch."""
    key: str
    """Key of the safetensors file in the store."""
    sha256: str
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def kept_from_json(values: Iterable[Mapping[str, Any]], digest: str) -> tuple[KeptWeights, ...]:
    """What a record of the recipe ``digest`` names, in order of epochs. ValueError, KeyError or
    TypeError if that cannot be what was written."""
    kept = tuple(
        KeptWeights(
            int(value["epoch"]),
            float(value["lr"]),
            str(value["key"]),
            str(value["sha256"]),
            int(value["bytes"]),
        )
        for value in values
    )
    epochs = [weights.epoch for weights in kept]
    if epochs != sorted(set(epochs)):
        raise ValueError(f"kept epochs {epochs} are not in ascending order")
    if not all(weights.key.startswith(f"{trained_dir(digest)}/") for weights in kept):
        raise ValueError("kept weights stand outside the model's folder")
    return kept


class StoredEpochs:
    """Kept epochs of one training, in the store: gradattr.retraining.KeptEpochs.

    Which they are is written down by the ``StoredCheckpoints`` that is given this object; what
    was kept after the newest checkpoint is not known to a training that resumes, which does those
    epochs again. Left-over files are gc's.
    """

    def __init__(self, store: ObjectStore, digest: str, epochs: Sequence[int]) -> None:
        self._store = store
        self._digest = digest
        self._kept: dict[int, KeptWeights] = {}
        self.epochs = frozenset(epochs)

    @property
    def kept(self) -> tuple[KeptWeights, ...]:
        """What there is, in order of epochs."""
        return tuple(self._kept[epoch] for epoch in sorted(self._kept))

    def restore(self, kept: Iterable[KeptWeights]) -> None:
        """Take over what a checkpoint names."""
        self._kept = {weights.epoch: weights for weights in kept}

    def resume(self, epoch: int) -> bool:
        """See KeptEpochs. Reads every file up to ``epoch``, and believes its digest only."""
        wanted = {number for number in self.epochs if number <= epoch}
        self._kept = {n: weights for n, weights in self._kept.items() if n in wanted}
        return self._kept.keys() == wanted and all(map(self._is_whole, self.kept))

    def keep(self, epoch: int, state: Mapping[str, Tensor], lr: float) -> None:
        """See KeptEpochs. Raises ModelError if the weights are not finite."""
        check_finite_state(state, f"the model after epoch {epoch}")
        data = save_state(state)
        sha256 = digest_bytes(data)
        key = trained_kept_key(self._digest, epoch, sha256[:16], new_nonce())
        self._store.put_unique(key, data)
        self._kept[epoch] = KeptWeights(epoch, lr, key, sha256, len(data))

    def _is_whole(self, weights: KeptWeights) -> bool:
        data = self._store.get(weights.key)
        return data is not None and digest_bytes(data) == weights.sha256
