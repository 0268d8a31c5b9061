"""Extraction: plan, compute, store; then keep the image set and a record of the run."""

import time
from collections.abc import Generator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bottleneck.bases import FrozenBase
from bottleneck.cache import Cache
from bottleneck.errors import CacheError, DataError
from bottleneck.extract.compute import (
    Batch,
    Progress,
    feature_batches,
    reference_features,
    sorted_by_size,
)
from bottleneck.extract.plan import Plan, Task, find_targets, plan_extraction
from bottleneck.extract.store import FeatureWriter
from bottleneck.fields import made
from bottleneck.images import ImageSet, RejectedImage
from bottleneck.settings import StoreSettings

__all__ = [
    "Extraction",
    "Filling",
    "carry_out",
    "extract_features",
    "fill_banks",
    "open_writers",
    "stored_batches",
    "usable_images",
]


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
    images: ImageSet | str | Path,
    base: FrozenBase,
    cache: Cache | str | Path,
    settings: StoreSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Extraction:
    """Compute the features that the cache lacks and store them.

    An image is known by its bytes: renamed, moved, relabelled and doubled images cost nothing. The
    image set is written to ``cache/sets/`` and the run's record to ``cache/runs/``. Augmented views
    have banks of their own, one for each policy.

    Parameters
    ----------
    images : ImageSet, str or Path
        What to extract, or its folder or table.
    base : FrozenBase
        Computes the layers.
    cache : Cache, str or Path
        Where features are looked for and stored.
    settings : StoreSettings, optional
        What is computed of each image, and how it is stored.
    progress : callable, optional
        Called with ``"extract"``, the images done and the images to do; by name, with how many
        more were found in the cache, ``cached``, and with ``bytes_written``. Then likewise with
        ``"views"``, where there are any.
    **options
        Fields of `StoreSettings`, such as ``views=8, augment="standard"``, instead of `settings`.

    Raises
    ------
    UsageError
        An option cannot be right, or the set's name is too long for a file.
    MissingExtraError
        hdf5plugin, which compresses, is not installed.
    DataError
        Not one image could be used, or there are no training images to have views of.
    CacheError
        The cache cannot be written, or a bank's canary disagrees with the base.
    FeatureOverflowError
        A layer does not fit into `dtype`.
    """
    settings = made(StoreSettings, settings, options)
    started = time.monotonic()
    images = images if isinstance(images, ImageSet) else ImageSet.open(images)
    cache = cache if isinstance(cache, Cache) else Cache(cache)
    set_file = cache.set_file(images.name)
    filling = fill_banks(images, base, cache, settings, progress=progress)
    usable = usable_images(images, filling.bad)
    usable.write_csv(set_file)
    plain, views = filling.plans[0], filling.plans[1] if settings.views else None
    policy = views.policy if views else None
    augmentation = policy.as_dict() if policy else None
    extraction = Extraction(
        image_set=images.name,
        image_set_digest=usable.digest_of(),
        model=base.model,
        weights=base.weights_name,
        weights_random=base.weights_random,
        adjustments=base.adjustments,
        precision=base.precision,
        dtype=settings.dtype,
        layers=[
            ExtractedLayer(
                layer=layer,
                alias=base.network.alias(layer),
                aliases=list(base.network.layers[layer].aliases),
                bank=bank,
                fingerprint=base.fingerprint(layer, settings.dtype),
                pool=base.pools[layer],
                axes=base.axes[layer],
                shape=list(base.shapes[layer]),
                view_bank=views.banks[layer] if views else None,
                view_fingerprint=(
                    base.fingerprint(layer, settings.dtype, augmentation) if views else None
                ),
            )
            for layer, bank in plain.banks.items()
        ],
        images=len(usable.items),
        computed=filling.rows[0],
        cached=len({item.digest for item in usable.items}) - filling.rows[0],
        rejected=list(usable.rejected),
        leaks=list(usable.leaks),
        conflicts=list(usable.conflicts),
        bytes_written=filling.bytes_written,
        seconds=round(time.monotonic() - started, 3),
        views=settings.views,
        views_computed=sum(filling.rows[1:]),
        policy=policy.name if policy else None,
        augmentation=augmentation,
    )
    cache.record_run(extraction.as_dict())
    return extraction


@dataclass(frozen=True)
class Filling:
    """What was planned, computed and stored.

    Attributes
    ----------
    plans : list of Plan
        Of the plain images and, if there are any, of their views.
    rows : list of int
        How many views were computed for each plan, the plain image being one.
    bytes_written : int
        Bytes of the features added.
    bad : dict of str to str
        Digest to reason, of the images that could not be used.
    """

    plans: list[Plan]
    rows: list[int]
    bytes_written: int
    bad: dict[str, str]


def fill_banks(
    images: ImageSet,
    base: FrozenBase,
    cache: Cache,
    settings: StoreSettings,
    *,
    progress: Progress | None = None,
) -> Filling:
    """Compute the features that the cache lacks and store them; keep neither set nor record.

    Parameters
    ----------
    images, base, cache, settings, progress
        As for `extract_features`.

    Raises
    ------
    MissingExtraError, DataError, CacheError, FeatureOverflowError
        As `extract_features` does.
    """
    writers = open_writers(base, cache, settings)
    plans = plan_extraction(images, [writer.target for writer in writers], settings.views)
    cache.check_writable()
    done = Filling([], [], 0, {})
    for plan, writer in zip(plans, writers, strict=True):
        good = plan.only({item.digest for item in plan.items} - done.bad.keys())
        own = carry_out(good, writer, settings.batch_size, progress)
        rows, written = [*done.rows, *own.rows], done.bytes_written + own.bytes_written
        done = Filling(plans, rows, written, done.bad | own.bad)
    return done


def open_writers(base: FrozenBase, cache: Cache, settings: StoreSettings) -> list[FeatureWriter]:
    """Return what writes plain images and views, once the canaries have been compared."""
    return [
        FeatureWriter(base, target, reference_features(base, target.policy), settings.compress)
        for target in find_targets(base, cache, settings)
    ]


def carry_out(
    plan: Plan,
    writer: FeatureWriter,
    batch_size: int | Literal["auto"] = "auto",
    progress: Progress | None = None,
) -> Filling:
    """Compute and store what is planned, and see that all of it is there at the end."""
    stage, found = "views" if plan.policy else "extract", len(plan.items) - len(plan.lacking)
    done = rows = written = 0
    bad: dict[str, str] = {}

    def report() -> None:
        if progress:
            progress(stage, done, plan.images, cached=found, bytes_written=written)

    report()
    try:
        for task in plan.tasks:
            width = sum(map(writer.row_bytes, task.layers))
            with closing(stored_batches(task, writer, batch_size)) as batches:
                for batch in batches:  # what was appended is committed, whatever ends the work
                    bad |= {item.digest: reason for item, reason in batch.rejected}
                    rows += len(batch.items)
                    written += len(batch.items) * width
                    done += batch.images
                    report()
    except BaseException:
        with suppress(CacheError):  # what stopped the work may be a full disk
            writer.refresh()
        raise
    writer.finish(plan, bad)
    return Filling([plan], [rows], written, bad)


def stored_batches(
    task: Task, writer: FeatureWriter, batch_size: int | Literal["auto"]
) -> Generator[Batch]:
    """Compute a task; yield each batch once it is appended, see `FeatureWriter.write`."""
    base = writer.base.cut(task.layers)
    items = sorted_by_size(task.items, base.transform)
    policy = writer.target.policy
    batches = feature_batches(base, items, batch_size=batch_size, policy=policy, views=task.views)
    return writer.write(batches, task.layers)


def usable_images(images: ImageSet, bad: Mapping[str, str]) -> ImageSet:
    """Return a set without bad images and without their duplicates.

    Parameters
    ----------
    images : ImageSet
        The set.
    bad : mapping of str to str
        Digest to reason.

    Raises
    ------
    DataError
        None is left, or the others cannot be split.
    """
    rejected = [
        RejectedImage(item.path, bad[item.digest]) for item in images.items if item.digest in bad
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
