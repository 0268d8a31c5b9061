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
from bottleneck.cli.streams import csv_printer, note, note_list, printed_to
from bottleneck.cli.summary import note_image_set
from bottleneck.errors import UsageError, counted, some_of
from bottleneck.fields import ARGUMENT, Option
from bottleneck.settings import FitFeatures

if TYPE_CHECKING:
    from bottleneck.suggest import Suggestions
    from bottleneck.suspects import NearDuplicates, Suspects

__all__ = ["suggest", "suspects"]

_LISTED = ("path", "label", "suggested", "score")
"""Columns of the table that is reviewed."""
_MOST_SHOWN, _FEW_SHOWN = 20, 10
_MOST_DRAWN = 120
_MOST_OF_GROUP = 4
_WRITES = Option(needs=("as_csv", "output"))


@add_command("suspects", "Judge", "as_json", "as_csv", "wide")
def suspects(
    settings: bottleneck.SuspectSettings,
    chosen: FitFeatures,
    output: Annotated[
        options.CsvFile | None,
        Doc("Write the suspects to this CSV file, or with `fix` the table of corrected labels."),
    ] = None,
    gallery: Annotated[
        options.GalleryFile | None, Doc("Show the suspects in this file: .html, or .png.")
    ] = None,
    fix: Annotated[
        Path | None,
        Doc("Correct the labels as this CSV file says, which you have reviewed."),
        Option(needs=("output",)),
    ] = None,
    memory: options.Memory = None,
    cache: options.CacheFolder = Path("cache"),
    spreadsheet_safe: Annotated[options.SpreadsheetSafe, _WRITES] = False,
) -> Any:
    """Find labels that are probably wrong, outliers and near-duplicates; correct labels.

    Labels are judged by heads that have not seen the image, through cleanlab.
    """
    store = bottleneck.Cache(cache)
    selection = choices.choose_joined(store, chosen)
    if fix:
        return _corrected(store, selection.image_set, fix, output)
    from bottleneck.suspects import find_suspects

    features = bottleneck.load_features(store, selection, memory=options.memory_of(memory))
    found = find_suspects(features, settings)
    notes.note_features(features.images, [selection], store)
    rows = [{name: getattr(each, name) for name in _LISTED} for each in found.labels]
    if wanted("csv"):
        print_table(rows, spreadsheet_safe=spreadsheet_safe)
    else:
        show(found.as_dict(), lambda: _print_suspects(found))
    if output:
        _write(output, _LISTED, rows, safe=spreadsheet_safe)
        note(
            f"{counted(len(rows), 'suspect')} written to {output}: review it, then give it to --fix"
        )
    if gallery:
        captions = [
            (each.path, f"{each.label} -> {each.suggested}?  {each.score:.2f}")
            for each in found.labels
        ]
        title = f"labels of {found.image_set} that are probably wrong"
        _draw(gallery, captions, title, features.images, store)
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


def _print_suspects(found: "Suspects") -> None:
    shown = [asdict(each) for each in found.labels]
    print(
        f"labels of {counted(found.images, 'image')} of {found.image_set!r}, judged by {found.clf} "
        f"on {counted(found.folds, 'fold')}: {counted(len(shown), 'suspect')}"
    )
    _print_some(shown, "probably wrong, the most suspect first", _MOST_SHOWN)
    title = "outliers: images unlike all others, by mean cosine distance to the nearest ten"
    _print_some([asdict(each) for each in found.outliers], title, _FEW_SHOWN)
    groups = found.near_duplicates
    odd = sum(group.disagree for group in groups)
    if groups:
        print(
            f"{counted(len(groups), 'group')} of near-duplicates, {odd} of them with different "
            f"labels or in different splits"
        )
        note_list("near-duplicates:", list(map(_described, groups)), most=_FEW_SHOWN)


def _print_some(rows: Sequence[dict[str, Any]], title: str, most: int) -> None:
    print_table(rows[:most], title, spare=("split",))
    if len(rows) > most:
        note(f"and {len(rows) - most} more; --json prints all")


def _described(group: "NearDuplicates") -> str:
    own = zip(group.paths, group.labels, group.splits, strict=True)
    texts = (f"{path} ({label}, {split})" for path, label, split in own)
    return some_of(texts, " ~ ", _MOST_OF_GROUP)


@add_command("suggest", "Judge", "as_json", "as_csv", "wide")
def suggest(
    images: Annotated[tuple[Path, ...], Doc("Image files, folders or CSV tables."), ARGUMENT],
    settings: bottleneck.SuggestSettings,
    folders: options.Folders,
    head: options.HeadName = None,
    output: Annotated[
        options.CsvFile | None, Doc("Write the images to this CSV file, too.")
    ] = None,
    gallery: Annotated[
        options.GalleryFile | None, Doc("Show the images in this file: .html, or .png.")
    ] = None,
    spreadsheet_safe: Annotated[options.SpreadsheetSafe, _WRITES] = False,
) -> Any:
    """Choose the images to label next: those that a head is uncertain of, and that differ.

    Features in the cache are not computed again. Exits with 1 if images were left out.
    """
    _, fitted = choices.choose_head(folders.heads, head)
    found = bottleneck.ImageSet.from_paths(images, max_bytes=settings.max_bytes)
    note_image_set(found)
    with loading():
        from bottleneck.suggest import suggest_images
    with progress_shown() as progress:
        done = suggest_images(
            fitted, found, settings, cache=bottleneck.Cache(folders.cache), progress=progress
        )
    rows = [asdict(each) for each in done.images]
    if wanted("csv"):
        print_table(rows, spreadsheet_safe=spreadsheet_safe)
    else:
        show(asdict(done), lambda: _print_suggested(done))
    if output:
        _write(output, list(rows[0]), rows, safe=spreadsheet_safe)
        note(f"{counted(len(rows), 'image')} written to {output}")
    if gallery:
        captions = [
            (each.path, f"{each.predicted}?  {each.probability:.2f}") for each in done.images
        ]
        _draw(gallery, captions, "images to label next", found, bottleneck.Cache(folders.cache))
    notes.note_rejected(done.rejected)
    if done.rejected:
        sys.exit(1)
    return done


def _print_suggested(done: "Suggestions") -> None:
    title = f"{len(done.images)} of {counted(done.candidates, 'image')} to label next"
    print_table([asdict(each) for each in done.images], title)
    if done.labelled:
        note(f"{counted(done.labelled, 'image')} left out, being labelled already")


def _write(
    file: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]], *, safe: bool
) -> None:
    """Write a table, completely or not at all."""
    with printed_to(file):
        write = csv_printer(safe=safe)
        write(columns)
        for row in rows:
            write(row.values())


def _draw(
    file: Path,
    captions: Sequence[tuple[str, str]],
    title: str,
    images: "bottleneck.ImageSet",
    cache: "bottleneck.Cache",
) -> None:
    """Write a page of images with captions, or draw a contact sheet of the first ones."""
    if file.suffix.lower() == ".html":
        from bottleneck.report import Card, write_gallery

        known = {item.path: item for item in images.items}
        cards = [[Card(known[path], {"": caption})] for path, caption in captions]
        write_gallery(file, title, cards, cache=cache)
        note(f"{counted(len(cards), 'image')} shown in {file}")
        return
    from bottleneck.pictures import draw_sheet

    named = [(path, f"{caption}\n{Path(path).name}") for path, caption in captions[:_MOST_DRAWN]]
    draw_sheet(named, file, title)
    left = f", the first of {len(captions)}" if len(captions) > len(named) else ""
    note(f"{counted(len(named), 'image')}{left}, drawn to {file}")
