"""Workers that compute batches: one for each core, or two for each GPU."""

import ctypes
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Literal

import joblib
import numpy as np
import torch

from bottleneck.bases.frozen import FrozenBase
from bottleneck.errors import MemoryShortError, counted, first_line, is_out_of_memory

__all__ = [
    "Lane",
    "Lanes",
    "find_lanes",
    "freed_memory_kept",
    "largest_that_pays",
    "usable_cores",
]

_IMAGES_AT_ONCE = 64
_PER_CORE = 4
"""The fastest of 2 to 16 for VGG16, ResNet-50 and MobileNetV2 together: docs/performance.md."""
_FEWEST = 2
_PER_GPU = 2
_LARGEST_BATCH = 1024
_PAYS = 1.05
_TRIALS = 3
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""What malloc.h of the GNU C library calls M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX."""
_KEPT = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_THRESHOLD: 2**30, _ARENA_MAX: 1}
_USUAL = {_TRIM_THRESHOLD: 2**26, _MMAP_THRESHOLD: 2**25, _ARENA_MAX: 0}
"""Values that the C library would choose by itself after a few large arrays."""


@dataclass
class Lane:
    """Computes batches on one core, or on one stream of a GPU.

    Parameters
    ----------
    base : FrozenBase
        The base.
    device : torch.device
        One of its `devices`.
    least : int
        Minimum batch size of a call; the last image is repeated if necessary. Kernels sum in
        another order for other batch sizes, and the features of an image must not depend on how
        many were left.
    stream : torch.cuda.Stream, optional
        The stream, if the device is a GPU.
    """

    base: FrozenBase
    device: torch.device
    least: int
    stream: Any = None

    def __post_init__(self) -> None:
        self._thread: Executor | None = None

    def compute(self, pixels: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
        """Compute the layers of some images, splitting the batch if memory runs out.

        Parameters
        ----------
        pixels : sequence of torch.Tensor
            n images from `Transform.pixels`, all of one size.

        Returns
        -------
        dict of str to np.ndarray
            Layer to float32 of shape (n, ...).

        Raises
        ------
        MemoryShortError
            Not even the minimum number of images fits.
        """
        try:
            lacking = self.least - len(pixels)
            found = self._compute_apart([*pixels, *[pixels[-1]] * lacking])
            return {layer: values[: len(pixels)] for layer, values in found.items()}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        if len(pixels) <= self.least:
            height, width = pixels[0].shape[-2:]
            raise MemoryShortError(
                f"not even {counted(self.least, 'image')} of {height} x {width} pixels can be held "
                f"in the memory of {self.device} ({reason}); use an earlier layer, a smaller "
                f"`image_size` or another `device`"
            )
        if self.stream:
            torch.cuda.empty_cache()
        if "create a primitive" in reason:  # otherwise not, as memory is short for threads, too
            self._begin_thread()
        half = len(pixels) // 2
        parts = [self.compute(pixels[:half]), self.compute(pixels[half:])]
        return {layer: np.concatenate([part[layer] for part in parts]) for layer in parts[0]}

    def _begin_thread(self) -> None:
        """Compute in a new thread from now on.

        Once oneDNN has found no memory for the code of a kernel, it makes no other kernel in the
        same thread, however much memory there is.
        """
        if self._thread:
            self._thread.shutdown(wait=False)
        self._thread = ThreadPoolExecutor(
            1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
        )

    def _compute_apart(self, pixels: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
        if self._thread is None:
            return self._compute(pixels)
        return self._thread.submit(self._compute, pixels).result()

    def _compute(self, pixels: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
        normalise = self.base.transform.normalise
        if not self.stream:  # an image at a time stays in the core's own cache
            batch = torch.stack([normalise(each) for each in pixels])
            return {layer: values.numpy() for layer, values in self.base(batch).items()}
        with torch.cuda.stream(self.stream):
            sent = torch.stack(list(pixels)).pin_memory().to(self.device, non_blocking=True)
            activations = self.base(normalise(sent))
            return {layer: values.cpu().numpy() for layer, values in activations.items()}

    def rate(self, size: int) -> float:
        """Return the images per second for black images in batches of a size.

        If memory runs out, torch's error is raised.

        Parameters
        ----------
        size : int
            Images in a batch.

        Returns
        -------
        float
            Images per second.

        Raises
        ------
        RuntimeError, MemoryError
            The batch does not fit into memory.
        """
        pixels = [torch.zeros(3, *self.base.transform.crop, dtype=torch.uint8)] * size
        self._compute(pixels)
        started = time.monotonic()
        for _ in range(_TRIALS):
            self._compute(pixels)
        return _TRIALS * size / (time.monotonic() - started)


@dataclass
class Lanes:
    """The workers of an extraction.

    Attributes
    ----------
    all : list of Lane
        Lanes that run in parallel.
    batch_size : int
        Images that a lane takes at a time.
    loaders : int
        Number of threads that load images ahead of the lanes.
    decode_ahead : bool
        Whether these threads also decode, or only read.
    """

    all: list[Lane]
    batch_size: int
    loaders: int
    decode_ahead: bool

    def __post_init__(self) -> None:
        self._free: SimpleQueue[Lane] = SimpleQueue()
        for lane in self.all:
            self._free.put(lane)

    def compute(self, pixels: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
        """Compute the layers of some images on the next lane that is free.

        Parameters
        ----------
        pixels : sequence of torch.Tensor
            n images from `Transform.pixels`, at least one, of any sizes: each call of the base gets
            up to `batch_size` images of one size.

        Returns
        -------
        dict of str to np.ndarray
            Layer to float32 of shape (n, ...).

        Raises
        ------
        MemoryShortError
            See `Lane.compute`.
        """
        places: dict[torch.Size, list[int]] = {}
        for row, each in enumerate(pixels):
            places.setdefault(each.shape, []).append(row)
        calls = [
            rows[start : start + self.batch_size]
            for rows in places.values()
            for start in range(0, len(rows), self.batch_size)
        ]
        lane = self._free.get()
        try:
            found = [lane.compute([pixels[row] for row in rows]) for rows in calls]
        finally:
            self._free.put(lane)
        if len(found) == 1:
            return found[0]
        order = np.argsort([row for rows in calls for row in rows])
        return {
            layer: np.concatenate([values[layer] for values in found])[order] for layer in found[0]
        }


def usable_cores() -> int:
    """Return the number of cores that may be used.

    They are counted as in joblib, by affinity and container limits, with `torch.get_num_threads` as
    the maximum, so that users can limit them.

    Returns
    -------
    int
    """
    cores: int = min(joblib.cpu_count(), torch.get_num_threads())
    return cores


def find_lanes(base: FrozenBase, images: int, batch_size: int | Literal["auto"] = "auto") -> Lanes:
    """Distribute an extraction over the `usable_cores`, or over the base's GPUs.

    Parameters
    ----------
    base : FrozenBase
        The base, with its `devices`.
    images : int
        Number of images: each core gets its share, however large the batch.
    batch_size : int or "auto"
        Images per forward pass. ``auto`` is 4 per core, fewer from 17 cores on; on a GPU it is the
        largest size that is at least 5% faster than half that size.

    Returns
    -------
    Lanes
        The lanes and their batch size.
    """
    cores = usable_cores()
    if base.devices[0].type == "cpu":
        fitting = max(_FEWEST, min(_PER_CORE, _IMAGES_AT_ONCE // cores))
        wanted = fitting if batch_size == "auto" else batch_size
        least = _FEWEST if base.transform.keep_aspect else max(_FEWEST, min(fitting, wanted))
        lanes = [Lane(base, base.devices[0], least) for _ in range(cores)]
        share = max(fitting, -(-images // cores))
        return Lanes(lanes, min(wanted, share), loaders=2, decode_ahead=False)
    lanes = [
        Lane(base, device, _FEWEST, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
        for device in base.devices * _PER_GPU
    ]
    if batch_size == "auto":
        batch_size = largest_that_pays(lanes[0].rate)
    return Lanes(lanes, batch_size, loaders=cores, decode_ahead=True)


def largest_that_pays(rate: Callable[[int], float]) -> int:
    """Return the batch size from which doubling speeds up by less than 5%.

    Parameters
    ----------
    rate : callable
        Maps a batch size to images per second; raises `RuntimeError` if memory runs out.

    Returns
    -------
    int
        Images in a batch.

    Raises
    ------
    RuntimeError, MemoryError
        Raised by `rate` for a reason other than running out of memory.
    """
    size, best = 8, 0.0
    while size <= _LARGEST_BATCH:
        try:
            found = rate(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if found < _PAYS * best:
            break
        size, best = 2 * size, found
    return max(_FEWEST, size // 2)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory for the next batch, and return it to the system at the end.

    Otherwise the GNU C library returns each large activation to the system at once, which must
    clear all its pages again for the next. Other C libraries are not changed.

    Yields
    ------
    None
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        yield
        return
    try:
        for parameter, value in _KEPT.items():
            library.mallopt(parameter, value)
        yield
    finally:
        for parameter, value in _USUAL.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)
