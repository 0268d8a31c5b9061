"""Before an extraction: a forecast from a short timed trial, and a look at its views."""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import chain, zip_longest
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bottleneck.augment import find_policy
from bottleneck.bases import Transform
from bottleneck.bases.frozen import FrozenBase
from bottleneck.cache import PART_BYTES, PART_SECONDS, Cache, part_size
from bottleneck.errors import BadImageError, CacheError, DataError
from bottleneck.extract.compute import Progress, preprocess_views
from bottleneck.extract.plan import Task, plan_extraction
from bottleneck.extract.run import open_writers, stored_batches
from bottleneck.extract.store import FeatureWriter
from bottleneck.fields import made
from bottleneck.files import atomic_write, stale_paths
from bottleneck.images import ImageItem, ImageSet, RejectedImage
from bottleneck.settings import StoreSettings

__all__ = ["Forecast", "draw_views", "forecast_extraction"]

_WARM_UP_BATCHES = 2
_WARM_UP_SECONDS = 1.0
_TIMED_BATCHES = 4
_TIMED_SECONDS = 4.0
_PROBE_BYTES = 2**25
_PREFIX = ".bottleneck-forecast-"
_SIDE = 160
_SHORTER = 183
"""As the classic preprocessing has it: 224 of 256."""
_NAMES = 150
_GAP = 4
_LETTERS = 22
_FONT_SIZE = 12


@dataclass(frozen=True)
class Forecast:
    """What an extraction would do and take.

    Attributes
    ----------
    image_set, model : str
        Of what, and by what.
    images : int
        Images found.
    missing : int
        Different images of which the cache lacks a layer.
    missing_views : int
        Augmented views of which the cache lacks a layer.
    trial : int
        Of how many images the trial has computed what is missing. Nothing of it is kept.
    seconds : float
        Wall time, as the extraction will report it.
    bytes_on_disk : int
        What the cache will grow by.
    peak_memory : int or None
        Bytes of memory that the process will hold at most; None where the system does not tell.
    rejected : list of RejectedImage
        Images met so far that cannot be used; the trial does not look at all.
    """

    image_set: str
    model: str
    images: int
    missing: int
    missing_views: int
    trial: int
    seconds: float
    bytes_on_disk: int
    peak_memory: int | None
    rejected: list[RejectedImage]

    def as_dict(self) -> dict[str, Any]:
        """Return the forecast as JSON holds it."""
        return asdict(self)


def forecast_extraction(
    images: ImageSet | str | Path,
    base: FrozenBase,
    cache: Cache | str | Path,
    settings: StoreSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Forecast:
    """Extract a few batches into a folder that is then removed, and tell what all will take.

    The cache is not touched. The first batches warm up, for at least two of them and a second; the
    next ones, at least four of them and four seconds, give the time per image.

    Parameters
    ----------
    images, base, cache, settings, **options
        As for `extract_features`. Compressed features take less of the disk than is told here.
    progress : callable, optional
        Called with ``"trial"``, the images done and the images to do at most.

    Raises
    ------
    UsageError, DataError, CacheError, FeatureOverflowError
        As `extract_features` would.
    """
    settings = made(StoreSettings, settings, options)
    images = images if isinstance(images, ImageSet) else ImageSet.open(images)
    cache = cache if isinstance(cache, Cache) else Cache(cache)
    cache.set_file(images.name)  # says so where the name cannot be
    started = time.monotonic()
    writers = open_writers(base, cache, settings)
    plans = plan_extraction(images, [writer.target for writer in writers], settings.views)
    seconds = time.monotonic() - started
    tried = bytes_on_disk = growth = 0
    rejected: dict[str, RejectedImage] = {}
    for work in [
        _Work(task, writer)
        for plan, writer in zip(plans, writers, strict=True)
        for task in plan.tasks
    ]:
        trial = _try(work, cache, settings.batch_size, progress or (lambda *_: None))
        count = len(work.task.items)
        sizes = work.part_sizes(count, trial.seconds_per_image)
        tried += trial.images
        rejected |= {item.digest: RejectedImage(item.path, why) for item, why in trial.rejected}
        image_bytes = work.views * sum(map(work.writer.row_bytes, work.task.layers))
        seconds += trial.seconds + (count - trial.images) * (
            trial.seconds_per_image + trial.seconds_per_byte * image_bytes
        )
        bytes_on_disk += sum(map(sum, sizes))
        buffered = work.part_sizes(trial.images, trial.seconds_per_image)
        growth = max(growth, sum(map(_held, sizes)) - sum(map(_held, buffered)))
    peak = _peak_memory()
    return Forecast(
        image_set=images.name,
        model=base.model,
        images=len(images.items),
        missing=plans[0].images,
        missing_views=sum(plan.rows for plan in plans[1:]),
        trial=tried,
        seconds=round(seconds, 3),
        bytes_on_disk=bytes_on_disk,
        peak_memory=None if peak is None else peak + growth,
        rejected=[*images.rejected, *rejected.values()],
    )


def _held(sizes: Sequence[int]) -> int:
    """Return the bytes of the two parts of a bank that memory holds: one filled, one written."""
    return sum(sorted(sizes)[-2:])


@dataclass(frozen=True)
class _Work:
    """A task, and what writes it."""

    task: Task
    writer: FeatureWriter

    @property
    def views(self) -> float:
        """How many views of an image are computed, on average."""
        return self.task.rows / len(self.task.items)

    def part_sizes(self, images: int, seconds_per_image: float) -> list[list[int]]:
        """Return for each bank the bytes of its parts."""
        rows, seconds_per_row = round(images * self.views), seconds_per_image / self.views
        banks: dict[str, list[int]] = {}
        for layer in self.task.layers:
            widths = banks.setdefault(self.writer.target.banks[layer].name, [])
            widths.append(self.writer.row_bytes(layer))
        sizes = []
        for widths in banks.values():
            of_size = PART_BYTES // len(banks) // sum(widths)
            of_time = ceil(PART_SECONDS / seconds_per_row)
            held = max(1, min(of_size, of_time))
            full, rest = divmod(rows, held)
            counts = [held] * full + [rest] * bool(rest)
            sizes.append([part_size(count, widths) for count in counts])
        return sizes


@dataclass(frozen=True)
class _Trial:
    """Images tried and the time that they took; then the time of each further one."""

    images: int
    seconds: float
    seconds_per_image: float
    seconds_per_byte: float
    rejected: list[tuple[ImageItem, str]]


def _try(work: _Work, cache: Cache, batch_size: int | Literal["auto"], report: Progress) -> _Trial:
    """Compute and store the first images of a task, in the same banks of another cache."""
    folder = _scratch_folder(cache)
    done = warmed = size = 0
    rejected: list[tuple[ImageItem, str]] = []
    with TemporaryDirectory(prefix=_PREFIX, dir=folder) as place:
        started = warm = time.monotonic()
        target = work.writer.target
        banks = {layer: Cache(place).named(bank.name) for layer, bank in target.banks.items()}
        scratch = replace(work.writer, target=replace(target, banks=banks))
        with closing(stored_batches(work.task, scratch, batch_size)) as batches:
            for number, batch in enumerate(batches, start=1):
                done += batch.images
                rejected += batch.rejected
                now = time.monotonic()
                size = size or done
                least = min((_WARM_UP_BATCHES + _TIMED_BATCHES) * size, len(work.task.items))
                report("trial", min(done, least), least)
                if not warmed and number >= _WARM_UP_BATCHES and now - started >= _WARM_UP_SECONDS:
                    warm, warmed = now, done
                timed = done - warmed if warmed else 0
                if timed >= _TIMED_BATCHES * size and now - warm >= _TIMED_SECONDS:
                    break
        elapsed = now - started
        per_image = (now - warm) / timed if timed else elapsed / done
        return _Trial(done, elapsed, per_image, _seconds_per_byte(Path(place)), rejected)


def _scratch_folder(cache: Cache) -> Path:
    """Return a folder on the cache's disk, without what killed trials have left there."""
    if cache.root.exists():
        cache.check_writable()
    folder = next(path for path in (cache.root, *cache.root.absolute().parents) if path.is_dir())
    if not os.access(folder, os.W_OK):
        raise CacheError(
            f"cannot write the cache folder {str(cache.root)!r} into {str(folder)!r}; choose "
            f"another `cache`"
        )
    for path in stale_paths(folder, f"{_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
    return folder


def _seconds_per_byte(folder: Path) -> float:
    """Time the writing of a file that is synced to disk."""
    content = np.random.default_rng(0).bytes(_PROBE_BYTES)
    started = time.monotonic()
    atomic_write(folder / "probe", content)
    return (time.monotonic() - started) / _PROBE_BYTES


def _peak_memory() -> int | None:
    """Return the most bytes of memory that this process has held."""
    if sys.platform == "win32":
        return None
    import resource

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def draw_views(images: ImageSet, augment: str, *, views: int = 8, count: int = 6) -> Image.Image:
    """Draw a row for each of some training images: its name, the plain image, then its views.

    The images are of all classes in turn. They are resized and cropped as for most bases, to 160
    pixels; the views are those of the same numbers in the cache, but for the size.

    Parameters
    ----------
    images : ImageSet
        Training images are shown if it has any.
    augment : str
        How the views are made, as for `extract_features`.
    views : int
        How many.
    count : int
        Rows at most.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    UsageError
        There cannot be so many views, or `augment` changes nothing.
    DataError
        None of the images can be read.
    """
    StoreSettings(views=views, augment=augment)  # says so where there can be no such views
    policy = find_policy(augment)
    transform = Transform((_SHORTER, _SHORTER), (_SIDE, _SIDE), "bilinear", (0.0,) * 3, (1.0,) * 3)
    rows = []
    for item in _in_turn(images):
        try:
            data = Path(item.path).read_bytes()
            seen = preprocess_views(transform, data, policy, item.digest, range(views + 1))
        except (OSError, BadImageError):
            continue
        rows.append((item, [np.asarray(each.movedim(0, -1)) for each in seen]))
        if len(rows) == count:
            break
    if not rows:
        raise DataError(f"no image of {images.name!r} could be read; give other `data`")
    return _sheet(rows)


def _in_turn(images: ImageSet) -> list[ImageItem]:
    """Return the images of all classes in turn, each class in its own order."""
    train = [item for item in images.items if item.split == "train"]
    classes: dict[str | None, list[ImageItem]] = {}
    for item in train or images.items:
        classes.setdefault(item.label, []).append(item)
    return [item for item in chain(*zip_longest(*classes.values())) if item]


def _sheet(rows: Sequence[tuple[ImageItem, Sequence[np.ndarray]]]) -> Image.Image:
    step = _SIDE + _GAP
    columns = len(rows[0][1])
    sheet = Image.new("RGB", (_NAMES + columns * step, len(rows) * step + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_SIZE)
    for number, (item, pictures) in enumerate(rows):
        top = _GAP + number * step
        lines = [item.label or "", Path(item.path).name]
        draw.text((_GAP, top), "\n".join(line[:_LETTERS] for line in lines), "black", font)
        for place, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (_NAMES + place * step, top))
    return sheet
