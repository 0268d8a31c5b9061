"""Batches for training, made ready a few ahead of the step: from images or from the cache."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

import joblib
import numpy as np
import torch

from bottleneck.augment import Policy
from bottleneck.bases import Transform
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Bank
from bottleneck.errors import BadImageError, DataError
from bottleneck.extract import Progress, preprocess
from bottleneck.features import free_memory
from bottleneck.images import ImageItem, in_threads, read_file

__all__ = ["Activations", "CachedActivations", "ImageActivations", "check_images", "read_pixels"]

_AHEAD = 2
"""Batches that wait for the step."""
_SHARE_OF_MEMORY = 4

_Task = TypeVar("_Task")
_Ready = TypeVar("_Ready")


def read_pixels(
    transform: Transform, item: ImageItem, policy: Policy | None = None, view: int = 0
) -> torch.Tensor:
    """Return a view of an image, uint8 of shape (3, height, width).

    Raises
    ------
    BadImageError
        The file cannot be used, or has other bytes than its digest says.
    """
    data = read_file(item)
    if hashlib.sha256(data).hexdigest() != item.digest:
        raise BadImageError("the file has changed since its digest was taken")
    return preprocess(transform, data, policy, item.digest, view)


def check_images(
    transform: Transform, items: Sequence[ImageItem], progress: Progress | None = None
) -> dict[str, str]:
    """Read all images once; return the digest and the reason of those that cannot be used."""

    def reason(item: ImageItem) -> str:
        try:
            read_pixels(transform, item)
        except BadImageError as error:
            return str(error)
        return ""

    found = {}
    for number, (item, why) in enumerate(zip(items, in_threads(reason, items), strict=True), 1):
        if why:
            found[item.digest] = why
        if progress:
            progress("check", number, len(items))
    return found


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
        How views from 1 on are made.
    lower : FrozenBase or None
        The frozen part of the network, if there is one.
    device : torch.device
        Where the trained part is.
    """

    items: Sequence[ImageItem]
    transform: Transform
    policy: Policy
    lower: FrozenBase | None
    device: torch.device

    def batches(
        self, batches: Sequence[np.ndarray], view: int
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Yield each batch of places with its activations, float32 of shape (n, ...).

        Images are decoded in as many threads as there are cores.
        """

        def submit(pool: ThreadPoolExecutor, rows: np.ndarray) -> list[Future[torch.Tensor]]:
            return [pool.submit(self._pixels, self.items[row], view) for row in rows]

        for rows, waiting in _ahead(submit, batches, workers=joblib.cpu_count()):
            yield rows, self._activations(torch.stack([each.result() for each in waiting]))

    def _pixels(self, item: ImageItem, view: int) -> torch.Tensor:
        try:
            return read_pixels(self.transform, item, self.policy, view)
        except BadImageError as error:
            raise DataError(
                f"{item.path!r} can no longer be read ({error}), although it could when the "
                f"training began; restore it and go on with `resume`"
            ) from error

    def _activations(self, pixels: torch.Tensor) -> torch.Tensor:
        images = self.transform.normalise(pixels.to(self.device, non_blocking=True))
        if self.lower is None:
            return _channels_last(images)
        (activations,) = self.lower(images).values()
        return activations.clone()  # what inference mode has made cannot take part in training


@dataclass(frozen=True)
class CachedActivations:
    """Activations read from the cache; kept in memory where they take a quarter of it at most.

    Attributes
    ----------
    digests : sequence of str
        SHA-256 of each image.
    layer : str
        The boundary.
    banks : mapping of int to Bank
        View to where it is stored.
    device : torch.device
        Where the trained part is.
    """

    digests: Sequence[str]
    layer: str
    banks: Mapping[int, Bank]
    device: torch.device
    _held: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def batches(
        self, batches: Sequence[np.ndarray], view: int
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Yield each batch as `ImageActivations` does; a thread reads the next ones meanwhile."""
        if view not in self._held and self._fits():
            self._held[view] = self._read(np.arange(len(self.digests)), view)

        def submit(pool: ThreadPoolExecutor, rows: np.ndarray) -> Future[np.ndarray]:
            return pool.submit(self._rows, rows, view)

        for rows, waiting in _ahead(submit, batches, workers=1):
            values = torch.from_numpy(waiting.result()).to(self.device, non_blocking=True)
            yield rows, _channels_last(values.float())

    def _rows(self, rows: np.ndarray, view: int) -> np.ndarray:
        held = self._held.get(view)
        return self._read(rows, view) if held is None else held[rows]

    def _read(self, rows: np.ndarray, view: int) -> np.ndarray:
        digests = [self.digests[row] for row in rows]
        return self.banks[view].read(self.layer, digests, view=view)

    def _fits(self) -> bool:
        if self._held:
            return True  # the first view was let in together with those to come
        (first,) = self._read(np.arange(1), min(self.banks))
        whole = first.nbytes * len(self.digests) * len(self.banks)
        return bool(whole <= free_memory() // _SHARE_OF_MEMORY)


Activations = ImageActivations | CachedActivations
"""What the trained part takes, of some images."""


def _ahead(
    submit: Callable[[ThreadPoolExecutor, _Task], _Ready],
    tasks: Iterable[_Task],
    *,
    workers: int,
) -> Iterator[tuple[_Task, _Ready]]:
    """Yield tasks in order, each with what was submitted for it while others were under way."""
    threads = torch.get_num_threads()
    waiting: deque[tuple[_Task, _Ready]] = deque()
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)  # which new threads would take over
        pool = stack.enter_context(
            ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        )
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for task in tasks:
            waiting.append((task, submit(pool, task)))
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    maps = values.dim() == 4  # noqa: PLR2004 - images, channels, rows, columns
    return values.contiguous(memory_format=torch.channels_last) if maps else values
