"""The command that uses a fitted head on new images: predict."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from annotated_doc import Doc

import bottleneck
from bottleneck.cli import choices, notes, options
from bottleneck.cli.command import add_command
from bottleneck.cli.output import loading, progress_shown
from bottleneck.cli.outputs import read_images
from bottleneck.cli.streams import csv_printer, note, printed_to
from bottleneck.cli.summary import note_image_set
from bottleneck.errors import UsageError, counted
from bottleneck.fields import ARGUMENT, Option
from bottleneck.settings.values import Count

if TYPE_CHECKING:
    from bottleneck.images import RejectedImage
    from bottleneck.predict import Prediction

__all__ = ["predict"]

_Images = Annotated[
    tuple[Path, ...],
    Doc("Image files, folders or CSV tables; - for their paths on standard input."),
    ARGUMENT,
]
_IN_CSV = Option(unless=("as_json", "output=*.jsonl"))


class _Form(NamedTuple):
    """Whether images have labels and novelty, how many classes are given, and in which form."""

    labelled: bool
    novel: bool
    top: int | None
    as_json: bool
    spreadsheet_safe: bool


@add_command("predict", "Ship")
def predict(
    images: _Images,
    settings: bottleneck.PredictSettings,
    folders: options.Folders,
    head: options.HeadName = None,
    top: Annotated[Count | None, Doc("Give only this many classes, the likeliest first.")] = None,
    output: Annotated[
        options.PredictionFile | None,
        Doc("Write to this file instead: .csv, or .jsonl for JSON lines."),
    ] = None,
    as_json: Annotated[bool, Doc("Print JSON lines, not CSV."), Option("--json")] = False,
    spreadsheet_safe: Annotated[options.SpreadsheetSafe, _IN_CSV] = False,
) -> None:
    """Print the class of each image, the probabilities of all classes, and the image's novelty.

    Novelty is the percentage of held-out images that are nearer to the training images.
    Features in the cache are not computed again. Exits with 1 if images were left out.
    """
    from bottleneck.predict import predict_images

    images = tuple(path for each in images for path in _paths(each))
    as_json = _is_json(output, as_json=as_json)
    _, fitted = choices.choose_head(folders.heads, head)
    found = read_images(images, settings.max_bytes, output=output)
    store = None if settings.tta else bottleneck.Cache(folders.cache)
    notes.note_random(bool(fitted.source and fitted.source.weights_random))
    note_image_set(found)
    quiet = not sys.stderr.isatty() or (sys.stdout.isatty() and not output)
    labelled = any(item.label is not None for item in found.items)
    form = _Form(labelled, fitted.novelty is not None, top, as_json, spreadsheet_safe)
    with loading():
        results = predict_images(fitted, found, settings, cache=store)
    total = len(found.items) + len(found.rejected)
    with progress_shown(quiet=quiet) as progress, printed_to(output):
        report = partial(progress, "predict", total=total)
        rejected, unknown = _print_predictions(fitted.classes, results, form, report)
    if output:
        note(f"{counted(total - len(rejected), 'image')} written to {output}")
    _note_end(rejected, unknown, settings.abstain)


def _is_json(output: Path | None, *, as_json: bool) -> bool:
    """Return whether JSON lines are printed or written, as asked for or by the file's ending."""
    if output and as_json and output.suffix.lower() == ".csv":
        raise UsageError("`output` ends in .csv, but `json` writes JSON lines; give a .jsonl file")
    return as_json or bool(output and output.suffix.lower() != ".csv")


def _paths(given: Path) -> list[Path]:
    """Return a path, or those on standard input: one a line, or each ended by a NUL character."""
    if given != Path("-"):
        return [given]
    content = sys.stdin.buffer.read() if sys.stdin else b""
    paths = content.split(b"\0") if b"\0" in content else content.splitlines()
    if not any(paths):
        raise UsageError(
            "`images` is -, but standard input has no paths; write one a line, as in "
            "'find photos -name \"*.jpg\" | bottleneck predict -'"
        )
    return [Path(os.fsdecode(each)) for each in paths if each]


def _note_end(rejected: "Sequence[RejectedImage]", unknown: int, abstain: float | None) -> None:
    """Report images without a class; exit with 1 if some could not be used."""
    if abstain is not None:
        note(
            f"{counted(unknown, 'image')} without a class, farther from the training images than "
            f"{abstain:g}% of held-out ones"
        )
    notes.note_rejected(rejected)
    if rejected:
        sys.exit(1)


def _print_predictions(
    classes: Sequence[str],
    results: "Iterable[Prediction | RejectedImage]",
    form: _Form,
    report: Callable[[int], None],
) -> "tuple[list[RejectedImage], int]":
    """Print predictions as they are made; return images that have none, and how many no class."""
    from bottleneck.images import RejectedImage

    rejected, unknown = [], 0
    write = csv_printer(safe=form.spreadsheet_safe, quoting=csv.QUOTE_NONNUMERIC)
    if not form.as_json:
        ranks = range(1, min(form.top or 0, len(classes)) + 1)
        ranked = [name for rank in ranks for name in (f"class_{rank}", f"p_{rank}")]
        names = ranked or [f"p({label})" for label in classes]
        others = ["label"] * form.labelled, ["novelty"] * form.novel
        write(["path", *others[0], "class", *names, *others[1]])
    report(0)
    for done, result in enumerate(results, 1):
        report(done)
        if isinstance(result, RejectedImage):
            rejected.append(result)
        elif result.label is None:
            unknown += 1
        if form.as_json:
            print(json.dumps(_described(result, form)))
        elif not isinstance(result, RejectedImage):
            write(_row(result, form))
    return rejected, unknown


def _described(result: "Prediction | RejectedImage", form: _Form) -> dict[str, Any]:
    """Return a result in JSON types."""
    from bottleneck.images import RejectedImage

    if isinstance(result, RejectedImage):
        return {"path": result.path, "error": result.reason}
    return {
        "path": result.path,
        **({"label": result.true_label} if form.labelled else {}),
        "class": result.label,
        "probabilities": result.likeliest(form.top) if form.top else result.probabilities,
        **({"novelty": result.novelty} if form.novel else {}),
    }


def _row(result: "Prediction", form: _Form) -> list[Any]:
    """Return the cells of a result in a table."""
    shares = [round(share, 6) for share in result.probabilities.values()]
    ranked = result.likeliest(form.top).items()
    cells = [cell for name, p in ranked for cell in (name, round(p, 6))]
    label = [result.true_label or ""] if form.labelled else []
    novelty = [] if result.novelty is None else [round(result.novelty, 2)]
    return [result.path, *label, result.label or "", *(cells if form.top else shares), *novelty]
