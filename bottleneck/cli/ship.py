"""The command that predicts new images: predict."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from annotated_doc import Doc

from bottleneck.cli.command import add_command
from bottleneck.cli.notes import note_image_set, note_random, note_rejected
from bottleneck.cli.options import HeadName, HeadsFolder
from bottleneck.cli.output import loading, progress_shown
from bottleneck.fields import Option
from bottleneck.settings import PredictSettings

if TYPE_CHECKING:
    from bottleneck.predict import Prediction

__all__ = ["predict"]


@add_command("predict", "Ship")
def predict(
    images: Annotated[
        tuple[Path, ...], Doc("Image files, or folders of them."), Option(argument=True)
    ],
    settings: PredictSettings,
    head: HeadName = None,
    heads: HeadsFolder = Path("heads"),
    as_json: Annotated[bool, Doc("Print JSON lines, not CSV."), Option("--json")] = False,
) -> None:
    """Print the class and its probability for each image.

    Exits with 1 where images had to be left out; all others are predicted.
    """
    from bottleneck.heads import find_head
    from bottleneck.images import ImageSet, RejectedImage

    _, fitted = find_head(heads, head)
    found = ImageSet.from_paths(images)
    with loading():
        from bottleneck.predict import load_base, predict_images
    base = load_base(fitted, weights=settings.weights, device=settings.device)
    note_random(base.weights_random)
    note_image_set(found)
    rejected = []
    show = _json_line if as_json else _csv_row
    if not as_json:
        _csv_line(["path", "class", *(f"p({label})" for label in fitted.classes)])
    with progress_shown(quiet=not sys.stderr.isatty() or sys.stdout.isatty()) as progress:
        for result in predict_images(fitted, found, settings, base=base, progress=progress):
            if not isinstance(result, RejectedImage):
                show(result)
                continue
            rejected.append(result)
            if as_json:
                print(json.dumps({"path": result.path, "error": result.reason}))
    note_rejected(rejected)
    if rejected:
        raise typer.Exit(1)


def _json_line(result: "Prediction") -> None:
    line = {"path": result.path, "class": result.label}
    print(json.dumps(line | {"probabilities": result.probabilities}))


def _csv_row(result: "Prediction") -> None:
    shares = (round(share, 6) for share in result.probabilities.values())
    _csv_line([result.path, result.label, *shares])


def _csv_line(cells: list[object]) -> None:
    csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerow(cells)
