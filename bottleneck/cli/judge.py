"""The commands that judge heads: evaluate, advise."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import bottleneck
from bottleneck.cli import notes, options
from bottleneck.cli.command import add_command
from bottleneck.cli.output import loading, note, print_json, print_list, print_table, progress_shown
from bottleneck.settings import AdviseSettings, EvaluateSettings, LayerSettings

if TYPE_CHECKING:
    from bottleneck.advise import Advice, Estimate
    from bottleneck.evaluate import Evaluation

__all__ = ["advise", "evaluate"]


@add_command("evaluate", "Judge")
def evaluate(
    settings: EvaluateSettings,
    folders: options.Folders,
    head: options.HeadName = None,
    picture: options.Picture = None,
    as_json: options.AsJson = False,
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
    if as_json:
        print_json({"head": folder.name, **evaluation.as_dict()})
    else:
        print(f"{folder.name} on {evaluation.images} {split} images of {source.image_set!r}")
        _print_evaluation(evaluation)
    return evaluation


def _print_evaluation(evaluation: "Evaluation") -> None:
    low, high = evaluation.accuracy_interval
    print_list(
        {
            "accuracy": f"{evaluation.accuracy:.4f} (95% interval {low:.4f} to {high:.4f})",
            "balanced accuracy": f"{evaluation.balanced_accuracy:.4f}",
            "log loss": f"{evaluation.log_loss:.4f}",
            "calibration error": f"{evaluation.calibration_error:.4f}",
            "average precision": f"{evaluation.average_precision:.4f}",
        }
    )
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
    settings: AdviseSettings,
    chosen: LayerSettings,
    picture: options.Picture = None,
    jobs: options.Jobs = -1,
    memory: options.Memory = None,
    cache: options.CacheFolder = Path("cache"),
    as_json: options.AsJson = False,
) -> Any:
    """Say what would help a head: more images, another layer or head, or fine-tuning.

    Measured on cached features: learning curves, the accuracy on each layer, and other heads.
    """
    options.check_picture(picture)
    store = bottleneck.Cache(cache)
    selections = bottleneck.select_layers(store, chosen)
    with loading():
        from bottleneck.advise import advise_on
    with progress_shown(unit="fits") as progress, options.in_parallel(jobs):
        advice = advise_on(
            store, selections, settings, memory=options.memory_of(memory), progress=progress
        )
    notes.note_features(bottleneck.ImageSet.read_csv(store.set_file(advice.image_set)), selections)
    if as_json:
        print_json(advice.as_dict())
    else:
        _print_advice(advice)
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
    print_table([*points, *forecasts], title=f"learning curve of {advice.layer}, then its forecast")
    layers = [
        {
            "layer": each.layer,
            "pool": each.pool,
            "accuracy": each.accuracy.value,
            "std": each.deviation,
            "gap": each.curve.points[-1].gap,
            "log loss": each.log_loss.value,
            "of twice the images": each.curve.forecasts[0].accuracy.value,
            "less the last": each.difference and str(each.difference),
        }
        for each in evidence.layers
    ]
    print_table(layers, title="layers")
    less = f"less {advice.clf}"
    heads = [
        {"head": each.clf, "accuracy": each.accuracy.value, less: str(each.difference)}
        for each in evidence.heads
    ]
    print_table(heads, title="other heads")
    print(f"verdict: {advice.verdict.sentence}")


def _reached(images: int, accuracy: "Estimate") -> dict[str, Any]:
    interval = f"{accuracy.low:.3f} to {accuracy.high:.3f}"
    return {"images": images, "accuracy": accuracy.value, "95% interval": interval}
