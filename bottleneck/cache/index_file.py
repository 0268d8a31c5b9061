"""``parts.json``: where things are in the parts of a bank, so that many are opened fast.

HDF5 needs about a millisecond to open a part. With this file, keys and checksums are read from
where they are known to be, and the keys must match the part's own SHA-256. A part that is not in
the file, that has another size or time, or whose keys do not match, is opened by HDF5; and so are
all if the file does not match its own SHA-256.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.cache.layout import SCHEMA, Layer, seal_of
from bottleneck.cache.own import INDEX, open_part
from bottleneck.cache.parts import Part
from bottleneck.files import atomic_write
from bottleneck.inputs import open_regular, read_regular

__all__ = ["opened_parts", "write_index"]

_FEWEST = 64
"""Up to this many parts, HDF5 opens them fast enough."""


def opened_parts(bank: Path, files: Sequence[Path], known: Mapping[Path, Part]) -> dict[Path, Part]:
    """Open parts of a bank.

    Parameters
    ----------
    bank : Path
        The folder of the bank.
    files : sequence of Path
        Its parts.
    known : mapping of Path to Part
        Those that are open.

    Returns
    -------
    dict of Path to Part
        All of `files`.

    Raises
    ------
    CacheError
        A part cannot be read.
    FileNotFoundError
        It has been replaced by others.
    """
    new = sum(path not in known for path in files)
    index = _read(bank / INDEX) if new > _FEWEST else {}
    fingerprint = str(index.get("fingerprint", ""))
    entries = index.get("parts", {}) if fingerprint.startswith(bank.name[-12:]) else {}
    return {
        path: known.get(path) or _by_entry(path, fingerprint, entries) or open_part(path)
        for path in files
    }


def write_index(bank: Path, parts: Sequence[Part]) -> None:
    """Write where things are in the parts of a bank, if it has many.

    Parameters
    ----------
    bank : Path
        The folder of the bank.
    parts : sequence of Part
        All of its parts.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    if len(parts) <= _FEWEST:
        (bank / INDEX).unlink(missing_ok=True)
        return
    entries = {}
    for part in parts:
        with suppress(FileNotFoundError):  # it has just been replaced
            entries[part.path.name] = _entry(part)
    fingerprint = parts[0].fingerprint
    index = {"schema": SCHEMA, "fingerprint": fingerprint, "parts": entries}
    content = {"sha256": _digest(index), "index": index}
    atomic_write(bank / INDEX, json.dumps(content, separators=(",", ":")).encode())


def _digest(index: Any) -> str:
    return hashlib.sha256(json.dumps(index, separators=(",", ":")).encode()).hexdigest()


def _entry(part: Part) -> dict[str, Any]:
    found = part.path.stat()
    layers = {
        name: [layer.shape, layer.dtype.str, layer.offset, len(layer.sums)]
        for name, layer in part.layers.items()
    }
    return {
        "size": found.st_size,
        "time": found.st_mtime_ns,
        "rows": part.rows,
        "seal": part.seal,
        "compress": part.compress,
        "places": part.places,
        "layers": layers,
    }


def _read(path: Path) -> dict[str, Any]:
    """Return the content of the file; nothing if there is none that can be read and is whole."""
    try:
        content = json.loads(read_regular(path))
        index: dict[str, Any] = content["index"]
        known = index["schema"] == SCHEMA and isinstance(index["parts"], dict)
        return index if known and content["sha256"] == _digest(index) else {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _by_entry(path: Path, fingerprint: str, entries: Mapping[str, Any]) -> Part | None:
    """Open a part as its entry says; None if it has none, or the two do not agree."""
    if not (entry := entries.get(path.name)):
        return None
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno())
            if (found.st_size, found.st_mtime_ns) != (entry["size"], entry["time"]):
                return None

            def read(name: str, dtype: str, *shape: int) -> np.ndarray:
                size = prod(shape) * np.dtype(dtype).itemsize
                file.seek(entry["places"][name])
                return np.frombuffer(file.read(min(size, found.st_size)), dtype).reshape(shape)

            rows = entry["rows"]
            digests, views = read("digest", "u1", rows, 32), read("view", "u2", rows)
            layers = {
                name: Layer(
                    tuple(shape), np.dtype(dtype), offset, read(f"checksums/{name}", "u8", sums)
                )
                for name, (shape, dtype, offset, sums) in entry["layers"].items()
            }
        if seal_of(fingerprint, layers, digests, views) != entry["seal"]:
            return None
        compress, seal, places = (entry[name] for name in ("compress", "seal", "places"))
        return Part(path, digests, views, layers, compress, fingerprint, seal, places)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
