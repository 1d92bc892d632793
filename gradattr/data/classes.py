"""Classes of a data set by name or by number."""

from __future__ import annotations

import difflib

from gradattr.data.types import DataIndex
from gradattr.errors import DataError


def find_class(wanted: str | int, index: DataIndex, key: str) -> int:
    """The label of a class that is named, or numbered, under the manifest's ``key``.

    DataError, with what there is, if the data set has no such class.
    """
    if index.num_classes is None:
        raise DataError(f"{key}: {wanted!r} was given, but this data has no labels")
    if isinstance(wanted, int):
        if 0 <= wanted < index.num_classes:
            return wanted
        raise DataError(
            f"{key}: there is no class {wanted}; the data has classes 0 to {index.num_classes - 1}"
        )
    if index.class_names is None:
        raise DataError(
            f"{key}: {wanted!r} is a name, and this data has no names of its classes; give the "
            f"class's number, 0 to {index.num_classes - 1}, or set 'classes' in the data"
        )
    if wanted in index.class_names:
        return index.class_names.index(wanted)
    near = difflib.get_close_matches(wanted, index.class_names, 1)
    shown = ", ".join(map(repr, index.class_names[:20]))
    more = ", ..." if len(index.class_names) > 20 else ""
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {shown}{more}"
    raise DataError(f"{key}: there is no class {wanted!r}{hint}")
