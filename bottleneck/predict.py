"""Predict the classes of image files, with a head and cached features or a base.

PyTorch is imported only if an image is not in the cache.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck.arguments import made
from bottleneck.cache import Cache, store
from bottleneck.errors import UsageError, WeightsError
from bottleneck.features import vectors
from bottleneck.heads import Head
from bottleneck.images import ImageItem, ImageSet, RejectedImage
from bottleneck.records import known_source
from bottleneck.settings import PredictSettings

if TYPE_CHECKING:
    from bottleneck.bases.frozen import FrozenBase

__all__ = ["Prediction", "are_cached", "load_base", "predict_images"]


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


def load_base(
    head: Head,
    *,
    weights: str | None = None,
    device: str = "auto",
    max_pixels: int | None = None,
) -> "FrozenBase":
    """Load the base that computed a head's features.

    Parameters
    ----------
    head : Head
        The fitted head.
    weights : str, optional
        Current name or path of the weights, if they have moved.
    device : str
        Device to compute on, as for `FrozenBase`.
    max_pixels : int, optional
        Pixels of the largest image that is decoded, if not as for the features.

    Returns
    -------
    FrozenBase
        The base up to the head's layer.

    Raises
    ------
    DataError
        The head does not record its base.
    UsageError
        The head was fitted on imported features.
    WeightsError
        The base is not the one that the head was fitted on.
    """
    from bottleneck.bases.frozen import FrozenBase

    source = known_source(head.source)
    if source.is_imported:
        raise UsageError(
            f"the head was fitted on imported features of {source.model!r}, whose network is "
            f"unknown, so it takes no image whose features are not in the cache; extract features "
            f"with bottleneck, and fit a head on those"
        )
    changed = {} if max_pixels is None else {"max_pixels": max_pixels}
    base = FrozenBase(
        source.model,
        [source.layer],
        weights=weights or source.weights,
        pool=source.stored_pool,
        precision=source.precision,
        device=device,
        **source.adjustments | changed,
    )
    if base.fingerprint(source.layer, source.dtype) != source.fingerprint:
        raise WeightsError(
            f"{source.model} with weights {base.weights_name!r} is not the base that this head "
            f"was fitted on; expected the weights that were called {source.weights!r} when it was "
            f"fitted: give them with `weights`, or run 'bottleneck extract' and 'bottleneck "
            f"fit-head' again"
        )
    return base


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
        bool of shape (n,).

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
    bank = Cache(cache).banks_of(source.with_views(0))[0]
    return bank.holds(source.layer, [item.digest for item in images.items])


def predict_images(
    head: Head,
    images: ImageSet | str | Path | Iterable[str | Path],
    settings: PredictSettings | None = None,
    *,
    base: "FrozenBase | None" = None,
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
    base : FrozenBase, optional
        The result of `load_base`, if the base is loaded already.
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
        base = base or load_base(
            head,
            weights=settings.weights,
            device=settings.device,
            max_pixels=settings.max_pixels,
        )
        computed = _computed(head, base, new, settings)
    stored = _stored(head, Cache(cache or "cache"), known)
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


def _stored(head: Head, cache: Cache, items: Sequence[ImageItem]) -> Iterator[Prediction]:
    """Yield the predictions of images whose features are in the cache."""
    source = known_source(head.source).with_views(0)
    (bank,) = cache.banks_of(source)
    done = 0
    for rows in bank.stream(source.layer, [item.digest for item in items]):
        some = items[done : done + len(rows)]
        yield from _predictions(head, some, head.decision_function(vectors(source, rows)))
        done += len(rows)


def _computed(
    head: Head, base: "FrozenBase", items: Sequence[ImageItem], settings: PredictSettings
) -> Iterator[Prediction | RejectedImage]:
    """Yield the result of each image in order, computed from its file."""
    from bottleneck.augment import find_policy
    from bottleneck.extract.compute import feature_batches

    source = known_source(head.source)
    batches = feature_batches(
        base,
        items,
        batch_size=settings.batch_size,
        policy=find_policy(settings.augment) if settings.tta and settings.augment else None,
        views={item.digest: range(settings.tta + 1) for item in items},
    )
    waiting = iter(items)
    for batch in batches:
        predicted: Iterator[Prediction] = iter(())
        if batch.items:
            rows = store(batch.features[source.layer], source.dtype, source.layer)
            scores = head.decision_function(vectors(source, rows))
            plain = [item for item, view in zip(batch.items, batch.views, strict=True) if not view]
            predicted = _predictions(head, plain, scores)
        reasons = {item.path: reason for item, reason in batch.rejected}
        for _ in range(batch.images):
            path = next(waiting).path
            yield RejectedImage(path, reasons[path]) if path in reasons else next(predicted)


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
