"""Similar images: rows of features that are nearest by cosine, and groups of near-duplicates.

Nothing is approximated: each row is compared with each. Cosines are rounded to six decimals, about
the precision of float32, so that equal rows have equal cosines.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from bottleneck.errors import UsageError
from bottleneck.features import Features, StreamedRows
from bottleneck.images import ImageItem, ImageSet, RejectedImage
from bottleneck.solvers.streamed import pieces

__all__ = [
    "Neighbour",
    "Progress",
    "Rows",
    "Similar",
    "near_duplicate_groups",
    "nearest",
    "neighbour_distances",
    "similar_images",
]

Rows: TypeAlias = np.ndarray | StreamedRows
Progress: TypeAlias = Callable[[str, int, int], object]
"""Takes a stage, the number of rows done and their total."""
_DECIMALS = 6
_AT_ONCE = 512
"""Rows that are compared with a block of others at a time,"""
_QUERIES = 4096
"""and rows whose neighbours are looked up in one pass."""
_BLOCK_BYTES = 2**28
"""Memory for rows in memory that are compared with all later ones in one pass."""
_LEAST = 2**24  # for streamed rows, whatever their limit
_MOST_PAIRS = 2**22
"""Pairs of similar rows that are kept before their groups are merged."""


def silent(*_: object) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An image that is similar to another one.

    Attributes
    ----------
    item : ImageItem
        The image, with its label and split if its set has them.
    cosine : float
        That of the features of both, from -1 to 1.
    """

    item: ImageItem
    cosine: float

    def as_dict(self) -> dict[str, Any]:
        """Return path, label, split and cosine."""
        facts = {name: getattr(self.item, name) for name in ("path", "label", "split")}
        return {**facts, "cosine": self.cosine}


@dataclass(frozen=True)
class Similar:
    """The images of a set that are most similar to one image.

    Attributes
    ----------
    item : ImageItem
        The image that others are similar to.
    neighbours : list of Neighbour
        The most similar first; without the image itself.
    itself : int
        Number of images of the set that have the same bytes, and are left out.
    """

    item: ImageItem
    neighbours: list[Neighbour]
    itself: int

    def as_dict(self) -> dict[str, Any]:
        """Return the result in JSON types."""
        found = [each.as_dict() for each in self.neighbours]
        return {"path": self.item.path, "neighbours": found, "itself": self.itself}


def similar_images(
    features: Features,
    images: ImageSet,
    rows: Iterable[np.ndarray | RejectedImage],
    top: int = 20,
    *,
    progress: Progress = silent,
) -> tuple[list[Similar], list[RejectedImage]]:
    """Find the images of a set that are most similar to each of some images.

    Of joined layers, the cosine is the mean over those of each layer, so that all count alike.

    Parameters
    ----------
    features : Features
        The features of the set, one row per image.
    images : ImageSet
        The images to find others for.
    rows : iterable of np.ndarray or RejectedImage
        Their features, as `bottleneck.lookup.feature_rows` yields them.
    top : int
        Number of images to find for each.
    progress : callable, optional
        Called with ``"similar"``, the number of images of the set that are compared, and of all.

    Returns
    -------
    found : list of Similar
        One for each image that has features, in order.
    rejected : list of RejectedImage
        The others. Features that are all zeros have no direction to compare.

    Raises
    ------
    UsageError
        `top` is less than 1, or the features are of another layer.
    CacheError
        A part of the cache is damaged.
    """
    rejected, items, vectors = list(images.rejected), [], []
    for item, row in zip(images.items, rows, strict=True):
        if isinstance(row, RejectedImage):
            rejected.append(row)
        elif not row.any():
            rejected.append(RejectedImage(item.path, "its features are all zeros"))
        else:
            items.append(item)
            vectors.append(row[0])
    if not items:
        return [], rejected
    known = Counter(features.digests.tolist())
    own = [known[item.digest] for item in items]
    # Enough that the image itself can be left out.
    most = top and top + max(own)
    nearby = nearest(features.X, np.stack(vectors), most, widths=features.widths, progress=progress)
    found = []
    for item, itself, places, cosines in zip(items, own, *nearby, strict=True):
        others = features.digests[places] != item.digest
        pairs = zip(places[others][:top], cosines[others][:top].tolist(), strict=True)
        near = [Neighbour(features.item(place), round(each, _DECIMALS)) for place, each in pairs]
        found.append(Similar(item, near, itself))
    return found, rejected


def nearest(
    X: Rows,
    queries: np.ndarray,
    top: int,
    *,
    widths: Sequence[int] = (),
    progress: Progress = silent,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows with the highest cosines to each of some vectors, in one pass.

    Parameters
    ----------
    X : np.ndarray or StreamedRows
        Shape (n, d); streamed rows are read in blocks within their `memory`.
    queries : np.ndarray
        Shape (m, d).
    top : int
        Number of rows to find for each; at most n are found.
    widths : sequence of int, optional
        Numbers of columns of joined layers, in order: each is scaled to unit length first.
    progress : callable, optional
        Called with ``"similar"``, the number of rows done, and n.

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
    shape, wanted = (len(queries), min(top, len(X))), np.array(queries, np.float32)
    places, cosines = np.zeros(shape, np.int64), np.full(shape, -np.inf, np.float32)
    _scale(wanted, widths)
    progress("similar", 0, len(X))
    for rows, values in _unit_pieces(X, widths):
        for own in _chunks(len(queries)):
            found = wanted[own] @ values.T
            _merge(places[own], cosines[own], found, rows.start)
        progress("similar", rows.stop, len(X))
    return places, cosines


def neighbour_distances(
    X: Rows, count: int, *, widths: Sequence[int] = (), progress: Progress = silent
) -> np.ndarray:
    """Return each row's mean cosine distance to its nearest rows.

    Parameters
    ----------
    X : np.ndarray or StreamedRows
        Shape (n, d).
    count : int
        Number of neighbours; fewer where there are no more.
    widths, progress
        As for `nearest`; the stage is ``"neighbours"``.

    Returns
    -------
    np.ndarray
        Shape (n,), from 0 to 2.
    """
    found = []
    progress("neighbours", 0, len(X))
    for start in range(0, len(X), _QUERIES):
        some = X[start : start + _QUERIES]
        queries = some if isinstance(some, np.ndarray) else some.read()
        found.append(nearest(X, queries, count + 1, widths=widths)[1])
        progress("neighbours", start + len(queries), len(X))
    cosines = np.concatenate(found)[:, 1:]  # the first is the row itself, or a copy
    return np.asarray(1 - cosines.mean(axis=1)) if cosines.size else np.zeros(len(X))


def near_duplicate_groups(
    X: Rows, threshold: float, *, widths: Sequence[int] = (), progress: Progress = silent
) -> list[np.ndarray]:
    """Find groups of rows that are connected by pairs with cosines of at least a threshold.

    Two rows of a group may be less similar than that, if others are between them.

    Parameters
    ----------
    X : np.ndarray or StreamedRows
        Shape (n, d); streamed rows are read several times, as their `memory` needs.
    threshold : float
        The least cosine of a pair, above 0 and at most 1.
    widths, progress
        As for `nearest`; the stage is ``"look-alikes"``.

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
    groups, kept = np.arange(len(X)), list[np.ndarray]()
    for pairs in _pairs(X, threshold, widths, progress):
        joined = groups[pairs]
        kept.append(joined[:, joined[0] != joined[1]])
        if sum(each.shape[1] for each in kept) > _MOST_PAIRS:
            groups, kept = _joined(groups, np.hstack(kept)), []
    groups = _joined(groups, np.hstack([np.empty((2, 0), int), *kept]))
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    return [each for each in np.split(order, cuts) if len(each) > 1]


def _scale(values: np.ndarray, widths: Sequence[int] = ()) -> None:
    """Scale rows to unit length in place, those of several layers apart; rows of zeros stay."""
    for part in np.split(values, np.cumsum(widths)[:-1], axis=1) if len(widths) > 1 else ():
        _scale(part)
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values))
    if not np.isfinite(lengths).all():  # squares of huge values
        values /= np.abs(values).max(axis=1, keepdims=True).clip(1)
        lengths = np.sqrt(np.einsum("ij,ij->i", values, values))
    values /= np.where(lengths > 0, lengths, 1)[:, None]


def _chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, _AT_ONCE):
        yield slice(start, min(start + _AT_ONCE, count))


def _unit_pieces(X: Rows, widths: Sequence[int]) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield blocks of rows that are scaled to unit length."""
    read = X.blocks if isinstance(X, StreamedRows) else partial(iter, [X])
    for rows, values in pieces(read, np.zeros(X.shape[1]), _AT_ONCE // 8):
        _scale(values, widths)
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


def _pairs(
    X: Rows, threshold: float, widths: Sequence[int], progress: Progress
) -> Iterator[np.ndarray]:
    """Yield the indices of similar rows, of shape (2, p): each pair at least once."""
    limit = max(_LEAST, X.memory // 4) if isinstance(X, StreamedRows) else _BLOCK_BYTES
    step = max(1, limit // (4 * X.shape[1]))
    progress("look-alikes", 0, len(X))
    least = np.float32(threshold - 0.5 * 10**-_DECIMALS)
    for start in range(0, len(X), step):
        later = X[start:]
        own = np.concatenate([v.copy() for _, v in _unit_pieces(later[:step], widths)])
        for rows, values in _unit_pieces(later, widths):
            for some in _chunks(min(step, rows.stop)):
                found = np.argwhere(own[some] @ values.T >= least)
                yield found.T + start + np.array([[some.start], [rows.start]])
            progress("look-alikes", start + len(own) * rows.stop // len(later), len(X))


def _joined(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the first row of each row's group, once groups are joined by pairs of first rows."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), (len(groups),) * 2)
    _, found = connected_components(graph, directed=False)
    _, first = np.unique(found, return_index=True)
    return np.asarray(first[found][groups])
