"""Write reports and galleries: HTML files that need nothing else, Markdown and JSON."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bottleneck.cache import Cache
from bottleneck.errors import UsageError, one_line
from bottleneck.files import atomic_write, check_writable, output_file
from bottleneck.folders import replaced_folder
from bottleneck.images import SPLITS
from bottleneck.labels import classes_of
from bottleneck.report.content import PageImage, Report
from bottleneck.report.galleries import Card, Gallery
from bottleneck.report.thumbnails import Thumbnail, thumbnails_of
from bottleneck.templates import island, policy, rendered, script

__all__ = ["FORMS", "check_report_file", "form_of", "write_gallery", "write_report"]

FORMS = {".html": "html", ".htm": "html", ".md": "md", ".json": "json"}
"""Endings of files and the forms of reports."""
_INDEX, _PICTURES = "index.html", "thumbnails"
_JPEG = "data:image/jpeg;base64,"
_MADE_BY, _HEAD_BYTES = b'<meta name="generator" content="bottleneck">', 1024
"""What is in the first bytes of a page, by which a report is known."""

_Source = Callable[[str], "_Shown"]


@dataclass(frozen=True)
class _Shown:
    """The address of a thumbnail in a page, or why there is none."""

    source: str
    missing: str


def form_of(file: str | Path, form: str | None = None) -> str:
    """Return the form of a report: as given, or by the ending of its file.

    Parameters
    ----------
    file : str or Path
        The file.
    form : str, optional
        ``html``, ``md`` or ``json``.

    Returns
    -------
    str

    Raises
    ------
    UsageError
        No form is given, and the ending tells none.
    """
    if form is None and Path(file).suffix.lower() not in FORMS:
        raise UsageError(
            f"a report cannot be written as {str(file)!r}; expected a name in "
            f"{', '.join(FORMS)}, or give `form`"
        )
    return form or FORMS[Path(file).suffix.lower()]


def check_report_file(file: str | Path, *, folder: bool = False) -> Path:
    """Check, before any work, that a report may be written to a path.

    Parameters
    ----------
    file : str or Path
        The file, or the folder.
    folder : bool
        Whether a folder is to be written.

    Returns
    -------
    Path

    Raises
    ------
    UsageError
        It is a folder where a file is to be written, or a folder of somebody else.
    OSError
        It cannot be written.
    """
    path = Path(file)
    if folder and (path.is_file() or _has_others(path)):
        raise UsageError(
            f"{str(path)!r} already exists and is not the folder of a report; give another with "
            f"`output`"
        )
    if not folder and path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder, but a report is a file; give another name")
    check_writable(path.resolve().parent / _INDEX if folder else path)
    return path


def _has_others(folder: Path) -> bool:
    """Return whether a folder has files, but no report of this package."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    page = folder / _INDEX
    if not page.is_file():
        return True
    with page.open("rb") as file:
        return _MADE_BY not in file.read(_HEAD_BYTES)


def write_report(report: Report, file: str | Path, form: str | None = None) -> Path:
    """Write a report, completely or not at all.

    Parameters
    ----------
    report : Report
        The result of `make_report`.
    file : str or Path
        The file; or, with the form ``folder``, a folder for ``index.html`` and the thumbnails.
    form : str, optional
        ``html``, ``md``, ``json`` or ``folder``; by default by the ending of the file.

    Returns
    -------
    Path
        What to open.

    Raises
    ------
    UsageError
        The ending of the file tells no form, or the path is not one of a report.
    OSError
        It cannot be written.
    """
    path = check_report_file(file, folder=form == "folder")
    if form == "folder":
        with replaced_folder(path, {_INDEX, _PICTURES}.__contains__) as new:
            for digest, each in report.thumbnails.items():
                if each.jpeg:
                    _write_picture(new / _PICTURES / f"{digest}.jpg", each.jpeg)
            atomic_write(new / _INDEX, _page(report, _linked(report.thumbnails), f"{_PICTURES}/"))
        return path / _INDEX
    render = {"html": _whole_page, "md": _markdown, "json": _json}[form_of(path, form)]
    with output_file(path) as target:
        target.write(render(report).encode("utf-8", "backslashreplace"))
    return path


def write_gallery(
    file: str | Path,
    title: str,
    groups: Sequence[Sequence[Card]],
    *,
    sentence: str = "",
    cache: Cache | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write images with captions as one HTML file that needs nothing else.

    Parameters
    ----------
    file : str or Path
        The file, ending in ``.html``.
    title : str
        Title of the page.
    groups : sequence of sequence of Card
        Groups of images; those that stand alone are groups of one.
    sentence : str
        What the images have in common.
    cache : Cache, optional
        Where thumbnails are kept, see `bottleneck.report.thumbnails_of`.
    progress : callable, optional
        Called with ``"thumbnails"``, the number of images done and their total.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UsageError
        The name of the file has another ending.
    OSError
        It cannot be written.
    """
    if form_of(file) != "html":
        raise UsageError(f"a gallery cannot be written as {str(file)!r}; expected a name in .html")
    path = check_report_file(file)
    items = [card.item for group in groups for card in group]
    source = _embedded(thumbnails_of(items, cache, progress=progress))
    gallery = Gallery("gallery", title, sentence, groups, len(groups))
    text = rendered("report/gallery.html", gallery=gallery, source=source, policy=policy())
    with output_file(path) as target:
        target.write(text.encode("utf-8", "backslashreplace"))
    return path


def _write_picture(file: Path, content: bytes) -> None:
    """Write a file of the new folder; it is not synced to disk, as it can be made again."""
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)


def _embedded(thumbnails: Mapping[str, Thumbnail]) -> _Source:
    def source(digest: str) -> _Shown:
        found = thumbnails[digest]
        text = _JPEG + base64.b64encode(found.jpeg).decode() if found.jpeg else ""
        return _Shown(text, found.missing)

    return source


def _linked(thumbnails: Mapping[str, Thumbnail]) -> _Source:
    def source(digest: str) -> _Shown:
        found = thumbnails[digest]
        return _Shown(f"{_PICTURES}/{digest}.jpg" if found.jpeg else "", found.missing)

    return source


def _whole_page(report: Report) -> str:
    return _page(report, _embedded(report.thumbnails), _JPEG)


def _page(report: Report, source: _Source, prefix: str) -> str:
    """Return the page, whose pictures have addresses that begin with `prefix`."""
    numbers: dict[str, int] = {}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    given = [own.label for each in report.images for own in each.given if own]
    known = [
        each.label for head in report.heads if head.evaluation for each in head.evaluation.classes
    ]
    # Also those that no image of a sample was given, as cells of the matrix ask for them.
    predicted = dict.fromkeys([*known, *chain.from_iterable(map(classes_of, given))])
    for label in (*(each.label for each in report.summary.classes), *predicted):
        number(label)
    images = [_row(each, number, source, prefix) for each in report.images]
    content = {
        "names": list(map(one_line, numbers)),
        "splits": SPLITS,
        "heads": [one_line(each.name) for each in report.heads],
        "prefix": prefix,
        "images": images,
    }
    code = script("report/page.js")
    facts = {
        "report": report,
        "source": source,
        "number": number,
        "predicted": list(predicted),
        "splits": SPLITS,
        "split_number": SPLITS.index(report.split),
        "island": island(content),
        "script": code,
        "policy": policy(code),
    }
    return rendered("report/page.html", **facts)


def _row(each: PageImage, number: Callable[[str], int], source: _Source, prefix: str) -> list[Any]:
    """Return an image as the page's script reads it."""
    item, shown = each.item, source(each.item.digest)

    def numbers(label: str) -> list[int]:
        return [number(one) for one in classes_of(label)]

    return [
        one_line(item.path),
        shown.source.removeprefix(prefix),
        one_line(shown.missing),
        None if item.label is None else numbers(item.label),
        -1 if item.split is None else SPLITS.index(item.split),
        *(each.place or (None, None)),
        *(
            given and [numbers(given.label), round(given.confidence, 4), given.right]
            for given in each.given
        ),
    ]


def _markdown(report: Report) -> str:
    return rendered("report/page.md", report=report)


def _json(report: Report) -> str:
    return json.dumps(report.as_dict(), indent=2) + "\n"
