"""The command that uses a fitted head on new images: predict."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

import bottleneck
from bottleneck.cli import choices, notes, options
from bottleneck.cli.command import add_command
from bottleneck.cli.output import loading, note, progress_shown
from bottleneck.errors import UsageError
from bottleneck.fields import ARGUMENT, Option
from bottleneck.settings.values import Count

if TYPE_CHECKING:
    from bottleneck.images import RejectedImage
    from bottleneck.predict import Prediction

__all__ = ["predict"]

_JSON = (".json", ".jsonl")
_ENDINGS = (".csv", *_JSON)


@add_command("predict", "Ship")
def predict(
    images: Annotated[
        tuple[Path, ...], Doc("Image files, folders or CSV tables of them."), ARGUMENT
    ],
    settings: bottleneck.PredictSettings,
    folders: options.Folders,
    head: options.HeadName = None,
    top: Annotated[Count | None, Doc("Give only this many classes, the likeliest first.")] = None,
    output: Annotated[
        Path | None,
        Doc("Write to this file instead: .csv, or .jsonl for JSON lines."),
        Option(metavar="FILE"),
    ] = None,
    as_json: Annotated[bool, Doc("Print JSON lines, not CSV."), Option("--json")] = False,
) -> None:
    """Print the class and its probability for each image.

    Features of images that are in the cache are taken from it. Exits with 1 if images had to be
    left out; all others are predicted.
    """
    if output and (output.suffix.lower() not in _ENDINGS or output.is_dir()):
        raise UsageError(f"`output` must be a file ending in .csv or .jsonl, got {str(output)!r}")
    _, fitted = choices.choose_head(folders.heads, head)
    found = bottleneck.ImageSet.from_paths(images, max_bytes=settings.max_bytes or 0)
    store = None if settings.tta else bottleneck.Cache(folders.cache)
    from bottleneck.predict import are_cached, load_base, predict_images

    base = None
    if not are_cached(fitted, found, store).all():
        with loading():
            base = load_base(
                fitted,
                weights=settings.weights,
                device=settings.device,
                max_pixels=settings.max_pixels,
            )
    notes.note_random(bool(fitted.source and fitted.source.weights_random))
    notes.note_image_set(found)
    quiet = not sys.stderr.isatty() or (sys.stdout.isatty() and not output)
    as_json = as_json or bool(output and output.suffix.lower() in _JSON)
    with progress_shown(quiet=quiet) as progress, _printed_to(output):
        results = predict_images(fitted, found, settings, base=base, cache=store, progress=progress)
        labelled = any(item.label is not None for item in found.items)
        rejected = _print_predictions(
            fitted.classes, results, labelled=labelled, top=top, as_json=as_json
        )
    if output:
        note(f"{len(found.items) + len(found.rejected) - len(rejected)} images written to {output}")
    notes.note_rejected(rejected)
    if rejected:
        sys.exit(1)


@contextmanager
def _printed_to(file: Path | None) -> Iterator[None]:
    """Let what is printed go to a file, which is written completely or not at all."""
    if file is None:
        yield
        return
    from bottleneck.files import atomic_file

    with atomic_file(file) as content:
        text = TextIOWrapper(content, encoding="utf-8", newline="")
        try:
            with redirect_stdout(text):
                yield
        finally:
            text.detach()  # flushes, and leaves the file open


def _print_predictions(
    classes: Sequence[str],
    results: "Iterable[Prediction | RejectedImage]",
    *,
    labelled: bool,
    top: int | None,
    as_json: bool,
) -> "list[RejectedImage]":
    """Print each prediction as soon as it is made; return the images without one."""
    from bottleneck.images import RejectedImage

    rejected = []
    table = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    if not as_json:
        ranks = range(1, min(top or 0, len(classes)) + 1)
        ranked = [name for rank in ranks for name in (f"class_{rank}", f"p_{rank}")]
        names = ranked or [f"p({label})" for label in classes]
        table.writerow(["path", *(["label"] if labelled else []), "class", *names])
    for result in results:
        if isinstance(result, RejectedImage):
            rejected.append(result)
        if as_json:
            print(json.dumps(_described(result, top, labelled=labelled)))
        elif not isinstance(result, RejectedImage):
            table.writerow(_row(result, top, labelled=labelled))
    return rejected


def _described(
    result: "Prediction | RejectedImage", top: int | None, *, labelled: bool
) -> dict[str, Any]:
    """Return a result in JSON types."""
    from bottleneck.images import RejectedImage

    if isinstance(result, RejectedImage):
        return {"path": result.path, "error": result.reason}
    return {
        "path": result.path,
        **({"label": result.true_label} if labelled else {}),
        "class": result.label,
        "probabilities": result.likeliest(top) if top else result.probabilities,
    }


def _row(result: "Prediction", top: int | None, *, labelled: bool) -> list[Any]:
    """Return the cells of a result in a table."""
    shares = [round(share, 6) for share in result.probabilities.values()]
    ranked = [cell for name, p in result.likeliest(top).items() for cell in (name, round(p, 6))]
    label = [result.true_label or ""] if labelled else []
    return [result.path, *label, result.label, *(ranked if top else shares)]
