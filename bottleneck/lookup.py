"""The features of images, from a cache or computed from their files.

PyTorch is imported only if an image is not in the cache.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck.augment import find_policy
from bottleneck.cache import Cache, store
from bottleneck.errors import UsageError, counted
from bottleneck.features import StreamedRows, columns_of, vectors
from bottleneck.heads.bases import bases_of, load_bases_of
from bottleneck.images import ImageItem, ImageSet, RejectedImage
from bottleneck.records import AnySource, FeatureSource
from bottleneck.settings import LookupSettings

if TYPE_CHECKING:
    from bottleneck.bases.frozen import FrozenBase

__all__ = ["are_cached", "feature_rows"]

_STREAM_BYTES = 2**28
"""Memory for cached rows that are read ahead."""


def are_cached(source: AnySource, images: ImageSet, cache: Cache | str | Path | None) -> np.ndarray:
    """Return for each image whether its features are in a cache.

    Parameters
    ----------
    source : FeatureSource or JoinedSource
        The features.
    images : ImageSet
        The images.
    cache : Cache, str or Path, or None
        The cache, or its folder; it need not exist.

    Returns
    -------
    np.ndarray
        bool of shape (n,); True if those of all layers are.

    Raises
    ------
    CacheError
        A part cannot be read.
    """
    if cache is None:
        return np.zeros(len(images.items), bool)
    digests = [item.digest for item in images.items]
    banks = [(part.layer, Cache(cache).banks_of(part)[0]) for part in source.parts]
    return np.asarray(np.all([bank.holds(layer, digests) for layer, bank in banks], axis=0))


def feature_rows(
    source: AnySource,
    images: ImageSet,
    settings: LookupSettings | None = None,
    *,
    bases: "FrozenBase | Sequence[FrozenBase] | None" = None,
    cache: Cache | str | Path | None = None,
    views: int = 0,
    augment: str | None = None,
) -> Iterator[np.ndarray | RejectedImage]:
    """Yield the features of images: those in the cache are read, others are computed.

    Computed features are rounded as in the cache, and equal those that are read.

    Parameters
    ----------
    source : FeatureSource or JoinedSource
        The features: a head's `source`, or the result of `select_features`.
    images : ImageSet
        The images, which may be of any set or none, see `ImageSet.from_paths`.
    settings : LookupSettings, optional
        How features are computed.
    bases : FrozenBase or list of FrozenBase, optional
        The result of `load_base` or `load_bases`, if the bases are loaded already.
    cache : Cache, str or Path, optional
        Without it all features are computed.
    views : int
        Number of augmented views of each image; they are computed, and so is the image.
    augment : str, optional
        Their augmentation policy.

    Yields
    ------
    np.ndarray or RejectedImage
        In the order of ``images.items``: float32 of shape (1 + views, d), first the unaugmented
        image; or why there are no features.

    Raises
    ------
    UsageError, WeightsError
        As `load_bases` raises.
    CacheError
        A part of the cache is damaged.
    """
    chosen = settings or LookupSettings()
    cached = are_cached(source, images, None if views else cache)
    known = [item for item, there in zip(images.items, cached, strict=True) if there]
    new = [item for item, there in zip(images.items, cached, strict=True) if not there]
    computed: Iterator[np.ndarray | RejectedImage] = iter(())
    if new:
        if bases is None:
            places = {name: getattr(chosen, name) for name in ("weights", "device", "max_pixels")}
            bases = load_bases_of(source, **places)
        bases = list(bases) if isinstance(bases, Sequence) else [bases]
        how = {
            "batch_size": chosen.batch_size,
            "policy": find_policy(augment) if views and augment else None,
            "views": {item.digest: range(1 + views) for item in new},
        }
        computed = _computed(source, bases, new, how)
    stored = _stored(source, images, Cache(cache or "cache"), known)
    return (next(stored) if there else next(computed) for there in cached.tolist())


def _stored(
    source: AnySource, images: ImageSet, cache: Cache, items: Sequence[ImageItem]
) -> Iterator[np.ndarray]:
    """Yield the rows of images whose features are in the cache."""
    if not items:
        return
    digests = np.array([item.digest for item in items])
    columns = columns_of(cache, source.with_views(0), digests, images)
    views = np.zeros(len(items), np.uint16)
    for block in StreamedRows(columns, digests, views, _STREAM_BYTES).blocks():
        yield from block.astype(np.float32)[:, None]


def _computed(
    source: AnySource,
    bases: "Sequence[FrozenBase]",
    items: Sequence[ImageItem],
    how: Mapping[str, Any],
) -> Iterator[np.ndarray | RejectedImage]:
    """Yield the rows of each image in order, computed from its file by each base."""
    groups = bases_of(source)
    if len(bases) != len(groups):
        raise UsageError(
            f"`base` has {counted(len(bases), 'base')}, but the features are of {len(groups)}; "
            f"give the result of bottleneck.load_bases"
        )
    order = [source.parts.index(part) for group in groups for part in group]
    streams = [_rows_of(base, group, items, how) for base, group in zip(bases, groups, strict=True)]
    for item, *own in zip(items, *streams, strict=True):
        reason = next((each for each in own if isinstance(each, str)), None)
        if reason is None:
            parts = dict(zip(order, chain.from_iterable(own), strict=True))
            yield np.hstack([parts[place] for place in range(len(order))])
        else:
            yield RejectedImage(item.path, reason)


def _rows_of(
    base: "FrozenBase",
    parts: Sequence[FeatureSource],
    items: Sequence[ImageItem],
    how: Mapping[str, Any],
) -> Iterator[list[np.ndarray] | str]:
    """Yield each image's columns of each layer, with a row for each view; or why it has none."""
    from bottleneck.extract.compute import feature_batches

    waiting = iter(items)
    for batch in feature_batches(base, items, **how):
        columns: list[np.ndarray] = []
        if batch.items:
            for part in parts:
                found = store(batch.features[part.layer], part.dtype, part.layer)
                columns.append(vectors(part, found))
        reasons = {item.path: reason for item, reason in batch.rejected}
        done = 0
        for _ in range(batch.images):
            item = next(waiting)
            if item.path in reasons:
                yield reasons[item.path]
            else:
                start, done = done, done + len(how["views"][item.digest])
                yield [each[start:done] for each in columns]
