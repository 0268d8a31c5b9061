"""Predict the classes of the images of a set: cached features are not computed again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck.arguments import made
from bottleneck.cache import Cache
from bottleneck.heads import Head
from bottleneck.images import ImageItem, ImageSet, RejectedImage
from bottleneck.lookup import feature_rows
from bottleneck.predict.prediction import check_abstain, predictions_of
from bottleneck.records import Prediction, known_source
from bottleneck.settings import PredictSettings

if TYPE_CHECKING:
    from bottleneck.bases.frozen import FrozenBase

__all__ = ["predict_images"]

_AT_ONCE = 16
"""Images whose rows are scored together."""


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
        A setting is invalid, or the head does not know what `abstain` needs; or as `load_base`
        raises.
    DataError, WeightsError
        As `load_base` raises.
    CacheError
        A part of the cache is damaged.
    """
    settings = made(PredictSettings, settings, options)
    check_abstain(head, settings.abstain)
    if isinstance(images, str | Path):
        images = [images]
    if not isinstance(images, ImageSet):
        images = ImageSet.from_paths(list(images), max_bytes=settings.max_bytes)
    rows = feature_rows(
        known_source(head.source),
        images,
        settings,
        bases=base,
        cache=cache,
        views=settings.tta,
        augment=settings.augment,
    )
    return _in_order(head, images, rows, settings.abstain, progress)


def _in_order(
    head: Head,
    images: ImageSet,
    rows: Iterator[np.ndarray | RejectedImage],
    abstain: float | None,
    progress: Callable[..., None] | None,
) -> Iterator[Prediction | RejectedImage]:
    """Yield rejected files, then each image's result."""
    yield from images.rejected
    waiting, total, done = iter(images.items), len(images.items), 0
    while some := list(islice(rows, _AT_ONCE)):
        items = list(islice(waiting, len(some)))
        pairs = zip(items, some, strict=True)
        usable = [(item, row) for item, row in pairs if isinstance(row, np.ndarray)]
        predicted = iter(_predictions(head, usable, abstain) if usable else ())
        for each in some:
            if progress:
                progress("predict", done, total)
            yield each if isinstance(each, RejectedImage) else next(predicted)
            done += 1
    if progress:
        progress("predict", total, total)


def _predictions(
    head: Head, usable: Sequence[tuple[ImageItem, np.ndarray]], abstain: float | None
) -> list[Prediction]:
    """Return the predictions of images from their rows, one for each view."""
    items, rows = zip(*usable, strict=True)
    paths, labels = [item.path for item in items], [item.label for item in items]
    return predictions_of(head, rows, paths, true_labels=labels, abstain=abstain)
