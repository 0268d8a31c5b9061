"""The commands that take a fitted head: evaluate, advise, finetune, predict."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

import bottleneck
from bottleneck.cli import notes, options
from bottleneck.cli.command import add_command
from bottleneck.cli.output import loading, note, print_list, print_table, progress_shown, show
from bottleneck.cli.streams import csv_printer
from bottleneck.errors import UsageError
from bottleneck.fields import ARGUMENT, Option
from bottleneck.settings import EvaluateSettings, LayerSettings

if TYPE_CHECKING:
    from bottleneck.advise import Advice, Estimate
    from bottleneck.evaluate import Evaluation
    from bottleneck.finetune import Finetuned
    from bottleneck.images import RejectedImage
    from bottleneck.predict import Prediction

__all__ = ["advise", "evaluate", "finetune", "predict"]

_METRICS = ("accuracy", "balanced_accuracy", "log_loss", "calibration_error", "average_precision")


@add_command("evaluate", "Judge")
def evaluate(
    settings: EvaluateSettings,
    folders: options.Folders,
    head: options.HeadName = None,
    picture: options.Picture = None,
) -> Any:
    """Evaluate a head on the untouched test images."""
    from bottleneck.bases import is_finetuned
    from bottleneck.heads import find_head
    from bottleneck.records import known_source

    folder, fitted = find_head(folders.heads, head)
    options.check_picture(picture)
    store, split = bottleneck.Cache(folders.cache), settings.split
    source = known_source(fitted.source)
    if is_finetuned(source.model):
        with loading():
            from bottleneck.finetune import fill_split
        with progress_shown() as progress:
            fill_split(fitted, store, split, progress=progress)
    features = bottleneck.features_of(source, store, split=split, memory=options.memory_of(None))
    evaluation = bottleneck.evaluate_head(fitted, features, split)
    evaluation.save(folder / f"evaluation-{split}.json")
    if picture:
        from bottleneck.pictures import draw_confusion_matrix

        draw_confusion_matrix(evaluation, folder.name, picture)
        note(f"confusion matrix drawn to {picture}")
    notes.note_features(features.images, [source], [split])
    title = f"{folder.name} on {evaluation.images} {split} images of {source.image_set!r}"
    content = {"head": folder.name, **evaluation.as_dict()}
    show(content, lambda: _print_evaluation(title, evaluation))
    return evaluation


def _print_evaluation(title: str, evaluation: "Evaluation") -> None:
    print(title)
    low, high = evaluation.accuracy_interval
    facts = {name.replace("_", " "): f"{getattr(evaluation, name):.4f}" for name in _METRICS}
    facts["accuracy"] += f" (95% interval {low:.4f} to {high:.4f})"
    print_list(facts)
    print_table([vars(found) for found in evaluation.classes])
    labels = [found.label for found in evaluation.classes]
    print_table(
        [
            {"true \\ predicted": label, **dict(zip(labels, row, strict=True))}
            for label, row in zip(labels, evaluation.confusion or [], strict=False)
        ]
    )


@add_command("advise", "Judge")
def advise(
    settings: bottleneck.AdviseSettings,
    chosen: LayerSettings,
    picture: options.Picture = None,
    jobs: options.Jobs = -1,
    memory: options.Memory = None,
    cache: options.CacheFolder = Path("cache"),
) -> Any:
    """Say what would help a head: more images, another layer or head, or fine-tuning.

    Measured on cached features: learning curves, the accuracy on each layer, and other heads.
    """
    options.check_picture(picture)
    store, limit = bottleneck.Cache(cache), options.memory_of(memory)
    selections = bottleneck.select_layers(store, chosen)
    with loading():
        from bottleneck.advise import advise_on
    with progress_shown(unit="fits") as progress, options.in_parallel(jobs):
        advice = advise_on(store, selections, settings, memory=limit, progress=progress)
    notes.note_features(bottleneck.ImageSet.read_csv(store.set_file(advice.image_set)), selections)
    show(advice.as_dict(), lambda: _print_advice(advice))
    if picture:
        from bottleneck.pictures import draw_advice

        draw_advice(advice, picture)
        note(f"learning curve and layers drawn to {picture}")
    return advice


def _print_advice(advice: "Advice") -> None:
    evidence, curve = advice.evidence, advice.evidence.curve
    print(
        f"{advice.clf} on {evidence.images} images of {advice.image_set!r}, {evidence.classes} "
        f"classes; held out: {advice.held_out}"
    )
    points = [
        _reached(each.images, each.accuracy)
        | {"training": each.train_accuracy, "gap": each.gap, "log loss": each.log_loss.value}
        for each in curve.points
    ]
    forecasts = [_reached(each.images, each.accuracy) for each in curve.forecasts]
    print_table([*points, *forecasts], f"learning curve of {advice.layer}, then its forecast")
    layers = [
        {
            "layer": each.layer,
            "pool": each.pool,
            "accuracy": each.accuracy.value,
            "std": each.deviation,
            "gap": each.curve.points[-1].gap,
            "log loss": each.log_loss.value,
            "twice the images": each.curve.forecasts[0].accuracy.value,
            "minus the last": each.difference and str(each.difference),
        }
        for each in evidence.layers
    ]
    print_table(layers, "layers")
    less = f"less {advice.clf}"
    heads = [
        {"head": each.clf, "accuracy": each.accuracy.value, less: str(each.difference)}
        for each in evidence.heads
    ]
    print_table(heads, "other heads")
    print(f"verdict: {advice.verdict.sentence}")


def _reached(images: int, accuracy: "Estimate") -> dict[str, Any]:
    interval = f"{accuracy.low:.3f} to {accuracy.high:.3f}"
    return {"images": images, "accuracy": accuracy.value, "95% interval": interval}


@add_command("finetune", "Fine-tune")
def finetune(
    settings: bottleneck.FinetuneSettings,
    start: options.StartSettings,
    epochs: options.EpochSettings,
    folders: options.Folders,
    name: options.NewName = None,
) -> Any:
    """Train the top of a base, or all of it, starting from a head; the result is a new base.

    Exits with 1 if images were left out or training diverged; the best network is saved.
    """
    from bottleneck.heads import find_head

    options.check_picture(epochs.picture)
    cache = bottleneck.Cache(folders.cache)
    place, head = find_head(folders.heads, start.head)
    images = start.data and bottleneck.ImageSet.open(
        start.data, name=start.image_set, seed=settings.seed
    )
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
    notes.note_image_set(images)
    with _training_shown(folder, settings.epochs, epochs.tensorboard) as shown:
        done = run(**shown)
    described = {"head": folder.name, "model": str(folder), **done.head.as_dict()}
    show(described, lambda: _print_finetuned(done, settings))
    notes.note_replaced(replaced)
    _note_end(done, settings.learning_rate, epochs.picture)
    return done


def _print_finetuned(done: "Finetuned", settings: bottleneck.FinetuneSettings) -> None:
    """Print what was trained, the scores, and the folder of the result."""
    from bottleneck.records import known_source

    scores, source = done.head.scores, known_source(done.head.source)
    print(
        f"{done.trained:,} parameters from {settings.unfreeze!r} to {source.layer_name!r} "
        f"and the {done.head.clf} head, trained on {done.train} images, validated on {done.val}"
    )
    print(
        f"best epoch {scores['best_epoch']} of {len(scores['history'])}, validation accuracy "
        f"{scores['start_val_accuracy']:.4f} before, {scores['accuracy']:.4f} after; log loss "
        f"{scores['start_val_loss']:.4g} before, {scores['log_loss']:.4g} after"
    )
    print(f"before: the head {scores['start_head']}; after: the epoch selected on these images")
    print(f"saved as {done.folder}, which is both a head and a model")


def _note_end(done: "Finetuned", learning_rate: float, picture: Path | None) -> None:
    """Report problems of the training; exit with 1 for failures."""
    scores = done.head.scores
    best = scores["best_epoch"]
    if done.diverged:
        kept = f"as after epoch {best}" if best else "as before the first"
        note(
            f"warning: the training diverged in epoch {done.diverged}, as its loss was not "
            f"finite; the network {kept} was saved: use a --learning-rate below "
            f"{learning_rate:g}"
        )
    elif not best:
        note(
            f"note: no epoch was better on the validation images than the head "
            f"{scores['start_head']}, so it was saved with the network unchanged; another layer, "
            f"--augment or a lower --learning-rate may help"
        )
    notes.note_rejected(done.rejected)
    notes.draw_epochs(scores["history"], best, done.folder.name, picture)
    if done.rejected or done.diverged:
        sys.exit(1)


@contextmanager
def _training_shown(folder: Path, epochs: int, tensorboard: Path | None) -> Iterator[Any]:
    """Yield ``progress`` and ``watch`` for a training; if interrupted, say how to resume it."""
    from bottleneck.finetune.checkpoints import Checkpoint
    from bottleneck.pictures import epoch_log

    logged = epoch_log(tensorboard / folder.name) if tensorboard else nullcontext()
    try:
        with progress_shown() as progress, logged as log:

            def watch(epoch: Mapping[str, float]) -> None:
                note(
                    f"epoch {epoch['epoch']} of {epochs}: loss {epoch['loss']:.4g}, "
                    f"accuracy {epoch['accuracy']:.4f}; validation loss {epoch['val_loss']:.4g}, "
                    f"accuracy {epoch['val_accuracy']:.4f}"
                )
                if log:
                    log(epoch)

            yield {"progress": progress, "watch": watch}
    except SystemExit:
        if Checkpoint(folder).exists:
            note(
                "stopped: run the same command with --resume to continue after the last "
                "complete epoch"
            )
        raise


@add_command("predict", "Ship")
def predict(
    images: Annotated[tuple[Path, ...], Doc("Image files, or folders of them."), ARGUMENT],
    settings: bottleneck.PredictSettings,
    head: options.HeadName = None,
    heads: options.HeadsFolder = Path("heads"),
    as_json: Annotated[bool, Doc("Print JSON lines, not CSV."), Option("--json")] = False,
    spreadsheet_safe: options.SpreadsheetSafe = False,
) -> None:
    """Print the class and its probability for each image.

    Exits with 1 if images had to be left out; all others are predicted.
    """
    from bottleneck.heads import find_head

    _, fitted = find_head(heads, head)
    found = bottleneck.ImageSet.from_paths(images)
    with loading():
        from bottleneck.predict import load_base, predict_images
    base = load_base(fitted, weights=settings.weights, device=settings.device)
    notes.note_random(base.weights_random)
    notes.note_image_set(found)
    with progress_shown(quiet=not sys.stderr.isatty() or sys.stdout.isatty()) as progress:
        results = predict_images(fitted, found, settings, base=base, progress=progress)
        form = {"as_json": as_json, "spreadsheet_safe": spreadsheet_safe}
        rejected = _print_predictions(fitted.classes, results, **form)
    notes.note_rejected(rejected)
    if rejected:
        sys.exit(1)


def _print_predictions(
    classes: Sequence[str],
    results: "Iterable[Prediction | RejectedImage]",
    *,
    as_json: bool,
    spreadsheet_safe: bool,
) -> "list[RejectedImage]":
    """Print each prediction as soon as it is made; return the images without one."""
    from bottleneck.images import RejectedImage

    rejected = []
    write = csv_printer(safe=spreadsheet_safe, quoting=csv.QUOTE_NONNUMERIC)
    if not as_json:
        write(["path", "class", *(f"p({label})" for label in classes)])
    for result in results:
        row: dict[str, Any] = {"path": result.path}
        if isinstance(result, RejectedImage):
            rejected.append(result)
            row["error"] = result.reason
        else:
            row |= {"class": result.label, "probabilities": result.probabilities}
        if as_json:
            print(json.dumps(row))
        elif "class" in row:
            shares = (round(share, 6) for share in row["probabilities"].values())
            write([row["path"], row["class"], *shares])
    return rejected
