"""How many tasks fit onto nodes, and how they are spread over packs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradattr.manifest.operation import Runtime
from gradattr.runtime.slots import PACK_WORKERS, describe, needs, pack_sizes, slots

GIB = 2.0**30


@pytest.mark.parametrize(
    ("runtime", "nodes", "expected"),
    [
        ({}, [{"CPU": 2.0}], 2),
        ({"cpus_per_task": 0.1}, [{"CPU": 1.0}], 10),
        # Three CPUs hold one task of two; two such nodes hold two, not three.
        ({"cpus_per_task": 2}, [{"CPU": 3.0}, {"CPU": 3.0}], 2),
        ({"gpus_per_task": 1}, [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 64.0}], 4),
        # Three tasks of 0.3 on each GPU; the tenths left over on four GPUs are nobody's.
        ({"gpus_per_task": 0.3}, [{"CPU": 64.0, "GPU": 4.0}], 12),
        ({"gpus_per_task": 0.25}, [{"CPU": 3.0, "GPU": 1.0}], 3),
        ({"gpus_per_task": 2}, [{"CPU": 16.0, "GPU": 5.0}], 2),
        ({"task_memory": 3 * 2**30}, [{"CPU": 8.0, "memory": 10 * GIB}], 3),
        ({"workers": 3}, [{"CPU": 8.0}], 3),
        ({"workers": 9}, [{"CPU": 8.0}], 8),
        ({"gpus_per_task": 1}, [{"CPU": 8.0}], 0),
        ({}, [], 0),
    ],
)
def test_slots(runtime: dict[str, Any], nodes: list[dict[str, float]], expected: int) -> None:
    assert slots(nodes, Runtime(**runtime)) == expected


def test_needs_name_only_what_is_needed() -> None:
    assert needs(Runtime()) == {"CPU": 1.0}
    wanted = needs(Runtime(cpus_per_task=2, gpus_per_task=0.5, task_memory=1000))
    assert wanted == {"CPU": 2.0, "GPU": 0.5, "memory": 1000.0}
    assert describe(wanted, 2) == "4 CPU, 1 GPU, 2000 memory"


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 9))
def test_packs_fit_and_nobody_idles(room: int, waiting: int, width: int) -> None:
    sizes = pack_sizes(room, waiting, width)
    assert sum(sizes) <= room
    if width > 1:
        assert sizes == [width] * min(room // width, waiting)
        return
    assert sum(sizes) == min(room, waiting)
    assert max(sizes, default=0) <= PACK_WORKERS
    assert max(sizes, default=1) - min(sizes, default=1) <= 1
    assert len(sizes) == -(-sum(sizes) // PACK_WORKERS)
