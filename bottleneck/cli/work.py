"""The commands that use a fitted head: evaluate, predict."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottleneck.cli.app import app
from bottleneck.cli.notes import (
    note_image_set,
    note_random,
    note_rejected,
    note_seen,
)
from bottleneck.cli.options import (
    AsJson,
    Augment,
    BatchSize,
    CacheFolder,
    Device,
    HeadName,
    HeadsFolder,
    batch_size_of,
    memory_of,
)
from bottleneck.cli.output import note, print_json, print_table, progress_shown

if TYPE_CHECKING:
    pass

__all__ = ["evaluate", "predict"]


@app.command()
def evaluate(
    head: HeadName = None,
    split: Annotated[
        str, typer.Option("--split", help="test; val and train give scores too good to quote.")
    ] = "test",
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw the confusion matrix to this file.")
    ] = None,
    cache: CacheFolder = Path("cache"),
    heads: HeadsFolder = Path("heads"),
    as_json: AsJson = False,
) -> Any:
    """Evaluate a head on the untouched test images."""
    from bottleneck.bases import is_finetuned
    from bottleneck.cache import Cache
    from bottleneck.evaluate import evaluate_head
    from bottleneck.features import features_of
    from bottleneck.finetune import fill_split
    from bottleneck.heads import find_head
    from bottleneck.report import draw_confusion_matrix

    name, fitted = find_head(heads, head)
    store = Cache(cache)
    if is_finetuned(fitted.source["model"]):
        with progress_shown() as progress:
            fill_split(fitted, store, split, progress=progress)
    features = features_of(fitted.source, store, split=split, memory=memory_of(None))
    evaluation = evaluate_head(fitted, features, split)
    evaluation.save(heads / name / f"evaluation-{split}.json")
    if picture:
        draw_confusion_matrix(evaluation, name, picture)
        note(f"confusion matrix drawn to {picture}")
    note_image_set(features.images)
    note_random(fitted.source["weights_random"])
    note_seen(fitted.source["model"], features.images, [split])
    if as_json:
        print_json({"head": name, **evaluation.as_dict()})
        return evaluation
    low, high = evaluation.accuracy_interval
    print(f"{name} on {evaluation.images} {split} images of {fitted.source['image_set']!r}")
    print(f"accuracy           {evaluation.accuracy:.4f} (95% interval {low:.4f} to {high:.4f})")
    print(f"balanced accuracy  {evaluation.balanced_accuracy:.4f}")
    print(f"log loss           {evaluation.log_loss:.4f}")
    print(f"calibration error  {evaluation.calibration_error:.4f}")
    print(f"average precision  {evaluation.average_precision:.4f}")
    print_table([vars(found) for found in evaluation.classes])
    if evaluation.confusion is not None:
        labels = [found.label for found in evaluation.classes]
        print_table(
            [
                {"true \\ predicted": label, **dict(zip(labels, row, strict=True))}
                for label, row in zip(labels, evaluation.confusion, strict=True)
            ],
        )
    return evaluation


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    head: HeadName = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="The base's weights, where they have moved.")
    ] = None,
    heads: HeadsFolder = Path("heads"),
    tta: Annotated[
        int,
        typer.Option(
            "--tta",
            min=0,
            help="Average the probabilities over so many augmented views and the plain image.",
        ),
    ] = 0,
    augment: Augment = None,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, not CSV.")] = False,
) -> None:
    """Print the class and its probability for each image.

    Exits with 1 where images had to be left out; all others are predicted.
    """
    from bottleneck.heads import find_head
    from bottleneck.images import ImageSet, RejectedImage
    from bottleneck.predict import load_base, predict_images
    from bottleneck.settings import PredictSettings

    size: Any = batch_size_of(batch_size) or "auto"
    settings = PredictSettings(tta=tta, augment=augment, batch_size=size)
    _, fitted = find_head(heads, head)
    found = ImageSet.from_paths(images)
    base = load_base(fitted, weights=weights, device=device)
    note_random(base.weights_random)
    note_image_set(found)
    table = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    if not as_json:
        table.writerow(["path", "class", *(f"p({label})" for label in fitted.classes)])
    rejected = []
    with progress_shown(quiet=not sys.stderr.isatty() or sys.stdout.isatty()) as progress:
        for result in predict_images(fitted, base, found, settings, progress=progress):
            if isinstance(result, RejectedImage):
                rejected.append(result)
                if as_json:
                    print(json.dumps({"path": result.path, "error": result.reason}))
            elif as_json:
                line = {"path": result.path, "class": result.label}
                print(json.dumps(line | {"probabilities": result.probabilities}))
            else:
                shares = (round(share, 6) for share in result.probabilities.values())
                table.writerow([result.path, result.label, *shares])
    note_rejected(rejected)
    if rejected:
        raise typer.Exit(1)
