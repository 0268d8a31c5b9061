"""Decode images and preprocess them, once for all bases that see the same pixels."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch

from bottleneck.augment import Policy
from bottleneck.bases import Transform
from bottleneck.bases.frozen import FrozenBase
from bottleneck.errors import BadImageError, UsageError
from bottleneck.images import MAX_PIXELS, Decoded, decode_whole, read_size

__all__ = ["Encoded", "InMemory", "preprocess", "preprocess_views", "reference_features"]

Seen = Callable[[Decoded], None]


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


def reference_features(base: FrozenBase, policy: Policy | None) -> dict[str, list[list[float]]]:
    """Return a base's canary: three unaugmented images, or the first augmented view of each.

    Parameters
    ----------
    base, policy : FrozenBase, Policy or None

    Returns
    -------
    dict of str to list
    """
    if policy is None:
        return base.canary()
    return base.canary(lambda image: _augmented(base.transform, image, policy, "", 1))


def preprocess(
    transform: Transform,
    data: bytes | Encoded,
    policy: Policy | None = None,
    digest: str = "",
    view: int = 0,
) -> torch.Tensor:
    """Decode an image's bytes and resize it, as in `Transform.pixels`.

    Parameters
    ----------
    transform : Transform
    data : bytes or Encoded
        Bytes of the image file, or what is decoded once for several transforms.
    policy : Policy, optional
        Augmentation policy of views from 1 on.
    digest : str
        SHA-256 of the image file, which seeds its views.
    view : int
        Number of the view; 0 is the unaugmented image.

    Returns
    -------
    torch.Tensor
        uint8 of shape (3, height, width).

    Raises
    ------
    BadImageError
        The image cannot be decoded, or is too thin.
    UsageError
        A view is above 0, but there is no policy.
    """
    image = data if isinstance(data, Encoded) else Encoded(data)
    return preprocess_views(transform, image, policy, digest, [view])[0]


def preprocess_views(
    transform: Transform,
    image: Encoded,
    policy: Policy | None,
    digest: str,
    views: Sequence[int],
    *,
    seen: Seen | None = None,
) -> list[torch.Tensor]:
    """Return several views of an image, as from `preprocess`, decoding it once.

    Parameters
    ----------
    transform, policy, digest, views
        As for `preprocess`, with several views.
    image : Encoded
        The image.
    seen : callable, optional
        Called with the decoded image.

    Returns
    -------
    list of torch.Tensor

    Raises
    ------
    BadImageError, UsageError
    """
    if not any(views):
        return [_plain(transform, image, seen)] * len(views)
    if policy is None:
        raise UsageError(f"view {max(views)} needs an augmentation policy; give one")
    if policy.whole:
        whole = _decoded(transform, image, seen)
        return [
            _augmented(transform, whole, policy, digest, view)
            if view
            else _plain(transform, image, seen)
            for view in views
        ]
    plain = _plain(transform, image, seen)
    size = (plain.shape[1], plain.shape[2])
    return [policy.augment(plain, digest, view, size) if view else plain for view in views]


def _augmented(
    transform: Transform, image: np.ndarray, policy: Policy, digest: str, view: int
) -> torch.Tensor:
    """Return an augmented view of a decoded image, uint8 of shape (height, width, 3)."""
    if not policy.whole:
        plain = transform.pixels(image)
        return policy.augment(plain, digest, view, (plain.shape[1], plain.shape[2]))
    whole = torch.from_numpy(np.require(image, requirements=["C", "W"])).movedim(-1, 0)
    size = transform.size_of(*image.shape[:2]) if transform.keep_aspect else transform.crop
    return policy.augment(whole, digest, view, size)


def _plain(transform: Transform, image: Encoded, seen: Seen | None) -> torch.Tensor:
    whole = image.size() if transform.reduced_decode else (0, 0)
    if not all(whole):
        return transform.pixels(_decoded(transform, image, seen))
    pixels = _decoded(transform, image, seen, transform.enough(*whole))
    return transform.pixels(pixels, size=transform.size_of(*whole))


def _decoded(
    transform: Transform, image: Encoded, seen: Seen | None, enough: tuple[int, int] | None = None
) -> np.ndarray:
    found = image.decoded(transform, enough)
    if seen:
        seen(found)
    return found.pixels
