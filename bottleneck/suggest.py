"""Choose the images to label next, among those without labels."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck.arguments import made
from bottleneck.cache import Cache
from bottleneck.errors import DataError, counted
from bottleneck.heads import Head
from bottleneck.heads.adjust import Adjust
from bottleneck.images import ImageItem, ImageSet, RejectedImage, same_images
from bottleneck.lookup import feature_rows
from bottleneck.records import known_source
from bottleneck.settings import SuggestSettings

if TYPE_CHECKING:
    from bottleneck.bases.frozen import FrozenBase

__all__ = ["Suggestion", "Suggestions", "choose_uncertain", "suggest_images", "uncertainty_of"]

_AT_ONCE = 256
"""Images whose rows are scored together."""


@dataclass(frozen=True)
class Suggestion:
    """An image to label.

    Attributes
    ----------
    path : str
        The image file.
    predicted : str
        The class that the head gives it; or several classes, separated by semicolons.
    probability : float
        Of the likeliest class.
    uncertainty : float
        From 0 (the head is certain) to 1, see `uncertainty_of`.
    """

    path: str
    predicted: str
    probability: float
    uncertainty: float


@dataclass(frozen=True)
class Suggestions:
    """The images to label next.

    Attributes
    ----------
    images : list of Suggestion
        In the order drawn: the first k of them are those that ``n=k`` gives.
    candidates : int
        Number of different images that they were chosen from.
    labelled : int
        Images that were left out, as they are in the image set that the head was fitted on.
    rejected : list of RejectedImage
        Images that could not be read.
    """

    images: list[Suggestion]
    candidates: int
    labelled: int
    rejected: list[RejectedImage]


def suggest_images(
    head: Head,
    images: ImageSet | str | Path | Iterable[str | Path],
    settings: SuggestSettings | None = None,
    *,
    bases: "FrozenBase | Sequence[FrozenBase] | None" = None,
    cache: Cache | str | Path | None = None,
    progress: Callable[..., None] | None = None,
    **options: Any,
) -> Suggestions:
    """Choose images that the head is uncertain of and that differ from each other.

    See `choose_uncertain` for the method. Identical images are one, and those that are labelled
    already are left out.

    Parameters
    ----------
    head : Head
        The fitted head.
    images : ImageSet, path or iterable of path
        Image files, or folders or tables of them; labels are ignored.
    settings : SuggestSettings, optional
        Settings, or their fields as `options`.
    bases : FrozenBase or list of FrozenBase, optional
        The result of `load_base` or `load_bases`, if the bases are loaded already.
    cache : Cache, str or Path, optional
        Take the features of images that are in this cache from there.
    progress : callable, optional
        Called with ``"features"`` or ``"choice"``, the number of images done and their total.
    **options
        Fields of `SuggestSettings`, such as ``n=100``, in place of `settings`.

    Returns
    -------
    Suggestions
        All candidates, if there are fewer than `n`.

    Raises
    ------
    UsageError
        A setting is invalid; or as `load_bases` raises.
    DataError
        All images are labelled already, or none can be read.
    WeightsError
        As `load_bases` raises.
    CacheError
        A part of the cache is damaged.
    """
    asked = made(SuggestSettings, settings, options)
    if isinstance(images, str | Path):
        images = [images]
    if not isinstance(images, ImageSet):
        images = ImageSet.from_paths(list(images), max_bytes=asked.max_bytes)
    source = known_source(head.source)
    different = {item.digest: item for item in reversed(images.items)}
    labelled = same_images(different, _labelled(head, source.image_set, cache))
    items = tuple(different[key] for key in reversed(different) if key not in labelled)
    chosen = ImageSet(images.name, items, images.rejected)
    rejected, usable = list(images.rejected), list[ImageItem]()
    X = np.empty((len(items), 0), np.float32)
    found = feature_rows(source, chosen, asked, bases=bases, cache=cache)
    for done, (item, row) in enumerate(zip(items, found, strict=True), start=1):
        if isinstance(row, RejectedImage):
            rejected.append(row)
        else:
            if not usable:
                X = np.empty((len(items), row.shape[1]), np.float32)
            X[len(usable)] = row[0]
            usable.append(item)
        if progress:
            progress("features", done, len(items))
    if not usable:
        raise DataError(
            f"there is no image to suggest: {counted(len(labelled), 'image is', 'images are')} "
            f"labelled already and {len(rejected)} cannot be read; give other `images`"
        )
    X = X[: len(usable)]
    blocks = (X[start : start + _AT_ONCE] for start in range(0, len(X), _AT_ONCE))
    scores = np.concatenate([head.decision_function(block) for block in blocks])
    shares, labels = head.probabilities(scores), head.labels(scores)
    unsure = uncertainty_of(shares, multilabel=head.multilabel)
    how: dict[str, Any] = {"widths": head.widths, "seed": asked.seed, "progress": progress}
    chosen_rows = choose_uncertain(X, unsure, asked.n, **how)
    suggested = [
        Suggestion(usable[place].path, str(labels[place]), float(own.max()), float(unsure[place]))
        for place in chosen_rows.tolist()
        for own in [shares[place]]
    ]
    return Suggestions(suggested, len(usable), len(labelled), rejected)


def _labelled(head: Head, image_set: str, cache: Cache | str | Path | None) -> frozenset[str]:
    """Return the digests of the head's images, and of the others of its set where it is known."""
    seen = head.seen or frozenset()
    file = cache and Cache(cache).set_file(image_set)
    if not file or not file.exists():
        return seen
    return seen | {item.digest for item in ImageSet.read_csv(file).items if item.label is not None}


def uncertainty_of(probabilities: np.ndarray, *, multilabel: bool = False) -> np.ndarray:
    """Return how uncertain a head is of each image.

    One minus the difference between the two highest probabilities (the margin of Scheffer, Decomain
    and Wrobel 2001, Active Hidden Markov Models for Information Extraction, section 3); if images
    may have several classes, the mean over the classes of that between a class and its absence.

    Parameters
    ----------
    probabilities : np.ndarray
        Shape (n, k).
    multilabel : bool
        Whether images may have several classes.

    Returns
    -------
    np.ndarray
        Shape (n,), from 0 to 1.
    """
    if multilabel:
        return np.asarray(1 - np.abs(2 * probabilities - 1).mean(axis=1))
    second, first = np.sort(probabilities, axis=1)[:, -2:].T
    return np.asarray(1 - (first - second))


def choose_uncertain(
    X: np.ndarray,
    uncertainty: np.ndarray,
    n: int,
    *,
    widths: tuple[int, ...] = (),
    seed: int = 0,
    progress: Callable[..., None] | None = None,
) -> np.ndarray:
    """Draw uncertain rows that are far from each other.

    The first is drawn with odds of its uncertainty, each further one with those of its uncertainty
    times its squared distance to the nearest one that is drawn, all rows being scaled to unit
    length (those of joined layers apart, so that all count alike): the beginning of k-means++ with
    weights (Arthur and Vassilvitskii 2007, k-means++: The Advantages of Careful Seeding, section
    2), as Ash et al. 2020 (Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds,
    section 3) use it on gradients. The greedy k-centre method always takes the farthest row, which
    is often an outlier.

    Parameters
    ----------
    X : np.ndarray
        Features of shape (m, d).
    uncertainty : np.ndarray
        Shape (m,), not negative.
    n : int
        Number of rows to draw; all if there are fewer.
    widths : tuple of int
        Numbers of columns of joined layers, in order; empty for a single layer.
    seed : int
        Seed of the draw.
    progress : callable, optional
        Called with ``"choice"``, the number of rows drawn, and of those to draw.

    Returns
    -------
    np.ndarray
        Indices of the rows, in the order drawn; those of a smaller `n` are its beginning.
    """
    units = Adjust(normalize="l2", widths=widths)(X) / max(1, len(widths)) ** 0.5
    rng, distance, chosen = np.random.default_rng(seed), np.ones(len(X)), list[int]()
    for done in range(1, min(n, len(X)) + 1):
        odds = uncertainty * distance
        odds[chosen] = 0
        if not odds.any():  # only copies, or rows that the head is certain of, are left
            odds = np.ones(len(X))
            odds[chosen] = 0
        chosen.append(int(rng.choice(len(X), p=odds / odds.sum())))
        # Half of the squared distance.
        distance = np.minimum(distance, (1 - units @ units[chosen[-1]]).clip(0))
        if progress:
            progress("choice", done, min(n, len(X)))
    return np.array(chosen, dtype=int)
