"""The summary of images that commands begin with, and notes on what is odd about them."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bottleneck.cli.output import wanted
from bottleneck.cli.streams import note, note_list
from bottleneck.cli.tables import draw_table
from bottleneck.errors import counted, some_of

if TYPE_CHECKING:
    from bottleneck.images import ClassSize, Groups, Identical, ImageSet, Summary
    from bottleneck.settings import ImageSettings

__all__ = [
    "note_image_set",
    "note_known",
    "note_lost",
    "note_summary",
    "open_images",
    "summary_known",
]

_MOST_CLASSES = 16
_SHOWN_OF_MANY = 5
_MOST_NAMES = 40
_known = ContextVar("known", default="")
"""Digest of an image set whose summary was printed by the command that runs this one."""


def open_images(settings: "ImageSettings", cache: Path) -> "ImageSet":
    """Read an image set and print its summary, also where its classes are refused.

    Parameters
    ----------
    settings : ImageSettings
        The images.
    cache : Path
        The cache, where digests of images behind URLs are remembered.

    Returns
    -------
    ImageSet

    Raises
    ------
    PathMissingError, UsageError, DataError
        See `bottleneck.ImageSet.open`.
    """
    from bottleneck.images import ImageSet, digests_remembered

    with digests_remembered(cache):
        found = ImageSet.open(settings.data, settings, complete=False)
    try:
        found = found.completed(settings.data, settings.seed)
    finally:
        note_summary(found)
    return found


@contextmanager
def summary_known(images: "ImageSet") -> Iterator[None]:
    """Let commands that are run here not print the summary of these images again.

    Parameters
    ----------
    images : ImageSet
        The image set.

    Yields
    ------
    None
    """
    before = _known.set(images.digest_of())
    try:
        yield
    finally:
        _known.reset(before)


def note_summary(images: "ImageSet") -> None:
    """Print the classes and splits of an image set, unless results are JSON, and its problems.

    Parameters
    ----------
    images : ImageSet
        The image set.
    """
    from bottleneck.images import summarize

    if images.digest_of() == _known.get():
        return
    summary = summarize(images)
    if not (summary.classes and wanted("json")):
        _note_content(summary)
    _note_oddities(summary, first=True)


def note_image_set(images: "ImageSet") -> None:
    """Print the problems of an image set: files left out, leaks, conflicting labels.

    Parameters
    ----------
    images : ImageSet
        The image set.
    """
    from bottleneck.images import summarize

    _note_oddities(summarize(images))


def note_known(images: "ImageSet", *, evaluated: bool = False) -> None:
    """Print how many problems an image set of the cache has, which were listed before.

    Parameters
    ----------
    images : ImageSet
        The image set.
    evaluated : bool
        Whether an evaluation tells the classes that the head does not know.
    """
    from bottleneck.images import summarize

    summary = summarize(images)
    for text, _, _ in _problems(replace(summary, not_trained={}) if evaluated else summary):
        note(f"{text}; 'bottleneck extract' lists them")


def note_lost(before: "ImageSet", after: "ImageSet") -> None:
    """Print the classes that were left out, or without images, only after images were read.

    Parameters
    ----------
    before, after : ImageSet
        The image set as found, and without the images that could not be used.
    """
    from bottleneck.images import summarize

    old, new = summarize(before), summarize(after)
    _note_classes(
        [each for each in new.small_classes if each not in old.small_classes],
        [each for each in new.lost_classes if each not in old.lost_classes],
    )


def _note_content(summary: "Summary") -> None:
    """Print the number of images of each class and split; of many classes, the extremes."""
    copies = counted(summary.copies, "of them a copy", "of them copies")
    images = f"{counted(summary.images, 'image')} of {summary.image_set!r}"
    images += f", {copies}" if summary.copies else ""
    if not summary.images:
        note(f"{images}: none can be used")
        return
    if not summary.classes:
        note(
            f"{images}: without classes, as no folder or table names any, so that no head can be "
            f"fitted on them; 'bottleneck extract' takes DATA/CLASS/IMAGE, or a table with "
            f"path,label"
        )
        return
    note(f"{images}: {counted(len(summary.classes), 'class')}")
    totals = summary.splits or {"images": summary.images}  # before they are split
    shown = summary.classes
    if len(shown) > _MOST_CLASSES:
        ranked = sorted(shown, key=lambda each: -each.images)
        shown = ranked[:_SHOWN_OF_MANY] + ranked[-_SHOWN_OF_MANY:]
    counts = [{"images": each.images} | each.splits for each in shown]
    rows = [
        [each.label, *(str(own.get(name, 0)) for name in totals)]
        for each, own in zip(shown, counts, strict=True)
    ]
    if others := len(summary.classes) - len(shown):
        rows.insert(_SHOWN_OF_MANY, [f"({others} more)", *("..." for _ in totals)])
    rows.append(["all images", *map(str, totals.values())])
    draw_table("", ["class", *totals], rows, [False, *(True for _ in totals)], sys.stderr)
    if summary.groups:
        note(_told_groups(summary.groups))


def _told_groups(found: "Groups") -> str:
    """Return the number of groups, the largest, and how many are in each split."""
    shares = ", ".join(f"{split} {count}" for split, count in found.splits.items())
    alone = f"; {counted(found.alone, 'image has', 'images have')} no group" * bool(found.alone)
    return (
        f"{counted(found.groups, 'group')}, the largest {found.largest!r} of "
        f"{counted(found.largest_images, 'image')}{': ' * bool(shares)}{shares}{alone}"
    )


def _note_oddities(summary: "Summary", *, first: bool = False) -> None:
    """Print what is odd, in a few lines for each kind; of new images, also copies and the like."""
    for text in summary.notes:
        note(f"note: {text}")
    for text, found, count in _problems(summary):
        note_list(f"{text}:", found, count)
    if first and summary.copies:
        copies = counted(
            summary.copies, "image is a copy of another", "images are copies of others"
        )
        pairs = [" = ".join(each.paths) for each in summary.duplicates]
        note_list(f"note: {copies}, and computed once:", pairs, summary.duplicated)
    if summary.left_out:
        files = counted(sum(each.count for each in summary.left_out), "file was", "files were")
        left_out = [f"{each.count} {each.reason}, first {each.first}" for each in summary.left_out]
        note_list(f"note: {files} left out, not being an image or having no class:", left_out)
    if summary.passed_over:
        folders = counted(len(summary.passed_over), "folder was", "folders were")
        note_list(f"note: {folders} passed over:", summary.passed_over)
    if summary.empty:
        one, many = "class or split folder has", "class or split folders have"
        empty = counted(len(summary.empty), one, many)
        note_list(f"warning: {empty} no images:", summary.empty)
    _note_classes(summary.small_classes, summary.lost_classes)
    if first and summary.rare_classes:
        classes = counted(len(summary.rare_classes), "class has", "classes have")
        note(
            f"note: {classes} 1 different training image, but fit-head and sweep need 2 and advise "
            f"3; --min-images leaves out small classes: {_named(summary.rare_classes)}"
        )
    if first and summary.similar_classes:
        alike = [" = ".join(map(repr, names)) for names in summary.similar_classes]
        note_list(
            "note: some classes have similar names; if they mean the same, use one of them:", alike
        )


def _problems(summary: "Summary") -> Iterator[tuple[str, list[str], int]]:
    """Yield problems that scores suffer from: the text, the first instances, and how many."""
    if count := summary.leaking:
        images = counted(count, "identical image is", "identical images are")
        found = [_paired(each, each.splits) for each in summary.leaks]
        yield f"warning: leak: {images} in more than one split", found, count
    if summary.groups and (count := summary.groups.parted):
        groups = counted(count, "group is", "groups are")
        text = f"warning: leak: {groups} in more than one split, and scores leave out their images"
        found = [
            f"{each.group}: {', '.join(f'{split} {n}' for split, n in each.splits.items())}"
            for each in summary.groups.cuts
        ]
        yield text, found, count
    if count := summary.conflicting:
        images = counted(count, "identical image has", "identical images have")
        found = [_paired(each, each.labels) for each in summary.conflicts]
        yield f"warning: {images} more than one label", found, count
    for split, labels in summary.not_trained.items():
        classes = counted(len(labels), "class has", "classes have")
        text = f"warning: {classes} {split} images but none to train on: no head knows such a class"
        yield f"{text}, and scores leave it out", labels, len(labels)
    for split, labels in summary.not_held_out.items():
        classes = counted(len(labels), "class has training images", "classes have training images")
        text = f"warning: {classes} but no {split} images, and {split} scores say nothing about it"
        yield text, labels, len(labels)


def _note_classes(small: "Sequence[ClassSize]", lost: Sequence[str]) -> None:
    if small:
        classes = counted(len(small), "class was", "classes were")
        sizes = _named([f"{each.label} ({each.images})" for each in small])
        note(f"note: {classes} left out for having too few images: {sizes}")
    if lost:
        classes = counted(len(lost), "class has", "classes have")
        note(f"warning: {classes} no image that can be used: {_named(lost)}")


def _named(names: Sequence[str]) -> str:
    return some_of(names, most=_MOST_NAMES)


def _paired(found: "Identical", facts: Sequence[str | None]) -> str:
    """Return a path for each of the facts in which identical images differ."""
    first = dict(reversed(list(zip(facts, found.paths, strict=True))))
    return " = ".join(f"{first[fact]} ({fact})" for fact in dict.fromkeys(facts))
