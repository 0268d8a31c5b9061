"""Images in, activations out, batch by batch, on all cores or on GPUs."""

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import torch

from bottleneck.bases import FrozenBase, Transform
from bottleneck.errors import BadImageError
from bottleneck.extract.lanes import Lane, find_lanes
from bottleneck.extract.memory import freed_memory_kept
from bottleneck.images import ImageItem, RejectedImage, decode, read_size

__all__ = ["Batch", "Progress", "feature_batches", "preprocess"]

Progress = Callable[..., None]
"""Called with what is being done, the images done and the images in all; other counts by name."""

_Loaded = tuple[ImageItem, Future[bytes | torch.Tensor]]


@dataclass(frozen=True)
class Batch:
    """Activations of a few images.

    Attributes
    ----------
    items : list of ImageItem
        n images.
    features : dict of str to np.ndarray
        Layer to float32 of shape (n, ...); empty where no image of the batch could be used.
    rejected : list of RejectedImage
        Images met on the way that could not be used.
    """

    items: list[ImageItem]
    features: dict[str, np.ndarray]
    rejected: list[RejectedImage]


def feature_batches(
    base: FrozenBase, items: Sequence[ImageItem], *, batch_size: int | None = None
) -> Iterator[Batch]:
    """Decode, preprocess and compute, a few batches ahead of the reader.

    On a processor each core takes whole batches from the file's bytes to the activations, without
    ever waiting for another core, while a thread beside it reads the next files. For a GPU all
    cores decode, and two batches are under way on it: one is copied while the other is computed.

    Parameters
    ----------
    base : FrozenBase
        Computes its `layers`.
    items : sequence of ImageItem
        In this order. An image whose bytes no longer have the digest is rejected.
    batch_size : int, optional
        Images per call of the base; by default what `find_lanes` thinks best.

    Yields
    ------
    Batch
        The usable images among the next `batch_size`, and those rejected.

    Raises
    ------
    MemoryShortError
        Not even two images at a time fit.
    """
    lanes = find_lanes(base, len(items), batch_size)
    load: Callable[[FrozenBase, ImageItem], bytes | torch.Tensor]
    load = _decode_file if lanes.decode_ahead else _read
    threads = torch.get_num_threads()
    free: SimpleQueue[Lane] = SimpleQueue()
    for lane in lanes.all:
        free.put(lane)
    waiting: deque[Future[Batch]] = deque()
    remaining = iter(items)
    with ExitStack() as stack:
        stack.enter_context(freed_memory_kept())
        stack.callback(torch.set_num_threads, threads)  # which new threads would take over
        ahead = stack.enter_context(ThreadPoolExecutor(lanes.loaders))
        pool = stack.enter_context(
            ThreadPoolExecutor(len(lanes.all), initializer=torch.set_num_threads, initargs=(1,))
        )
        for executor in (ahead, pool):
            stack.callback(executor.shutdown, wait=False, cancel_futures=True)
        while some := list(islice(remaining, lanes.batch_size)):
            loaded: list[_Loaded] = [(item, ahead.submit(load, base, item)) for item in some]
            waiting.append(pool.submit(_compute, base, free, loaded))
            if len(waiting) > len(lanes.all) + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _compute(base: FrozenBase, free: SimpleQueue[Lane], loaded: Sequence[_Loaded]) -> Batch:
    """Take one batch the rest of the way."""
    items: list[ImageItem] = []
    rejected = []
    places: dict[torch.Size, list[int]] = {}
    pixels: list[torch.Tensor] = []
    for item, future in loaded:
        try:
            found = future.result()
            decoded = found if isinstance(found, torch.Tensor) else _decode(base, item, found)
        except BadImageError as error:
            rejected.append(RejectedImage(item.path, str(error)))
            continue
        places.setdefault(decoded.shape, []).append(len(items))
        items.append(item)
        pixels.append(decoded)
    lane = free.get()
    try:
        groups = [(rows, lane.compute([pixels[row] for row in rows])) for rows in places.values()]
    finally:
        free.put(lane)
    features = groups[0][1] if len(groups) == 1 else _joined(groups)
    return Batch(items, features, rejected)


def _joined(groups: Sequence[tuple[list[int], dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """Put the rows of images of several sizes back into their order."""
    order = np.argsort([row for rows, _ in groups for row in rows])
    layers = groups[0][1] if groups else {}
    return {
        layer: np.concatenate([features[layer] for _, features in groups])[order]
        for layer in layers
    }


def _read(_base: FrozenBase, item: ImageItem) -> bytes:
    try:
        return Path(item.path).read_bytes()
    except OSError as error:
        raise BadImageError(error.strerror or str(error)) from error


def _decode(base: FrozenBase, item: ImageItem, data: bytes) -> torch.Tensor:
    if hashlib.sha256(data).hexdigest() != item.digest:
        raise BadImageError("the file changed while it was being extracted")
    return preprocess(base.transform, data)


def preprocess(transform: Transform, data: bytes) -> torch.Tensor:
    """Decode an image's bytes and bring it to size, as `Transform.pixels` gives it.

    Raises
    ------
    BadImageError
        It cannot be decoded, or is too thin.
    """
    whole = read_size(io.BytesIO(data)) if transform.reduced_decode else (0, 0)
    if not all(whole):
        return transform.pixels(decode(data))
    pixels = decode(data, enough=transform.enough(*whole))
    return transform.pixels(pixels, size=transform.size_of(*whole))


def _decode_file(base: FrozenBase, item: ImageItem) -> torch.Tensor:
    return _decode(base, item, _read(base, item))
