"""The features that a head was fitted on, to evaluate it on those that it has not seen."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from bottleneck.arguments import checked
from bottleneck.cache import Cache
from bottleneck.errors import DataError, UsageError
from bottleneck.features.rows import Features, load_features
from bottleneck.images import ImageSet, group_mates
from bottleneck.records import AnySource, FeatureSource, JoinedSource, known_source
from bottleneck.records.banks import FINETUNED

__all__ = ["features_of", "has_changed", "is_known", "seen_by_network"]


@checked
def features_of(
    source: FeatureSource | JoinedSource | None,
    cache: Cache | str | Path,
    *,
    memory: int | None = None,
    split: str | None = None,
    seen: Collection[str] | None = None,
) -> Features:
    """Load the features of the layer and image set that a head was fitted on, without views.

    Test images that the network itself, a fine-tuned one, was trained or validated on are left out,
    and so are those of their groups.

    Parameters
    ----------
    source : FeatureSource, JoinedSource or None
        The head's `source`, which is the `provenance` of the features that it was fitted on.
    cache : Cache, str or Path
        The cache, or its folder.
    memory, split : int, str, optional
        As for `load_features`.
    seen : collection of str, optional
        The images that the head was fitted or selected on (`Head.seen`). If the image set has
        changed since, they are left out.

    Returns
    -------
    Features

    Raises
    ------
    DataError
        The head does not record its features; or the training or validation images have changed
        since it was fitted, and `seen` is not given or has all images; or the network was trained
        or validated on all test images.
    CacheError
        The cache lacks rows, or a part is damaged.
    """
    cache, source = Cache(cache), known_source(source)
    selection = replace(source.with_views(0), split_digests=None)
    if not cache.set_file(selection.image_set).exists():
        raise DataError(
            f"no image set {selection.image_set!r} in the cache folder {str(cache.root)!r}; give "
            f"the cache that the head was fitted on with `cache`"
        )
    features = load_features(cache, selection, memory=memory, split=split)
    runs = [run for run in cache.runs() if run.image_set == selection.image_set]
    if runs and runs[-1].image_set_digest != features.images.digest_of():
        raise DataError(
            f"{str(cache.set_file(selection.image_set))!r} has changed since its last "
            f"extraction; run {source.made_by!r} again"
        )
    mates = partial(group_mates, features.images.items, features.images.group_of)
    network = mates(seen_by_network(source, cache) or ())
    held_out = (features.splits != "test") | ~np.isin(features.digests, sorted(network))
    if len(features) and not held_out.any():
        raise DataError(
            f"{source.model!r} was trained or validated on all test images of "
            f"{selection.image_set!r}; add test images, and run 'bottleneck extract' again"
        )
    if not held_out.all():
        features = features.take(held_out)
    if not has_changed(source, features.images):
        return features
    if seen is None:
        raise DataError(
            f"the training images of {selection.image_set!r} have changed since the head was "
            f"fitted, or it was fitted on others, too; run 'bottleneck fit-head' again, so that no "
            f"image is both trained on and held out"
        )
    if split == "val" and not has_changed(source, features.images, ["val"]):
        return features  # only training images came or went
    unseen = features.take(~np.isin(features.digests, sorted(mates(seen))))
    if not len(unseen):
        raise DataError(
            f"the head was fitted or selected on all {split or ''} images of "
            f"{selection.image_set!r}, which have changed since; run 'bottleneck fit-head' again, "
            f"or add images"
        )
    return unseen


def seen_by_network(source: AnySource, cache: Cache) -> frozenset[str] | None:
    """Return the images that the network of features was trained or validated on, as far as known.

    Parameters
    ----------
    source, cache : FeatureSource or JoinedSource, Cache
        The source of the features, and their cache.

    Returns
    -------
    frozenset of str or None
        SHA-256 of the images; empty unless it is a fine-tuned network. None if its bank does not
        record them, as it was written by an earlier version.
    """
    found = frozenset[str]()
    for part in source.parts:
        if part.weights == FINETUNED:
            bank, *_ = cache.banks_of(part)
            seen = bank.info.seen if bank.exists else None
            if seen is None:
                return None
            found |= frozenset(seen)
    return found


def has_changed(
    source: AnySource, images: ImageSet, splits: Collection[str] = ("train", "val")
) -> bool:
    """Return whether training or validation images have changed since a head was fitted.

    Parameters
    ----------
    source : FeatureSource or JoinedSource
        The head's source.
    images : ImageSet
        The image set as it is now.
    splits : collection of str
        Those that are looked at.

    Returns
    -------
    bool
        Also True if the source does not record what they were.
    """
    known = source.split_digests or {}
    return any(images.digest_of(name) != known.get(name) for name in splits)


def is_known(images: ImageSet, cache: Cache) -> bool:
    """Return whether the cache has an image set.

    Parameters
    ----------
    images, cache : ImageSet, Cache
        The image set and the cache.

    Returns
    -------
    bool

    Raises
    ------
    UsageError
        The cache has another image set of the same name.
    """
    file = cache.set_file(images.name)
    if file.exists() and ImageSet.read_csv(file).digest_of() != images.digest_of():
        raise UsageError(
            f"the cache already has an image set {images.name!r} with other images, labels or "
            f"splits; give this one another name with `image_set`"
        )
    return file.exists()
