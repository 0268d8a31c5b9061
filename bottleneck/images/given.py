"""Images and labels that are Python objects: torchvision's datasets, and any sequence of pairs."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bottleneck.errors import BadImageError, DataError, UsageError, WrongTypeError, counted
from bottleneck.images.items import Found, ImageItem
from bottleneck.images.keyed import label_of_value
from bottleneck.images.pixels import rgb_of
from bottleneck.images.splits import split_of
from bottleneck.labels import SEPARATOR
from bottleneck.sources import location, read_source
from bottleneck.sources.objects import object_path, offer

__all__ = ["found_in"]

_IMAGE, _LABEL = ("image", "img"), ("label", "labels")
_SHAPES = {2: None, 3: 3}
"""Dimensions of an array of pixels, and its last side."""
_PAIR = 2
_IMAGE_TYPE = "Image"
"""Of a column of Hugging Face's datasets."""
_SUBSET = "torch.utils.data.dataset.Subset"
_Columns = tuple[Sequence[str], Sequence[str]]


def found_in(source: Any, name: str | None = None) -> tuple[str, Found]:
    """Return the images of a Python object.

    Parameters
    ----------
    source : sequence or mapping of str to sequence
        A dataset of torchvision, or a sequence of pairs of an image and its label, or of mappings
        with ``image`` and ``label``, or with what the features of Hugging Face's datasets say is an
        image, and has names of classes. Images are bytes of files, paths, images of Pillow, or
        uint8 arrays of shape (height, width, 3) or (height, width). Labels are texts, whole
        numbers, or lists or arrays of these for several classes; arrays that all have the same
        number of zeros and ones say of each class whether it is one. A mapping has a sequence for
        each split.
    name : str, optional
        Name of the set; by default that of the object's type.

    Returns
    -------
    name : str
    found : Found
        Their paths are valid in this process only, except those of files.

    Raises
    ------
    WrongTypeError
        It is no such object.
    UsageError
        A split has another name than these usually have.
    DataError
        It is empty.
    """
    kind = type(source).__name__
    name = name or ("images" if kind in {"list", "tuple", "dict"} else kind.lower())
    parts = source if isinstance(source, Mapping) else {None: source}
    items: list[ImageItem] = []
    for word, part in parts.items():
        split = None if word is None else split_of(str(word))
        if word is not None and split is None:
            raise UsageError(f"no split {word!r}; expected train, val or test as keys")
        if not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
            raise WrongTypeError(
                f"the images are of the type {type(part).__name__!r}; expected a path, a dataset "
                f"of torchvision, or a sequence of pairs of an image and its label"
            )
        items += _items(part, f"{name}-{split}" if split else name, split)
    if not items:
        raise DataError(f"the sequence {name!r} has no images; give at least one pair")
    return name, Found(items)


def _items(part: Any, name: str, split: str | None) -> list[ImageItem]:
    part, numbers = _whole(part, name)
    samples = getattr(part, "samples", None)  # those of folders are files, and need no object
    if samples and all(isinstance(path, str | os.PathLike) for path, *_ in samples):
        paths = [location(os.fspath(samples[each][0])).as_posix() for each in numbers]
        labels = [samples[each][1] for each in numbers]
    else:
        columns = _columns(part)
        source, part = part, _undecoded(part, columns)
        own = offer(name, source, partial(_read, part, name, columns))
        paths = [object_path(own, number) for number in numbers]
        targets = getattr(part, "targets", None)
        if targets is not None and len(targets) == len(part):
            labels = [targets[each] for each in numbers]
        else:
            labels = [_pair(part, number, name, columns)[1] for number in numbers]
    names = _class_names(part)
    return [
        ImageItem(path, "", _label(label, names, name), split)
        for path, label in zip(paths, _listed(labels), strict=True)
    ]


def _whole(part: Any, name: str) -> tuple[Any, Sequence[int]]:
    """Return the dataset that a subset of PyTorch is of, and the numbers of its images."""
    numbers: Sequence[int] = range(len(part))
    while f"{type(part).__module__}.{type(part).__qualname__}" == _SUBSET:
        inner, part = part.indices, part.dataset
        every = range(len(part))
        try:
            numbers = [every[int(inner[each])] for each in numbers]  # -1 is the last
        except IndexError as error:
            raise UsageError(
                f"the subset {name!r} has an index beyond the {counted(len(part), 'image')} of its "
                f"dataset; give smaller ones"
            ) from error
    return part, numbers


def _listed(labels: Sequence[Any]) -> list[Any]:
    """Return labels without arrays: as single values, or as lists of classes."""
    arrays = [hasattr(label, "squeeze") for label in labels]
    plain = [_plain(label) for label in labels]
    lengths = {len(each) if isinstance(each, list) else 0 for each in plain}
    alike = all(arrays) and len(lengths) == 1 and 0 not in lengths
    if alike and all(value in {0, 1} for each in plain for value in each):
        chosen = [[number for number, value in enumerate(each) if value] for each in plain]
        return [each or SEPARATOR for each in chosen]
    return plain


def _plain(value: Any) -> Any:
    """Return an array of one element as that, and one of one dimension as a list."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    small = value.squeeze() if hasattr(value, "squeeze") else value
    return small.tolist() if getattr(small, "ndim", 2) < 2 else value  # noqa: PLR2004 - as above


def _features(part: Any) -> Mapping[str, Any]:
    """Return what Hugging Face's datasets say of their columns; nothing where others do not."""
    found = getattr(part, "features", None)
    return found if isinstance(found, Mapping) else {}


def _undecoded(part: Any, columns: _Columns) -> Any:
    """Return a dataset of Hugging Face that gives the bytes of its images; all else as it is."""
    for name in columns[0] if hasattr(part, "cast_column") else ():
        kind: Any = _features(part).get(name)
        if type(kind).__name__ == _IMAGE_TYPE:
            return part.cast_column(name, type(kind)(decode=False))
    return part


def _columns(part: Any) -> _Columns:
    """Return the names that the column of images and that of labels may have, the best first."""
    known = _features(part)
    images = [name for name, kind in known.items() if type(kind).__name__ == _IMAGE_TYPE]
    labels = [name for name, kind in known.items() if _names_of(kind)]
    return (*images, *_IMAGE), (*labels, *_LABEL)


def _names_of(kind: Any) -> Sequence[str]:
    """Return the names of classes that a feature gives as numbers, also of several in a list."""
    return getattr(getattr(kind, "feature", kind), "names", None) or ()


def _class_names(part: Any) -> Sequence[str]:
    """Return the names of classes that are given as numbers; nothing if they have none."""
    if features := _features(part):
        own = (_names_of(features.get(name)) for name in _columns(part)[1])
        return next(filter(None, own), ())
    classes = getattr(part, "classes", None)
    return _distinct(classes) if isinstance(classes, list | tuple) else ()


def _distinct(classes: Sequence[Any]) -> list[str]:
    """Return a name for each class; of several, as those of ImageNet, the first.

    Classes that share it have all their names, and their numbers if they share these, too.
    """
    every = [
        [str(name).replace(SEPARATOR, ",") for name in each]
        if isinstance(each, list | tuple)
        else [str(each)]
        for each in classes
    ]
    full = [", ".join(each) for each in every]
    names = [each[0] if each else "" for each in every]
    for longer in (full, [f"{name} {number}" for number, name in enumerate(full)]):
        counts = Counter(names)
        names = [
            more if counts[name] > 1 else name for name, more in zip(names, longer, strict=True)
        ]
    return names


def _label(value: Any, names: Sequence[str], name: str) -> str | None:
    if value is None:
        return None
    several = isinstance(value, list)
    named = [_named(each, names) for each in (value if several else [value])]
    label = label_of_value(named if several else named[0])
    if label is None:
        raise WrongTypeError(
            f"a label of {name!r} is {value!r}; expected a text, a whole number, or a list of these"
        )
    return label


def _named(value: Any, names: Sequence[str]) -> Any:
    """Return the name of a class that is given as a number, else the value."""
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and value in range(len(names))
    ):
        return names[int(value)]
    return value


def _pair(part: Any, number: int, name: str, columns: _Columns) -> tuple[Any, Any]:
    row = part[number]
    if isinstance(row, Mapping):
        images, labels = columns
        image = next((row[key] for key in images if key in row), None)
        return image, next((row[key] for key in labels if key in row), None)
    if isinstance(row, list | tuple) and len(row) == _PAIR:
        return row[0], row[1]
    raise WrongTypeError(
        f"{name}[{number}] is of the type {type(row).__name__!r}; expected a pair of an image and "
        f"its label"
    )


def _read(part: Any, name: str, columns: _Columns, number: int) -> bytes:
    """Return the bytes of an image; pixels as PPM, which says them as they are.

    Unlike in PNG, there is only one file of the same pixels, whatever the version of a library.
    """
    image, _ = _pair(part, number, name, columns)
    if isinstance(image, Mapping):  # of Hugging Face's datasets, undecoded
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | Path):
        return read_source(location(image))
    if isinstance(image, np.ndarray):
        sides = _SHAPES.get(image.ndim, 0)
        if image.dtype != np.uint8 or sides == 0 or (sides and image.shape[2] != sides):
            raise BadImageError(
                f"an array of the type {image.dtype} and the shape {image.shape} is not an image; "
                f"expected uint8 of shape (height, width, 3) or (height, width)"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise BadImageError(
            f"an object of the type {type(image).__name__!r} is not an image; expected bytes, an "
            f"image of Pillow or an array: open the dataset without a transform"
        )
    pixels = rgb_of(image)
    return b"P6\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()
