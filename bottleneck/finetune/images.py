"""Which images fine-tuning trains and validates on, and a head that has not seen the latter."""

from dataclasses import fields, replace

import numpy as np

from bottleneck.bases.finetuned import read_finetuned, seen_digests
from bottleneck.cache import Cache
from bottleneck.errors import (
    BottleneckError,
    CacheError,
    DataError,
    UnknownNameError,
    UsageError,
    counted,
)
from bottleneck.features import free_memory, load_features
from bottleneck.heads import Head, fit_head
from bottleneck.heads.problem import Progress
from bottleneck.images import ImageItem, ImageSet, RejectedImage, group_mates, same_images, trained
from bottleneck.labels import classes_in
from bottleneck.records import FeatureSource, single_source
from bottleneck.settings import FinetuneSettings, FitSettings

__all__ = ["check_classes", "head_without", "images_to_train", "seen_by"]


def images_to_train(images: ImageSet, head: Head, settings: FinetuneSettings) -> ImageSet:
    """Return only the images to train on, whose groups are in no other split, and to validate on.

    Parameters
    ----------
    images : ImageSet
        The whole image set.
    head : Head
        The head to start from.
    settings : FinetuneSettings
        Their `val_share` and `seed`.

    Returns
    -------
    ImageSet

    Raises
    ------
    DataError
        There are no training or no validation images, or their classes are not the head's.
    UsageError
        `val_share` is given although there are validation images.
    """
    named = f"image set {images.name!r} has"
    train = tuple(item for item in images.items if item.split == "train" and item.weight > 0)
    val = trained(images.items, "val")
    group = {item.digest: item.digest for item in images.items} | images.group_of
    others = {group[item.digest]: item for item in images.items if item.split in {"val", "test"}}
    parted = [(item, others.get(group[item.digest])) for item in train]
    alike = tuple(
        RejectedImage(item.path, f"{_relation(item, other)} the {other.split} image {other.path}")
        for item, other in parted
        if other
    )
    train = tuple(item for item, other in parted if not other)
    if not train or not images.labelled:
        raise DataError(
            f"{named} no labelled train images; expected some of the head's classes: give a train "
            f"folder with one folder per class, or a table with labels, with `data`"
        )
    if not val and settings.val_share is None:
        raise DataError(
            f"{named} no validation images, which early stopping needs; add a val folder, or "
            f"hold out some of the training images with `val_share=0.2`"
        )
    if val and settings.val_share is not None:
        raise UsageError(
            f"{named} {counted(len(val), 'validation image')} already; leave `val_share` out"
        )
    chosen = replace(images, items=train + val, rejected=images.rejected + alike, min_images=1)
    check_classes(chosen, head)
    return replace(chosen if val else _held_out(chosen, settings), split_seed=None)


def check_classes(images: ImageSet, head: Head) -> None:
    """Refuse images that do not have the classes of a head.

    Parameters
    ----------
    images : ImageSet
        Images to train and to validate on.
    head : Head
        The head to start from.

    Raises
    ------
    DataError
        Its classes are others, or images have several.
    """
    several = images.multilabel and not head.multilabel
    if set(images.classes) != set(head.classes) or several:
        raise DataError(
            f"the images of {images.name!r} have the classes "
            f"{', '.join(images.classes)}{', several at a time' if several else ''}; expected "
            f"those of the head, {', '.join(head.classes)}: fit a head on this set first, or "
            f"give the head's own images"
        )
    left = classes_in(item.label for item in images.items if item.split == "train")
    if lacking := sorted({*head.classes}.difference(left)):
        raise DataError(
            f"image set {images.name!r} has no usable train image of {', '.join(lacking)}; "
            f"expected some of each class of the head: add images, or move some from other splits"
        )


def _held_out(images: ImageSet, settings: FinetuneSettings) -> ImageSet:
    try:
        parts = images.with_splits(test_share=settings.val_share or 0.0, seed=settings.seed)
    except DataError as error:  # whose remedies are those of an extraction
        told = str(error).rpartition(": add images")[0] or error
        small = "'bottleneck extract --min-images 2', and run 'bottleneck fit-head' again"
        raise DataError(f"{told}; add images, or leave out small classes with {small}") from error
    held = (replace(item, split="val") if item.split == "test" else item for item in parts.items)
    return replace(images, items=tuple(held))


def _relation(item: ImageItem, other: ImageItem) -> str:
    return "identical to" if item.digest == other.digest else "in a group with"


def head_without(
    head: Head,
    images: ImageSet,
    chosen: ImageSet,
    cache: Cache,
    settings: FinetuneSettings,
    *,
    device: str,
    progress: Progress | None = None,
) -> Head | None:
    """Fit a head again without the validation images, if it was fitted or selected on some of them.

    It gets the same classifier with the same settings, on its training images that are neither
    validation nor test images; ``C`` and the temperature are chosen anew on these.

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
    device : str
        Device to fit a network (``mlp``) on.
    progress : callable, optional
        Called with ``"mlp"``, the number of epochs done and the maximum.

    Returns
    -------
    Head or None
        None if the given head has seen neither validation nor test images.

    Raises
    ------
    UsageError
        The head's network was itself trained on validation images.
    DataError
        The head cannot be fitted again.
    """
    source = single_source(head.source)
    held = {item.digest for item in chosen.items if item.split == "val"}
    trained = same_images(held, seen_digests(source.model))
    if trained and not _were_held_out(source.model, images, settings):
        raise UsageError(
            f"some of the validation images were used to train {source.model!r}; give the images, "
            f"`val_share` and `seed` that it was fine-tuned with, or give `data` with another val "
            f"folder"
        )
    held |= {item.digest for item in images.items if item.split == "test"}
    held = group_mates(images.items, images.group_of, held)
    seen, are_all = seen_by(head, images, cache)
    if are_all and not same_images(held, seen):
        return None
    try:
        return _refitted(head, source, held, cache, device=device, progress=progress)
    except BottleneckError as error:
        set_file = cache.set_file(source.image_set)
        if isinstance(error, CacheError | UnknownNameError) or not set_file.exists():
            remedy = (
                f"run 'bottleneck extract --model {source.model}' and 'bottleneck fit-head' on its "
                f"images first, or give other images with `data`, whose val folder the head was "
                f"not fitted on"
            )
        else:
            remedy = "hold out fewer images, such as with a smaller `val_share`, or add images"
        raise DataError(
            f"the head may have been fitted on validation images and cannot be fitted again "
            f"without them ({str(error).partition(';')[0]}); {remedy}"
        ) from error


def seen_by(head: Head, images: ImageSet, cache: Cache) -> tuple[set[str], bool]:
    """Return the images that a head was fitted or selected on, apart from those of its network.

    Parameters
    ----------
    head : Head
        The head.
    images : ImageSet
        The whole image set.
    cache : Cache
        The cache of the features that the head was fitted on.

    Returns
    -------
    seen : set of str
        SHA-256 of the images.
    are_all : bool
        False if the head's image set has changed or is missing, so that there may be others.
    """
    if "unfreeze" in head.hyperparameters:  # trained with its network, on the same images
        return set(), True
    source, seen, are_all = single_source(head.source), set[str](), True
    file = cache.set_file(source.image_set)
    known = [images, *([ImageSet.read_csv(file)] if file.exists() else [])]
    selected = head.scores.get("held_out") == "validation images"
    for split in ("train", "val") if selected else ("train",):
        digest = (source.split_digests or {}).get(split)
        same = [each for each in known if each.digest_of(split) == digest]
        are_all &= bool(same)
        seen |= {
            item.digest for each in same or known for item in each.items if item.split == split
        }
    return seen, are_all


def _were_held_out(model: str, images: ImageSet, settings: FinetuneSettings) -> bool:
    """Return whether a fine-tuned model was validated on the same images."""
    record = read_finetuned(model)
    splits, keys = (
        (("train", "val"), ("val_share", "seed")) if settings.val_share else (("val",), ())
    )
    return all(record.split_digests.get(name) == images.digest_of(name) for name in splits) and all(
        record.settings.get(key) == getattr(settings, key) for key in keys
    )


def _refitted(
    head: Head,
    source: FeatureSource,
    held: set[str],
    cache: Cache,
    *,
    device: str,
    progress: Progress | None,
) -> Head:
    """Fit a head again on its training images, but those held out, with their views."""
    selection, memory = replace(source, split_digests=None), free_memory() // 2
    features = load_features(cache, selection, memory=memory, split="train")
    known = group_mates(features.images.items, features.images.group_of, held)
    rest = features.take(~np.isin(features.digests, sorted(known)))
    same = {each.name for each in fields(FitSettings)} - {"clf", "C", "n_neighbors"}
    options = {name: each for name, each in head.hyperparameters.items() if name in same}
    options |= {"power": head.power, "normalize": head.normalize}
    if head.clf == "mlp":
        options["device"] = device
    fitted = fit_head(rest, FitSettings(**{"clf": head.clf, **options}), progress=progress)
    if (fitted.classes, fitted.multilabel) != (head.classes, head.multilabel):
        raise DataError("the other images do not have all of its classes")
    return replace(fitted, source=source)
