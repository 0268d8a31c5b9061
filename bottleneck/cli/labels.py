"""The commands on labels: which are probably wrong, and which images to label next."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

import bottleneck
from bottleneck.cli import choices, notes, options
from bottleneck.cli.command import add_command
from bottleneck.cli.output import loading, print_table, progress_shown, show, wanted
from bottleneck.cli.outputs import check_outputs, read_images
from bottleneck.cli.streams import csv_printer, note, note_list, printed_to
from bottleneck.cli.summary import note_image_set
from bottleneck.errors import UsageError, counted, some_of
from bottleneck.fields import ARGUMENT, Option, settings
from bottleneck.settings import FitFeatures

if TYPE_CHECKING:
    from bottleneck.images import ImageItem
    from bottleneck.suggest import Suggestions
    from bottleneck.suspects import LookAlikes, Suspects

__all__ = ["ListFiles", "suggest", "suspects", "write_files"]

_LISTED = ("path", "label", "suggested", "score")
"""Columns of the table that is reviewed."""
_SUGGESTED = ("path", "predicted", "probability", "uncertainty")
_MOST_SHOWN, _FEW_SHOWN = 20, 10
_MOST_DRAWN = 120
_MOST_OF_GROUP = 4


@settings("Files", kw_only=True)
class ListFiles:
    """Files that a list of images is written to."""

    output: Annotated[options.CsvFile | None, Doc("Write the table to this CSV file, too.")] = None
    gallery: Annotated[
        options.GalleryFile | None,
        Doc("Show the images in this file: .html, a page, or .png, a contact sheet."),
    ] = None
    spreadsheet_safe: Annotated[options.SpreadsheetSafe, Option(needs=("as_csv", "output"))] = False

    @property
    def written(self) -> dict[str, Path | None]:
        """The files by option, None where nothing is to be written."""
        return {"output": self.output, "gallery": self.gallery}


@add_command("suspects", "Judge", "as_json", "as_csv", "wide")
def suspects(
    settings: bottleneck.SuspectSettings,
    chosen: FitFeatures,
    files: ListFiles,
    fix: Annotated[
        Path | None,
        Doc("Write to `output` all images, with labels corrected by this CSV file, once reviewed."),
        Option(needs=("output",), unless=("gallery", "as_csv", "clf", "top", "test")),
    ] = None,
    memory: options.Memory = None,
    cache: options.CacheFolder = Path("cache"),
) -> Any:
    """Find labels that are probably wrong, outliers and look-alikes; correct labels.

    Labels are judged by heads that have not seen the image, through cleanlab.
    """
    store = bottleneck.Cache(cache)
    selection = choices.choose_joined(store, chosen)
    if fix:
        return _corrected(store, selection.image_set, fix, files.output)
    from bottleneck.suspects import find_suspects, tell_apart

    features = bottleneck.load_features(store, selection, memory=options.memory_of(memory))
    check_outputs((item.path for item in features.images.items), **files.written)
    with progress_shown() as progress:
        found = find_suspects(features, settings, progress=progress)
    notes.note_features(features.images, [selection], store)
    alike, hidden = tell_apart(found.look_alikes, found.images)
    if hidden:
        note(hidden)
    rows = [{name: getattr(each, name) for name in _LISTED} for each in found.labels]
    if wanted("csv"):
        print_table(rows, spreadsheet_safe=files.spreadsheet_safe)
    else:
        show(asdict(found), lambda: _print_suspects(found, alike))
    write_files(files, _LISTED, rows, _shown(found, alike, features.images), store)
    if files.output:
        note("review it, and correct the labels with --fix")
    return found


def _corrected(
    store: "bottleneck.Cache", image_set: str, reviewed: Path, output: Path | None
) -> Any:
    """Write the table of corrected labels, and say how to go on."""
    from bottleneck.images import correct_labels

    if output is None or output.resolve() == reviewed.resolve():
        raise UsageError(
            f"`output` must be another file than the reviewed {str(reviewed)!r}, which it would "
            f"replace; give another name"
        )
    images = bottleneck.ImageSet.read_csv(store.set_file(image_set))
    done = correct_labels(images, reviewed, output)
    facts = {"file": str(done.file), "images": done.images, "changed": done.changed}

    def text() -> None:
        print(f"{counted(done.changed, 'label')} of {image_set!r} corrected in {done.file}")
        note(
            f"extract again with --data {done.file} --set {image_set}, and the other options as "
            f"before: only labels change, and nothing is computed"
        )

    show(facts, text)
    return done


def _print_suspects(found: "Suspects", groups: Sequence["LookAlikes"]) -> None:
    shown = [asdict(each) for each in found.labels]
    print(
        f"labels of {counted(found.images, 'image')} of {found.image_set!r}, judged by {found.clf} "
        f"on {counted(found.folds, 'fold')}: {counted(len(shown), 'suspect')}"
    )
    _print_some(shown, "probably wrong, the most suspect first", _MOST_SHOWN)
    title = "outliers: images unlike all others, by mean cosine distance to the nearest ten"
    _print_some([asdict(each) for each in found.outliers], title, _FEW_SHOWN)
    odd = sum(group.disagree for group in groups)
    if groups:
        print(
            f"{counted(len(groups), 'group')} of look-alikes, {odd} of them with different "
            f"labels or in different splits"
        )
        note_list("look-alikes:", list(map(_described, groups)), most=_FEW_SHOWN)


def _shown(
    found: "Suspects", alike: Sequence["LookAlikes"], images: "bottleneck.ImageSet"
) -> list[list[tuple["ImageItem", str]]]:
    """Return the images of a gallery with captions: look-alikes together, all others alone."""
    alone = {
        each.path: f"{each.label} -> {each.suggested}?  {each.score:.2f}" for each in found.labels
    }
    for each in found.outliers:
        told = alone.get(each.path, each.label)
        alone[each.path] = f"{told}  outlier {each.distance:.2f}".lstrip()
    known = {item.path: item for item in images.items}
    together = [
        [(known[path], f"{label}, {split}") for path, label, split in zip(*own, strict=True)]
        for own in ((each.paths, each.labels, each.splits) for each in alike)
    ]
    return [[(known[path], caption)] for path, caption in alone.items()] + together


def _print_some(rows: Sequence[dict[str, Any]], title: str, most: int) -> None:
    print_table(rows[:most], title, spare=("split",))
    if len(rows) > most:
        note(f"and {len(rows) - most} more; --json prints all")


def _described(group: "LookAlikes") -> str:
    own = zip(group.paths, group.labels, group.splits, strict=True)
    texts = (f"{path} ({label}, {split})" for path, label, split in own)
    return some_of(texts, " ~ ", _MOST_OF_GROUP)


@add_command("suggest", "Judge", "as_json", "as_csv", "wide")
def suggest(
    images: Annotated[tuple[Path, ...], Doc("Image files, folders or CSV tables."), ARGUMENT],
    settings: bottleneck.SuggestSettings,
    files: ListFiles,
    folders: options.Folders,
    head: options.HeadName = None,
) -> Any:
    """Choose the images to label next: those that a head is uncertain of, and that differ.

    Features in the cache are not computed again. Exits with 1 if images were left out.
    """
    _, fitted = choices.choose_head(folders.heads, head)
    found = read_images(images, settings.max_bytes, **files.written)
    note_image_set(found)
    with loading():
        from bottleneck.suggest import suggest_images
    store = bottleneck.Cache(folders.cache)
    with progress_shown() as progress:
        done = suggest_images(fitted, found, settings, cache=store, progress=progress)
    rows = [asdict(each) for each in done.images]
    if wanted("csv"):
        print_table(rows, spreadsheet_safe=files.spreadsheet_safe)
    else:
        show(asdict(done), lambda: _print_suggested(done))
    known = {item.path: item for item in found.items}
    groups = [
        [(known[each.path], f"{each.predicted}?  {each.probability:.2f}")] for each in done.images
    ]
    write_files(files, _SUGGESTED, rows, groups, store)
    notes.note_rejected(done.rejected)
    if done.rejected:
        sys.exit(1)
    return done


def _print_suggested(done: "Suggestions") -> None:
    title = f"{len(done.images)} of {counted(done.candidates, 'image')} to label next"
    print_table([asdict(each) for each in done.images], title)
    if done.labelled:
        note(f"{counted(done.labelled, 'image')} left out, being labelled already")


def write_files(
    files: ListFiles,
    columns: Sequence[str],
    rows: Sequence[dict[str, Any]],
    groups: Sequence[Sequence[tuple["ImageItem", str]]],
    cache: "bottleneck.Cache",
) -> None:
    """Write a table, and show groups of images with captions, where asked for.

    Parameters
    ----------
    files : ListFiles
        Where.
    columns : sequence of str
        Names of the table's columns.
    rows : sequence of dict
        Its rows.
    groups : sequence of sequence of (ImageItem, str)
        Images with captions; those that stand alone are groups of one.
    cache : Cache
        Where thumbnails are kept.
    """
    if files.output:
        with printed_to(files.output):
            write = csv_printer(safe=files.spreadsheet_safe)
            write(columns)
            for row in rows:
                write(row.values())
        note(f"{counted(len(rows), 'image')} written to {files.output}")
    count = sum(map(len, groups))
    if files.gallery and files.gallery.suffix.lower() == ".html":
        from bottleneck.report import Card, write_gallery

        cards = [[Card(item, {"": caption}) for item, caption in group] for group in groups]
        with progress_shown() as progress:
            title = counted(count, "image")
            write_gallery(files.gallery, title, cards, cache=cache, progress=progress)
        note(f"{counted(count, 'image')} shown in {files.gallery}")
    elif files.gallery:
        _draw(files.gallery, groups, count)


def _draw(file: Path, groups: Sequence[Sequence[tuple["ImageItem", str]]], count: int) -> None:
    """Draw groups of images as a contact sheet, each of several images from a row of its own."""
    from bottleneck.pictures import COLUMNS, draw_sheet

    tiles: list[tuple[ImageItem, str] | None] = []
    for group in groups:
        if len(group) > 1:
            tiles += [None] * (-len(tiles) % COLUMNS)
        tiles += [(item, f"{caption}\n{Path(item.path).name}") for item, caption in group]
    shown = sum(each is not None for each in tiles[:_MOST_DRAWN])
    draw_sheet(tiles[:_MOST_DRAWN], file, f"the first {counted(shown, 'image')} of {count}")
    note(f"{counted(shown, 'image')} of {count} drawn to {file}")
