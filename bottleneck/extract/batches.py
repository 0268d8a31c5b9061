"""Images in, activations out, batch by batch; decoding runs ahead of the base."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch

from bottleneck.bases import FrozenBase
from bottleneck.errors import BadImageError
from bottleneck.images import ImageItem, RejectedImage, decode

__all__ = ["Batch", "Progress", "feature_batches"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the images done and the images in all."""


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
    base: FrozenBase, items: Sequence[ImageItem], *, batch_size: int = 16
) -> Iterator[Batch]:
    """Decode, preprocess and compute, a few batches ahead of the reader.

    Parameters
    ----------
    base : FrozenBase
        Computes its `layers`.
    items : sequence of ImageItem
        In this order. An image whose bytes no longer have the digest is rejected.
    batch_size : int
        Images per call of the base.

    Yields
    ------
    Batch
        The usable images among the next `batch_size`, and those rejected.
    """
    workers = min(8, joblib.cpu_count())
    waiting: deque[tuple[ImageItem, Future[torch.Tensor]]] = deque()
    remaining = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(waiting) < 3 * batch_size and (item := next(remaining, None)):
                    waiting.append((item, pool.submit(_load, base, item)))
                if not waiting:
                    return
                taken = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
                yield _compute(base, taken)
        finally:
            pool.shutdown(cancel_futures=True)


def _compute(base: FrozenBase, taken: Sequence[tuple[ImageItem, Future[torch.Tensor]]]) -> Batch:
    items, tensors, rejected = [], [], []
    for item, future in taken:
        try:
            tensors.append(future.result())
            items.append(item)
        except BadImageError as error:
            rejected.append(RejectedImage(item.path, str(error)))
    if not items:
        return Batch([], {}, rejected)
    # Some kernels sum in another order for a batch of one, so that an image is never alone.
    beside = tensors if len(tensors) > 1 else tensors * 2
    activations = base(torch.stack(beside))
    features = {layer: values.numpy()[: len(items)] for layer, values in activations.items()}
    return Batch(items, features, rejected)


def _load(base: FrozenBase, item: ImageItem) -> torch.Tensor:
    try:
        data = Path(item.path).read_bytes()
    except OSError as error:
        raise BadImageError(error.strerror or str(error)) from error
    if hashlib.sha256(data).hexdigest() != item.digest:
        raise BadImageError("the file changed while it was being extracted")
    return base.transform(decode(data))
