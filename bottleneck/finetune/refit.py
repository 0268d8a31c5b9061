"""Start from a head that has not seen the validation images: fit it again without them."""

from dataclasses import fields, replace

import numpy as np

from bottleneck.bases.finetuned import read_finetuned, seen_digests
from bottleneck.cache import Cache
from bottleneck.errors import BottleneckError, DataError, UsageError
from bottleneck.features import free_memory, load_features
from bottleneck.heads import Head, fit_head
from bottleneck.images import ImageSet
from bottleneck.records import FeatureSource, known_source
from bottleneck.settings import FinetuneSettings, FitSettings

__all__ = ["head_without"]


def head_without(
    head: Head, images: ImageSet, chosen: ImageSet, cache: Cache, settings: FinetuneSettings
) -> Head | None:
    """Fit a head again without the validation images, if it was fitted on some of them.

    It gets the same classifier with the same settings, on its other training images; ``C`` and the
    temperature are chosen anew on these.

    Parameters
    ----------
    head : Head
        The given head.
    images : ImageSet
        The whole image set.
    chosen : ImageSet
        The images to train and to validate on.
    cache : Cache
        The cache of the features that the head was fitted on.
    settings : FinetuneSettings
        Their `val_share` and `seed`.

    Returns
    -------
    Head or None
        None if the given head has not seen the validation images.

    Raises
    ------
    UsageError
        The head's network was itself trained on validation images.
    DataError
        The head cannot be fitted again.
    """
    source = known_source(head.source)
    held = {item.digest for item in chosen.items if item.split == "val"}
    if held & seen_digests(source.model) and not _were_held_out(source.model, images, settings):
        raise UsageError(
            f"the network {source.model!r} was fine-tuned on some of the validation images; give "
            f"the images, `val_share` and `seed` that it was fine-tuned with, or images with "
            f"another val folder with `data`"
        )
    if "unfreeze" in head.hyperparameters:  # trained with its network, on the same images
        return None
    seen = _fitted_on(source, images, cache)
    if seen is not None and not held & seen:
        return None
    try:
        return _refitted(head, source, held, cache)
    except BottleneckError as error:
        raise DataError(
            f"the head may have been fitted on validation images and cannot be fitted again "
            f"without them ({error}); run 'bottleneck extract --model {source.model}' and "
            f"'bottleneck fit-head' on its images first, or give images with a val folder that "
            f"the head was not fitted on with `data`"
        ) from error


def _were_held_out(model: str, images: ImageSet, settings: FinetuneSettings) -> bool:
    """Return whether a fine-tuned model was validated on the same images."""
    record = read_finetuned(model)
    splits, keys = (
        (("train", "val"), ("val_share", "seed")) if settings.val_share else (("val",), ())
    )
    return all(record.split_digests.get(name) == images.digest_of(name) for name in splits) and all(
        record.settings.get(key) == getattr(settings, key) for key in keys
    )


def _fitted_on(source: FeatureSource, images: ImageSet, cache: Cache) -> set[str] | None:
    """Return the digests of the images that a head was fitted on; None if they are not known."""
    digest, file = (source.split_digests or {}).get("train"), cache.set_file(source.image_set)
    for known in (images, *([ImageSet.read_csv(file)] if file.exists() else [])):
        if known.digest_of("train") == digest:
            return {item.digest for item in known.items if item.split == "train"}
    return None


def _refitted(head: Head, source: FeatureSource, held: set[str], cache: Cache) -> Head:
    """Fit a head again on its training images, but those held out, with their views."""
    selection, memory = replace(source, split_digests=None), free_memory() // 2
    features = load_features(cache, selection, memory=memory, split="train")
    rest = features.take(~np.isin(features.digests, sorted(held)))
    same = {each.name for each in fields(FitSettings)} - {"clf", "C", "n_neighbors"}
    options = {name: each for name, each in head.hyperparameters.items() if name in same}
    fitted = fit_head(rest, FitSettings(**{"clf": head.clf, **options}))
    if (fitted.classes, fitted.multilabel) != (head.classes, head.multilabel):
        raise DataError("the other images do not have all of its classes")
    return replace(fitted, source=source)
