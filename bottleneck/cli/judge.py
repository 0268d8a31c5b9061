"""The commands that judge heads: evaluate, advise."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottleneck.cli.command import add_command
from bottleneck.cli.notes import note_image_set, note_random, note_seen
from bottleneck.cli.options import (
    AsJson,
    CacheFolder,
    HeadName,
    HeadsFolder,
    Jobs,
    Memory,
    Picture,
    check_picture,
    in_parallel,
    memory_of,
)
from bottleneck.cli.output import loading, note, print_json, print_table, progress_shown
from bottleneck.settings import AdviseSettings, EvaluateSettings, LayerSettings

if TYPE_CHECKING:
    from bottleneck.advise import Advice, Estimate
    from bottleneck.evaluate import Evaluation

__all__ = ["advise", "evaluate"]


@add_command("evaluate", "Judge")
def evaluate(
    settings: EvaluateSettings,
    head: HeadName = None,
    picture: Picture = None,
    cache: CacheFolder = Path("cache"),
    heads: HeadsFolder = Path("heads"),
    as_json: AsJson = False,
) -> Any:
    """Evaluate a head on the untouched test images."""
    from bottleneck.bases import is_finetuned
    from bottleneck.cache import Cache
    from bottleneck.evaluate import evaluate_head
    from bottleneck.features import features_of
    from bottleneck.heads import find_head
    from bottleneck.records import known_source

    folder, fitted = find_head(heads, head)
    check_picture(picture)
    store, split = Cache(cache), settings.split
    source = known_source(fitted.source)
    if is_finetuned(source.model):
        with loading():
            from bottleneck.finetune import fill_split
        with progress_shown() as progress:
            fill_split(fitted, store, split, progress=progress)
    features = features_of(source, store, split=split, memory=memory_of(None))
    evaluation = evaluate_head(fitted, features, split)
    evaluation.save(folder / f"evaluation-{split}.json")
    if picture:
        from bottleneck.pictures import draw_confusion_matrix

        draw_confusion_matrix(evaluation, folder.name, picture)
        note(f"confusion matrix drawn to {picture}")
    note_image_set(features.images)
    note_random(source.weights_random)
    note_seen(source.model, features.images, [split])
    if as_json:
        print_json({"head": folder.name, **evaluation.as_dict()})
    else:
        _print_evaluation(evaluation, folder.name, source.image_set)
    return evaluation


def _print_evaluation(evaluation: "Evaluation", name: str, image_set: str) -> None:
    low, high = evaluation.accuracy_interval
    print(f"{name} on {evaluation.images} {evaluation.split} images of {image_set!r}")
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


@add_command("advise", "Judge")
def advise(
    settings: AdviseSettings,
    chosen: LayerSettings,
    picture: Picture = None,
    jobs: Jobs = -1,
    memory: Memory = None,
    cache: CacheFolder = Path("cache"),
    as_json: AsJson = False,
) -> Any:
    """Say what would help a head: more images, another layer or head, or fine-tuning.

    Measured on cached features: learning curves, what each layer reaches, and other heads.
    """
    from bottleneck.cache import Cache
    from bottleneck.features import select_layers
    from bottleneck.images import ImageSet

    check_picture(picture)
    store = Cache(cache)
    selections = select_layers(store, chosen)
    with loading():
        from bottleneck.advise import advise_on
    with progress_shown(unit="fits") as progress, in_parallel(jobs):
        advice = advise_on(store, selections, settings, memory=memory_of(memory), progress=progress)
    images = ImageSet.read_csv(store.set_file(advice.image_set))
    note_image_set(images)
    note_random(any(each.weights_random for each in selections))
    note_seen(advice.model, images, ["train", "val"])
    _print_advice(advice, as_json=as_json)
    if picture:
        from bottleneck.pictures import draw_advice

        draw_advice(advice, picture)
        note(f"learning curve and layers drawn to {picture}")
    return advice


def _print_advice(advice: "Advice", *, as_json: bool) -> None:
    if as_json:
        print_json(advice.as_dict())
        return
    evidence = advice.evidence
    print(
        f"{advice.clf} on {evidence.images} images of {advice.image_set!r}, {evidence.classes} "
        f"classes; held out: {advice.held_out}"
    )
    points = [
        {
            "images": point.images,
            "accuracy": point.accuracy.value,
            "95% interval": _interval(point.accuracy),
            "training": point.train_accuracy,
            "gap": point.gap,
            "log loss": point.log_loss.value,
        }
        for point in evidence.curve.points
    ]
    forecasts = [
        {
            "images": forecast.images,
            "accuracy": forecast.accuracy.value,
            "95% interval": _interval(forecast.accuracy),
            "training": None,
            "gap": None,
            "log loss": None,
        }
        for forecast in evidence.curve.forecasts
    ]
    print_table([*points, *forecasts], title=f"learning curve of {advice.layer}, then its forecast")
    print_table(
        [
            {
                "layer": each.layer,
                "pool": each.pool,
                "accuracy": each.accuracy.value,
                "std": each.deviation,
                "gap": each.curve.points[-1].gap,
                "log loss": each.log_loss.value,
                "of twice the images": each.curve.forecasts[0].accuracy.value,
                "less the last": "-" if each.difference is None else str(each.difference),
            }
            for each in evidence.layers
        ],
        title="layers",
    )
    print_table(
        [
            {
                "head": each.clf,
                "accuracy": each.accuracy.value,
                f"less {advice.clf}": str(each.difference),
            }
            for each in evidence.heads
        ],
        title="other heads",
    )
    print(f"verdict: {advice.verdict.sentence}")


def _interval(estimate: "Estimate") -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f}"
