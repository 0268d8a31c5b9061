"""Which part holds which row."""

from collections.abc import Iterator, Sequence

import numpy as np

from bottleneck.cache.parts import Part, keys_of

__all__ = ["RowIndex"]


class RowIndex:
    """The rows of a layer in some parts, each key once: writers at work side by side may double it.

    Rows are numbered through all parts, in their order.

    Parameters
    ----------
    parts : sequence of Part
        Those without the layer are passed over.
    layer : str
        Its name.

    Attributes
    ----------
    keys : np.ndarray
        All different keys, see `keys_of`, sorted.
    first : np.ndarray
        The number of the first row with each key.
    """

    def __init__(self, parts: Sequence[Part], layer: str) -> None:
        self._parts = [part for part in parts if layer in part.layers]
        self._starts = np.cumsum([0, *(part.rows for part in self._parts)])
        keys = [keys_of(part.digests, part.views) for part in self._parts]
        self.keys, self.first = np.unique(
            np.concatenate([*keys, keys_of(np.empty((0, 32), np.uint8), 0)]), return_index=True
        )
        self._beginnings = _beginnings(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """What the index and the keys in its parts take in memory."""
        own = self.keys.nbytes + self.first.nbytes + self._beginnings.nbytes
        return own + sum(part.digests.nbytes + part.views.nbytes for part in self._parts)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the number of each key's row; -1 where there is none."""
        if not len(self):
            return np.full(len(keys), -1)
        last = len(self) - 1
        places = np.minimum(np.searchsorted(self._beginnings, _beginnings(keys)), last)
        other = self.keys[places] != keys  # or the first of several that begin so
        places[other] = np.minimum(np.searchsorted(self.keys, keys[other]), last)
        return np.where(self.keys[places] == keys, self.first[places], -1)

    def by_part(self, numbers: np.ndarray) -> Iterator[tuple[Part, np.ndarray, slice]]:
        """Split ascending numbers into each part's own rows, with their place among `numbers`."""
        bounds = np.searchsorted(numbers, self._starts)
        for part, start, low, high in zip(
            self._parts, self._starts, bounds, bounds[1:], strict=False
        ):
            if low < high:
                yield part, numbers[low:high] - start, slice(low, high)


def _beginnings(keys: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of keys as numbers of the same order, which compare faster."""
    rows = keys.view(np.uint8).reshape(len(keys), keys.itemsize)
    return np.ascontiguousarray(rows[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
