"""Run an extraction: plan, compute and store, then save the image set and a record."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from bottleneck.arguments import made
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Cache
from bottleneck.errors import CacheError, DataError, UsageError
from bottleneck.extract.compute import (
    Batch,
    Progress,
    feature_batches,
    reference_features,
    sorted_by_size,
)
from bottleneck.extract.plan import Plan, Task, find_targets, plan_extraction
from bottleneck.extract.store import FeatureWriter
from bottleneck.images import ImageSet
from bottleneck.records import Adjustments, Augmentation, ExtractedLayer, Extraction, RejectedImage
from bottleneck.settings import BaseSettings, StoreSettings

__all__ = [
    "Filling",
    "carry_out",
    "extract_features",
    "fill_banks",
    "open_writers",
    "stored_batches",
    "usable_images",
]


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

    An image is identified by its bytes: renamed, moved, relabelled and duplicated images are not
    computed again. The image set is written to ``cache/sets/`` and the record to ``cache/runs/``.
    Augmented views have their own banks, one for each policy.

    Parameters
    ----------
    images : ImageSet, str or Path
        The images, or their folder or table.
    base : FrozenBase
        The base, with the layers to compute.
    cache : Cache, str or Path
        The cache, or its folder.
    settings : StoreSettings, optional
        Augmentation and storage.
    progress : callable, optional
        Called with ``"extract"``, the number of images done and their total, and by name with the
        number of images found in the cache, ``cached``, and with ``bytes_written``. Then likewise
        with ``"views"``, if there are any.
    **options
        Fields of `StoreSettings`, such as ``views=8, augment="standard"``, in place of `settings`.

    Returns
    -------
    Extraction
        The record of the extraction.

    Raises
    ------
    UsageError
        An option is invalid, or the set's name is too long for a file name.
    MissingExtraError
        hdf5plugin, needed for compression, is not installed.
    DataError
        No image could be used, or there are no training images to augment.
    CacheError
        The cache cannot be written, or a bank's canary differs from the base's.
    FeatureOverflowError
        Values of a layer are too large for `dtype`.
    """
    settings = made(StoreSettings, settings, options)
    if isinstance(settings, BaseSettings) and not base.settings.agrees_with(settings):
        raise UsageError(
            f"the settings describe another base than {base.model}; give the settings that it "
            f"was created from, or StoreSettings"
        )
    started = time.monotonic()
    images = images if isinstance(images, ImageSet) else ImageSet.open(images)
    cache = Cache(cache)
    set_file = cache.set_file(images.name)
    filling = fill_banks(images, base, cache, settings, progress=progress)
    usable = usable_images(images, filling.bad)
    usable.write_csv(set_file)
    plan = filling.plans[-1]  # of the views, if there are any
    extraction = Extraction(
        time=datetime.now(UTC).isoformat(),
        image_set=images.name,
        image_set_digest=usable.digest_of(),
        model=base.model,
        weights=base.weights_name,
        weights_random=base.weights_random,
        adjustments=cast("Adjustments", base.adjustments),
        precision=base.precision,
        dtype=settings.dtype,
        layers=[_described(base, layer, filling.plans) for layer in base.layers],
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
        policy=plan.policy.name if plan.policy else None,
        augmentation=cast("Augmentation | None", plan.augmentation),
    )
    return cache.record_run(extraction)


def _described(base: FrozenBase, layer: str, plans: Sequence[Plan]) -> ExtractedLayer:
    """Return the entry of a layer in the record of an extraction."""
    plain, views = plans[0], plans[-1] if plans[-1].policy else None
    return ExtractedLayer(
        layer=layer,
        alias=base.network.alias(layer),
        aliases=list(base.network.layers[layer].aliases),
        bank=plain.banks[layer],
        fingerprint=plain.fingerprint(base, layer),
        pool=base.pools[layer],
        axes=base.axes[layer],
        shape=list(base.shapes[layer]),
        view_bank=views.banks[layer] if views else None,
        view_fingerprint=views.fingerprint(base, layer) if views else None,
    )


@dataclass(frozen=True)
class Filling:
    """The plan and result of an extraction.

    Attributes
    ----------
    plans : list of Plan
        Plans of unaugmented images and, if there are any, of views.
    rows : list of int
        Number of views computed for each plan, unaugmented images included.
    bytes_written : int
        Size of the added features.
    bad : dict of str to str
        Digest to reason, for images that could not be used.
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
    """Compute and store missing features, without saving the image set or a record.

    Parameters
    ----------
    images, base, cache, settings, progress
        As for `extract_features`.

    Returns
    -------
    Filling
        The plan, the result, and the images that could not be used.

    Raises
    ------
    MissingExtraError, DataError, CacheError, FeatureOverflowError
        As for `extract_features`.
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
    """Compare canaries, and return the writers of unaugmented images and of views.

    Parameters
    ----------
    base : FrozenBase
        The base.
    cache : Cache
        The cache to store features in.
    settings : StoreSettings
        Augmentation and storage.

    Returns
    -------
    list of FeatureWriter
        One or two writers.

    Raises
    ------
    CacheError
        A canary differs from the base's; see also `find_targets`.
    """
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
    """Compute and store a plan, and check that everything is there at the end.

    Parameters
    ----------
    plan : Plan
        The features to compute.
    writer : FeatureWriter
        The writer of unaugmented images or of views, like the plan.
    batch_size : int or "auto"
        Images per forward pass.
    progress : callable, optional
        Called with ``"extract"`` or ``"views"``, the number of images done and their total.

    Returns
    -------
    Filling

    Raises
    ------
    CacheError, FeatureOverflowError
        Features cannot be written, or disappeared meanwhile; what was committed is kept.
    """
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
    """Compute a task and yield each batch once it is appended, see `FeatureWriter.write`.

    Parameters
    ----------
    task : Task
        Layers, and the views to compute of each image.
    writer : FeatureWriter
        The writer.
    batch_size : int or "auto"
        Images per forward pass.

    Yields
    ------
    Batch
    """
    base = writer.base.cut(task.layers)
    items = sorted_by_size(task.items, base.transform)
    policy = writer.target.policy
    batches = feature_batches(base, items, batch_size=batch_size, policy=policy, views=task.views)
    return writer.write(batches, task.layers)


def usable_images(images: ImageSet, bad: Mapping[str, str]) -> ImageSet:
    """Return an image set without bad images and without their duplicates.

    Parameters
    ----------
    images : ImageSet
        The image set.
    bad : mapping of str to str
        Digest to reason.

    Returns
    -------
    ImageSet
        The remaining images; a split made by this package is made again.

    Raises
    ------
    DataError
        No images are left, or the remaining ones cannot be split.
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
