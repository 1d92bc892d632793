"""Read the Python version of a CIFAR batch without unpickling anything.

A pickle is a program. Here it may build containers, and name exactly three things, which are
replaced by inert records of this module: NumPy's array, its dtype, and its reconstructor. Any
other name is refused before it is looked up, so no code but ours runs.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradattr.errors import DataError

_IMAGE = 3 * 32 * 32


class _DtypeRecord:
    """Arguments of numpy.dtype, and nothing of its state but what is needed to check it."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code.decode("latin-1") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        del state


class _ArrayRecord:
    """State of a pickled ndarray: (version, shape, dtype, fortran, bytes)."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def images(self) -> NDArray[np.uint8]:
        """(n, 3072) uint8. ValueError for anything else."""
        _, shape, dtype, fortran, data = self.state
        if not isinstance(dtype, _DtypeRecord) or dtype.code not in ("u1", "|u1", "uint8"):
            raise ValueError("the array is not of unsigned bytes")
        if isinstance(data, str):
            data = data.encode("latin-1")
        if not isinstance(data, bytes) or fortran or len(shape) != 2 or shape[1] != _IMAGE:
            raise ValueError(f"the array is not (n, {_IMAGE}) in C order")
        if len(data) != math.prod(shape):
            raise ValueError(f"{len(data)} bytes for shape {tuple(shape)}")
        return np.frombuffer(data, np.uint8).reshape(shape)


def _reconstruct(*_: Any) -> _ArrayRecord:
    return _ArrayRecord()


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ArrayRecord,
    ("numpy", "dtype"): _DtypeRecord,
    # Bytes that Python 3 pickled with an old protocol.
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin-1"),
}


class _Containers(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")


def read_python_batch(data: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, 3, 32, 32) and labels (n,) of a batch file. DataError for anything else."""
    try:
        batch = _Containers(io.BytesIO(data), encoding="bytes").load()
        content = {key.decode() if isinstance(key, bytes) else key: batch[key] for key in batch}
        images = content["data"].images()
        labels = np.array([int(label) for label in content["labels"]], dtype=np.int64)
    except pickle.UnpicklingError as error:
        raise DataError(f"{where}: refused: {error}; use the binary version (.bin)") from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise DataError(
            f"{where}: not a CIFAR-10 batch of the Python version ({type(error).__name__}: "
            f"{str(error)[:200]}); truncated, or another file. Use the binary version (.bin)"
        ) from None
    if len(images) != len(labels):
        raise DataError(f"{where}: {len(labels)} labels for {len(images)} images")
    return images.reshape(-1, 3, 32, 32), labels
