"""Splits: the words for them, and what is left out of them."""

import re
from collections.abc import Container, Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod

from bottleneck.errors import BadImageError, DataError, counted
from bottleneck.images.dividing import digests_by
from bottleneck.images.items import ImageItem, read_file
from bottleneck.images.pixels import MAX_PIXELS, decode, read_size
from bottleneck.labels import classes_in, classes_of, without_classes
from bottleneck.names import natural_key
from bottleneck.records import RejectedImage

__all__ = [
    "leave_out_damaged",
    "leave_out_small",
    "split_in",
    "split_of",
    "trained",
]

_ANY_WHITE = 2**16 - 1
_WORDS = {
    "train": "train training trn",
    "val": "val valid validation validate dev devel development",
    "test": "test testing tst eval evaluation evaluate holdout heldout",
}
"""As Hugging Face's datasets reads them, and more."""
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words.split()}
_FILLERS = {"data", "dataset", "set", "split", "part", "samples", "images", "image", "img", "imgs"}


def split_of(name: str) -> str | None:
    """Return the split that a name means, in any case: ``Training``, ``dev`` or ``test_set``.

    Parameters
    ----------
    name : str
        Name of a folder, or a cell of a table.

    Returns
    -------
    str or None
        One of `SPLITS`; None if the name means something else.
    """
    own = [word for word in _words(name) if word not in _FILLERS]
    return _SPLIT_OF_WORD.get("".join(own))  # joined for hold-out


def split_in(name: str) -> str | None:
    """Return the split of the only word in a name that means one, such as in ``seg_train``.

    Parameters
    ----------
    name : str
        Name of a folder.

    Returns
    -------
    str or None
        One of `SPLITS`; None if no word means one, or several mean different ones.
    """
    words = _words(name)
    joined = ["".join(pair) for pair in pairwise(words)]  # hold-out
    found = {_SPLIT_OF_WORD[word] for word in [*words, *joined] if word in _SPLIT_OF_WORD}
    return split_of(name) or (found.pop() if len(found) == 1 else None)


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case, without numbers: ``TrainSet2`` has two."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall("[^\\W\\d_]+", parted.casefold())
    return [part for word in words for part in _parted(word)]


def _parted(word: str) -> list[str]:
    """Part ``trainset`` and ``testdata``."""
    for filler in ("dataset", "data", "set", "images", "split"):
        rest = word.removesuffix(filler)
        if rest != word and rest in _SPLIT_OF_WORD:
            return [rest, filler]
    return [word]


def leave_out_damaged(
    items: Sequence[ImageItem],
) -> tuple[tuple[ImageItem, ...], tuple[RejectedImage, ...]]:
    """Leave out classes whose images are all the same and cannot be decoded.

    Other damaged images are found when features are computed. These would end the run before, as
    classes with one image that can be used.

    Parameters
    ----------
    items : sequence of ImageItem
        Images with digests.

    Returns
    -------
    kept : tuple of ImageItem
        In the same order.
    rejected : tuple of RejectedImage
        The images left out, with the reasons.
    """
    classes = digests_by(items, (classes_of(item.label or "") for item in items))
    single = {digest for own in classes.values() if len(own) == 1 for digest in own}
    of_digest = {item.digest: item for item in items if item.digest in single}
    reasons = {digest: _damage(item) for digest, item in of_digest.items()}
    bad = {digest: reason for digest, reason in reasons.items() if reason}
    rejected = [RejectedImage(each.path, bad[each.digest]) for each in items if each.digest in bad]
    return tuple(item for item in items if item.digest not in bad), tuple(rejected)


def _damage(item: ImageItem) -> str:
    """Return why an image cannot be decoded; "" if it can be, or that depends on the transform."""
    if prod(read_size(item.path)) > MAX_PIXELS:
        return ""
    reasons = []
    for white in (None, _ANY_WHITE):  # some files do not tell theirs
        try:
            decode(read_file(item), max_value=white)
        except BadImageError as error:
            reasons.append(str(error))
    return reasons[0] if len(reasons) > 1 else ""


def leave_out_small(
    items: Sequence[ImageItem], least: int
) -> tuple[tuple[ImageItem, ...], tuple[ImageItem, ...], dict[str, int]]:
    """Leave out the classes with too few different images, or training images if splits are given.

    Parameters
    ----------
    items : sequence of ImageItem
        Images with digests and labels.
    least : int
        Number of images that a class needs.

    Returns
    -------
    kept : tuple of ImageItem
        In the same order; those of several classes lose only the small ones.
    left_out : tuple of ImageItem
        The images that have no class left.
    small : dict of str to int
        The classes left out, with their numbers of images.

    Raises
    ------
    DataError
        No image is left.
    """
    given = any(item.split for item in items)
    counting = [item for item in items if item.split == "train" or not given]
    digests = digests_by(counting, (classes_of(item.label or "") for item in counting))
    every = sorted(classes_in(item.label for item in items), key=natural_key)
    sizes = {each: len(digests.get(each, ())) for each in every}
    small = {each: size for each, size in sizes.items() if size < least}
    kept, left_out = _without(items, small)
    if left_out and not kept:
        raise DataError(
            f"no class has {counted(least, 'image')}; the largest has {max(small.values())}: give "
            f"a smaller `min_images`"
        )
    return kept, left_out, small


def trained(items: Sequence[ImageItem], split: str) -> tuple[ImageItem, ...]:
    """Return the images of a split with the classes that training images have, and no others.

    Parameters
    ----------
    items : sequence of ImageItem
        Images with labels and splits.
    split : str
        The split.

    Returns
    -------
    tuple of ImageItem
        Without images that have none of these classes.
    """
    own = [item for item in items if item.split == split]
    train = classes_in(item.label for item in items if item.split == "train")
    strange = classes_in(item.label for item in own) - train
    return _without(own, strange)[0]


def _without(
    items: Sequence[ImageItem], left_out: Container[str]
) -> tuple[tuple[ImageItem, ...], tuple[ImageItem, ...]]:
    """Return the images without some classes, and those that have no others."""
    labels = [without_classes(item.label or "", left_out, multilabel=True) for item in items]
    pairs = list(zip(items, labels, strict=True))
    kept = tuple(replace(item, label=label) for item, label in pairs if label is not None)
    return kept, tuple(item for item, label in pairs if label is None)


def only_one_class(source: object, label: str, least: int) -> DataError:
    """Return the error that a set has only one class.

    Parameters
    ----------
    source : object
        Where the images are from.
    label : str
        The class.
    least : int
        Number of images that a class needed, if others were left out for having fewer; else 0.

    Returns
    -------
    DataError
    """
    small = f" with at least {counted(least, 'image')}" if least else ""
    return DataError(
        f"{str(source)!r} has only one class{small}, {label!r}; a classifier needs at least two: "
        f"add a folder (or label) per class, or give the folder of the images itself to extract "
        f"without labels"
    )
