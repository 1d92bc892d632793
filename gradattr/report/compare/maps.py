"""How alike the maps of two runs are, image by image; few maps in memory at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gradattr.metrics.method_agreement import method_agreement
from gradattr.report.compare.samples import common_samples
from gradattr.report.compare.sections import Section, has_rows, likeness_row
from gradattr.report.results import Run
from gradattr.storage.reader import MapFile, decoded_maps, map_files, read_map_file

#: Images whose maps are compared, at most; evenly spread over those that both runs have.
MOST_IMAGES = 1000
#: Files of 48 MB that are kept.
_KEPT_FILES = 3
#: Of two maps of an image -> what the row is called.
_MEASURES = {
    "magnitudes": "Spearman of |map|",
    "values": "Spearman of map",
    "top_overlap": "same top 10 %",
}
_WHOLE = ("float16", "float32", "int8")

#: (sample id, method) -> map (channels, height, width).
_Found = dict[tuple[str, str], np.ndarray]


def compare_maps(a: Run, b: Run, most: int = MOST_IMAGES) -> list[Section]:
    """Of each method that both runs have: rank correlation and overlap of the maps of an image."""
    methods = [method for method in a.methods if method in b.methods]
    if not methods or not (has_rows(a, "maps") and has_rows(b, "maps")):
        return []
    notes = []
    for run, name in ((a, "A"), (b, "B")):
        choice = str(run.manifest["store"]["maps"])
        if choice not in _WHOLE:
            notes.append(f"{name} keeps maps as '{choice}': what it left out counts as 0 or a mean")
    wanted, both = _chosen(a, b, most)
    if len(wanted) < both:
        notes.append(f"Of {both} images in both runs, {len(wanted)}, evenly spread")
    found: dict[tuple[str, str], list[float]] = {
        (method, name): [] for method in methods for name in _MEASURES
    }
    identical, unlike, other = 0, 0, _MapsBy(b, methods)
    for ids, maps in _MapsBy(a, methods).by_file(wanted):
        theirs = other.of_images(ids)
        for (sample, method), mine in maps.items():
            their = theirs.get((sample, method))
            if their is None:
                continue
            if their.shape[1:] != mine.shape[1:]:
                unlike += 1
                continue
            same = bool(np.array_equal(mine, their))
            identical += same
            alike = method_agreement([torch.tensor(one[None]) for one in (mine, their)])
            for name in _MEASURES:
                value = float(getattr(alike, name)[0, 0, 1])
                # Equal pixels at the last place count with what chance gives: not of one map.
                found[method, name].append(1.0 if same and not np.isnan(value) else value)
    if unlike:
        notes.append(f"{unlike} maps are of another size in B, and left out")
    pairs = sum(len(found[method, "values"]) for method in methods)
    notes.append(f"{identical} of {pairs} maps are identical")
    rows = [
        likeness_row({"method": method, "measure": _MEASURES[name]}, np.array(values, np.float64))
        for (method, name), values in found.items()
        if values
    ]
    return [Section("Maps of the same image", "likeness", ("method", "measure"), rows, notes)]


def _chosen(a: Run, b: Run, most: int) -> tuple[list[str], int]:
    """Ids of the images to look at, and how many both runs have."""
    sql = 'SELECT sample_id FROM predictions ORDER BY "row"'
    tables = (a.sql(sql), b.sql(sql))
    rows, _ = common_samples(*tables)
    if len(rows) > most:
        kept = rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
    else:
        kept = rows
    return tables[0]["sample_id"].take(pa.array(kept)).to_pylist(), len(rows)


class _MapsBy:
    """Maps of a run, file by file or by image; a few files are kept, because those of the two runs
    may be cut at other places."""

    def __init__(self, run: Run, methods: Sequence[str]) -> None:
        self._run, self._methods = run, pa.array(methods)
        self._files = map_files(run.commit)
        self._kept: OrderedDict[str, pa.Table] = OrderedDict()
        index = run.sql('SELECT sample_id, "row" FROM predictions').to_pylist()
        self._rows = {one["sample_id"]: one["row"] for one in index}

    def by_file(self, wanted: Sequence[str]) -> Iterator[tuple[list[str], _Found]]:
        """The wanted images of one file after the other, and their maps."""
        for file in self._files:
            found = self._of(file, wanted)
            if found:
                yield sorted({sample for sample, _ in found}), found

    def of_images(self, ids: Sequence[str]) -> _Found:
        """Maps of these images."""
        rows = [self._rows[sample] for sample in ids if sample in self._rows]
        found: _Found = {}
        for file in self._files:
            if any(start <= row < stop for row in rows for start, stop in file.row_ranges):
                found |= self._of(file, ids)
        return found

    def _of(self, file: MapFile, ids: Sequence[str]) -> _Found:
        key = file.file.key
        if key not in self._kept:
            table = read_map_file(self._run.store, self._run.commit, file.file)
            self._kept[key] = table.filter(pc.is_in(table["method"], self._methods))
            if len(self._kept) > _KEPT_FILES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        table = self._kept[key]
        table = table.filter(pc.is_in(table["sample_id"], pa.array(ids)))
        return {(sample, method): one for sample, method, one in decoded_maps(table)}
