"""Run an extraction: fill the banks, then save the image set and a record for each base."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, overload

from bottleneck.arguments import made
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import Cache, Shard
from bottleneck.errors import DataError, UsageError, counted
from bottleneck.extract.compute import Progress
from bottleneck.extract.filling import Filling, fill_banks
from bottleneck.extract.jobs import ShardJob
from bottleneck.extract.store import Target
from bottleneck.images import ImageSet, check_replaceable, digests_remembered
from bottleneck.records import (
    Adjustments,
    Augmentation,
    ExtractedLayer,
    ExtractedShard,
    Extraction,
    RejectedImage,
)
from bottleneck.settings import BaseSettings, StoreSettings

__all__ = ["extract_features", "usable_images"]

_MOST_IGNORED = 1000
"""Files left out that the record of an extraction names."""


@overload
def extract_features(
    images: ImageSet | str | Path,
    bases: FrozenBase,
    cache: Cache | str | Path,
    settings: StoreSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Extraction: ...


@overload
def extract_features(
    images: ImageSet | str | Path,
    bases: Sequence[FrozenBase],
    cache: Cache | str | Path,
    settings: StoreSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> list[Extraction]: ...


def extract_features(
    images: ImageSet | str | Path,
    bases: FrozenBase | Sequence[FrozenBase],
    cache: Cache | str | Path,
    settings: StoreSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Extraction | list[Extraction]:
    """Compute the features that the cache lacks and store them.

    An image is identified by its bytes: renamed, moved, relabelled and duplicated images are not
    computed again. The image set is written to ``cache/sets/`` and the record to ``cache/runs/``.
    Augmented views have their own banks, one for each policy.

    With a `shard`, only its images are computed. As long as images of other shards are missing, the
    image set and the record are not written, and what is returned is an `ExtractedShard`; the last
    shard completes the extraction, as does one without a shard.

    Several bases share the reading and decoding of each image; their features are those of
    extractions with each base alone. They use one image set: an image that one of the bases cannot
    use is left out for all.

    Parameters
    ----------
    images : ImageSet, str or Path
        The images, or their folder or table.
    bases : FrozenBase or sequence of FrozenBase
        The base with the layers to compute, or several, whose weights are in memory together.
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
    Extraction or list of Extraction
        The record of the extraction; for a sequence of bases, the record of each. Its `seconds` are
        then the base's share of the time, in proportion to its own computations.

    Raises
    ------
    UsageError
        An option is invalid, the set's name is too long for a file name, or another file has it; or
        a base is given twice.
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
    if settings.engine == "local" and (of_ray := options.keys() & {"ray_address", "workers"}):
        name = min(of_ray)
        raise UsageError(
            f"`{name}` has no effect without `engine=ray`; give `engine=ray`, or leave `{name}` out"
        )
    several = [bases] if isinstance(bases, FrozenBase) else list(bases)
    for base in several:
        if isinstance(settings, BaseSettings) and not base.settings.agrees_with(settings):
            raise UsageError(
                f"the settings describe another base than {base.model}; give the settings that it "
                f"was created from, or StoreSettings"
            )
    Shard.of(settings.shard)  # what the environment does not tell needs no images
    started = time.monotonic()
    cache = Cache(cache)
    if not isinstance(images, ImageSet):
        with digests_remembered(cache.root):
            images = ImageSet.open(images)
    set_file = cache.set_file(images.name)
    check_replaceable(set_file)
    if cache.root.exists():  # else `fill_banks` checks, once there is something to compute
        cache.check_writable()
    job = ShardJob.of(images, several, cache, settings)
    if job:
        settings = settings if job.shard else job.settings
        job.note({}, done=False)
    fillings = fill_banks(images, several, cache, settings, progress=progress)
    usable, missing = _usable_of(images, fillings, job)
    seconds, busy = time.monotonic() - started, sum(each.seconds for each in fillings)
    shares = [each.seconds / busy if busy else 1 / len(several) for each in fillings]
    found = [
        replace(_described(base, filling, usable, settings), seconds=round(share * seconds, 3))
        for base, filling, share in zip(several, fillings, shares, strict=True)
    ]
    if job and missing:
        found = [
            ExtractedShard(**vars(each), shard=str(job.shard), missing=missing) for each in found
        ]
    else:
        usable.write_csv(set_file)
        found = [cache.record_run(each) for each in found]
        if job:
            job.files.forget()
    return found[0] if isinstance(bases, FrozenBase) else found


def _usable_of(
    images: ImageSet, fillings: Sequence[Filling], job: ShardJob | None
) -> tuple[ImageSet, list[int]]:
    """Return the images to record, and how many are missing in each shard: empty if none is.

    Where any is missing, these are the images of the own shard.
    """
    bad = {digest: why for each in fillings for digest, why in each.bad.items()}
    if job:
        job.note(bad, done=True)
        missing = job.missing() if job.shard else []
        if any(missing):
            return job.own_images(bad), missing
        bad = job.bad() | bad
    return usable_images(images, bad), []


def _described(
    base: FrozenBase, filling: Filling, usable: ImageSet, settings: StoreSettings
) -> Extraction:
    """Return the record of a base's extraction, without its time."""
    distinct = {item.digest for item in usable.items}
    computed = len(filling.computed & distinct)
    last, remarks = filling.targets[-1], filling.remarks  # of the views, if there are any
    return Extraction(
        time=datetime.now(UTC).isoformat(),
        image_set=usable.name,
        image_set_digest=usable.digest_of(),
        model=base.model,
        weights=base.weights_name,
        weights_random=base.weights_random,
        adjustments=cast("Adjustments", base.adjustments),
        precision=base.precision,
        dtype=settings.dtype,
        layers=[_layer(base, layer, filling.targets) for layer in base.layers],
        images=len(usable.items),
        computed=computed,
        cached=len(distinct) - computed,
        copies=len(usable.items) - len(distinct),
        rejected=list(usable.rejected),
        ignored=list(usable.ignored[:_MOST_IGNORED]),
        small_classes=dict(usable.small),
        lost_classes=list(usable.lost),
        leaks=list(usable.leaks),
        conflicts=list(usable.conflicts),
        bytes_written=filling.bytes_written,
        views=settings.views,
        views_computed=sum(each.rows for each in filling.outcomes[1:]),
        policy=last.policy.name if last.policy else None,
        augmentation=cast("Augmentation | None", last.augmentation),
        several_pages=list(remarks.pages.values()),
        deep_images=len(remarks.deep),
        deep_maximum=max(remarks.deep.values(), default=0),
    )


def _layer(base: FrozenBase, layer: str, targets: Sequence[Target]) -> ExtractedLayer:
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
