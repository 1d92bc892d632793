"""Seeded randomness for code that draws from the global generators, without disturbing them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_random(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the global generators of torch (CPU and ``device``), NumPy and Python inside the block
    and put them back to where they were after it.

    Initialisers, dropout and users' factories draw from these; whoever calls the library keeps
    their own random sequence.
    """
    device = torch.device(device)
    torch_state = torch.get_rng_state()
    cuda_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    numpy_state = np.random.get_state()
    python_state = random.getstate()
    try:
        torch.default_generator.manual_seed(seed)
        if cuda_state is not None:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield
    finally:
        torch.set_rng_state(torch_state)
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, device)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
