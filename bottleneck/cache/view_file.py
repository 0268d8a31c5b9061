"""``features.h5``: virtual datasets over all parts of a bank, for any HDF5 tool."""

import hashlib
import io
import json
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path

import h5py
import numpy as np

from bottleneck.cache import layout
from bottleneck.cache.parts import Part, RowIndex
from bottleneck.inputs import check_regular

__all__ = ["shows", "view_file_content"]

_KEYS = ("digest", "view")


def view_file_content(parts: Sequence[Part], aliases: Mapping[str, Sequence[str]]) -> bytes:
    """Return the bytes of a file that shows every row of some parts, each key once.

    A part that cannot be opened shows as nan rather than zero.

    Parameters
    ----------
    parts : sequence of Part
        Parts, oldest first.
    aliases : mapping of str to sequence of str
        Other names of layers, which become links to their datasets.

    Returns
    -------
    bytes
        An HDF5 file of virtual datasets.
    """
    content = io.BytesIO()
    with h5py.File(content, "w", libver=layout.HDF5_FORMAT) as file:
        file.attrs["parts"] = _names([part.path for part in parts], aliases)
        layers = sorted({layer for part in parts for layer in part.layers})
        for layer in layers:
            first = list(RowIndex(parts, layer).first_rows())
            for kind, fill in (("features", np.nan), ("digest", 0), ("view", 0)):
                stacked = _stack(first, f"features/{layer}" if kind == "features" else kind)
                file.create_virtual_dataset(f"{kind}/{layer}", stacked, fillvalue=fill)
        links = {name: layer for layer in layers for name in aliases.get(layer, ())}
        for name, kind in product(links.keys() - layers, ("features", *_KEYS)):
            file[f"{kind}/{name}"] = h5py.SoftLink(f"/{kind}/{links[name]}")
    return content.getvalue()


def shows(file: Path, parts: Collection[Path], aliases: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a view file was built from exactly these parts and names.

    Parameters
    ----------
    file : Path
        The view file, which need not exist.
    parts : collection of Path
        The parts.
    aliases : mapping of str to sequence of str
        Other names of layers.

    Returns
    -------
    bool
        Also False if the file cannot be read.
    """
    try:
        check_regular(file)
        with h5py.File(file, "r", locking=False) as view:
            return bool(view.attrs["parts"] == _names(parts, aliases))
    except (OSError, KeyError):
        return False


def _names(parts: Collection[Path], aliases: Mapping[str, Sequence[str]]) -> np.bytes_:
    """Return the SHA-256 over the names of parts and layers."""
    names = "/".join(sorted(path.name for path in parts))
    if any(aliases.values()):
        names += json.dumps(aliases, sort_keys=True, default=list)
    return np.bytes_(hashlib.sha256(names.encode()).hexdigest().encode())


def _stack(chosen: Sequence[tuple[Part, np.ndarray]], source: str) -> h5py.VirtualLayout:
    """Return some rows of parts, stacked."""
    held = [each.dataset(source) for each, _ in chosen]
    total = sum(len(rows) for _, rows in chosen)
    stacked = h5py.VirtualLayout((total, *held[0].shape[1:]), held[0].dtype)
    start = 0
    for (part, rows), values in zip(chosen, held, strict=True):
        name = f"parts/{part.path.name}"
        virtual = h5py.VirtualSource(name, source, values.shape, values.dtype)
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            stacked[start : start + len(run)] = virtual[int(run[0]) : int(run[-1]) + 1]
            start += len(run)
    return stacked
