"""Compute activations of image files, batch by batch, on all cores or on GPUs."""

import io
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import gcd
from operator import itemgetter
from queue import SimpleQueue
from typing import Literal, TypeVar

import numpy as np
import torch

from bottleneck.augment import Policy
from bottleneck.bases import Transform
from bottleneck.bases.frozen import FrozenBase
from bottleneck.errors import BadImageError, UsageError
from bottleneck.extract.lanes import Lane, find_lanes, freed_memory_kept
from bottleneck.images import ImageItem, decode, in_threads, read_file, read_size

__all__ = [
    "Batch",
    "Progress",
    "ahead",
    "feature_batches",
    "preprocess",
    "preprocess_views",
    "reference_features",
    "sorted_by_size",
]

Progress = Callable[..., None]
"""Called with the stage, the number of images done and their total; other counts by name."""

_Task = TypeVar("_Task")
_Ready = TypeVar("_Ready")
_Loaded = tuple[ImageItem, Future[bytes | list[torch.Tensor]]]


@dataclass(frozen=True)
class Batch:
    """Activations of some images.

    Attributes
    ----------
    items : list of ImageItem
        The image of each of the n rows; rows of one image are consecutive.
    views : list of int
        The view number of each row.
    features : dict of str to np.ndarray
        Layer to float32 of shape (n, ...); empty if no image of the batch could be used.
    rejected : list of (ImageItem, str)
        Images that could not be used, with the reasons.
    images : int
        Number of images, including rejected ones.
    """

    items: list[ImageItem]
    views: list[int]
    features: dict[str, np.ndarray]
    rejected: list[tuple[ImageItem, str]]
    images: int


def feature_batches(
    base: FrozenBase,
    items: Sequence[ImageItem],
    *,
    batch_size: int | Literal["auto"] = "auto",
    policy: Policy | None = None,
    views: Mapping[str, Sequence[int]] | None = None,
) -> Generator[Batch]:
    """Decode, preprocess and compute batches, a few ahead of the reader.

    On CPUs, each core takes whole batches from file bytes to activations without waiting for other
    cores, while another thread reads the next files. For a GPU, all cores decode, and two batches
    are in progress on it: one is copied while the other is computed.

    An image is read and decoded once for all of its views. The base is always called with
    `batch_size` of them, so that the features of a view do not depend on which others were
    computed.

    Parameters
    ----------
    base : FrozenBase
        Computes its `layers`.
    items : sequence of ImageItem
        Images in order. An image whose file no longer has the digest is rejected.
    batch_size : int or "auto"
        Images per forward pass; ``auto`` adapts to the machine, see `find_lanes`.
    policy : Policy, optional
        Augmentation policy of views from 1 on.
    views : mapping of str to sequence of int, optional
        View numbers of each image, by digest; by default only the unaugmented image.

    Yields
    ------
    Batch
        The usable images among the next ones, `batch_size` of them if each has one view, and the
        rejected ones.

    Raises
    ------
    MemoryShortError
        Not even two images fit at a time.
    """
    views = {item.digest: (0,) for item in items} if views is None else views
    most = max(map(len, views.values()), default=1)
    lanes = find_lanes(base, most * len(items), batch_size)
    work = _Work(base, lanes.batch_size, policy, views)

    def load(item: ImageItem) -> bytes | list[torch.Tensor]:
        data = read_file(item)
        return work.decode(item, data) if lanes.decode_ahead else data

    at_once = lanes.batch_size // gcd(lanes.batch_size, most)  # the fewest that leave no call short
    free: SimpleQueue[Lane] = SimpleQueue()
    for lane in lanes.all:
        free.put(lane)
    remaining, workers = iter(items), len(lanes.all)
    loaders = ThreadPoolExecutor(lanes.loaders)

    def some() -> list[_Loaded]:
        return [(item, loaders.submit(load, item)) for item in islice(remaining, at_once)]

    with freed_memory_kept():
        try:
            yield from ahead(partial(work.compute, free), iter(some, []), workers, workers + 1)
        finally:
            loaders.shutdown(cancel_futures=True)


def ahead(
    work: Callable[[_Task], _Ready], tasks: Iterable[_Task], workers: int, waiting: int
) -> Iterator[_Ready]:
    """Work in threads, ahead of the reader.

    Parameters
    ----------
    work : callable
        Called with each task; torch uses one thread in it.
    tasks : iterable
        Read lazily, when they are started.
    workers : int
        Number of threads.
    waiting : int
        Maximum number of tasks started before the result of the first is read.

    Yields
    ------
    object
        The result of each task, in order.
    """
    threads = torch.get_num_threads()
    begun: deque[Future[_Ready]] = deque()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for task in tasks:
            begun.append(pool.submit(work, task))
            if len(begun) > waiting:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # which new threads would take over


@dataclass(frozen=True)
class _Work:
    """The computation for each image."""

    base: FrozenBase
    batch_size: int
    policy: Policy | None
    views: Mapping[str, Sequence[int]]

    def compute(self, free: SimpleQueue[Lane], loaded: Sequence[_Loaded]) -> Batch:
        """Compute one loaded batch."""
        items: list[ImageItem] = []
        views: list[int] = []
        rejected = []
        places: dict[torch.Size, list[int]] = {}
        pixels: list[torch.Tensor] = []
        for item, future in loaded:
            try:
                found = future.result()
                decoded = found if isinstance(found, list) else self.decode(item, found)
            except BadImageError as error:
                rejected.append((item, str(error)))
                continue
            for view, seen in zip(self.views[item.digest], decoded, strict=True):
                places.setdefault(seen.shape, []).append(len(items))
                items.append(item)
                views.append(view)
                pixels.append(seen)
        calls = [
            rows[start : start + self.batch_size]
            for rows in places.values()
            for start in range(0, len(rows), self.batch_size)
        ]
        lane = free.get()
        try:
            groups = [(rows, lane.compute([pixels[row] for row in rows])) for rows in calls]
        finally:
            free.put(lane)
        features = groups[0][1] if len(groups) == 1 else _joined(groups)
        return Batch(items, views, features, rejected, len(loaded))

    def decode(self, item: ImageItem, data: bytes) -> list[torch.Tensor]:
        """Return the pixels of each view."""
        views = self.views[item.digest]
        return preprocess_views(self.base.transform, data, self.policy, item.digest, views)


def _joined(groups: Sequence[tuple[list[int], dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """Join the rows of several calls in their original order."""
    order = np.argsort([row for rows, _ in groups for row in rows])
    layers = groups[0][1] if groups else {}
    return {
        layer: np.concatenate([features[layer] for _, features in groups])[order]
        for layer in layers
    }


def sorted_by_size(items: Sequence[ImageItem], transform: Transform) -> Sequence[ImageItem]:
    """Group images that have the same preprocessed size, for full batches.

    Parameters
    ----------
    items, transform : sequence of ImageItem, Transform

    Returns
    -------
    sequence of ImageItem
    """
    if not transform.keep_aspect:
        return items
    sizes = in_threads(lambda item: transform.proportions(*read_size(item.path)), items)
    return [item for _, item in sorted(zip(sizes, items, strict=True), key=itemgetter(0))]


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
    data: bytes,
    policy: Policy | None = None,
    digest: str = "",
    view: int = 0,
) -> torch.Tensor:
    """Decode an image's bytes and resize it, as in `Transform.pixels`.

    Parameters
    ----------
    transform : Transform
    data : bytes
        Bytes of the image file.
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
    return preprocess_views(transform, data, policy, digest, [view])[0]


def preprocess_views(
    transform: Transform, data: bytes, policy: Policy | None, digest: str, views: Sequence[int]
) -> list[torch.Tensor]:
    """Return several views of an image, as from `preprocess`, decoding it once.

    Parameters
    ----------
    transform, data, policy, digest, views

    Returns
    -------
    list of torch.Tensor

    Raises
    ------
    BadImageError, UsageError
    """
    if not any(views):
        return [_plain(transform, data)] * len(views)
    if policy is None:
        raise UsageError(f"view {max(views)} needs an augmentation policy; give one")
    if policy.whole:
        image = decode(data)
        return [
            _augmented(transform, image, policy, digest, view) if view else _plain(transform, data)
            for view in views
        ]
    plain = _plain(transform, data)
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


def _plain(transform: Transform, data: bytes) -> torch.Tensor:
    whole = read_size(io.BytesIO(data)) if transform.reduced_decode else (0, 0)
    if not all(whole):
        return transform.pixels(decode(data))
    pixels = decode(data, enough=transform.enough(*whole))
    return transform.pixels(pixels, size=transform.size_of(*whole))
