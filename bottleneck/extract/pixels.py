"""What a base sees of an image: its plain pixels, or an augmented view of them."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bottleneck.augment import Policy
from bottleneck.bases import Transform
from bottleneck.errors import UsageError
from bottleneck.images import decode, read_size

if TYPE_CHECKING:
    import torch

__all__ = ["augment_image", "preprocess", "preprocess_views"]


def preprocess(
    transform: Transform,
    data: bytes,
    policy: Policy | None = None,
    digest: str = "",
    view: int = 0,
) -> "torch.Tensor":
    """Decode an image's bytes and bring it to size, as `Transform.pixels` gives it.

    Parameters
    ----------
    transform : Transform
        The preprocessing.
    data : bytes
        Of the image file.
    policy : Policy, optional
        How views from 1 on are made.
    digest : str
        SHA-256 of the image file, which decides what its views are.
    view : int
        0 is the plain image.

    Returns
    -------
    torch.Tensor
        uint8 of shape (3, height, width).

    Raises
    ------
    BadImageError
        It cannot be decoded, or is too thin.
    UsageError
        A view is asked for without a policy.
    """
    return preprocess_views(transform, data, policy, digest, [view])[0]


def preprocess_views(
    transform: Transform, data: bytes, policy: Policy | None, digest: str, views: Sequence[int]
) -> "list[torch.Tensor]":
    """Return several views of an image, as `preprocess` gives each; it is decoded once."""
    if not any(views):
        return [_plain(transform, data)] * len(views)
    if policy is None:
        raise UsageError(f"view {max(views)} is asked for without a policy; give one")
    if policy.whole:
        image = decode(data)
        return [
            augment_image(transform, image, policy, digest, view)
            if view
            else _plain(transform, data)
            for view in views
        ]
    plain = _plain(transform, data)
    size = (plain.shape[1], plain.shape[2])
    return [policy.augment(plain, digest, view, size) if view else plain for view in views]


def augment_image(
    transform: Transform, image: np.ndarray, policy: Policy, digest: str, view: int
) -> "torch.Tensor":
    """Return an augmented view of a decoded image, uint8 of shape (height, width, 3)."""
    if not policy.whole:
        plain = transform.pixels(image)
        return policy.augment(plain, digest, view, (plain.shape[1], plain.shape[2]))

    import torch

    whole = torch.from_numpy(np.require(image, requirements=["C", "W"])).movedim(-1, 0)
    size = transform.size_of(*image.shape[:2]) if transform.keep_aspect else transform.crop
    return policy.augment(whole, digest, view, size)


def _plain(transform: Transform, data: bytes) -> "torch.Tensor":
    whole = read_size(io.BytesIO(data)) if transform.reduced_decode else (0, 0)
    if not all(whole):
        return transform.pixels(decode(data))
    pixels = decode(data, enough=transform.enough(*whole))
    return transform.pixels(pixels, size=transform.size_of(*whole))
