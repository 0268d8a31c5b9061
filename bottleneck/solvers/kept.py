"""Reductions kept on disk, so that another classifier on the same features begins at once."""

import io
import os
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from xxhash import xxh3_128

from bottleneck.files import atomic_write
from bottleneck.solvers.reduction import Reduction, reduce_rows

__all__ = ["KeptReductions"]

_VERSION = b"3"
"""To be raised when `reduce_rows` computes something else."""


class KeptReductions:
    """Reduces features as `reduce_rows` does, or finds what was reduced before.

    A reduction is known by the features themselves, the rows whose moments standardise and whether
    they are standardised: whatever else changes, such as labels, it stays valid. Files carry
    checksums, and a damaged one is computed anew. Where they cannot be written, nothing is kept.

    Parameters
    ----------
    folder : Path
        Made when something is kept. It may be removed at any time.
    most_bytes : int
        What all files may take; the least recently used go first.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes

    def __call__(
        self, X: np.ndarray, train: np.ndarray | None = None, *, standardize: bool = True
    ) -> Reduction:
        """Return the reduction of features, as `reduce_rows` does."""
        if X.shape[1] <= X.shape[0]:
            return reduce_rows(X, train, standardize=standardize)  # standardising takes no time
        file = self._folder / f"{_key(X, train, standardize=standardize)}.npz"
        found = _read(file)
        if found is None:
            found = reduce_rows(X, train, standardize=standardize)
            with suppress(OSError):
                self._keep(file, found)
        return found

    def _keep(self, file: Path, reduction: Reduction) -> None:
        if reduction.rows.nbytes > self._most_bytes:
            return
        content = io.BytesIO()
        np.savez(content, **vars(reduction))
        size = content.getbuffer().nbytes
        if size <= self._most_bytes:
            self._make_room(size)
            atomic_write(file, [content.getbuffer()])

    def _make_room(self, size: int) -> None:
        """Remove files, those that were not used for longest first."""
        files = sorted(self._folder.glob("*.npz"), key=lambda path: path.stat().st_mtime)
        there = sum(path.stat().st_size for path in files)
        for path in files:
            if there + size <= self._most_bytes:
                break
            there -= path.stat().st_size
            path.unlink(missing_ok=True)


def _key(X: np.ndarray, train: np.ndarray | None, *, standardize: bool) -> str:
    """Return the hash of all that decides a reduction."""
    content = xxh3_128(_VERSION)
    content.update(f"{X.shape} {X.dtype.str} {standardize}".encode())
    content.update(np.ascontiguousarray(X).data)
    if train is not None:
        content.update(train.dtype.str.encode() + np.ascontiguousarray(train).tobytes())
    return str(content.hexdigest())


def _read(file: Path) -> Reduction | None:
    """Return what is kept in a file, which counts as used now; None if it is not whole."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as kept:
            parts = {name: kept[name] for name in Reduction.__dataclass_fields__}
        os.utime(file)
        return Reduction(**parts)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
