"""Gather what a report says from the cache, the heads and the log of experiments."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import bottleneck
from bottleneck.arguments import checked, made
from bottleneck.cache import Cache
from bottleneck.errors import (
    BottleneckError,
    CacheError,
    DataError,
    UsageError,
    as_options,
    counted,
)
from bottleneck.features import Features, load_features, select_features
from bottleneck.heads import Head
from bottleneck.images import ImageItem, ImageSet, summarize
from bottleneck.records import AnySource, RejectedImage, known_source
from bottleneck.report.content import PageImage, Report, Sizes
from bottleneck.report.following import following, repeating, sources_of
from bottleneck.report.galleries import identical, suspected
from bottleneck.report.judging import Judged, compared, judge
from bottleneck.report.maps import MapSection, place_on_map
from bottleneck.report.thumbnails import Thumbnail, thumbnails_of
from bottleneck.settings import ReportSettings

__all__ = ["make_report"]

_COMMON = 5
_WRONG_SHARE = 0.5
"""Of a sample: images that a head classifies wrongly, the most confident first."""
Progress = Callable[[str, int, int], None]


@checked
def make_report(
    cache: Cache | str | Path,
    heads: Mapping[str, Head] | None = None,
    settings: ReportSettings | None = None,
    *,
    heads_folder: str | Path = "heads",
    log: str | Path = "experiments.sqlite",
    memory: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Gather what a report shows; only rows in the cache and files of images are read.

    Heads are evaluated on the split of the settings. Images of all splits get a prediction; those
    of training images are not held out.

    Parameters
    ----------
    cache : Cache, str or Path
        The cache, or its folder. Thumbnails are kept in it.
    heads : mapping of str to Head, optional
        Heads by name, all of one image set; several are compared with the first.
    settings : ReportSettings, optional
        The split, the image set of a report without heads, the map, and how many images it has.
    heads_folder, log : str or Path
        Folder of the heads, for what fine-tuning gave, and the log of sweeps; neither need exist.
    memory : int, optional
        Memory limit in bytes for the features of a head, see `bottleneck.load_features`.
    progress : callable, optional
        Called with a stage, such as ``"heads"`` or ``"thumbnails"``, the number done and their
        total.
    **options
        Fields of `ReportSettings`, in place of `settings`.

    Returns
    -------
    Report
        For `write_report`. What is missing is said in it.

    Raises
    ------
    UsageError
        The heads belong to different image sets, or the map needs classes.
    DataError, UnknownNameError
        There is no such image set, or its file is damaged.
    """
    cache, asked = Cache(cache), made(ReportSettings, settings, options)
    heads, tell = heads or {}, progress or (lambda *_: None)
    source = _source(cache, heads, asked.image_set)
    judged, notes = [], list[str]()
    images = _images(cache, source.image_set, notes)
    for done, (name, head) in enumerate(heads.items(), 1):
        judged.append(judge(name, head, cache, asked.split, memory))
        tell("heads", done, len(heads))
    notes += [
        f"{each.section.name}: {told}"
        for each in judged
        for told in (each.section.problem, each.note)
        if told
    ]
    shown = _chosen(images.items, judged, None if asked.everything else asked.images)
    features = judged[0].features if judged else _features(cache, source, memory, notes)
    section, places = _mapped(features, shown, asked.map, notes)
    summary = summarize(images)
    galleries = [*identical(summary, images.items)]
    if features is not None:
        first = next(iter(heads.values()), None)
        galleries += suspected(features, first, notes, asked=asked.suspects, progress=tell)
    cards = [card.item for each in galleries for group in each.groups for card in group]
    thumbnails = thumbnails_of([*shown, *cards], cache, progress=progress)
    _note_missing(thumbnails, notes)
    every = [known_source(head.source).with_views(0) for head in heads.values()] or [source]
    parts = list(dict.fromkeys(part for each in every for part in each.parts))
    return Report(
        title=", ".join(heads) or images.name,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        version=bottleneck.__version__,
        split=asked.split,
        summary=summary,
        sizes=_sizes(thumbnails),
        heads=[*_sections(judged, asked.split)],
        galleries=galleries,
        map=section,
        images=[
            PageImage(item, tuple(each.of(item) for each in judged), places.get(item.digest))
            for item in shown
        ],
        thumbnails=thumbnails,
        next=following(cache, source, Path(heads_folder), Path(log), notes),
        sources=sources_of(cache, parts),
        commands=repeating(
            cache, parts, images, heads, heads_folder=Path(heads_folder), settings=asked
        ),
        notes=notes,
    )


def _source(cache: Cache, heads: Mapping[str, Head], image_set: str | None) -> AnySource:
    """Return the features of the first head, or of the last extraction of an image set."""
    sources = {name: known_source(head.source) for name, head in heads.items()}
    if len(sets := dict.fromkeys(each.image_set for each in sources.values())) > 1:
        raise UsageError(
            f"the heads belong to different image sets, {', '.join(map(repr, sets))}; give heads "
            f"of one, or make a report of each"
        )
    if sources:
        return next(iter(sources.values())).with_views(0)
    return select_features(cache, image_set=image_set).with_views(0)


def _images(cache: Cache, name: str, notes: list[str]) -> ImageSet:
    """Return an image set, with the images that its last extraction left out."""
    if not cache.set_file(name).exists():
        raise DataError(
            f"no image set {name!r} in the cache folder {str(cache.root)!r}; give the cache that "
            f"the head was fitted on with `cache`"
        )
    try:
        runs = cache.runs()
    except CacheError as error:
        notes.append(f"images that were left out may not be listed: {as_options(error)}")
        runs = cache.runs(damaged_too=False)
    images = ImageSet.read_csv(cache.set_file(name))
    for run in [run for run in runs if run.image_set == name][-1:]:
        images = replace(
            images,
            rejected=tuple(RejectedImage(each.path, each.reason) for each in run.rejected),
            ignored=tuple(run.ignored),
            small=tuple(run.small_classes.items()),
            lost=tuple(run.lost_classes),
        )
    return images


def _features(
    cache: Cache, source: AnySource, memory: int | None, notes: list[str]
) -> Features | None:
    try:
        return load_features(cache, source, memory=memory)
    except BottleneckError as error:
        notes.append(f"no map: {as_options(error)}")
        return None


def _chosen(
    items: Sequence[ImageItem], judged: Sequence[Judged], most: int | None
) -> list[ImageItem]:
    """Return all images, or a sample: wrong ones first, then those with the lowest digests."""
    if most is None or len(items) <= most:
        return list(items)
    doubted: dict[int, float] = {}
    for each in judged:
        for place, item in enumerate(items):
            given = each.of(item)
            if given and given.right is False and item.split != "train":
                doubted[place] = max(given.confidence, doubted.get(place, 0.0))
    wrong = sorted(doubted, key=lambda place: -doubted[place])[: int(_WRONG_SHARE * most)]
    others = sorted(set(range(len(items))).difference(wrong), key=lambda it: items[it].digest)
    return [items[place] for place in sorted([*wrong, *others[: most - len(wrong)]])]


def _mapped(
    features: Features | None, shown: Iterable[ImageItem], how: str, notes: list[str]
) -> tuple[MapSection | None, dict[str, tuple[float, float]]]:
    """Put the images on a map; return their places by digest."""
    if features is None:
        return None, {}
    wanted = {item.digest: None for item in shown}
    first = {digest: row for row, digest in reversed([*enumerate(features.digests.tolist())])}
    rows = np.array(sorted(first[digest] for digest in wanted if digest in first), int)
    found = place_on_map(features.take(rows), how) if len(rows) else None
    if found is None:
        notes.append("no map: there are too few images with features")
        return None, {}
    section, places = found
    digests = features.digests[rows].tolist()
    return section, {
        digest: (round(float(x), 4), round(float(y), 4))
        for digest, (x, y) in zip(digests, places, strict=True)
    }


def _sections(judged: Sequence[Judged], split: str) -> Iterator[Any]:
    """Yield the section of each head, compared with the first."""
    for place, each in enumerate(judged):
        difference = compared(judged[0], each, split) if place else None
        yield replace(each.section, difference=difference)


def _note_missing(thumbnails: Mapping[str, Thumbnail], notes: list[str]) -> None:
    missing = [each.missing for each in thumbnails.values() if each.missing]
    if missing:
        images = counted(len(missing), "image has", "images have")
        reasons = ", ".join(dict.fromkeys(missing[:_COMMON]))
        notes.append(
            f"{images} no thumbnail, as the file cannot be read ({reasons}); paths are those at "
            f"extraction: make the report in the folder where 'bottleneck extract' was run, or "
            f"run that again where images have moved"
        )


def _sizes(thumbnails: Mapping[str, Thumbnail]) -> Sizes | None:
    """Return the sizes of the images that have thumbnails."""
    known = [each for each in thumbnails.values() if each.width]
    if not known:
        return None
    counts: dict[tuple[int, int], int] = {}
    for each in known:
        size = each.width, each.height
        counts[size] = counts.get(size, 0) + 1
    by_area = sorted(counts, key=lambda size: size[0] * size[1])
    common = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:_COMMON]
    return Sizes(
        images=len(known),
        common=[(_told(size), count) for size, count in common],
        smallest=_told(by_area[0]),
        largest=_told(by_area[-1]),
        median_bytes=int(median(each.size for each in known)),
    )


def _told(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
