"""The forms in which images are given: paths, bytes, open files, Pillow's images and arrays."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from bottleneck.bases.encoded import Encoded, InMemory
from bottleneck.errors import BadImageError, WrongTypeError
from bottleneck.images import MAX_PIXELS, rgb_of
from bottleneck.images.kinds import HEAD, check_ending
from bottleneck.inputs import MAX_BYTES, check_size
from bottleneck.sources import location, open_source, reasons_told

__all__ = ["AnyImage", "Given", "given_images"]

AnyImage = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
"""An image: its path, the bytes of its file, the open file, one of Pillow's, or its pixels."""
_CHANNELS = 3
_SEVERAL = {1, 4}
"""Dimensions of an array of several images: of their paths, or of their pixels."""


class Given:
    """An image that was given; what its giver may change or close is taken over at once.

    Parameters
    ----------
    image : AnyImage
        The image.
    number : int
        Its place among those that were given, from 0.
    max_bytes : int, optional
        Size of the largest file that is read; by default 1 GB.
    max_pixels : int, optional
        Pixels of the largest image of Pillow's that is taken.

    Attributes
    ----------
    path : str
        The path, or a name that tells the place.

    Raises
    ------
    WrongTypeError
        It is not an image in one of the known forms.
    """

    def __init__(
        self,
        image: AnyImage,
        number: int,
        max_bytes: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self.path = str(image) if isinstance(image, str | Path) else f"images[{number}]"
        self._max_bytes = max_bytes or MAX_BYTES
        self._taken: Path | Encoded | str = ""
        try:
            self._taken = self._take(image, max_pixels or MAX_PIXELS)
        except BadImageError as error:
            self._taken = str(error)

    def _take(self, image: Any, max_pixels: int) -> Path | Encoded:
        if isinstance(image, str | Path):
            return location(image)
        if isinstance(image, bytes | bytearray | memoryview):
            return self._encoded(bytes(image))
        if isinstance(image, Image.Image):
            return InMemory(rgb_of(image, max_pixels))
        if isinstance(image, np.ndarray):
            return InMemory(_checked(image, self.path).copy())
        if hasattr(image, "read"):
            with _reasons_told():
                data = image.read(self._max_bytes + 1)
            if isinstance(data, bytes):
                return self._encoded(data)
        raise WrongTypeError(
            f"{self.path} is of the type {type(image).__name__!r}, which is not an image; expected "
            f"a path, the bytes of a file, a file opened with 'rb', an image of Pillow, or a NumPy "
            f"array"
        )

    def _encoded(self, data: bytes) -> Encoded:
        if len(data) > self._max_bytes:
            raise BadImageError(
                f"the file has more bytes than the limit of {self._max_bytes:,}; raise it with "
                f"`max_bytes`"
            )
        return Encoded(data)

    def opened(self) -> Encoded:
        """Return the image to be decoded; that of a path is read now.

        Returns
        -------
        Encoded

        Raises
        ------
        BadImageError
            It cannot be read; the message is the reason.
        """
        if isinstance(self._taken, Encoded):
            return self._taken
        if isinstance(self._taken, str):
            raise BadImageError(self._taken)
        with _reasons_told(), open_source(self._taken) as file:
            check_size(file, self._max_bytes)
            file.seek(0)
            data = file.read()
        check_ending(self._taken.suffix, data[:HEAD])
        return Encoded(data)


def given_images(
    images: AnyImage | Iterable[AnyImage],
    max_bytes: int | None = None,
    max_pixels: int | None = None,
) -> Iterator[Given]:
    """Yield the images that were given: one, or several in a list, a generator or an array.

    Parameters
    ----------
    images : AnyImage or iterable of AnyImage
        An array of four dimensions has several, as has one of one dimension, such as of paths.
    max_bytes, max_pixels : int, optional
        As for `Given`.

    Yields
    ------
    Given

    Raises
    ------
    WrongTypeError
        One is not an image in a known form.
    """
    one = isinstance(images, str | Path | bytes | bytearray | memoryview | Image.Image)
    one = one or hasattr(images, "read")
    one = one or (isinstance(images, np.ndarray) and images.ndim not in _SEVERAL)
    one = one or not isinstance(images, Iterable)  # which tells what was expected
    several: Any = [images] if one else images
    for number, image in enumerate(several):
        yield Given(image, number, max_bytes, max_pixels)


@contextmanager
def _reasons_told() -> Iterator[None]:
    """Turn errors of reading a file into reasons why an image cannot be used."""
    try:
        with reasons_told():
            yield
    except BadImageError:
        raise
    except ValueError as error:  # of a closed file, or a path with a NUL
        raise BadImageError(str(error)) from error


def _checked(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim != _CHANNELS or pixels.shape[2] != _CHANNELS:
        raise WrongTypeError(
            f"{name}, an array of the type {pixels.dtype} and the shape {pixels.shape}, is not an "
            f"image; expected uint8 of shape (height, width, 3), with red, green and blue from 0 "
            f"to 255"
        )
    if not pixels.size:
        raise BadImageError("it has no pixels")
    return pixels
