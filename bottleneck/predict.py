"""Predict the classes of image files, with a head and cached features or a base."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck.arguments import made
from bottleneck.cache import Cache
from bottleneck.heads import Head
from bottleneck.images import ImageItem, ImageSet, RejectedImage
from bottleneck.lookup import feature_rows
from bottleneck.records import known_source
from bottleneck.settings import PredictSettings

if TYPE_CHECKING:
    from bottleneck.bases.frozen import FrozenBase

__all__ = ["Prediction", "predict_images"]

_AT_ONCE = 16
"""Images whose rows are scored together."""


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
    rows = feature_rows(
        known_source(head.source),
        images,
        settings,
        bases=base,
        cache=cache,
        views=settings.tta,
        augment=settings.augment,
    )
    return _in_order(head, images, rows, progress)


def _in_order(
    head: Head,
    images: ImageSet,
    rows: Iterator[np.ndarray | RejectedImage],
    progress: Callable[..., None] | None,
) -> Iterator[Prediction | RejectedImage]:
    """Yield rejected files, then each image's result."""
    yield from images.rejected
    waiting, total, done = iter(images.items), len(images.items), 0
    while some := list(islice(rows, _AT_ONCE)):
        items = list(islice(waiting, len(some)))
        usable = [pair for pair in zip(items, some, strict=True) if isinstance(pair[1], np.ndarray)]
        predicted = _predictions(head, *zip(*usable, strict=True)) if usable else iter(())
        for each in some:
            if progress:
                progress("predict", done, total)
            yield each if isinstance(each, RejectedImage) else next(predicted)
            done += 1
    if progress:
        progress("predict", total, total)


def _predictions(
    head: Head, items: Sequence[ImageItem], rows: Sequence[np.ndarray]
) -> Iterator[Prediction]:
    """Yield the predictions of images from their rows, one for each view."""
    scores = head.decision_function(np.concatenate(rows))
    means, shares = (
        each.reshape(len(items), -1, len(head.classes)).mean(axis=1)
        for each in (scores, head.probabilities(scores))
    )
    # If images may have several classes, predict those with a probability above 0.5.
    labels = head.labels(shares - 0.5 if len(scores) > len(items) else scores)
    for item, label, *own in zip(items, labels, means.tolist(), shares.tolist(), strict=True):
        given, probabilities = (dict(zip(head.classes, each, strict=True)) for each in own)
        yield Prediction(item.path, str(label), given, probabilities, item.label)
