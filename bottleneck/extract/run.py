"""Run an extraction: plan, compute and store, then save the image set and a record."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from bottleneck.arguments import made
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Cache
from bottleneck.errors import CacheError, DataError, UsageError, counted
from bottleneck.extract.compute import Batch, Progress, Remarks, feature_batches, sorted_by_size
from bottleneck.extract.plan import Plan, Task, find_tasks, plan_extraction
from bottleneck.extract.store import Target, find_targets
from bottleneck.images import ImageSet, check_replaceable
from bottleneck.records import Adjustments, Augmentation, ExtractedLayer, Extraction, RejectedImage
from bottleneck.settings import BaseSettings, StoreSettings

__all__ = [
    "Filling",
    "carry_out",
    "extract_features",
    "fill_banks",
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
        An option is invalid, the set's name is too long for a file name, or another file has it.
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
    check_replaceable(set_file)
    if cache.root.exists():  # else `fill_banks` checks, once there is something to compute
        cache.check_writable()
    filling = fill_banks(images, base, cache, settings, progress=progress)
    usable = usable_images(images, filling.bad)
    usable.write_csv(set_file)
    distinct = len({item.digest for item in usable.items})
    last = filling.targets[-1]  # of the views, if there are any
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
        layers=[_described(base, layer, filling.targets) for layer in base.layers],
        images=len(usable.items),
        computed=filling.rows[0],
        cached=distinct - filling.rows[0],
        copies=len(usable.items) - distinct,
        rejected=list(usable.rejected),
        leaks=list(usable.leaks),
        conflicts=list(usable.conflicts),
        bytes_written=filling.bytes_written,
        seconds=round(time.monotonic() - started, 3),
        views=settings.views,
        views_computed=sum(filling.rows[1:]),
        policy=last.policy.name if last.policy else None,
        augmentation=cast("Augmentation | None", last.augmentation),
        several_pages=list(filling.remarks.pages.values()),
        deep_images=len(filling.remarks.deep),
        deep_maximum=max(filling.remarks.deep.values(), default=0),
    )
    return cache.record_run(extraction)


def _described(base: FrozenBase, layer: str, targets: Sequence[Target]) -> ExtractedLayer:
    """Return the entry of a layer in the record of an extraction."""
    plain, views = targets[0], targets[-1] if targets[-1].policy else None
    return ExtractedLayer(
        layer=layer,
        alias=base.network.alias(layer),
        typed=base.names[layer],
        aliases=base.network.names_of(layer),
        bank=plain.banks[layer].name,
        fingerprint=plain.fingerprint(layer),
        pool=base.pools[layer],
        axes=base.axes[layer],
        shape=list(base.shapes[layer]),
        view_bank=views.banks[layer].name if views else None,
        view_fingerprint=views.fingerprint(layer) if views else None,
    )


@dataclass(frozen=True)
class Filling:
    """The result of computing and storing missing features.

    Attributes
    ----------
    targets : list of Target
        The banks of unaugmented images and, if there are any, of views.
    rows : list of int
        Number of views computed for each target, unaugmented images included.
    bytes_written : int
        Size of the added features.
    bad : dict of str to str
        Digest to reason, for images that could not be used.
    remarks : Remarks
        What users should know of the computed images.
    """

    targets: list[Target]
    rows: list[int]
    bytes_written: int
    bad: dict[str, str]
    remarks: Remarks


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
        The banks, what was computed, and the images that could not be used.

    Raises
    ------
    MissingExtraError, DataError, CacheError, FeatureOverflowError
        As for `extract_features`.
    """
    targets = find_targets(base, cache, settings)
    plans = plan_extraction(images, targets)
    if any(plan.tasks for plan in plans):
        cache.check_writable()
    all_rows, all_bytes, bad, remarks = [], 0, dict[str, str](), Remarks()
    for plan, target in zip(plans, targets, strict=True):
        good = plan.only({item.digest for item in plan.items} - bad.keys())
        rows, written, found = carry_out(good, target, progress, remarks)
        all_rows.append(rows)
        all_bytes += written
        bad |= found
    return Filling(targets, all_rows, all_bytes, bad, remarks)


def carry_out(
    plan: Plan, target: Target, progress: Progress | None = None, remarks: Remarks | None = None
) -> tuple[int, int, dict[str, str]]:
    """Compute and store a plan, and check that everything is there at the end.

    Parameters
    ----------
    plan : Plan
        The features to compute.
    target : Target
        The banks to store them in.
    progress : callable, optional
        Called with ``"extract"`` or ``"views"``, the number of images done and their total.
    remarks : Remarks, optional
        Filled with what users should know of the images.

    Returns
    -------
    rows : int
        Number of views computed, unaugmented images included.
    written : int
        Bytes of their features.
    bad : dict of str to str
        Digest to reason, for images that could not be used.

    Raises
    ------
    CacheError, FeatureOverflowError
        Features cannot be written, or disappeared meanwhile; what was committed is kept.
    """
    stage, found = "views" if target.policy else "extract", len(plan.items) - len(plan.lacking)
    done = rows = written = 0
    bad: dict[str, str] = {}

    def report() -> None:
        if progress:
            progress(stage, done, plan.images, cached=found, bytes_written=written)

    report()
    try:
        for task in plan.tasks:
            width = sum(map(target.row_bytes, task.layers))
            with closing(stored_batches(task, target, remarks)) as batches:
                for batch in batches:  # what was appended is committed, whatever ends the work
                    bad |= {item.digest: reason for item, reason in batch.rejected}
                    rows += len(batch.items)
                    written += len(batch.items) * width
                    done += batch.images
                    report()
    except BaseException:
        with suppress(CacheError):  # what stopped the work may be a full disk
            target.refresh()
        raise
    _check_complete(plan, target, bad)
    with nullcontext() if plan.tasks else suppress(CacheError):  # a cache that can only be read
        target.refresh()
    return rows, written, bad


def _check_complete(plan: Plan, target: Target, bad: Mapping[str, str]) -> None:
    """Check that the banks contain and describe everything in a plan, except bad images."""
    target.describe(layer for layer, bank in target.banks.items() if bank.size)
    planned = plan.items if plan.tasks else ()  # else they have just been found
    tasks = find_tasks(planned, target.banks, target.views)
    gone = {digest for task in tasks for digest in task.views} - bad.keys()
    if gone:
        raise CacheError(
            f"{len(gone)} of {counted(len(plan.items), 'image')} disappeared from the cache during "
            f"extraction, as another command removed parts; run the command again"
        )


def stored_batches(task: Task, target: Target, remarks: Remarks | None = None) -> Generator[Batch]:
    """Compute a task and yield each batch once it is appended, see `Target.write`.

    Parameters
    ----------
    task : Task
        Layers, and the views to compute of each image.
    target : Target
        The banks to store them in.
    remarks : Remarks, optional
        Filled with what users should know of the images.

    Yields
    ------
    Batch
    """
    base = target.base.cut(task.layers)
    items = sorted_by_size(task.items, base.transform)
    size, policy = target.settings.batch_size, target.policy
    batches = feature_batches(
        base, items, batch_size=size, policy=policy, views=task.views, remarks=remarks
    )
    return target.write(batches, task.layers)


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
    usable = images.without(rejected)
    if not usable.items:
        first = usable.rejected[0]
        raise DataError(
            f"none of the {counted(len(usable.rejected), 'image')} of {images.name!r} could be "
            f"used, first {first.path!r} ({first.reason}); check the files"
        )
    return usable
