"""What a task tells its driver: a few numbers, or why it failed. Never an exception.

Exceptions with more than one argument do not survive the way between processes, and SystemExit
looks like a crash; so a task catches what it can and returns one of these.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from gradattr.errors import GradattrError, StoreError

#: 'ok': the shard's record is written. 'failed': this shard cannot be done, others may.
#: 'fatal': nothing else will work either (credentials, disk full): stop at once.
#: 'crashed': the worker died; made by the driver, not by the task.
Status = Literal["ok", "failed", "fatal", "crashed"]


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt at one task."""

    stage: str
    key: str
    status: Status
    rows: int = 0
    bad_rows: int = 0
    seconds: float = 0.0
    """Process CPU seconds of the task."""
    error: str = ""
    detail: str = ""
    """Traceback, for the log; never shown on the terminal."""
    extra: dict[str, Any] = field(default_factory=dict)


def attempt(stage: str, key: str, work: Callable[[], dict[str, Any]]) -> Outcome:
    """Run ``work`` and turn whatever happens into an Outcome.

    ``work`` returns the shard's ``extra``; its 'rows' and 'bad_rows' are reported.
    """
    started = time.process_time()
    try:
        extra = work()
    except StoreError as error:
        return Outcome(stage, key, "fatal", error=str(error), detail=traceback.format_exc())
    except GradattrError as error:
        return Outcome(stage, key, "failed", error=str(error), detail=traceback.format_exc())
    except OSError as error:
        # A full disk or a store that went away: the next task would meet the same.
        text = f"{type(error).__name__}: {error}"
        return Outcome(stage, key, "fatal", error=text, detail=traceback.format_exc())
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return Outcome(stage, key, "failed", error=text, detail=traceback.format_exc())
    return Outcome(
        stage,
        key,
        "ok",
        rows=int(extra.get("rows", 0)),
        bad_rows=int(extra.get("bad_rows", 0)),
        seconds=time.process_time() - started,
        extra=extra,
    )
