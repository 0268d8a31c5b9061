"""Prepare batches for training, a few ahead of the step, from images or from the cache."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import ClassVar

import joblib
import numpy as np
import torch

from bottleneck.augment import Policy
from bottleneck.bases import Transform
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Bank
from bottleneck.errors import BadImageError, DataError
from bottleneck.extract import ahead, preprocess
from bottleneck.features import free_memory
from bottleneck.images import ImageItem, read_file

__all__ = ["Activations", "Batches", "CachedActivations", "ImageActivations"]

_AHEAD = 2
"""Number of batches prepared ahead of the step."""
_SHARE_OF_MEMORY = 4

Batches = Iterator[tuple[np.ndarray, torch.Tensor]]
"""Indices of some images with their activations, float32 of shape (n, ...)."""


@dataclass(frozen=True)
class ImageActivations:
    """Activations computed from image files.

    Attributes
    ----------
    items : sequence of ImageItem
        All images.
    transform : Transform
        The preprocessing.
    policy : Policy
        Augmentation policy of views from 1 on.
    lower : FrozenBase or None
        The frozen part of the network, if there is one.
    device : torch.device
        Device of the trained part.
    """

    items: Sequence[ImageItem]
    transform: Transform
    policy: Policy
    lower: FrozenBase | None
    device: torch.device
    bytes_to_hold: ClassVar[int] = 0

    def batches(self, batches: Sequence[np.ndarray], view: int) -> Batches:
        """Yield each batch of indices with its activations.

        Images are decoded in one thread per core.

        Parameters
        ----------
        batches : sequence of np.ndarray
            Indices of the images of each batch, int of shape (n,).
        view : int
            View number; 0 is the unaugmented image.

        Yields
        ------
        rows : np.ndarray
            The given indices.
        activations : torch.Tensor
            float32 of shape (n, ...), on the device.

        Raises
        ------
        DataError
            An image can no longer be read.
        """
        items = (self.items[row] for rows in batches for row in rows)
        waiting = _AHEAD * max(map(len, batches), default=0)
        read = ahead(partial(self._pixels, view), items, joblib.cpu_count(), waiting)
        for rows in batches:
            pixels = torch.stack(list(islice(read, len(rows))))
            yield rows, self._activations(pixels.to(self.device, non_blocking=True))

    def _pixels(self, view: int, item: ImageItem) -> torch.Tensor:
        try:
            return preprocess(self.transform, read_file(item), self.policy, item.digest, view)
        except BadImageError as error:
            raise DataError(
                f"{item.path!r} can no longer be read ({error}), although it could when training "
                f"began; restore it and continue with `resume`"
            ) from error

    def _activations(self, pixels: torch.Tensor) -> torch.Tensor:
        images = self.transform.normalise(pixels)
        if self.lower is None:
            return _channels_last(images)
        (activations,) = self.lower(images).values()
        return activations.clone()  # what inference mode has made cannot take part in training


@dataclass
class CachedActivations:
    """Activations read from the cache, and kept in memory if they take at most a quarter of it.

    Attributes
    ----------
    items : sequence of ImageItem
        All images.
    layer : str
        The boundary layer.
    banks : mapping of int to Bank
        View number to the bank that stores it.
    device : torch.device
        Device of the trained part.
    """

    items: Sequence[ImageItem]
    layer: str
    banks: Mapping[int, Bank]
    device: torch.device

    def __post_init__(self) -> None:
        self._held: dict[int, np.ndarray] = {}
        first = self._rows(min(self.banks), np.arange(1))
        self._bytes = first.nbytes * len(self.items) * len(self.banks)
        self._fits = self._bytes <= free_memory() // _SHARE_OF_MEMORY

    @property
    def bytes_to_hold(self) -> int:
        """Bytes of activations that later epochs will read and keep."""
        held = sum(each.nbytes for each in self._held.values())
        return self._bytes - held if self._fits else 0

    def batches(self, batches: Sequence[np.ndarray], view: int) -> Batches:
        """Yield batches as `ImageActivations` does, while a thread reads the next ones.

        Parameters
        ----------
        batches : sequence of np.ndarray
            Indices of the images of each batch, int of shape (n,).
        view : int
            View number; 0 is the unaugmented image.

        Yields
        ------
        rows : np.ndarray
            The given indices.
        activations : torch.Tensor
            float32 of shape (n, ...), on the device.

        Raises
        ------
        CacheError
            A row is not in the cache, or a part is damaged.
        """
        if self._fits and view not in self._held:
            self._held[view] = self._rows(view, np.arange(len(self.items)))
        read = ahead(partial(self._rows, view), batches, workers=1, waiting=_AHEAD)
        for rows, values in zip(batches, read, strict=True):
            moved = torch.from_numpy(values).to(self.device, non_blocking=True)
            yield rows, _channels_last(moved.float())

    def _rows(self, view: int, rows: np.ndarray) -> np.ndarray:
        if view in self._held:
            return np.asarray(self._held[view][rows])
        digests = [self.items[row].digest for row in rows]
        return self.banks[view].read(self.layer, digests, view=view)


Activations = ImageActivations | CachedActivations
"""The source of the trained part's inputs."""


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    maps = values.dim() == 4  # noqa: PLR2004 - images, channels, rows, columns
    return values.contiguous(memory_format=torch.channels_last) if maps else values
