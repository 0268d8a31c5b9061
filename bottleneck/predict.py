"""Predict the classes of image files, with a head and cached features or a base.

PyTorch is imported only if an image is not in the cache.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck.arguments import made
from bottleneck.cache import Cache, store
from bottleneck.errors import UsageError, counted
from bottleneck.features import StreamedRows, columns_of, vectors
from bottleneck.heads import Head
from bottleneck.heads.bases import bases_of, load_bases
from bottleneck.images import ImageItem, ImageSet, RejectedImage
from bottleneck.records import FeatureSource, known_source
from bottleneck.settings import PredictSettings

if TYPE_CHECKING:
    from bottleneck.bases.frozen import FrozenBase

__all__ = ["Prediction", "are_cached", "predict_images"]

_AT_ONCE = 16
"""Images whose rows are scored together."""
_STREAM_BYTES = 2**28
"""Memory for cached rows that are read ahead."""


@dataclass(frozen=True)
class Prediction:
    """The prediction of a head for one image.

    Attributes
    ----------
    path : str
        The image file.
    label : str
        The class with the highest probability; or several classes, separated by semicolons.
    scores, probabilities : dict of str to float
        By class: means over the unaugmented image and its views, if there are any.
    true_label : str or None
        The label that the image was given with, if any.
    """

    path: str
    label: str
    scores: dict[str, float]
    probabilities: dict[str, float]
    true_label: str | None = None

    def likeliest(self, count: int | None = None) -> dict[str, float]:
        """Return the classes with the highest probabilities, highest first.

        Parameters
        ----------
        count : int, optional
            Number of classes; by default all.

        Returns
        -------
        dict of str to float
        """
        ranked = sorted(self.probabilities.items(), key=lambda each: -each[1])
        return dict(ranked[:count])


def are_cached(head: Head, images: ImageSet, cache: Cache | str | Path | None) -> np.ndarray:
    """Return for each image whether the features that a head needs are in a cache.

    Parameters
    ----------
    head : Head
        The fitted head.
    images : ImageSet
        The images.
    cache : Cache, str or Path, or None
        The cache, or its folder; it need not exist.

    Returns
    -------
    np.ndarray
        bool of shape (n,); True if those of all its layers are.

    Raises
    ------
    DataError
        The head does not record its base.
    CacheError
        A part cannot be read.
    """
    source = known_source(head.source)
    if cache is None:
        return np.zeros(len(images.items), bool)
    digests = [item.digest for item in images.items]
    banks = [(part.layer, Cache(cache).banks_of(part)[0]) for part in source.parts]
    return np.asarray(np.all([bank.holds(layer, digests) for layer, bank in banks], axis=0))


def predict_images(
    head: Head,
    images: ImageSet | str | Path | Iterable[str | Path],
    settings: PredictSettings | None = None,
    *,
    base: "FrozenBase | Sequence[FrozenBase] | None" = None,
    cache: Cache | str | Path | None = None,
    progress: Callable[..., None] | None = None,
    **options: Any,
) -> Iterator[Prediction | RejectedImage]:
    """Predict the class of image files.

    Features are rounded as in the cache, so scores equal those of cached features.

    Parameters
    ----------
    head : Head
        The fitted head.
    images : ImageSet, path or iterable of path
        Image files, or folders or tables of them; labels are only repeated in the results.
    settings : PredictSettings, optional
        Settings, or their fields as `options`. With `tta` (test-time augmentation) the
        probabilities are the mean over the unaugmented image and this many augmented views, and
        decide the label.
    base : FrozenBase or list of FrozenBase, optional
        The result of `load_base` or `load_bases`, if the bases are loaded already.
    cache : Cache, str or Path, optional
        Take the features of images that are in this cache from there, unless `tta` is given.
    progress : callable, optional
        Called with ``"predict"``, the number of images done and their total.
    **options
        Fields of `PredictSettings`, such as ``tta=8, augment="standard"``, in place of `settings`.

    Yields
    ------
    Prediction or RejectedImage
        In the set's order, after the files that could not be read at all.

    Raises
    ------
    UsageError
        A setting is invalid; or as `load_base` raises.
    DataError, WeightsError
        As `load_base` raises.
    CacheError
        A part of the cache is damaged.
    """
    settings = made(PredictSettings, settings, options)
    if isinstance(images, str | Path):
        images = [images]
    if not isinstance(images, ImageSet):
        images = ImageSet.from_paths(list(images), max_bytes=settings.max_bytes)
    cached = are_cached(head, images, None if settings.tta else cache)
    known = [item for item, there in zip(images.items, cached, strict=True) if there]
    new = [item for item, there in zip(images.items, cached, strict=True) if not there]
    computed: Iterator[Prediction | RejectedImage] = iter(())
    if new:
        places = {name: getattr(settings, name) for name in ("weights", "device", "max_pixels")}
        bases = base or load_bases(head, **places)
        bases = list(bases) if isinstance(bases, Sequence) else [bases]
        computed = _computed(head, bases, new, settings)
    stored = _stored(head, images, Cache(cache or "cache"), known)
    return _in_order(images, cached.tolist(), stored, computed, progress)


def _in_order(
    images: ImageSet,
    cached: Sequence[bool],
    stored: Iterator[Prediction],
    computed: Iterator[Prediction | RejectedImage],
    progress: Callable[..., None] | None,
) -> Iterator[Prediction | RejectedImage]:
    """Yield rejected files, then each image's result from one of two iterators."""
    yield from images.rejected
    for done, there in enumerate(cached):
        if progress:
            progress("predict", done, len(cached))
        yield next(stored) if there else next(computed)
    if progress:
        progress("predict", len(cached), len(cached))


def _stored(
    head: Head, images: ImageSet, cache: Cache, items: Sequence[ImageItem]
) -> Iterator[Prediction]:
    """Yield the predictions of images whose features are in the cache."""
    digests = np.array([item.digest for item in items])
    if not items:
        return
    source = known_source(head.source).with_views(0)
    columns = columns_of(cache, source, digests, images)
    done = 0
    views = np.zeros(len(items), np.uint16)
    for rows in StreamedRows(columns, digests, views, _STREAM_BYTES).blocks():
        some = items[done : done + len(rows)]
        yield from _predictions(head, some, head.decision_function(rows.astype(np.float32)))
        done += len(rows)


def _computed(
    head: Head,
    bases: "Sequence[FrozenBase]",
    items: Sequence[ImageItem],
    settings: PredictSettings,
) -> Iterator[Prediction | RejectedImage]:
    """Yield the result of each image in order, computed from its file by each base."""
    groups = bases_of(head)
    if len(bases) != len(groups):
        raise UsageError(
            f"`base` has {counted(len(bases), 'base')}, but the head was fitted on features of "
            f"{len(groups)}; give the result of bottleneck.load_bases"
        )
    known = known_source(head.source).parts
    order = [known.index(part) for group in groups for part in group]
    streams = [
        _rows_of(base, group, items, settings) for base, group in zip(bases, groups, strict=True)
    ]
    joined = zip(items, *streams, strict=True)
    while some := list(islice(joined, _AT_ONCE)):
        rows, usable = [], []
        for item, *own in some:
            if not any(isinstance(each, str) for each in own):
                parts = dict(zip(order, chain.from_iterable(own), strict=True))
                rows.append(np.hstack([parts[place] for place in range(len(known))]))
                usable.append(item)
        predicted: Iterator[Prediction] = iter(())
        if usable:
            scores = head.decision_function(np.concatenate(rows))
            predicted = _predictions(head, usable, scores)
        for item, *own in some:
            reason = next((each for each in own if isinstance(each, str)), None)
            yield next(predicted) if reason is None else RejectedImage(item.path, reason)


def _rows_of(
    base: "FrozenBase",
    parts: Sequence[FeatureSource],
    items: Sequence[ImageItem],
    settings: PredictSettings,
) -> Iterator[list[np.ndarray] | str]:
    """Yield each image's columns of each layer, with a row for each view; or why it has none."""
    from bottleneck.augment import find_policy
    from bottleneck.extract.compute import feature_batches

    waiting, views = iter(items), settings.tta + 1
    for batch in feature_batches(
        base,
        items,
        batch_size=settings.batch_size,
        policy=find_policy(settings.augment) if settings.tta and settings.augment else None,
        views={item.digest: range(views) for item in items},
    ):
        columns: list[np.ndarray] = []
        if batch.items:
            for part in parts:
                rows = store(batch.features[part.layer], part.dtype, part.layer)
                columns.append(vectors(part, rows))
        reasons = {item.path: reason for item, reason in batch.rejected}
        done = 0
        for _ in range(batch.images):
            path = next(waiting).path
            if path in reasons:
                yield reasons[path]
            else:
                yield [each[done : done + views] for each in columns]
                done += views


def _predictions(
    head: Head, items: Sequence[ImageItem], scores: np.ndarray
) -> Iterator[Prediction]:
    """Yield predictions from scores, which have consecutive rows for the views of an image."""
    means, shares = (
        each.reshape(len(items), -1, len(head.classes)).mean(axis=1)
        for each in (scores, head.probabilities(scores))
    )
    # If images may have several classes, predict those with a probability above 0.5.
    labels = head.labels(shares - 0.5 if len(scores) > len(items) else scores)
    for item, label, *own in zip(items, labels, means.tolist(), shares.tolist(), strict=True):
        given, probabilities = (dict(zip(head.classes, each, strict=True)) for each in own)
        yield Prediction(item.path, str(label), given, probabilities, item.label)
