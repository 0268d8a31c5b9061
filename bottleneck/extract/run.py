"""Extraction: compute what is missing and stream it into the cache."""

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from bottleneck.bases import FrozenBase
from bottleneck.cache import Bank, Cache, PartWriter, compression_options, store
from bottleneck.errors import CacheError, DataError, UsageError
from bottleneck.extract.batches import Batch, Progress, feature_batches
from bottleneck.extract.task import Canary, describe_layers, find_task, missing_images
from bottleneck.images import ImageItem, ImageSet, RejectedImage

__all__ = ["Extraction", "check_arguments", "extract_features", "stored_batches"]

_DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class ExtractedLayer:
    """Where a layer's features are.

    Attributes
    ----------
    layer, alias : str, str or None
        torchvision's name and Keras'.
    aliases : list of str
        All names by which the layer can be asked for, beside its own.
    bank : str
        Name of the bank's folder.
    fingerprint : str
        64 hexadecimal digits.
    pool, axes : str
        How the activations are pooled, and what the axes of what is stored are.
    shape : list of int
        Of one image's pooled activation.
    """

    layer: str
    alias: str | None
    aliases: list[str]
    bank: str
    fingerprint: str
    pool: str
    axes: str
    shape: list[int]


@dataclass(frozen=True)
class Extraction:
    """What an extraction did; its record under ``cache/runs/``.

    Attributes
    ----------
    image_set, image_set_digest : str
        Name of the CSV file under ``cache/sets/``, and the digest of its images and labels.
    model, weights : str
        As the user named the one, and where the other came from.
    weights_random : bool
        The weights were never trained: the features serve to try the plumbing only.
    adjustments : dict
        How the preprocessing differs from that of the weights: arguments of `FrozenBase`.
    precision, dtype : str
        In which numbers the base computed (``fp32``, ``bf16`` or ``fp16``), and how the features
        are stored (``float16`` or ``float32``).
    layers : list of ExtractedLayer
        In the order of computation.
    images, computed, cached : int
        Usable images, and how many different ones were computed and found in the cache.
    rejected : list of RejectedImage
        Images that could not be used, with the reason.
    leaks, conflicts : list of str
        Digests of images that stand in several splits, and under several labels.
    bytes_written : int
        Bytes of the features added.
    seconds : float
        Wall time.
    """

    image_set: str
    image_set_digest: str
    model: str
    weights: str
    weights_random: bool
    adjustments: dict[str, Any]
    precision: str
    dtype: str
    layers: list[ExtractedLayer]
    images: int
    computed: int
    cached: int
    rejected: list[RejectedImage]
    leaks: list[str]
    conflicts: list[str]
    bytes_written: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON holds it."""
        return asdict(self)


def extract_features(
    images: ImageSet,
    base: FrozenBase,
    cache: Cache,
    *,
    dtype: str = "float16",
    compress: str = "none",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Compute the features that the cache lacks and store them.

    An image is known by its bytes: renamed, moved, relabelled and doubled images cost nothing. The
    image set is written to ``cache/sets/`` and the run's record to ``cache/runs/``.

    Parameters
    ----------
    images : ImageSet
        What to extract.
    base : FrozenBase
        Computes the layers.
    cache : Cache
        Where features are looked for and stored.
    dtype : str
        ``float16`` or ``float32``: how features are stored.
    compress : str
        ``none``, ``lz4`` or ``zstd``: how new parts are compressed, without loss.
    batch_size : int, optional
        Images per call of the base; by default what suits the machine.
    progress : callable, optional
        Called with ``"extract"``, the images done and the images to do; by name, with how many
        more were found in the cache, ``cached``, and with ``bytes_written``.

    Raises
    ------
    UsageError
        `dtype`, `compress` or `batch_size` cannot be right, or the set's name is too long for a
        file.
    MissingExtraError
        hdf5plugin, which compresses, is not installed.
    DataError
        Not one image could be used.
    CacheError
        The cache cannot be written, or a bank's canary disagrees with the base.
    FeatureOverflowError
        A layer does not fit into `dtype`.
    """
    check_arguments(dtype, compress, batch_size)
    started = time.monotonic()
    set_file = cache.set_file(images.name)
    cache.check_writable()
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
    usable = _usable(images, bad)
    computed = task.images - len(bad)
    gone = sum(map(len, missing_images(usable, banks).values()))
    if gone:
        raise CacheError(
            f"{gone} of {len(usable.items)} images vanished from the cache while it was being "
            f"filled, as other commands removed parts; run the command again"
        )
    _refresh(distinct)
    usable.write_csv(set_file)
    extraction = Extraction(
        image_set=images.name,
        image_set_digest=usable.digest_of(),
        model=base.model,
        weights=base.weights_name,
        weights_random=base.weights_random,
        adjustments=base.adjustments,
        precision=base.precision,
        dtype=dtype,
        layers=[
            ExtractedLayer(
                layer=layer,
                alias=base.network.alias(layer),
                aliases=list(base.network.layers[layer].aliases),
                bank=bank.name,
                fingerprint=base.fingerprint(layer, dtype),
                pool=base.pools[layer],
                axes=base.axes[layer],
                shape=list(base.shapes[layer]),
            )
            for layer, bank in banks.items()
        ],
        images=len(usable.items),
        computed=computed,
        cached=len({item.digest for item in usable.items}) - computed,
        rejected=list(usable.rejected),
        leaks=list(usable.leaks),
        conflicts=list(usable.conflicts),
        bytes_written=written,
        seconds=round(time.monotonic() - started, 3),
    )
    cache.record_run(extraction.as_dict())
    return extraction


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


def _usable(images: ImageSet, bad: Mapping[str, str]) -> ImageSet:
    """Return the set without the bad images, given by path, and without their duplicates."""
    reasons = {item.digest: bad[item.path] for item in images.items if item.path in bad}
    rejected = [
        RejectedImage(item.path, reasons[item.digest])
        for item in images.items
        if item.digest in reasons
    ]
    try:
        usable = images.without(rejected)
    except DataError as error:
        raise DataError(
            f"{error}; {len(rejected)} of the images could not be used, first "
            f"{rejected[0].path!r} ({rejected[0].reason})"
        ) from error
    if not usable.items:
        first = usable.rejected[0]
        raise DataError(
            f"none of the {len(usable.rejected)} images of {images.name!r} could be used, first "
            f"{first.path!r} ({first.reason}); check the files"
        )
    return usable
