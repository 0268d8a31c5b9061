"""The images that an exported file is checked on, and calibrated with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bottleneck.bases import Transform
from bottleneck.cache import Cache
from bottleneck.errors import BadImageError, DataError, counted
from bottleneck.images import ImageItem, ImageSet, decode, read_file
from bottleneck.images.pixels import MAX_PIXELS
from bottleneck.records import AnySource

if TYPE_CHECKING:
    import torch

__all__ = ["Sample", "image_set_of", "read_samples"]


@dataclass(frozen=True)
class Sample:
    """An image, decoded and preprocessed.

    Attributes
    ----------
    item : ImageItem
        The image.
    image : np.ndarray
        uint8 of shape (height, width, 3).
    pixels : torch.Tensor
        float32 of shape (3, height, width), the base's input.
    """

    item: ImageItem
    image: np.ndarray
    pixels: "torch.Tensor"


def image_set_of(source: AnySource, cache: Cache) -> ImageSet:
    """Return the images that a head was fitted on.

    Parameters
    ----------
    source : FeatureSource or JoinedSource
        The head's features.
    cache : Cache
        The cache of these.

    Returns
    -------
    ImageSet

    Raises
    ------
    DataError
        The cache does not have the image set.
    """
    file = cache.set_file(source.image_set)
    if not file.exists():
        raise DataError(
            f"no image set {source.image_set!r} in the cache folder {str(cache.root)!r}, whose "
            f"images an exported file is checked on; give the cache that the head was fitted on "
            f"with `cache`"
        )
    return ImageSet.read_csv(file)


def read_samples(items: Sequence[ImageItem], transform: Transform, most: int) -> Iterator[Sample]:
    """Read up to `most` images from disk, at equal distances in a set.

    Parameters
    ----------
    items : sequence of ImageItem
        The images to choose from.
    transform : Transform
        The preprocessing.
    most : int
        Maximum number of images.

    Yields
    ------
    Sample
        Files that can no longer be read are left out.

    Raises
    ------
    DataError
        None can be read.
    """
    count = min(most, len(items))
    read, first, limit = 0, "", transform.max_pixels or MAX_PIXELS
    for item in (items[place * len(items) // count] for place in range(count)):
        try:
            image = decode(read_file(item), max_value=transform.max_value, max_pixels=limit)
            pixels = transform.normalise(transform.pixels(image))
        except BadImageError as error:
            first = first or f", first {item.path!r} ({error})"
            continue
        read += 1
        yield Sample(item, image, pixels)
    if not read:
        raise DataError(
            f"none of {counted(count, 'image')} of the set can be read from disk{first}, but an "
            f"exported file is checked on them; restore the files where the set has them"
        )
