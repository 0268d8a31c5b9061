"""Similar images: rows of features that are nearest by cosine, and groups of near-duplicates.

Nothing is approximated: each row is compared with each, in blocks. Cosines are rounded to six
decimals, about the precision of float32, so that equal rows have equal cosines.
"""

from collections.abc import Iterator
from functools import partial
from typing import TypeAlias

import numpy as np

from bottleneck.errors import UsageError
from bottleneck.features import StreamedRows
from bottleneck.solvers.streamed import pieces

__all__ = ["Rows", "near_duplicate_groups", "nearest"]

Rows: TypeAlias = np.ndarray | StreamedRows
"""Features of shape (n, d), in memory or read in blocks."""
_DECIMALS = 6
_AT_ONCE = 512
"""Rows that are compared with a block of others at a time."""
_BLOCK_BYTES = 2**28
"""Memory for rows in memory that are compared with all later ones in one pass."""
_LEAST = 2**24
"""That for streamed rows, whatever their limit."""
_MOST_PAIRS = 2**22
"""Pairs of similar rows that are kept before their groups are merged."""


def nearest(X: Rows, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows with the highest cosines to each of some vectors, in one pass.

    Parameters
    ----------
    X : np.ndarray or StreamedRows
        Shape (n, d); streamed rows are read in blocks within their `memory`.
    queries : np.ndarray
        Shape (m, d).
    top : int
        Number of rows to find for each; at most n are found.

    Returns
    -------
    places : np.ndarray
        int64 of shape (m, min(top, n)): indices of rows, nearest first, and those with equal
        cosines in the order of `X`.
    cosines : np.ndarray
        float32 of the same shape, from -1 to 1; 0 where a vector is all zeros.

    Raises
    ------
    UsageError
        `top` is less than 1, or `queries` have another number of columns.
    CacheError
        A part of the cache is damaged.
    """
    if top < 1:
        raise UsageError(f"`top` must be at least 1, got {top}")
    if queries.ndim != 2 or queries.shape[1] != X.shape[1]:  # noqa: PLR2004 - rows and columns
        raise UsageError(
            f"`queries` have shape {queries.shape}; expected (m, {X.shape[1]}), as `X` has "
            f"{X.shape[1]} columns"
        )
    shape = len(queries), min(top, len(X))
    places, cosines = np.zeros(shape, np.int64), np.full(shape, -np.inf, np.float32)
    wanted = np.array(queries, np.float32)
    _scale(wanted)
    for rows, values in _unit_pieces(X):
        for own in _chunks(len(queries)):
            found = wanted[own] @ values.T
            _merge(places[own], cosines[own], found, rows.start)
    return places, cosines


def near_duplicate_groups(X: Rows, threshold: float) -> list[np.ndarray]:
    """Find groups of rows that are connected by pairs with cosines of at least a threshold.

    Two rows of a group may be less similar than that, if others are between them.

    Parameters
    ----------
    X : np.ndarray or StreamedRows
        Shape (n, d); of streamed rows, as many as fit a quarter of their `memory` are compared
        with all later ones in each pass.
    threshold : float
        The least cosine of a pair, above 0 and at most 1.

    Returns
    -------
    list of np.ndarray
        Ascending indices of the rows of each group, two or more; the groups are in the order of
        their first rows.

    Raises
    ------
    UsageError
        `threshold` is out of range.
    CacheError
        A part of the cache is damaged.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"`threshold` must be above 0 and at most 1, got {threshold}")
    groups = np.arange(len(X))
    kept: list[np.ndarray] = []
    for pairs in _pairs(X, threshold):
        joined = groups[pairs]
        kept.append(joined[:, joined[0] != joined[1]])
        if sum(each.shape[1] for each in kept) > _MOST_PAIRS:
            groups, kept = _joined(groups, np.hstack(kept)), []
    groups = _joined(groups, np.hstack([np.empty((2, 0), int), *kept]))
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    return [each for each in np.split(order, cuts) if len(each) > 1]


def _scale(values: np.ndarray) -> None:
    """Scale rows to unit length in place; those of zeros stay."""
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values))
    if not np.isfinite(lengths).all():  # squares of huge values
        values /= np.abs(values).max(axis=1, keepdims=True).clip(1)
        lengths = np.sqrt(np.einsum("ij,ij->i", values, values))
    values /= np.where(lengths > 0, lengths, 1)[:, None]


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, _AT_ONCE):
        yield slice(start, min(start + _AT_ONCE, count))


def _unit_pieces(X: Rows) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield blocks of rows that are scaled to unit length."""
    read = X.blocks if isinstance(X, StreamedRows) else partial(iter, [X])
    for rows, values in pieces(read, np.zeros(X.shape[1]), _AT_ONCE // 8):
        _scale(values)
        yield rows, values


def _merge(places: np.ndarray, cosines: np.ndarray, found: np.ndarray, start: int) -> None:
    """Merge the cosines of later rows (m, b) into the highest so far (m, top), in place."""
    better = np.flatnonzero((found > cosines[:, -1:]).any(axis=0))
    rounded = np.round(found[:, better], _DECIMALS).clip(-1, 1)
    both = np.hstack([cosines, rounded])
    order = np.argsort(-both, axis=1, kind="stable")[:, : cosines.shape[1]]
    among = np.hstack([places, np.broadcast_to(better + start, rounded.shape)])
    cosines[:] = np.take_along_axis(both, order, axis=1)
    places[:] = np.take_along_axis(among, order, axis=1)


def _pairs(X: Rows, threshold: float) -> Iterator[np.ndarray]:
    """Yield the indices of similar rows, of shape (2, p): each pair at least once."""
    limit = max(_LEAST, X.memory // 4) if isinstance(X, StreamedRows) else _BLOCK_BYTES
    step = max(1, limit // (4 * X.shape[1]))
    least = np.float32(threshold - 0.5 * 10**-_DECIMALS)
    for start in range(0, len(X), step):
        later = X[start:]
        own = np.concatenate([values.copy() for _, values in _unit_pieces(later[:step])])
        for rows, values in _unit_pieces(later):
            for some in _chunks(min(step, rows.stop)):
                found = np.argwhere(own[some] @ values.T >= least)
                yield found.T + start + np.array([[some.start], [rows.start]])


def _joined(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the first row of each row's group, once groups are joined by pairs of first rows."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = len(groups)
    graph = coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), (size, size))
    _, found = connected_components(graph, directed=False)
    _, first = np.unique(found, return_index=True)
    return np.asarray(first[found][groups])
