"""Every error gradattr raises on purpose, and the exit code each one means.

::

    GradattrError                  3  failed, and running the same command again resumes
    |-- UsageError                 2  what was asked cannot be done; nothing was written
    |   |-- ManifestError          2  a manifest does not parse or validate
    |   |-- DataError              2  a data is missing, empty, damaged, or not as the manifest says
    |   |-- ModelError             2  a model or its weights cannot be used
    |   |-- MethodError            2  a method does not fit the model or the data
    |   `-- QueryError             2  an SQL text was refused, or took too long
    |-- CheckError                 1  completed, but a check or the error threshold failed
    |   `-- IntegrityError         1  stored bytes are not the bytes that were committed
    |-- StoreError                 3  the store cannot be reached, read or written at the moment
    |-- ShardError                 3  a task failed for good; the other shards are kept
    |-- ConflictError              4  the run directory belongs to something else
    `-- Interrupted              130  stopped by a signal; finished shards are kept

A message says which file, line, key or shard, what was expected, and what to do. Everything a
command prints for one of these is ``str(error)``, never a traceback.
"""

from __future__ import annotations


class GradattrError(Exception):
    """Base of all deliberate errors. Built from one string, so that it survives pickling."""

    exit_code = 3


class UsageError(GradattrError):
    """What was asked cannot be done as asked. Nothing was written."""

    exit_code = 2


class ManifestError(UsageError):
    """A manifest does not parse or validate; the text has ``file:line:column`` for each fault."""


class DataError(UsageError):
    """A data set is missing, empty, damaged, or contradicts the manifest."""


class ModelError(UsageError):
    """A model cannot be built, or its weights cannot be used."""


class MethodError(UsageError):
    """A method does not fit this model or this data."""


class QueryError(UsageError):
    """An SQL text was refused, is wrong, or took longer than its limit."""


class CheckError(GradattrError):
    """The work was done, but a check or the error threshold failed."""

    exit_code = 1


class IntegrityError(CheckError):
    """Stored bytes are not the bytes that were committed."""


class StoreError(GradattrError):
    """The store cannot be reached, read or written; the same command resumes later."""


class ShardError(GradattrError):
    """A task failed for good. The other shards are kept; the same command runs what is missing."""


class ConflictError(GradattrError):
    """The run directory belongs to another manifest, model or data set. Nothing was written."""

    exit_code = 4


class Interrupted(GradattrError):
    """Stopped by SIGINT or SIGTERM. Finished shards are kept."""

    exit_code = 130
