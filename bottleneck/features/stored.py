"""Rows of features in the cache: the columns of each layer, and rows that stay in the banks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Self

import numpy as np

from bottleneck.cache import Bank, Cache
from bottleneck.features.commands import remedy_for
from bottleneck.features.selection import check_finite, vectors
from bottleneck.images import ImageSet
from bottleneck.records import AnySource, FeatureSource

__all__ = ["BYTES", "StoredColumns", "StreamedRows", "columns_of"]

BYTES = 16
"""Bytes per feature value: float32 copies as read, split and standardised, and work space."""
_LEAST = 2**24
_UNLIMITED = 2**63
_GRAM_BYTES = 32
"""Bytes per pair of rows: their inner product, its factor, and work space."""


@dataclass(frozen=True)
class StoredColumns:
    """The columns of one layer.

    Attributes
    ----------
    banks : sequence of Bank
        Where the rows are: first those of unaugmented images, last those of augmented views.
    source : FeatureSource
        The layer, image set and pooling.
    width : int
        Number of features.
    """

    banks: Sequence[Bank]
    source: FeatureSource
    width: int

    def read(self, digests: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Read rows, float32 of shape (n, width).

        Parameters
        ----------
        digests, views : np.ndarray
            SHA-256 of the n images, and view number of each row.

        Returns
        -------
        np.ndarray

        Raises
        ------
        CacheError
            A row is missing, or a part is damaged.
        """
        convert = partial(vectors, self.source)
        found = [
            bank.read(self.source.layer, digests[own].tolist(), view=views[own], convert=convert)
            for bank, own in self._by_bank(views)
        ]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def stream(self, digests: np.ndarray, views: np.ndarray, memory: int) -> Iterator[np.ndarray]:
        """Yield blocks of rows (m, width), float16 or float32.

        Parameters
        ----------
        digests, views : np.ndarray
            As for `read`.
        memory : int
            Memory limit in bytes of `Bank.stream`.

        Yields
        ------
        np.ndarray

        Raises
        ------
        CacheError
            As for `read`.
        """
        pooled = self.source.pool != self.source.stored_pool
        convert = partial(vectors if pooled else check_finite, self.source)
        for bank, own in self._by_bank(views):
            for block in bank.stream(
                self.source.layer,
                digests[own].tolist(),
                view=views[own],
                memory=memory,
                convert=convert,
            ):
                yield block.reshape(len(block), -1)

    def _by_bank(self, views: np.ndarray) -> Iterator[tuple[Bank, slice]]:
        """Yield consecutive rows of one bank."""
        augmented = views > 0
        cuts = np.flatnonzero(np.diff(augmented)) + 1
        for start, end in pairwise(np.unique([0, *cuts, len(augmented)])):
            yield self.banks[-1 if augmented[start] else 0], slice(start, end)


@dataclass(frozen=True, eq=False)
class StreamedRows:
    """Rows of features, in place of an array of shape (n, d).

    Attributes
    ----------
    columns : sequence of StoredColumns
        The columns of each layer, side by side.
    digests : np.ndarray
        SHA-256 of the n images.
    views : np.ndarray
        View number of each row.
    memory : int
        Memory limit in bytes for all work on the rows, the blocks included.
    fits_by_part : bool
        Whether the columns of each of several layers fit into memory, one layer at a time, and so
        do the inner products of the rows, of which there are no more than columns. It is that of
        the rows that were loaded, of which these may be some.
    adjust : callable, optional
        Applied to whole rows when they are read, see `bottleneck.heads.adjust.Adjust`.
    """

    columns: Sequence[StoredColumns]
    digests: np.ndarray
    views: np.ndarray
    memory: int
    fits_by_part: bool = False
    adjust: Callable[[np.ndarray], np.ndarray] | None = None

    @classmethod
    def of(
        cls,
        columns: Sequence[StoredColumns],
        digests: np.ndarray,
        views: np.ndarray,
        memory: int | None,
    ) -> Self:
        """Return rows, having found out whether they fit by part; None is no limit of memory."""
        number, widths = len(digests), [each.width for each in columns]
        limit = _UNLIMITED if memory is None else memory
        needed = BYTES * number * max(widths) + _GRAM_BYTES * number**2
        by_part = len(widths) > 1 and number <= sum(widths) and needed <= limit
        return cls(columns, digests, views, limit, by_part)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and number of features."""
        return len(self.digests), sum(each.width for each in self.columns)

    @property
    def size(self) -> int:
        """Number of values."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, rows: np.ndarray | slice) -> Self:
        """Return some rows, chosen by boolean mask, by index or by slice."""
        return replace(self, digests=self.digests[rows], views=self.views[rows])

    def joined(self, other: Self) -> Self:
        """Return these rows followed by other rows of the same columns."""
        return replace(
            self,
            digests=np.concatenate([self.digests, other.digests]),
            views=np.concatenate([self.views, other.views]),
        )

    def read(self) -> np.ndarray:
        """Read all rows, float32 of shape (n, d)."""
        rows = self._read()
        return rows if self.adjust is None else self.adjust(rows)

    def _read(self) -> np.ndarray:
        if len(self.columns) == 1:
            return self.columns[0].read(self.digests, self.views)
        found, start = np.empty(self.shape, np.float32), 0
        for part in self.parts():
            found[:, start : start + part.shape[1]] = part
            start += part.shape[1]
        return found

    def parts(self) -> Iterator[np.ndarray]:
        """Yield the columns of each layer, float32 of shape (n, width), in order, not adjusted."""
        for each in self.columns:
            yield each.read(self.digests, self.views)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield blocks of rows (m, d), float16 or float32, that fit a quarter of the memory.

        A block may take 16 MiB in any case: a pass row by row would take too long.
        """
        for block in self._blocks():
            yield block if self.adjust is None else self.adjust(block)

    def _blocks(self) -> Iterator[np.ndarray]:
        limit = max(_LEAST, self.memory // 4)
        if len(self.columns) == 1:
            yield from self.columns[0].stream(self.digests, self.views, limit)
            return
        # Half for the columns of each layer, half for these side by side.
        share = max(_LEAST // len(self.columns), limit // (2 * len(self.columns)))
        streams = [each.stream(self.digests, self.views, share) for each in self.columns]
        waiting = [next(stream) for stream in streams]
        done = 0
        while True:
            count = min(map(len, waiting))
            yield np.hstack([block[:count] for block in waiting])
            done += count
            if done == len(self):
                return
            waiting = [
                block[count:] if len(block) > count else next(stream)
                for block, stream in zip(waiting, streams, strict=True)
            ]


def columns_of(
    cache: Cache, source: AnySource, digests: np.ndarray, images: ImageSet
) -> list[StoredColumns]:
    """Return the columns of each layer of a source, in order.

    Parameters
    ----------
    cache : Cache
        The cache.
    source : FeatureSource or JoinedSource
        The features.
    digests : np.ndarray
        SHA-256 of the images whose unaugmented rows will be read; at least one.
    images : ImageSet
        The image set, for the command that computes rows which are missing.

    Returns
    -------
    list of StoredColumns

    Raises
    ------
    CacheError
        The row of an image is missing, or a part is damaged.
    """
    found = []
    for part in source.parts:
        banks = cache.banks_of(part, remedy_for(part, images, cache))
        first = next(banks[0].stream(part.layer, digests.tolist(), convert=partial(vectors, part)))
        found.append(StoredColumns(banks, part, first.shape[1]))
    return found
