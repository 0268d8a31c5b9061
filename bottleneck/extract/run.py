"""Extraction: fill the banks, and keep the image set and a record of the run."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bottleneck.augment import Policy
from bottleneck.cache import Cache
from bottleneck.errors import DataError
from bottleneck.extract.batches import Progress
from bottleneck.extract.fill import check_arguments, check_views, fill_banks
from bottleneck.images import ImageSet, RejectedImage

if TYPE_CHECKING:
    from bottleneck.bases.frozen import FrozenBase

__all__ = ["Extraction", "extract_features", "usable_images"]


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
    view_bank, view_fingerprint : str or None
        Where the augmented views' features are; None where there are none.
    """

    layer: str
    alias: str | None
    aliases: list[str]
    bank: str
    fingerprint: str
    pool: str
    axes: str
    shape: list[int]
    view_bank: str | None
    view_fingerprint: str | None


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
    views, views_computed : int
        Augmented views of each training image, and how many of all were computed.
    policy, augmentation : str or None, dict or None
        How they were made: the policy's name, and what of it decides the pixels.
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
    views: int
    views_computed: int
    policy: str | None
    augmentation: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON holds it."""
        return asdict(self)


def extract_features(
    images: ImageSet,
    base: "FrozenBase",
    cache: Cache,
    *,
    views: int = 0,
    policy: Policy | None = None,
    dtype: str = "float16",
    compress: str = "none",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Compute the features that the cache lacks and store them.

    An image is known by its bytes: renamed, moved, relabelled and doubled images cost nothing. The
    image set is written to ``cache/sets/`` and the run's record to ``cache/runs/``. Augmented views
    have banks of their own, one for each policy.

    Parameters
    ----------
    images : ImageSet
        What to extract.
    base : FrozenBase
        Computes the layers.
    cache : Cache
        Where features are looked for and stored.
    views : int
        Augmented views of each training image, beside the plain one.
    policy : Policy, optional
        How they are made, see `bottleneck.augment.find_policy`.
    dtype : str
        ``float16`` or ``float32``: how features are stored.
    compress : str
        ``none``, ``lz4`` or ``zstd``: how new parts are compressed, without loss.
    batch_size : int, optional
        Images per call of the base; by default what suits the machine.
    progress : callable, optional
        Called with ``"extract"``, the images done and the images to do; by name, with how many
        more were found in the cache, ``cached``, and with ``bytes_written``. Then likewise with
        ``"views"``, where there are any.

    Raises
    ------
    UsageError
        `views`, `policy`, `dtype`, `compress` or `batch_size` cannot be right, or the set's name
        is too long for a file.
    MissingExtraError
        hdf5plugin, which compresses, is not installed.
    DataError
        Not one image could be used, or there are no training images to have views of.
    CacheError
        The cache cannot be written, or a bank's canary disagrees with the base.
    FeatureOverflowError
        A layer does not fit into `dtype`.
    """
    check_arguments(dtype, compress, batch_size)
    check_views(images, views, policy)
    started = time.monotonic()
    set_file = cache.set_file(images.name)
    cache.check_writable()
    filling = fill_banks(
        images,
        base,
        cache,
        views=views,
        policy=policy,
        dtype=dtype,
        compress=compress,
        batch_size=batch_size,
        progress=progress,
    )
    usable = usable_images(images, filling.bad)
    usable.write_csv(set_file)
    made = policy if views else None
    augmentation = made.as_dict() if made else None
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
                view_bank=filling.view_banks[layer].name if views else None,
                view_fingerprint=base.fingerprint(layer, dtype, augmentation) if views else None,
            )
            for layer, bank in filling.banks.items()
        ],
        images=len(usable.items),
        computed=filling.computed,
        cached=len({item.digest for item in usable.items}) - filling.computed,
        rejected=list(usable.rejected),
        leaks=list(usable.leaks),
        conflicts=list(usable.conflicts),
        bytes_written=filling.bytes_written,
        seconds=round(time.monotonic() - started, 3),
        views=views,
        views_computed=filling.views_computed,
        policy=made.name if made else None,
        augmentation=augmentation,
    )
    cache.record_run(extraction.as_dict())
    return extraction


def usable_images(images: ImageSet, bad: Mapping[str, str]) -> ImageSet:
    """Return a set without bad images and without their duplicates.

    Parameters
    ----------
    images : ImageSet
        The set.
    bad : mapping of str to str
        Path to reason.

    Raises
    ------
    DataError
        None is left, or the others cannot be split.
    """
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
