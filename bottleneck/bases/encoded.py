"""Images that are decoded once, as one or several transforms need them. Without PyTorch."""

import io

import numpy as np

from bottleneck.bases.models import Transform
from bottleneck.errors import BadImageError
from bottleneck.images import MAX_PIXELS, Decoded, decode_whole, read_size

__all__ = ["Encoded", "InMemory"]


class Encoded:
    """The bytes of an image file, which are decoded once for all transforms where these allow it.

    Transforms that decode at a fraction of the size, or limit or scale pixels in another way,
    decode again.

    Parameters
    ----------
    data : bytes
        Bytes of the image file.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._found: dict[object, Decoded | str] = {}

    def size(self) -> tuple[int, int]:
        """Return the height and width that the file states; 0, 0 if it cannot be read.

        Returns
        -------
        (int, int)
        """
        return read_size(io.BytesIO(self._data))

    def decoded(self, transform: Transform, enough: tuple[int, int] | None = None) -> Decoded:
        """Decode the image as a transform needs it; the second time, return the same.

        Parameters
        ----------
        transform : Transform
            Its limit of pixels and value of white are used.
        enough : (int, int), optional
            Minimum height and width, see `bottleneck.images.decode`.

        Returns
        -------
        Decoded

        Raises
        ------
        BadImageError
            The image cannot be decoded.
        """
        limit, white = transform.max_pixels or MAX_PIXELS, transform.max_value
        key = limit, white, enough
        if key not in self._found:
            try:
                found = decode_whole(self._data, enough=enough, max_value=white, max_pixels=limit)
                self._found[key] = found
            except BadImageError as error:
                self._found[key] = str(error)  # without the frames that the error itself holds
        known = self._found[key]
        if isinstance(known, str):
            raise BadImageError(known)
        return known

    def reduced(self, transform: Transform) -> tuple[Decoded, tuple[int, int]]:
        """Decode the image at a fraction of its size, if a transform takes that.

        Parameters
        ----------
        transform : Transform
            The preprocessing.

        Returns
        -------
        (Decoded, (int, int))
            The image, and the height and width that the transform resizes it to.

        Raises
        ------
        BadImageError
            The image cannot be decoded, or is too thin.
        """
        whole = self.size() if transform.reduced_decode else (0, 0)
        if all(whole):
            return self.decoded(transform, transform.enough(*whole)), transform.size_of(*whole)
        found = self.decoded(transform)
        height, width = found.pixels.shape[:2]
        return found, transform.size_of(height, width)


class InMemory(Encoded):
    """An image whose pixels are known already.

    Parameters
    ----------
    pixels : np.ndarray
        uint8 of shape (height, width, 3).
    """

    def __init__(self, pixels: np.ndarray) -> None:
        super().__init__(b"")
        self._pixels = pixels

    def size(self) -> tuple[int, int]:
        """Return the height and width."""
        return self._pixels.shape[0], self._pixels.shape[1]

    def decoded(self, transform: Transform, enough: tuple[int, int] | None = None) -> Decoded:  # noqa: ARG002 - as they are
        """Return the pixels."""
        return Decoded(self._pixels)
