"""Compute activations of image files, batch by batch, on all cores or on GPUs."""

import io
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import gcd
from operator import itemgetter
from typing import Literal, TypeVar

import numpy as np
import torch

from bottleneck.augment import Policy
from bottleneck.bases import Transform
from bottleneck.bases.frozen import FrozenBase
from bottleneck.errors import BadImageError, UsageError
from bottleneck.extract.lanes import find_lanes, freed_memory_kept
from bottleneck.images import (
    MAX_PIXELS,
    Decoded,
    ImageItem,
    decode_whole,
    in_threads,
    read_file,
    read_size,
)

__all__ = [
    "Batch",
    "Progress",
    "Remarks",
    "ahead",
    "feature_batches",
    "preprocess",
    "preprocess_views",
    "reference_features",
    "sorted_by_size",
]

Seen = Callable[[Decoded], None]
Progress = Callable[..., None]
"""Called with the stage, the number of images done and their total; other counts by name."""

_Task = TypeVar("_Task")
_Ready = TypeVar("_Ready")
_Loaded = tuple[ImageItem, bytes | list[torch.Tensor] | BadImageError]


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


@dataclass(frozen=True)
class Remarks:
    """What users should know of images that were decoded, in any thread.

    Attributes
    ----------
    pages : dict of str to str
        Digest to path, of files that have more pages or frames.
    deep : dict of str to int
        Digest to about the largest value, of images of 16 bits that do not state that of white.
    """

    pages: dict[str, str] = field(default_factory=dict)
    deep: dict[str, int] = field(default_factory=dict)

    def add(self, item: ImageItem, decoded: Decoded) -> None:
        """Add what is known of an image."""
        if decoded.pages:
            self.pages[item.digest] = item.path
        if decoded.brightest is not None:
            self.deep[item.digest] = decoded.brightest


def feature_batches(
    base: FrozenBase,
    items: Sequence[ImageItem],
    *,
    batch_size: int | Literal["auto"] = "auto",
    policy: Policy | None = None,
    views: Mapping[str, Sequence[int]] | None = None,
    remarks: Remarks | None = None,
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
    remarks : Remarks, optional
        Filled with what users should know of the images.

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
    most = max(map(len, views_of.values()), default=1)
    lanes = find_lanes(base, most * len(items), batch_size)
    at_once = lanes.batch_size // gcd(lanes.batch_size, most)  # the fewest that leave no call short
    workers, known = len(lanes.all), Remarks() if remarks is None else remarks

    def decoded(item: ImageItem, data: bytes) -> list[torch.Tensor]:
        seen, numbers = partial(known.add, item), views_of[item.digest]
        return preprocess_views(base.transform, data, policy, item.digest, numbers, seen=seen)

    def load(item: ImageItem) -> _Loaded:
        try:
            data = read_file(item)
            return item, decoded(item, data) if lanes.decode_ahead else data
        except BadImageError as error:
            return item, error

    def computed(loaded: Sequence[_Loaded]) -> Batch:
        rows: list[tuple[ImageItem, int]] = []
        pixels: list[torch.Tensor] = []
        rejected = []
        for item, found in loaded:
            try:
                if isinstance(found, BadImageError):
                    raise found
                pixels += decoded(item, found) if isinstance(found, bytes) else found
                rows += [(item, view) for view in views_of[item.digest]]
            except BadImageError as error:
                rejected.append((item, str(error)))
        features = lanes.compute(pixels) if pixels else {}
        numbers = [view for _, view in rows]
        return Batch([item for item, _ in rows], numbers, features, rejected, len(loaded))

    wanted = max(at_once, lanes.loaders)  # beyond the chunks of `ahead`
    loading = in_threads(load, items, workers=lanes.loaders, waiting=wanted)
    with freed_memory_kept(), closing(loading) as loaded:
        chunks = iter(lambda: list(islice(loaded, at_once)), [])
        yield from ahead(computed, chunks, workers, workers + 1)


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
    transform: Transform, data: bytes, policy: Policy | None = None, digest: str = "", view: int = 0
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
    transform: Transform,
    data: bytes,
    policy: Policy | None,
    digest: str,
    views: Sequence[int],
    *,
    seen: Seen | None = None,
) -> list[torch.Tensor]:
    """Return several views of an image, as from `preprocess`, decoding it once.

    Parameters
    ----------
    transform, data, policy, digest, views
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
        return [_plain(transform, data, seen)] * len(views)
    if policy is None:
        raise UsageError(f"view {max(views)} needs an augmentation policy; give one")
    if policy.whole:
        image = _decoded(transform, data, seen)
        return [
            _augmented(transform, image, policy, digest, view)
            if view
            else _plain(transform, data, seen)
            for view in views
        ]
    plain = _plain(transform, data, seen)
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


def _plain(transform: Transform, data: bytes, seen: Seen | None) -> torch.Tensor:
    whole = read_size(io.BytesIO(data)) if transform.reduced_decode else (0, 0)
    if not all(whole):
        return transform.pixels(_decoded(transform, data, seen))
    pixels = _decoded(transform, data, seen, transform.enough(*whole))
    return transform.pixels(pixels, size=transform.size_of(*whole))


def _decoded(
    transform: Transform, data: bytes, seen: Seen | None, enough: tuple[int, int] | None = None
) -> np.ndarray:
    limit = transform.max_pixels or MAX_PIXELS
    found = decode_whole(data, enough=enough, max_value=transform.max_value, max_pixels=limit)
    if seen:
        seen(found)
    return found.pixels
