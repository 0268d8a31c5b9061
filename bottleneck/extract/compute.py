"""Compute activations of image files, batch by batch, on all cores or on GPUs."""

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from math import gcd, lcm
from operator import itemgetter
from typing import Literal, TypeVar

import numpy as np
import torch

from bottleneck.augment import Policy
from bottleneck.bases import Transform
from bottleneck.bases.encoded import Encoded
from bottleneck.bases.frozen import FrozenBase
from bottleneck.errors import BadImageError
from bottleneck.extract.decoding import preprocess_views
from bottleneck.extract.lanes import Lanes, find_lanes, freed_memory_kept
from bottleneck.images import Decoded, ImageItem, in_threads, read_file, read_size, readers_for

__all__ = [
    "Batch",
    "Chunk",
    "Progress",
    "Remarks",
    "Work",
    "ahead",
    "feature_batches",
    "joint_batches",
    "sorted_by_size",
]

Progress = Callable[..., None]
"""Called with the stage, the number of images done and their total; other counts by name."""

_Task = TypeVar("_Task")
_Ready = TypeVar("_Ready")
_Views = list[torch.Tensor] | str | None
"""The views of an image for a base, or why it has none; None if the base does not compute it."""


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
    seconds : float
        Time in which a worker computed the activations.
    """

    items: list[ImageItem]
    views: list[int]
    features: dict[str, np.ndarray]
    rejected: list[tuple[ImageItem, str]]
    images: int
    seconds: float


@dataclass(frozen=True)
class Chunk:
    """Images that were decoded together.

    Attributes
    ----------
    batches : list of Batch
        What each base computed of them.
    images : int
        Number of images.
    """

    batches: list[Batch]
    images: int


@dataclass(frozen=True)
class Remarks:
    """What is to know of images beside their features, found in any thread.

    Attributes
    ----------
    pages : dict of str to str
        Digest to path, of files that have more pages or frames.
    deep : dict of str to int
        Digest to about the largest value, of images of 16 bits that do not state that of white.
    unread : dict of str to str
        Digest to path, of files whose bytes could not be read.
    """

    pages: dict[str, str] = field(default_factory=dict)
    deep: dict[str, int] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    def add(self, item: ImageItem, decoded: Decoded) -> None:
        """Add what is known of an image."""
        if decoded.pages:
            self.pages[item.digest] = item.path
        if decoded.brightest is not None:
            self.deep[item.digest] = decoded.brightest


@dataclass(frozen=True)
class Work:
    """What a base computes.

    Attributes
    ----------
    base : FrozenBase
        Computes its `layers`.
    views : mapping of str to sequence of int
        View numbers of each image, by digest.
    remarks : Remarks
        Filled with what users should know of these images.
    """

    base: FrozenBase
    views: Mapping[str, Sequence[int]]
    remarks: Remarks = field(default_factory=Remarks)

    @property
    def most(self) -> int:
        """The number of views of the image that has most."""
        return max(map(len, self.views.values()), default=1)

    @property
    def sees(self) -> str:
        """All that decides the pixels of a view, which are normalised only later."""
        return repr(replace(self.base.transform, mean=(), std=()))


def feature_batches(
    base: FrozenBase,
    items: Sequence[ImageItem],
    *,
    batch_size: int | Literal["auto"] = "auto",
    policy: Policy | None = None,
    views: Mapping[str, Sequence[int]] | None = None,
) -> Generator[Batch]:
    """Decode, preprocess and compute batches with one base, as `joint_batches` does.

    Parameters
    ----------
    base : FrozenBase
        Computes its `layers`.
    items, batch_size, policy
        As for `joint_batches`.
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
    views_of = {item.digest: (0,) for item in items} if views is None else views
    works = [Work(base, views_of)]
    chunks = joint_batches(works, items, batch_size=batch_size, policy=policy)
    with closing(chunks):
        for chunk in chunks:
            yield chunk.batches[0]


def joint_batches(
    works: Sequence[Work],
    items: Sequence[ImageItem],
    claimed: Iterable[ImageItem] | None = None,
    *,
    batch_size: int | Literal["auto"] = "auto",
    policy: Policy | None = None,
) -> Generator[Chunk]:
    """Decode images and compute them with all bases, a few batches ahead of the reader.

    On CPUs, each core takes whole batches from file bytes to activations without waiting for other
    cores, while another thread reads the next files. For a GPU, all cores decode, and two batches
    are in progress on it: one is copied while the other is computed.

    An image is read and decoded once for all of its views and all bases, see `Encoded`. A base is
    always called with `batch_size` of them, so that the features of a view do not depend on which
    others were computed, nor on other bases.

    Parameters
    ----------
    works : sequence of Work
        What each base computes.
    items : sequence of ImageItem
        Images in order. One whose file no longer has the digest is rejected.
    claimed : iterable of ImageItem, optional
        Those to compute, by default all; read when they are next.
    batch_size : int or "auto"
        Images per forward pass; ``auto`` adapts to the machine, see `find_lanes`.
    policy : Policy, optional
        Augmentation policy of views from 1 on.

    Yields
    ------
    Chunk
        The next images, with a batch for each of `works`.

    Raises
    ------
    MemoryShortError
        Not even two images fit at a time.
    """
    most = max(work.most for work in works)
    each_lanes = [find_lanes(work.base, most * len(items), batch_size) for work in works]
    # The fewest images that leave no call short.
    sizes = [lanes.batch_size for lanes in each_lanes]
    at_once = lcm(*(s // gcd(s, work.most) for s, work in zip(sizes, works, strict=True)))
    ahead_too = any(lanes.decode_ahead for lanes in each_lanes)
    workers = max(len(lanes.all) for lanes in each_lanes)
    loaders = readers_for(items, max(lanes.loaders for lanes in each_lanes))
    sees = [work.sees for work in works]

    def load(item: ImageItem) -> tuple[ImageItem, bytes | list[_Views]]:
        try:
            data = read_file(item)
        except BadImageError as error:
            reason = str(error)
            works[0].remarks.unread[item.digest] = item.path
            return item, [reason if item.digest in work.views else None for work in works]
        return item, _views_of(item, data, works, sees, policy) if ahead_too else data

    def computed(loaded: Sequence[tuple[ImageItem, bytes | list[_Views]]]) -> Chunk:
        ready = [
            found if isinstance(found, list) else _views_of(item, found, works, sees, policy)
            for item, found in loaded
        ]
        batches = []
        for place, (work, lanes) in enumerate(zip(works, each_lanes, strict=True)):
            own = [(item, views[place]) for (item, _), views in zip(loaded, ready, strict=True)]
            batches.append(_batch(work, lanes, own))
        return Chunk(batches, len(loaded))

    wanted = max(at_once, loaders)  # beyond the chunks of `ahead`
    chosen = items if claimed is None else claimed
    loading = in_threads(load, chosen, workers=loaders, waiting=wanted)
    with freed_memory_kept(), closing(loading) as loaded:
        chunks = iter(lambda: list(islice(loaded, at_once)), [])
        yield from ahead(computed, chunks, workers, workers + 1)


def _views_of(
    item: ImageItem, data: bytes, works: Sequence[Work], sees: Sequence[str], policy: Policy | None
) -> list[_Views]:
    """Return an image's views for each base; those that see the same pixels share them."""
    image, found = Encoded(data), list[_Views]([None] * len(works))
    alike: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for place, work in enumerate(works):
        if item.digest in work.views:
            key = sees[place], tuple(work.views[item.digest])
            alike.setdefault(key, []).append(place)
    for (_, numbers), places in alike.items():
        transform, seen = works[places[0]].base.transform, list[Decoded]()
        views: _Views
        try:
            views = preprocess_views(
                transform, image, policy, item.digest, numbers, seen=seen.append
            )
        except BadImageError as error:
            views = str(error)
        for place in places:
            found[place] = views
            for decoded in seen:
                works[place].remarks.add(item, decoded)
    return found


def _batch(work: Work, lanes: Lanes, found: Sequence[tuple[ImageItem, _Views]]) -> Batch:
    """Compute the views of some images that have any for this base."""
    started = time.monotonic()
    rows: list[tuple[ImageItem, int]] = []
    pixels: list[torch.Tensor] = []
    rejected = []
    for item, views in found:
        if isinstance(views, str):
            rejected.append((item, views))
        elif views is not None:
            pixels += views
            rows += [(item, view) for view in work.views[item.digest]]
    features = lanes.compute(pixels) if pixels else {}
    images = sum(views is not None for _, views in found)
    items, numbers = [item for item, _ in rows], [view for _, view in rows]
    return Batch(items, numbers, features, rejected, images, time.monotonic() - started)


def ahead(
    work: Callable[[_Task], _Ready], tasks: Iterable[_Task], workers: int, waiting: int
) -> Generator[_Ready]:
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
    threads, one = torch.get_num_threads(), partial(torch.set_num_threads, 1)
    try:
        yield from in_threads(work, tasks, workers=workers, waiting=waiting, initializer=one)
    finally:
        torch.set_num_threads(threads)  # which new threads would take over


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
