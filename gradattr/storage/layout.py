"""Where everything stands under the root of a store. Keys are relative to that root.

::

    runs/<run_id>/run.json
                  data/<table>/part-<shard>-<sha16>-<nonce>.parquet   written by a task
                  data/<table>/all-<number>-<sha16>.parquet           compacted at commit
                  shards/<stage>/<shard>.json
                  _COMMIT.json
                  log/<attempt>/<name>
    models/<digest16>/record.json
                      weights-<sha16>-<nonce>.safetensors
                      kept-<epoch>-<sha16>-<nonce>.safetensors
                      checkpoint.json
                      checkpoint-<epoch>-<nonce>.bin
    schedules/<name>/ticks/<tickUTC>.json
    probe/<nonce>

Names of data files carry a random nonce, so that no name is ever written twice with different
bytes. Compacted files carry only their content's hash: two drivers write the same names.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from gradattr.errors import UsageError

RUNS = "runs"
MODELS = "models"
SCHEDULES = "schedules"
PROBES = "probe"

#: Format of a trained model's record.
TRAINED_FORMAT = "gradattr/trained"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,199}")


def new_nonce() -> str:
    """16 random hex digits. The only randomness in a store that no seed decides."""
    return secrets.token_hex(8)


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it may be one part of a key; UsageError otherwise."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise UsageError(
            f"{what} {name!r} cannot be part of a path in the store; "
            "use letters, digits and '_.+=-', at most 200, no '..'"
        )
    return name


@dataclass(frozen=True)
class RunPaths:
    """The keys of one run."""

    run_id: str

    def __post_init__(self) -> None:
        check_name(self.run_id, "run id")

    @property
    def root(self) -> str:
        return f"{RUNS}/{self.run_id}"

    @property
    def run_json(self) -> str:
        return f"{self.root}/run.json"

    @property
    def commit(self) -> str:
        return f"{self.root}/_COMMIT.json"

    @property
    def data(self) -> str:
        """Prefix of all data files."""
        return f"{self.root}/data/"

    @property
    def shards(self) -> str:
        """Prefix of all shard records."""
        return f"{self.root}/shards/"

    @property
    def logs(self) -> str:
        """Prefix of everything that is never read for correctness."""
        return f"{self.root}/log/"

    def stage_records(self, stage: str) -> str:
        """Prefix of one stage's shard records."""
        return f"{self.shards}{check_name(stage, 'stage')}/"

    def record(self, stage: str, shard: str) -> str:
        return f"{self.stage_records(stage)}{check_name(shard, 'shard')}.json"

    def data_file(self, table: str, shard: str, sha256: str, nonce: str) -> str:
        """Key, relative to the *run directory*, of a data file that a task writes."""
        check_name(table, "table")
        check_name(shard, "shard")
        return f"data/{table}/part-{shard}-{sha256[:16]}-{nonce}.parquet"

    def compacted_file(self, table: str, number: int, sha256: str) -> str:
        """Key, relative to the *run directory*, of a table's compacted file."""
        return f"data/{check_name(table, 'table')}/all-{number:03d}-{sha256[:16]}.parquet"

    def absolute(self, key: str) -> str:
        """From a key relative to the run directory to a key of the store."""
        if key.startswith("/") or ".." in key.split("/"):
            raise UsageError(f"run {self.run_id}: {key!r} points outside the run directory")
        return f"{self.root}/{key}"

    def log(self, attempt: str, name: str) -> str:
        return f"{self.logs}{check_name(attempt, 'attempt')}/{check_name(name, 'log')}"


def trained_dir(digest: str) -> str:
    """Directory of a trained model: the first 16 hex digits of its recipe's digest."""
    if not re.fullmatch(r"[0-9a-f]{16,64}", digest):
        raise UsageError(f"model digest {digest!r}: expected at least 16 lower-case hex digits")
    return f"{MODELS}/{digest[:16]}"


def trained_record_key(digest: str) -> str:
    """The record that says: trained, these are the weights, this is how it went."""
    return f"{trained_dir(digest)}/record.json"


def trained_weights_key(digest: str, sha16: str, nonce: str) -> str:
    """Weights. ``sha16``: the first 16 hex digits of the file's sha256."""
    return f"{trained_dir(digest)}/weights-{sha16[:16]}-{nonce}.safetensors"


def trained_kept_key(digest: str, epoch: int, sha16: str, nonce: str) -> str:
    """Weights after an epoch, kept because they were asked for."""
    return f"{trained_dir(digest)}/kept-{epoch:06d}-{sha16[:16]}-{nonce}.safetensors"


def trained_checkpoint_key(digest: str) -> str:
    """The pointer to the newest checkpoint: the only key of a store that is overwritten."""
    return f"{trained_dir(digest)}/checkpoint.json"


def trained_checkpoint_data_key(digest: str, epoch: int, nonce: str) -> str:
    """One checkpoint's bytes."""
    return f"{trained_dir(digest)}/checkpoint-{epoch:06d}-{nonce}.bin"


def schedule_tick_key(schedule: str, tick: str) -> str:
    """The claim of one tick of a schedule."""
    return f"{SCHEDULES}/{check_name(schedule, 'schedule')}/ticks/{check_name(tick, 'tick')}.json"


def probe_key() -> str:
    """A throw-away object."""
    return f"{PROBES}/{new_nonce()}"
