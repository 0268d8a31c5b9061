"""The summary of images that commands begin with, and notes on what is odd about them."""

import textwrap
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, TypeVar

from bottleneck.cli.output import note
from bottleneck.cli.tables import shortened

if TYPE_CHECKING:
    from bottleneck.images import ClassSize, Identical, Summary

__all__ = ["note_content", "note_lost_classes", "note_oddities"]

_WIDTH = 80
_MOST_CLASSES = 16
_SHOWN_OF_MANY = 5
_MOST = 5
_MOST_NAMES = 40
_NAME = 40
_T = TypeVar("_T")


def note_content(summary: "Summary") -> None:
    """Print the number of images of each class and split; of many classes, the extremes.

    Parameters
    ----------
    summary : Summary
        The summary of an image set.
    """
    copies = f", {summary.copies} of them copies" if summary.copies else ""
    images = f"{summary.images} images of {summary.image_set!r}{copies}"
    if not summary.images:
        _line(f"{images}: none can be used")
        return
    if not summary.classes:
        _line(f"{images}: without classes, as no folder or table names any")
        return
    _line(f"{images}: {len(summary.classes)} classes")
    columns = list(summary.splits)
    shown = summary.classes
    others: list[list[str]] = []
    if len(shown) > _MOST_CLASSES:
        ranked = sorted(shown, key=lambda each: -each.images)
        shown = ranked[:_SHOWN_OF_MANY] + ranked[-_SHOWN_OF_MANY:]
        others = [[f"({len(ranked) - len(shown)} more)", *("..." for _ in columns)]]
    rows = [
        [shortened(each.label, _NAME), *(str(each.splits[split]) for split in columns)]
        for each in shown
    ]
    if others:
        rows[_SHOWN_OF_MANY:_SHOWN_OF_MANY] = others
    totals = ["all images", *(str(summary.splits[split]) for split in columns)]
    rows = [["class", *columns], *rows, totals]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *counts in rows:
        cells = [cell.rjust(size) for cell, size in zip(counts, widths[1:], strict=True)]
        note("  ".join(["", first.ljust(widths[0]), *cells]))


def note_oddities(summary: "Summary", *, first: bool = False, evaluated: bool = False) -> None:
    """Print what is odd about an image set, in a few lines for each kind.

    Parameters
    ----------
    summary : Summary
        The summary of an image set.
    first : bool
        Whether the images are new, so that copies, rare classes and similar names are told, too.
    evaluated : bool
        Whether an evaluation tells the classes that the head does not know.
    """
    for text in summary.notes:
        _line(f"note: {text}")
    _list_copies(summary, all_copies=first)
    if summary.left_out:
        count = sum(each.count for each in summary.left_out)
        _line(f"note: {count} files were left out, as they are not images or have no class:")
        _some(summary.left_out, lambda each: f"{each.count} {each.reason}, first {each.first}")
    if summary.passed_over:
        _line(f"note: {len(summary.passed_over)} folders were passed over:")
        _some(summary.passed_over, str)
    if summary.empty:
        _line(f"warning: {len(summary.empty)} class or split folders have no images:")
        _some(summary.empty, str)
    _note_classes(summary.small_classes, summary.lost_classes)
    if summary.rare_classes and first:
        _line(
            f"note: {len(summary.rare_classes)} classes have 1 different training image, but "
            f"fit-head and sweep need 2 and advise 3; --min-images leaves such classes out:"
        )
        _names(summary.rare_classes)
    for split, labels in () if evaluated else summary.not_trained.items():
        _line(
            f"warning: {len(labels)} classes have {split} images but none to train on, so a head "
            f"does not know them and they are left out of its scores:"
        )
        _names(labels)
    if summary.similar_classes and first:
        _line("note: some classes have similar names; if they mean the same, use one of them:")
        _some(summary.similar_classes, lambda names: " = ".join(map(repr, names)))


def note_lost_classes(before: "Summary", after: "Summary") -> None:
    """Print the classes that were left out, or without images, only after images were read.

    Parameters
    ----------
    before, after : Summary
        The summaries as images were found, and without those that could not be used.
    """
    _note_classes(
        [each for each in after.small_classes if each not in before.small_classes],
        [each for each in after.lost_classes if each not in before.lost_classes],
    )


def _note_classes(small: "Sequence[ClassSize]", lost: Sequence[str]) -> None:
    if small:
        _line(f"note: {len(small)} classes were left out, as they have too few images:")
        _names([f"{each.label} ({each.images})" for each in small])
    if lost:
        _line(f"warning: {len(lost)} classes have no image that can be used:")
        _names(lost)


def _list_copies(summary: "Summary", *, all_copies: bool) -> None:
    if summary.leaks:
        _line(f"warning: leak: {summary.leaking} identical images are in more than one split:")
        _some(summary.leaks, lambda each: _paired(each, each.splits), summary.leaking)
    if summary.conflicts:
        _line(f"warning: {summary.conflicting} identical images have more than one label:")
        _some(summary.conflicts, lambda each: _paired(each, each.labels), summary.conflicting)
    if all_copies and summary.copies:
        _line(f"note: {summary.copies} images are copies of others, and computed once:")
        _some(summary.duplicates, lambda each: " = ".join(each.paths), summary.duplicated)


def _paired(found: "Identical", facts: Sequence[str | None]) -> str:
    """Return a path for each of the facts in which identical images differ."""
    first = dict(reversed(list(zip(facts, found.paths, strict=True))))
    return " = ".join(f"{first[fact]} ({fact})" for fact in dict.fromkeys(facts))


def _some(things: Collection[_T], told: Callable[[_T], str], count: int | None = None) -> None:
    """Print the first of some things, and the number of the others."""
    for each in list(things)[:_MOST]:
        _line(f"  {told(each)}")
    others = (len(things) if count is None else count) - _MOST
    if others > 0:
        _line(f"  and {others} more")


def _names(names: Sequence[str]) -> None:
    others = len(names) - _MOST_NAMES
    more = [f"and {others} more; --json lists all"] if others > 0 else []
    _line(f"  {', '.join([*names[:_MOST_NAMES], *more])}")


def _line(text: str) -> None:
    """Print a line, broken between words; a path is not broken."""
    indent = "    " if text.startswith("  ") else "  "
    lines = textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    for line in lines:
        note(line)
