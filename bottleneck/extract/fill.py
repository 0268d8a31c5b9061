"""What the cache lacks: computed and streamed into its banks."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from math import prod

import numpy as np

from bottleneck.bases import FrozenBase
from bottleneck.cache import Bank, Cache, PartWriter, compression_options, store
from bottleneck.errors import CacheError, UsageError
from bottleneck.extract.batches import Batch, Progress, feature_batches
from bottleneck.extract.task import Canary, describe_layers, find_task, missing_images
from bottleneck.images import ImageItem, ImageSet

__all__ = ["Filling", "check_arguments", "fill_banks", "stored_batches"]

_DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Filling:
    """What was computed, and where it is.

    Attributes
    ----------
    banks : dict of str to Bank
        Layer to where it is stored.
    computed : int
        Different images that were computed.
    bad : dict of str to str
        Path to reason, of the images that could not be used; once where several are identical.
    bytes_written : int
        Bytes of the features added.
    """

    banks: dict[str, Bank]
    computed: int
    bad: dict[str, str]
    bytes_written: int


def fill_banks(
    images: ImageSet,
    base: FrozenBase,
    cache: Cache,
    *,
    dtype: str = "float16",
    compress: str = "none",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Filling:
    """Compute the features that the cache lacks and store them; keep neither set nor record.

    Parameters
    ----------
    images, base, cache, dtype, compress, batch_size, progress
        As for `extract_features`; whether there can be such a `dtype`, `compress` and `batch_size`
        is for `check_arguments` to say.

    Raises
    ------
    MissingExtraError, CacheError, FeatureOverflowError
        As `extract_features` does.
    """
    task = find_task(images, base, cache, dtype)
    banks = task.banks
    distinct = {bank.name: bank for bank in banks.values()}.values()
    done = written = 0
    found = len({item.digest for item in images.items}) - task.images
    bad: dict[str, str] = {}
    if progress:
        progress("extract", 0, task.images, cached=found, bytes_written=0)
    try:
        for layers, items in task.missing.items():
            row_bytes = np.dtype(dtype).itemsize * sum(prod(base.shapes[layer]) for layer in layers)
            batches = stored_batches(
                base.cut(layers),
                items,
                banks,
                dtype=dtype,
                compress=compress,
                batch_size=batch_size,
                canary=task.canary,
            )
            with closing(batches):  # commits what was appended, whatever ends the work
                for batch in batches:
                    bad |= {image.path: image.reason for image in batch.rejected}
                    written += len(batch.items) * row_bytes
                    done += len(batch.items) + len(batch.rejected)
                    if progress:
                        progress("extract", done, task.images, cached=found, bytes_written=written)
    except BaseException:
        with suppress(CacheError):  # what stopped the work may be a full disk
            _refresh(distinct)
        raise
    lost = [layer for layer, bank in banks.items() if bank.size and not bank.describes(layer)]
    describe_layers(base, lost, banks, dtype, task.canary)
    _check_held(images, banks, bad)
    _refresh(distinct)
    return Filling(banks, task.images - len(bad), bad, written)


def _check_held(images: ImageSet, banks: Mapping[str, Bank], bad: Mapping[str, str]) -> None:
    """Raise `CacheError` unless the banks hold all images but the bad ones, given by path."""
    lacking = missing_images(images, banks).values()
    gone = sum(item.path not in bad for items in lacking for item in items)
    if gone:
        raise CacheError(
            f"{gone} of {len(images.items)} images vanished from the cache while it was being "
            f"filled, as other commands removed parts; run the command again"
        )


def _refresh(banks: Iterable[Bank]) -> None:
    """Have each ``features.h5`` show the parts that are there."""
    for bank in banks:
        if bank.view_file_is_old:
            bank.rebuild_view_file()


def check_arguments(dtype: str, compress: str, batch_size: int | None) -> None:
    """Raise an error unless features can be stored so, and batches be of that size."""
    compression_options(compress, (1, 1), np.dtype(np.float16))
    if dtype not in _DTYPES:
        raise UsageError(f"no dtype {dtype!r}; expected one of {', '.join(_DTYPES)}")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise UsageError(f"a batch of {batch_size!r} images cannot be; give a number from 1 on")


def stored_batches(
    base: FrozenBase,
    items: Sequence[ImageItem],
    banks: Mapping[str, Bank],
    *,
    dtype: str,
    compress: str,
    batch_size: int | None,
    canary: Canary,
) -> Generator[Batch]:
    """Compute the base's layers of some images; yield each batch once it is appended."""
    layers_of: dict[str, list[str]] = {}
    for layer in base.layers:
        layers_of.setdefault(banks[layer].name, []).append(layer)
    with ExitStack() as stack:
        writers: dict[str, PartWriter] = {}
        for batch in feature_batches(base, items, batch_size=batch_size):
            if batch.items and not writers:
                for layer, values in batch.features.items():
                    store(values, dtype, layer)  # a bank is made only for what can be stored
                describe_layers(base, base.layers, banks, dtype, canary)
                for name, (first, *_) in layers_of.items():
                    writer = banks[first].writer(dtype, share=len(layers_of), compress=compress)
                    writers[name] = stack.enter_context(writer)
            if batch.items:
                digests = [item.digest for item in batch.items]
                for name, layers in layers_of.items():
                    own = {layer: batch.features[layer] for layer in layers}
                    writers[name].append(digests, own)
            yield batch
