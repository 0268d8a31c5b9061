"""``features.h5``: virtual datasets over all parts of a bank."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from bottleneck.cache.index import RowIndex
from bottleneck.cache.layout import HDF5_FORMAT, SparseFile
from bottleneck.cache.parts import Part

__all__ = ["shows", "view_file_content"]


def view_file_content(parts: Sequence[Part]) -> bytes:
    """Return the bytes of a file that shows every row of some parts, each key once.

    A part that cannot be opened shows as nan, not as zero.
    """
    content = SparseFile()
    with h5py.File(content, "w", libver=HDF5_FORMAT) as file:
        file.attrs["parts"] = _names([part.path for part in parts])
        for layer in sorted({layer for part in parts for layer in part.layers}):
            chosen = _chosen(parts, layer)
            for target, source in (
                (f"features/{layer}", f"features/{layer}"),
                (f"digest/{layer}", "digest"),
                (f"view/{layer}", "view"),
            ):
                file.create_virtual_dataset(target, _stack(chosen, source), fillvalue=_fill(source))
    return b"".join(content.pieces(0, content.seek(0, io.SEEK_END)))


def shows(file: Path, parts: Sequence[Path]) -> bool:
    """Return whether a view file was made of exactly these parts."""
    try:
        with h5py.File(file, "r", locking=False) as view:
            return bool(view.attrs["parts"] == _names(parts))
    except (OSError, KeyError):
        return False


def _names(parts: Sequence[Path]) -> np.bytes_:
    """Return the SHA-256 over the names of parts."""
    names = "/".join(path.name for path in parts)
    return np.bytes_(hashlib.sha256(names.encode()).hexdigest().encode())


def _chosen(parts: Sequence[Part], layer: str) -> list[tuple[Part, np.ndarray]]:
    """Return the parts that hold a layer, with those rows whose key no earlier one holds."""
    index = RowIndex(parts, layer)
    return [(part, rows) for part, rows, _ in index.by_part(np.sort(index.first))]


def _fill(source: str) -> float:
    return np.nan if source.startswith("features/") else 0


def _stack(chosen: Sequence[tuple[Part, np.ndarray]], source: str) -> h5py.VirtualLayout:
    shape, dtype = _type(chosen[0][0], source)
    layout = h5py.VirtualLayout((sum(len(rows) for _, rows in chosen), *shape[1:]), dtype)
    start = 0
    for part, rows in chosen:
        shape, dtype = _type(part, source)
        virtual = h5py.VirtualSource(f"parts/{part.path.name}", source, shape, dtype)
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            layout[start : start + len(run)] = virtual[int(run[0]) : int(run[-1]) + 1]
            start += len(run)
    return layout


def _type(part: Part, source: str) -> tuple[tuple[int, ...], np.dtype]:
    if source == "digest":
        return part.digests.shape, part.digests.dtype
    if source == "view":
        return part.views.shape, part.views.dtype
    layer = part.layers[source.removeprefix("features/")]
    return layer.shape, layer.dtype
