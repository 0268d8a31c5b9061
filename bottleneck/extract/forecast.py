"""Forecast an extraction from a short timed trial."""

import re
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from bottleneck.arguments import made
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import PART_BYTES, PART_SECONDS, Cache, part_size
from bottleneck.extract.compute import Progress
from bottleneck.extract.jobs import ShardJob
from bottleneck.extract.outcomes import Part
from bottleneck.extract.passes import ordered_images, stored_chunks
from bottleneck.extract.plan import find_passes, images_of, plan_extraction
from bottleneck.extract.store import targets_of_all
from bottleneck.files import atomic_write
from bottleneck.folders import remove_stale
from bottleneck.images import ImageItem, ImageSet, RejectedImage
from bottleneck.settings import StoreSettings

__all__ = ["Forecast", "forecast_extraction", "peak_memory"]

_WARM_UP_BATCHES = 2
_WARM_UP_SECONDS = 1.0
_TIMED_BATCHES = 4
_TIMED_SECONDS = 4.0
_PROBE_BYTES = 2**25
_PREFIX = ".bottleneck-forecast-"
_SCRATCH = re.compile(rf"{re.escape(_PREFIX)}[a-z0-9_]{{8}}")


@dataclass(frozen=True)
class Forecast:
    """Time and space that an extraction will take.

    Attributes
    ----------
    image_set, model : str
        Names of the image set and the model; of several models, joined by commas.
    images : int
        Number of images found.
    missing : int
        Number of distinct images for which the cache lacks a layer of a base; of the shard, if one
        is given.
    missing_of_shards : list of int
        The same for each shard, if the images are extracted in shards.
    missing_views : int
        Number of augmented views for which the cache lacks a layer, over all bases.
    trial : int
        Number of images computed in the trial. Their features are not stored.
    seconds : float
        Wall time, as the extraction will report it.
    bytes_on_disk : int
        Bytes added to the cache.
    peak_memory : int or None
        Peak memory of the process in bytes; None if the system does not report it.
    rejected : list of RejectedImage
        Unusable images found so far; the trial does not read all images.
    """

    image_set: str
    model: str
    images: int
    missing: int
    missing_of_shards: list[int]
    missing_views: int
    trial: int
    seconds: float
    bytes_on_disk: int
    peak_memory: int | None
    rejected: list[RejectedImage]

    def as_dict(self) -> dict[str, Any]:
        """Return the forecast in JSON types."""
        return asdict(self)


def forecast_extraction(
    images: ImageSet | str | Path,
    bases: FrozenBase | Sequence[FrozenBase],
    cache: Cache | str | Path,
    settings: StoreSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Forecast:
    """Extract a few batches into a temporary folder, and extrapolate time and space.

    The cache is not changed. The first batches are a warm-up of at least two batches and one
    second; the next ones, at least four batches and four seconds, give the time per image.

    Parameters
    ----------
    images, bases, cache, settings, **options
        As for `extract_features`. Compressed features take less disk space than forecast.
    progress : callable, optional
        Called with ``"trial"``, the number of images done and its maximum.

    Returns
    -------
    Forecast
        The estimated time and space.

    Raises
    ------
    UsageError, DataError, CacheError, FeatureOverflowError
        As for `extract_features`.
    """
    settings = made(StoreSettings, settings, options)
    images = images if isinstance(images, ImageSet) else ImageSet.open(images)
    cache = Cache(cache)
    cache.set_file(images.name)  # says so where the name cannot be
    started = time.monotonic()
    several = [bases] if isinstance(bases, FrozenBase) else list(bases)
    targets = targets_of_all(several, cache, settings)
    plans = [plan_extraction(images, own) for own in targets]
    seconds = time.monotonic() - started
    report = progress or (lambda *_: None)
    trials = [
        _try([Part(task, stage[place]) for place, task in tasks.items()], cache, report)
        for own, stage in zip(zip(*plans, strict=True), zip(*targets, strict=True), strict=True)
        for tasks in find_passes(own, stage)
    ]
    rejected = {item.digest: (item.path, why) for each in trials for item, why in each.rejected}
    peak, job = peak_memory(), ShardJob.of(images, several, cache, settings)
    return Forecast(
        image_set=images.name,
        model=", ".join(own[0].base.model for own in targets),
        images=len(images.items),
        missing=len(set[str]().union(*(own[0].lacking for own in plans))),
        missing_of_shards=job.missing() if job else [],
        missing_views=sum(plan.rows for own in plans for plan in own[1:]),
        trial=sum(each.images for each in trials),
        seconds=round(seconds + sum(each.seconds for each in trials), 3),
        bytes_on_disk=sum(each.bytes_on_disk for each in trials),
        peak_memory=peak and peak + max((each.growth for each in trials), default=0),
        rejected=[*images.rejected, *(RejectedImage(*each) for each in rejected.values())],
    )


class _Trial(NamedTuple):
    """The number of images tried of those computed together, and the forecast for all of them.

    Attributes
    ----------
    growth : int
        Additional bytes of memory that all of them will take.
    rejected : list of (ImageItem, str)
        Unusable images found in the trial.
    """

    images: int
    seconds: float
    bytes_on_disk: int
    growth: int
    rejected: list[tuple[ImageItem, str]]


def _try(parts: Sequence[Part], cache: Cache, report: Progress) -> _Trial:
    """Compute and store the first images in the same banks of a temporary cache."""
    done = warmed = size = 0
    rejected: list[tuple[ImageItem, str]] = []
    count = len(images_of([part.task for part in parts]))
    with TemporaryDirectory(prefix=_PREFIX, dir=_scratch_folder(cache)) as place:
        started = warm = time.monotonic()
        moved = [_moved(part, Cache(place)) for part in parts]
        with closing(stored_chunks(moved, ordered_images(moved))) as chunks:
            for number, chunk in enumerate(chunks, start=1):
                done += chunk.images
                rejected += [each for batch in chunk.batches for each in batch.rejected]
                now = time.monotonic()
                size = size or done
                least = min((_WARM_UP_BATCHES + _TIMED_BATCHES) * size, count)
                report("trial", min(done, least), least)
                if not warmed and number >= _WARM_UP_BATCHES and now - started >= _WARM_UP_SECONDS:
                    warm, warmed = now, done
                timed = done - warmed if warmed else 0
                if timed >= _TIMED_BATCHES * size and now - warm >= _TIMED_SECONDS:
                    break
        elapsed, per_byte = now - started, _seconds_per_byte(Path(place))
    per_image = (now - warm) / timed if timed else elapsed / done
    whole = _bytes_of(parts, 1.0)
    to_write = per_byte * _row_bytes(parts) / count
    tried = _bytes_of(parts, done / count)
    part = _bytes_of(parts, PART_SECONDS / per_image / count)
    seconds = elapsed + (count - done) * (per_image + to_write)
    return _Trial(done, seconds, sum(whole), _held(whole, part) - _held(tried, part), rejected)


def _moved(part: Part, cache: Cache) -> Part:
    """Return a part with the same banks of another cache."""
    banks = {layer: cache.named(bank.name) for layer, bank in part.target.banks.items()}
    return Part(part.task, replace(part.target, banks=banks))


def _row_bytes(parts: Sequence[Part]) -> int:
    """Return the bytes of all rows."""
    return sum(part.task.rows * sum(map(part.target.row_bytes, part.task.layers)) for part in parts)


def _bytes_of(parts: Sequence[Part], share: float) -> list[int]:
    """Return the bytes of a share of the rows in each bank."""
    return [
        part_size(round(share * part.task.rows), [*map(part.target.row_bytes, layers)])
        for part in parts
        for layers in part.target.by_bank(part.task.layers).values()
    ]


def _held(sizes: Sequence[int], parts: Sequence[int]) -> int:
    """Return the bytes of two parts per bank in memory: one being filled, one being written."""
    most = PART_BYTES // len(sizes)
    return sum(min(size, 2 * min(part, most)) for size, part in zip(sizes, parts, strict=True))


def _scratch_folder(cache: Cache) -> Path:
    """Return a folder on the cache's disk, after removing leftovers of killed trials."""
    folder = next(path for path in (cache.root, *cache.root.absolute().parents) if path.exists())
    Cache(folder).check_writable()
    remove_stale(folder, lambda name: bool(_SCRATCH.fullmatch(name)))
    return folder


def _seconds_per_byte(folder: Path) -> float:
    """Time the writing of a file that is synced to disk."""
    content = np.random.default_rng(0).bytes(_PROBE_BYTES)
    started = time.monotonic()
    atomic_write(folder / "probe", content)
    return (time.monotonic() - started) / _PROBE_BYTES


def peak_memory() -> int | None:
    """Return the peak memory of this process so far.

    Returns
    -------
    int or None
        Bytes; None if the system does not report it.
    """
    if sys.platform == "win32":
        return None
    import resource

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024
