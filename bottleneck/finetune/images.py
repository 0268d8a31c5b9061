"""Which images are trained on, and which validate."""

from dataclasses import replace

from bottleneck.errors import DataError, UsageError, counted
from bottleneck.heads import Head
from bottleneck.images import ImageItem, ImageSet, RejectedImage, trained
from bottleneck.settings import FinetuneSettings

__all__ = ["check_classes", "images_to_train"]


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
