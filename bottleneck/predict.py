"""Predict the classes of image files, with a base and a head."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.arguments import made
from bottleneck.augment import find_policy
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import store
from bottleneck.errors import WeightsError
from bottleneck.extract.compute import Batch, Progress, feature_batches
from bottleneck.features import vectors
from bottleneck.heads import Head
from bottleneck.images import ImageItem, ImageSet, RejectedImage
from bottleneck.records import known_source
from bottleneck.settings import PredictSettings

__all__ = ["Prediction", "load_base", "predict_images"]


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
    """

    path: str
    label: str
    scores: dict[str, float]
    probabilities: dict[str, float]


def load_base(head: Head, *, weights: str | None = None, device: str = "auto") -> FrozenBase:
    """Load the base that computed a head's features.

    Parameters
    ----------
    head : Head
        The fitted head.
    weights : str, optional
        Current name or path of the weights, if they have moved.
    device : str
        Device to compute on, as for `FrozenBase`.

    Returns
    -------
    FrozenBase
        The base up to the head's layer.

    Raises
    ------
    DataError
        The head does not record its base.
    WeightsError
        The base is not the one that the head was fitted on.
    """
    source = known_source(head.source)
    base = FrozenBase(
        source.model,
        [source.layer],
        weights=weights or source.weights,
        pool=source.stored_pool,
        precision=source.precision or "auto",  # imported features do not tell
        device=device,
        **source.adjustments,
    )
    if base.fingerprint(source.layer, source.dtype) != source.fingerprint:
        raise WeightsError(
            f"{source.model} with weights {base.weights_name!r} is not the base that this head "
            f"was fitted on; expected the weights then called {source.weights!r}: name them with "
            f"`weights`, or extract and fit again"
        )
    return base


def predict_images(
    head: Head,
    images: ImageSet | str | Path | Iterable[str | Path],
    settings: PredictSettings | None = None,
    *,
    base: FrozenBase | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Iterator[Prediction | RejectedImage]:
    """Predict the class of image files.

    Features are rounded as in the cache, so scores equal those of cached features.

    Parameters
    ----------
    head : Head
        The fitted head.
    images : ImageSet, path or iterable of path
        Image files, or folders or tables of them; labels are ignored.
    settings : PredictSettings, optional
        Settings, or their fields as `options`. With `tta` (test-time augmentation) the
        probabilities are the mean over the unaugmented image and this many augmented views, and
        decide the label.
    base : FrozenBase, optional
        The result of `load_base`, if the base is loaded already.
    progress : callable, optional
        Called with ``"predict"``, the number of images done and their total.
    **options
        Fields of `PredictSettings`, such as ``tta=8, augment="standard"``, in place of `settings`.

    Yields
    ------
    Prediction or RejectedImage
        In the set's order, batch by batch; rejected images come first or after their batch.

    Raises
    ------
    UsageError
        A setting is invalid.
    DataError, WeightsError
        As `load_base` raises.
    """
    settings = made(PredictSettings, settings, options)
    if isinstance(images, str | Path):
        images = [images]
    if not isinstance(images, ImageSet):
        images = ImageSet.from_paths(list(images))
    batches = feature_batches(
        base or load_base(head, weights=settings.weights, device=settings.device),
        images.items,
        batch_size=settings.batch_size,
        policy=find_policy(settings.augment) if settings.tta and settings.augment else None,
        views={item.digest: range(settings.tta + 1) for item in images.items},
    )
    return _predicted(head, images, batches, progress)


def _predicted(
    head: Head, images: ImageSet, batches: Iterator[Batch], progress: Progress | None
) -> Iterator[Prediction | RejectedImage]:
    source = known_source(head.source)
    yield from images.rejected
    done = 0
    if progress:
        progress("predict", 0, len(images.items))
    for batch in batches:
        if batch.items:
            rows = store(batch.features[source.layer], source.dtype, source.layer)
            scores = head.decision_function(vectors(source, rows))
            plain = [item for item, view in zip(batch.items, batch.views, strict=True) if not view]
            yield from _predictions(head, plain, scores)
        yield from (RejectedImage(item.path, reason) for item, reason in batch.rejected)
        done += batch.images
        if progress:
            progress("predict", done, len(images.items))


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
        by_class = [dict(zip(head.classes, each, strict=True)) for each in own]
        yield Prediction(item.path, str(label), *by_class)
