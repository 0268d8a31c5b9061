"""Features that are read from the cache in blocks, again in every pass over them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np

from bottleneck.cache import Bank
from bottleneck.features.selection import vectors
from bottleneck.records import FeatureSource

__all__ = ["StreamedRows", "free_memory"]

_LEAST = 2**24
_UNKNOWN = 2**32
"""Taken to be free where the system does not tell."""


@dataclass(frozen=True, eq=False)
class StreamedRows:
    """Rows of features, in place of an array of shape (n, d).

    Attributes
    ----------
    bank : Bank
        Where the plain images' rows are.
    view_bank : Bank
        Where those of augmented views are.
    selection : FeatureSource
        Which they are.
    digests : np.ndarray
        SHA-256 of the n images.
    views : np.ndarray
        Which view each row is of.
    n_features : int
        d.
    memory : int
        Bytes that whoever works with them may take, the blocks included.
    """

    bank: Bank
    view_bank: Bank
    selection: FeatureSource
    digests: np.ndarray
    views: np.ndarray
    n_features: int
    memory: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features."""
        return len(self.digests), self.n_features

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self.digests) * self.n_features

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, rows: np.ndarray) -> Self:
        """Return some rows, chosen by bool or by place."""
        return replace(self, digests=self.digests[rows], views=self.views[rows])

    def joined(self, other: Self) -> Self:
        """Return these rows and then others of the same selection."""
        return replace(
            self,
            digests=np.concatenate([self.digests, other.digests]),
            views=np.concatenate([self.views, other.views]),
        )

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield consecutive rows (m, d), float16 or float32, in a quarter of the memory.

        They may take 16 MiB in any case: row by row, a pass would take for ever.
        """
        pooled = self.selection.pool != self.selection.stored_pool
        convert = partial(vectors, self.selection) if pooled else None
        augmented = self.views > 0
        cuts = np.flatnonzero(np.diff(augmented)) + 1
        for start, end in pairwise(np.unique([0, *cuts, len(augmented)])):  # rows of one bank
            for block in (self.view_bank if augmented[start] else self.bank).stream(
                self.selection.layer,
                self.digests[start:end].tolist(),
                view=self.views[start:end],
                memory=max(_LEAST, self.memory // 4),
                convert=convert,
            ):
                yield block.reshape(len(block), -1)


def free_memory() -> int:
    """Return how many bytes of memory are free, as far as the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = dict(line.split(":", 1) for line in lines)["MemAvailable"]
        return int(available.split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN
