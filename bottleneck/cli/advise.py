"""The command that says what to do next: advise."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottleneck.cli.app import app
from bottleneck.cli.notes import note_image_set, note_random, note_seen
from bottleneck.cli.options import (
    AsJson,
    ByLayers,
    ByModel,
    ByPools,
    BySet,
    CacheFolder,
    Memory,
    Seed,
    memory_of,
)
from bottleneck.cli.output import note, print_json, print_table, progress_shown
from bottleneck.errors import UsageError

if TYPE_CHECKING:
    from bottleneck.advise import Advice, Estimate

__all__ = ["advise"]


@app.command()
def advise(
    layers: ByLayers = None,
    pools: ByPools = None,
    clf: Annotated[
        str, typer.Option("--clf", help="The classifier that is judged, as for fit-head.")
    ] = "softmax",
    repeats: Annotated[
        int, typer.Option("--repeats", help="How often subsets and folds are drawn anew.")
    ] = 5,
    cv: Annotated[
        int,
        typer.Option("--cv", help="Folds of the training images, or blocks of the val images."),
    ] = 5,
    model: ByModel = None,
    image_set: BySet = None,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", help="Draw the learning curve and the layers to this file."),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", help="Fits at a time; -1 for one on each core.")
    ] = -1,
    memory: Memory = None,
    cache: CacheFolder = Path("cache"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> Any:
    """Say what would help a head: more images, another layer or head, or fine-tuning.

    Measured on cached features: learning curves, what each layer reaches, and other heads.
    """
    import joblib

    from bottleneck.advise import advise_on
    from bottleneck.cache import Cache
    from bottleneck.features import select_layers
    from bottleneck.images import ImageSet
    from bottleneck.report import check_picture, draw_advice

    if not jobs:
        raise UsageError("--jobs is 0, expected a number of processes, or -1 for one on each core")
    if picture:
        check_picture(picture)
    store = Cache(cache)
    selections = select_layers(
        store, model=model, layers=layers or (), image_set=image_set, pools=pools or ()
    )
    with progress_shown(unit="fits") as progress, joblib.parallel_config("loky", n_jobs=jobs):
        advice = advise_on(
            store,
            selections,
            clf=clf,
            repeats=repeats,
            cv=cv,
            memory=memory_of(memory),
            seed=seed,
            progress=progress,
        )
    images = ImageSet.read_csv(store.set_file(advice.image_set))
    note_image_set(images)
    note_random(any(each.weights_random for each in selections))
    note_seen(advice.model, images, ["train", "val"])
    if as_json:
        print_json(advice.as_dict())
    else:
        _print_advice(advice)
    if picture:
        draw_advice(advice, picture)
        note(f"learning curve and layers drawn to {picture}")
    return advice


def _print_advice(advice: "Advice") -> None:
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
