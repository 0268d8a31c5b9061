"""The commands that evaluate and fine-tune a fitted head."""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

import bottleneck
from bottleneck.cli import choices, notes, options
from bottleneck.cli.command import add_command
from bottleneck.cli.epochs import draw_epochs, epochs_shown, print_reading
from bottleneck.cli.output import loading, print_list, print_table, progress_shown, show
from bottleneck.cli.outputs import check_picture
from bottleneck.cli.page import check_page, fill_finetuned, write_page
from bottleneck.cli.streams import csv_printer, note, printed_to
from bottleneck.cli.summary import note_image_set, note_known
from bottleneck.cli.tables import draw_matrix
from bottleneck.errors import UsageError, counted, some_of
from bottleneck.fields import Option
from bottleneck.settings import EvaluateSettings, ReportSettings

if TYPE_CHECKING:
    from bottleneck.evaluate import ClassMetrics, Evaluation, Misclassified
    from bottleneck.experiments import FineTuned
    from bottleneck.features import Features
    from bottleneck.finetune import Finetuned

__all__ = ["evaluate", "finetune"]

_MOST_CLASSES = 30
"""Of a printed confusion matrix; of more classes the worst confusions are printed."""
_WORST = 20
_FEW = 10
"""Validation images whose accuracy changes by more than a tenth with each."""
_WORST_TITLE = "most frequent confusions; --picture draws the matrix, --json prints it"
_CLASSES_TITLE = "in brackets: 95% intervals"
_CORNER = "true \\ predicted"
_METRICS = ("accuracy", "balanced_accuracy", "log_loss", "calibration_error", "average_precision")
_ReportFile = Annotated[
    Path | None, Doc("Write a report on the head to this file, as 'bottleneck report' does.")
]


@add_command("evaluate", "Judge", "as_json", "wide")
def evaluate(
    settings: EvaluateSettings,
    folders: options.Folders,
    head: options.HeadName = None,
    picture: options.Picture = None,
    errors: Annotated[
        options.CsvFile | None,
        Doc("Write the misclassified images to this CSV file, the most confident first."),
    ] = None,
    report: _ReportFile = None,
    spreadsheet_safe: Annotated[options.SpreadsheetSafe, Option(needs=("errors",))] = False,
) -> Any:
    """Evaluate a head on the untouched test images."""
    check_picture(picture)
    check_page(report)
    folder, fitted = choices.choose_head(folders.heads, head)
    features, split = _features_of(fitted, folders.cache, settings.split), settings.split
    evaluation = bottleneck.evaluate_head(fitted, features, split)
    store = bottleneck.Cache(folders.cache)
    notes.note_features(features.images, [features.selection], store, [split], evaluated=True)
    notes.note_unseen(features, fitted, store, split)
    _note_leaks(evaluation, features)
    scored = counted(evaluation.images, f"{split} image")
    title = f"{folder.name} on {scored} of {features.images.name!r}"
    content = {"head": folder.name, **evaluation.as_dict()}
    _save_evaluation(evaluation, folder / f"evaluation-{split}.json")  # also if a pipe is closed
    show(content, lambda: _print_evaluation(title, evaluation))
    if errors:
        wrong = bottleneck.misclassified(fitted, features, split)
        _write_errors(errors, wrong, safe=spreadsheet_safe)
    if picture:
        from bottleneck.pictures import draw_confusion_matrix

        draw_confusion_matrix(evaluation, folder.name, picture)
        note(f"confusion matrix drawn to {picture}")
    if report:
        write_page({folder.name: fitted}, ReportSettings(split=split), folders, report)
        note(f"report written to {report}")
    return evaluation


def _note_leaks(evaluation: "Evaluation", features: "Features") -> None:
    if evaluation.leaks and evaluation.split != "train":
        leaked = counted(evaluation.leaks, f"{evaluation.split} image")
        groups = ", or whose groups are" * bool(features.images.group_of)
        note(f"not scored: {leaked} in other splits, too{groups}")


def _features_of(head: "bottleneck.Head", cache: Path, split: str) -> "Features":
    """Load the features of a split; those of a fine-tuned base are computed if they are missing."""
    store = bottleneck.Cache(cache)
    fill_finetuned(head, store, split)
    limit = options.memory_of(None)
    return bottleneck.features_of(head.source, store, split=split, memory=limit, seen=head.seen)


def _save_evaluation(evaluation: "Evaluation", file: Path) -> None:
    """Save an evaluation, unless the head's folder can only be read."""
    try:
        evaluation.save(file)
    except OSError as error:
        note(f"note: {str(file)!r} could not be saved ({error.strerror})")


def _write_errors(file: Path, found: "Sequence[Misclassified]", *, safe: bool) -> None:
    """Write images that are classified wrongly as CSV, completely or not at all."""
    from bottleneck.evaluate import Misclassified

    with printed_to(file):
        write = csv_printer(safe=safe, quoting=csv.QUOTE_NONNUMERIC)
        write(field.name for field in fields(Misclassified))
        for each in found:
            write(vars(each).values())
    note(f"{counted(len(found), 'misclassified image')} written to {file}")


def _print_evaluation(title: str, evaluation: "Evaluation") -> None:
    print(title)
    low, high = evaluation.accuracy_interval
    facts = {name.replace("_", " "): f"{getattr(evaluation, name):.4f}" for name in _METRICS}
    facts["accuracy"] += f" (95% interval {low:.4f} to {high:.4f})"
    if evaluation.groups == 1 < evaluation.images:
        facts["groups"] = "1, which is too few for an interval"
    elif evaluation.groups < evaluation.images:
        facts["groups"] = f"{evaluation.groups}, which the intervals count, identical images as one"
    print_list(facts)
    notes.note_extreme(vars(evaluation))
    print_table([_class_row(found) for found in evaluation.classes], _CLASSES_TITLE)
    labels = [found.label for found in evaluation.classes]
    counts = evaluation.confusion
    if counts and (len(labels) > _MOST_CLASSES or not draw_matrix(labels, counts, _CORNER)):
        print_table(evaluation.worst_confusions(_WORST), _WORST_TITLE)
    if unknown := evaluation.unknown_classes:
        listed = some_of(f"{each.label} ({each.images})" for each in unknown)
        note(f"note: images of classes that the head does not know were left out: {listed}")


def _class_row(found: "ClassMetrics") -> dict[str, Any]:
    """Return the metrics of a class, with each interval beside its share."""
    row = {name: getattr(found, name) for name in ("label", "images")}
    for name in ("precision", "recall"):
        share, interval = getattr(found, name), getattr(found, f"{name}_interval")
        between = " ({:.2f} to {:.2f})".format(*interval) if interval else ""
        row[name] = None if share is None else f"{share:.3f}{between}"
    return row | {"average_precision": found.average_precision}


@add_command("finetune", "Fine-tune")
def finetune(
    settings: bottleneck.FinetuneSettings,
    start: options.StartSettings,
    epochs: options.EpochSettings,
    folders: options.Folders,
    name: options.NewName = None,
) -> Any:
    """Train the top of a base, or all of it, starting from a head; the result is a new base.

    Exits with 1 if images were left out or training diverged; the best epoch is saved all the same.
    """
    check_picture(epochs.picture)
    cache = bottleneck.Cache(folders.cache)
    place, head = choices.choose_head(folders.heads, start.head)
    settings = choices.choose_start(settings, head, cache)
    images = start.data and bottleneck.ImageSet.open(start.data, start)
    folder = folders.heads / (name or f"{place.resolve().name}-finetuned")
    replaced = (folder / "head.json").exists()
    if folder.resolve() == place.resolve():
        raise UsageError(f"`name` must differ from the name of `head`, got {place.name!r}")
    with loading():
        from bottleneck.finetune import default_images, finetune_head, is_first_process
    images = images or default_images(head, cache)
    places = {name: getattr(start, name) for name in ("weights", "device", "devices", "resume")}
    run = partial(finetune_head, head, images, cache, folder, settings, **places)
    if not is_first_process():
        return run()  # the first process reports
    (note_image_set if start.data else note_known)(images)
    shown = epochs_shown(folder.name, settings.epochs, epochs.tensorboard)
    with _resumable(folder), progress_shown() as progress, shown as lines:
        done = run(progress=progress, watch=lines.watch, announce=lines.announce)
    described: dict[str, Any] = {"head": folder.name, "model": str(folder), **done.head.as_dict()}
    described["fine_tuned"] = done.gain and done.gain.as_dict()
    show(described, lambda: _print_finetuned(done, settings, cache))
    notes.note_replaced(replaced)
    _note_end(done, settings, epochs.picture, place.name)
    return done


def _print_gain(tuned: "FineTuned", cache: "bottleneck.Cache") -> None:
    """Print the gain over the head at the start, and whether it bears out the last verdict."""
    from bottleneck.advise import outcome

    images = counted(tuned.images, "validation image")
    print(f"gain in accuracy: {tuned.shown_gain}, paired over {images}")
    if told := outcome(tuned, cache):
        print(told)


def _print_finetuned(
    done: "Finetuned", settings: bottleneck.FinetuneSettings, cache: "bottleneck.Cache"
) -> None:
    """Print what was trained, the scores, and the folder of the result."""
    from bottleneck.records import known_source

    scores, source = done.head.scores, known_source(done.head.source)
    print(
        f"{done.trained:,} parameters from {settings.unfreeze!r} to {source.layer_name!r} and the "
        f"{done.head.clf} head, trained on {counted(done.train, 'image')}, validated on {done.val}"
    )
    best, selected = scores["best_epoch"], scores["selected"]
    found = {f"the head {scores['start_head']}": ("start_val_accuracy", "start_val_loss", scores)}
    if best:
        found[f"epoch {best}, which these images selected"] = ("accuracy", "log_loss", selected)
        found["epochs that other validation images selected"] = ("accuracy", "log_loss", scores)
    rows = [
        {"network": network, "accuracy": own[accuracy], "log loss": own[loss]}
        for network, (accuracy, loss, own) in found.items()
    ]
    print_table(rows, f"best epoch: {best} of {len(scores['history'])}; on the validation images:")
    if done.gain:
        _print_gain(done.gain, cache)
    print_reading(scores)
    print(f"saved as {done.folder}, which is both a head and a model")


def _note_end(
    done: "Finetuned", settings: bottleneck.FinetuneSettings, picture: Path | None, start: str
) -> None:
    """Report problems of the training; exit with 1 for failures."""
    scores = done.head.scores
    best = scores["best_epoch"]
    if done.diverged:
        kept = f"of epoch {best}" if best else "from before training"
        usual = bottleneck.FinetuneSettings(recipe=settings.recipe).learning_rate
        note(
            f"warning: the training diverged in epoch {done.diverged}, as its loss or scores were "
            f"not finite; the network {kept} was saved: give a lower --learning-rate, such as "
            f"{min(usual, settings.learning_rate / 10):g}"
        )
    elif not best:
        note(
            f"note: no epoch was better on the validation images than the head "
            f"{scores['start_head']} by more than a standard error, so it was saved with the "
            f"network unchanged; go on with --head {start}, the head that it started from; "
            f"more images, another layer or --augment may help"
        )
    if done.val < _FEW:
        note(
            f"note: scores on only {counted(done.val, 'validation image')} are rough; give a "
            f"larger --val-share, or more images to validate on"
        )
    notes.note_rejected(done.rejected)
    draw_epochs(scores, done.folder.name, picture)
    if done.rejected or done.diverged:
        sys.exit(1)


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """If a training is interrupted, say how to resume it."""
    from bottleneck.finetune.checkpoints import Checkpoint

    try:
        yield
    except SystemExit:
        if Checkpoint(folder).exists:
            note(
                "stopped: run the same command with --resume to continue after the last "
                "complete epoch"
            )
        raise
