"""The command that tries many classifiers on many layers: sweep."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bottleneck.cli.app import app
from bottleneck.cli.leaderboard import print_best
from bottleneck.cli.notes import note_image_set, note_random, note_seen
from bottleneck.cli.options import (
    AsJson,
    Balanced,
    ByAugment,
    ByLayers,
    ByModel,
    ByPools,
    BySet,
    ByViews,
    CacheFolder,
    Log,
    Memory,
    Seed,
    Standardize,
    TrainingDevice,
    device_of,
    memory_of,
)
from bottleneck.cli.output import note, progress_shown
from bottleneck.errors import UsageError

__all__ = ["sweep"]


@app.command()
def sweep(
    layers: ByLayers = None,
    pools: ByPools = None,
    clfs: Annotated[
        list[str] | None,
        typer.Option(
            "--clf", help="A classifier, as for fit-head; may repeat.  [default: softmax]"
        ),
    ] = None,
    C: Annotated[
        list[str] | None,
        typer.Option(
            "--C", help="auto, for eight values from 1e-6 to 10; or a value, and may repeat."
        ),
    ] = None,
    neighbors: Annotated[
        list[int] | None,
        typer.Option(
            "--neighbors", help="How many images vote in knn; may repeat. By default six from 1 on."
        ),
    ] = None,
    hidden: Annotated[
        list[int] | None, typer.Option("--hidden", help="Hidden units of mlp; may repeat.")
    ] = None,
    cv: Annotated[
        int | None,
        typer.Option(
            "--cv",
            help="Folds of the training images; by default 5, or the val images where there are "
            "any.",
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", help="How often the images are split into folds anew.")
    ] = 1,
    model: ByModel = None,
    image_set: BySet = None,
    views: ByViews = None,
    augment: ByAugment = None,
    balanced: Balanced = False,
    standardize: Standardize = True,
    log: Log = Path("experiments.sqlite"),
    mlflow: Annotated[
        str | None,
        typer.Option(
            "--mlflow",
            metavar="URI",
            help="Also log to MLflow, such as sqlite:///mlflow.db.",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", help="Folds computed at a time; -1 for one on each core.")
    ] = -1,
    backend: Annotated[
        str, typer.Option("--backend", help="joblib's: loky, threading, multiprocessing, ...")
    ] = "loky",
    memory: Memory = None,
    cache: CacheFolder = Path("cache"),
    device: TrainingDevice = "cpu",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> Any:
    """Cross-validate classifiers on cached layers, and log what each reaches.

    What the log has already is not computed again.
    """
    from bottleneck.cache import Cache
    from bottleneck.experiments import ExperimentLog, log_to_mlflow
    from bottleneck.features import select_layers
    from bottleneck.images import ImageSet
    from bottleneck.sweep import Sweep, run_sweep

    store, experiments = Cache(cache), ExperimentLog(log)
    selections = select_layers(
        store,
        model=model,
        layers=layers or (),
        image_set=image_set,
        pools=pools or (),
        views=views,
        policy=augment,
    )
    settings = Sweep(
        clfs=_classifiers(clfs or ["softmax"], hidden or []),
        C=_penalties(C or []),
        n_neighbors=tuple(neighbors or ()),
        cv=cv,
        repeats=repeats,
        balanced=balanced,
        standardize=standardize,
        seed=seed,
        device=device_of(device),
    )
    if mlflow:
        log_to_mlflow((), mlflow)  # what cannot be logged is told before anything is computed
    before = len(experiments.experiments()) if log.exists() else 0
    with progress_shown(unit="folds") as progress, _joblib(backend, jobs):
        found = run_sweep(
            store,
            selections,
            experiments,
            settings,
            memory=memory_of(memory),
            progress=progress,
        )
    if mlflow:
        note(f"{log_to_mlflow(found, mlflow)} experiments logged to {mlflow}")
    images = ImageSet.read_csv(store.set_file(selections[0].image_set))
    note_image_set(images)
    for used in dict.fromkeys(each.model for each in selections):
        note_seen(used, images, ["train", "val"])
    for each in selections:
        if each.views:
            note(
                f"{each}: fitted on {each.views} views of each training image, beside the plain one"
            )
    note_random(any(each.weights_random for each in selections))
    new = len(experiments.experiments()) - before
    print_best(found, as_json=as_json)
    note(f"{new} new of {len(found)} experiments in {log}; 'bottleneck leaderboard' sorts them")
    return found


def _penalties(texts: list[str]) -> tuple[float, ...]:
    """Return the values that ``--C`` gives; none for ``auto``."""
    if texts == ["auto"]:
        return ()
    try:
        return tuple(map(float, texts))
    except ValueError:
        raise UsageError(
            f"--C {' '.join(texts)} cannot be; expected auto alone, or numbers above 0"
        ) from None


def _classifiers(names: list[str], hidden: list[int]) -> tuple[Any, ...]:
    """Return what ``--clf`` names; an ``mlp`` for each number of hidden units."""
    from bottleneck.heads import MLP

    if hidden and MLP.name not in names:
        raise UsageError(f"--hidden is for mlp, not for {', '.join(names)}; add --clf mlp")
    networks: list[Any] = [MLP(hidden=units) for units in hidden] or [MLP.name]
    return tuple(each for name in names for each in (networks if name == MLP.name else [name]))


def _joblib(backend: str, jobs: int) -> Any:
    import joblib

    if not jobs:
        raise UsageError("--jobs is 0, expected a number of processes, or -1 for one on each core")
    try:
        return joblib.parallel_config(backend, n_jobs=jobs)
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"joblib has no backend {backend!r} here ({error}); give loky, threading, "
            f"multiprocessing or one that is installed"
        ) from error
