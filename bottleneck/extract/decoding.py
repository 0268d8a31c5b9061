"""Decode images and preprocess them, once for all bases that see the same pixels."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from bottleneck.augment import Policy
from bottleneck.bases import Transform
from bottleneck.bases.encoded import Encoded
from bottleneck.bases.frozen import FrozenBase
from bottleneck.errors import UsageError
from bottleneck.images import Decoded

__all__ = ["preprocess", "preprocess_views", "reference_features"]

Seen = Callable[[Decoded], None]


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
    found, size = image.reduced(transform)
    if seen:
        seen(found)
    return transform.pixels(found.pixels, size=size)


def _decoded(transform: Transform, image: Encoded, seen: Seen | None) -> np.ndarray:
    found = image.decoded(transform)
    if seen:
        seen(found)
    return found.pixels
