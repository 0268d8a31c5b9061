"""The commands that fit and compare heads: fit-head, sweep, leaderboard."""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

from bottleneck.cli.command import add_command
from bottleneck.cli.notes import (
    find_alike,
    note_image_set,
    note_random,
    note_seen,
)
from bottleneck.cli.options import (
    AsJson,
    CacheFolder,
    HeadsFolder,
    Jobs,
    Log,
    Memory,
    NearDuplicates,
    NewName,
    Picture,
    TensorBoard,
    check_picture,
    in_parallel,
    memory_of,
)
from bottleneck.cli.output import note, print_json, print_table, progress_shown
from bottleneck.errors import UsageError
from bottleneck.fields import Option
from bottleneck.settings import (
    FeatureSettings,
    FitSettings,
    RankSettings,
    SweepFeatures,
    SweepSettings,
)

if TYPE_CHECKING:
    from bottleneck.cache import Cache
    from bottleneck.experiments import Comparison, Experiment, ExperimentLog, Ranked
    from bottleneck.features import Features
    from bottleneck.heads import Head
    from bottleneck.records import FeatureSource

__all__ = ["fit_head", "leaderboard", "sweep"]

_ONLY_WHERE_THEY_DIFFER = (
    "image_set",
    "model",
    "n_neighbors",
    "balanced",
    "standardize",
    "policy",
    "views",
)
_BEST = 10


@add_command("fit-head", "Heads")
def fit_head(
    settings: FitSettings,
    chosen: FeatureSettings,
    name: NewName = None,
    picture: Picture = None,
    tensorboard: TensorBoard = None,
    near_duplicates: NearDuplicates = False,
    memory: Memory = None,
    cache: CacheFolder = Path("cache"),
    heads: HeadsFolder = Path("heads"),
    as_json: AsJson = False,
) -> Any:
    """Fit a classifier on the features of the cache's last extraction."""
    from bottleneck.cache import Cache
    from bottleneck.features import load_features
    from bottleneck.heads import fit_head as fit

    _check_epochs(settings, picture, tensorboard)
    features = load_features(Cache(cache), chosen, memory=memory_of(memory))
    alike = find_alike(features.images) if near_duplicates else {}
    with progress_shown(unit="epochs") as progress:
        head = fit(features, settings, progress=progress)
    folder = heads / (name or f"{features.selection.slug}-{settings.clf}")
    replaced = folder.exists()
    head.save(folder)
    if settings.clf == "mlp":
        _show_history(head.scores["history"], folder.name, picture, tensorboard)
    note_image_set(features.images)
    note_random(features.selection.weights_random)
    note_seen(features.selection.model, features.images, ["train", "val"])
    if as_json:
        odd = {"leaks": features.images.leaks, "conflicts": features.images.conflicts}
        print_json({"head": folder.name, **head.as_dict(), **odd, **alike})
        return head
    _print_fit(head, features)
    print(f"saved as {folder}")
    if replaced:
        note("note: it replaces the head that had that name; --name gives another")
    return head


@add_command("sweep", "Heads")
def sweep(
    settings: SweepSettings,
    chosen: SweepFeatures,
    log: Log = Path("experiments.sqlite"),
    mlflow: Annotated[
        str | None,
        Doc("Also log to MLflow, such as sqlite:///mlflow.db."),
        Option(metavar="URI"),
    ] = None,
    jobs: Jobs = -1,
    backend: Annotated[str, Doc("joblib's: loky, threading, multiprocessing, ...")] = "loky",
    memory: Memory = None,
    cache: CacheFolder = Path("cache"),
    as_json: AsJson = False,
) -> Any:
    """Cross-validate classifiers on cached layers, and log what each reaches.

    What the log has already is not computed again.
    """
    from bottleneck.cache import Cache
    from bottleneck.experiments import ExperimentLog, log_to_mlflow
    from bottleneck.features import select_layers
    from bottleneck.sweep import run_sweep

    store, experiments = Cache(cache), ExperimentLog(log)
    selections = select_layers(store, chosen)
    if mlflow:
        log_to_mlflow((), mlflow)  # what cannot be logged is told before anything is computed
    before = len(experiments.experiments()) if log.exists() else 0
    with progress_shown(unit="folds") as progress, in_parallel(jobs, backend):
        found = run_sweep(
            store, selections, experiments, settings, memory=memory_of(memory), progress=progress
        )
    if mlflow:
        note(f"{log_to_mlflow(found, mlflow)} experiments logged to {mlflow}")
    _note_selections(selections, store)
    _print_best(found, as_json=as_json)
    new = len(experiments.experiments()) - before
    note(f"{new} new of {len(found)} experiments in {log}; 'bottleneck leaderboard' sorts them")
    return found


@add_command("leaderboard", "Heads")
def leaderboard(
    settings: RankSettings,
    log: Log = Path("experiments.sqlite"),
    as_json: AsJson = False,
    as_csv: Annotated[bool, Doc("Print CSV instead of text."), Option("--csv")] = False,
) -> None:
    """Sort the experiments of sweeps by what they reached, or compare two of them."""
    from bottleneck.experiments import ExperimentLog, default_metric, rank

    if as_json and as_csv:
        raise UsageError("`as_json` and `as_csv` exclude each other; give one")
    store = ExperimentLog(log)
    if settings.compare:
        _compare(store, settings.compare, settings.sort, as_json=as_json, as_csv=as_csv)
        return
    experiments = store.experiments()
    metric = settings.sort or default_metric(experiments)
    where = dict(text.split("=", 1) for text in settings.where)
    ranked = rank(experiments, metric, where)[: settings.top]
    if as_json:
        print_json([_described(each.experiment) for each in ranked])
    elif as_csv:
        _print_csv([_row(each, metric) for each in ranked])
    elif not ranked:
        chosen = f" where {' and '.join(settings.where)}" if where else ""
        print(f"no experiments in {store.file}{chosen}")
    else:
        _print_ranked(ranked, metric)
        _note_without(experiments, metric, store)


def _note_selections(selections: "Sequence[FeatureSource]", cache: "Cache") -> None:
    """Say what is odd about the features of a sweep."""
    from bottleneck.images import ImageSet

    images = ImageSet.read_csv(cache.set_file(selections[0].image_set))
    note_image_set(images)
    for model in dict.fromkeys(each.model for each in selections):
        note_seen(model, images, ["train", "val"])
    for each in selections:
        if each.views:
            note(f"{each}: each training image is fitted on with {each.views} views of it")
    note_random(any(each.weights_random for each in selections))


def _check_epochs(settings: FitSettings, picture: Path | None, tensorboard: Path | None) -> None:
    """Refuse what shows epochs where there are none, and a picture that cannot be drawn."""
    for name, file in (("picture", picture), ("tensorboard", tensorboard)):
        if file and settings.clf != "mlp":
            raise UsageError(
                f"`{name}` is for mlp, not for {settings.clf}; leave it out, or give `clf=mlp`"
            )
    check_picture(picture)


def _show_history(
    history: list[dict[str, float]], name: str, picture: Path | None, tensorboard: Path | None
) -> None:
    from bottleneck.pictures import draw_history, epoch_log

    if picture:
        kept = min(history, key=lambda epoch: epoch["val_loss"])["epoch"]
        draw_history(history, int(kept), name, picture)
        note(f"epochs drawn to {picture}")
    if tensorboard:
        with epoch_log(tensorboard / name) as log:
            for epoch in history:
                log(epoch)


def _print_fit(head: "Head", features: "Features") -> None:
    """Print on what a head was fitted, what was chosen, and how good it is on held-out images."""
    source, train = features.selection, features.training()
    views = f", {source.views} views each" if source.views else ""
    print(
        f"{head.clf} on {int((train.views == 0).sum())} images{views} of {source.image_set!r}, "
        f"{train.X.shape[1]} features of {source}"
    )
    facts = [f"{name} = {value:g}" for name, value in head.hyperparameters.items()]
    scores = head.scores
    if "held_out" in scores:
        if len(scores["candidates"]) > 1:
            facts.append(f"chosen on {scores['held_out']}")
        if history := scores.get("history"):
            best = min(history, key=lambda epoch: epoch["val_loss"])["epoch"]
            facts.append(f"best epoch {best} of {len(history)}")
        if head.multilabel:
            facts.append(f"held-out average precision {scores['average_precision']:.4f}")
        facts.append(f"held-out accuracy {scores['accuracy']:.4f}")
    print(", ".join(facts))
    if "held_out" in scores:
        print(
            f"held-out calibration error {scores['calibration_error']:.4f}, "
            f"{scores['calibration_error_without_temperature']:.4f} before its temperature of "
            f"{head.temperature:.3g}"
        )
    if not scores.get("converged", True):
        note("note: the solver stopped before it converged; a smaller --C converges sooner")


def _print_best(experiments: Sequence["Experiment"], *, as_json: bool) -> None:
    """Print experiments as `leaderboard` does: all of them as JSON, or a table of the best."""
    from bottleneck.experiments import default_metric, rank

    metric = default_metric(experiments)
    ranked = rank(experiments, metric)
    if as_json:
        print_json([_described(each.experiment) for each in ranked])
    else:
        _print_ranked(ranked[:_BEST], metric)


def _compare(
    store: "ExperimentLog",
    numbers: tuple[int, int],
    sort: str | None,
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    from bottleneck.experiments import compare, default_metric

    first, second = (store.experiment(number) for number in numbers)
    found = compare(first, second, sort or default_metric([first, second]))
    if as_json:
        print_json({**asdict(found), "better": found.better})
    elif as_csv:
        _print_csv([_flat(found)])
    else:
        _print_comparison(found, [first, second])


def _note_without(experiments: "Iterable[Experiment]", metric: str, store: "ExperimentLog") -> None:
    from bottleneck.experiments import scores

    without = sum(metric not in scores(each) for each in experiments)
    if without:
        note(f"note: {without} experiments in {store.file} have no {metric}, and are left out")


def _row(ranked: "Ranked", metric: str) -> dict[str, Any]:
    """Return a row of the table; its columns do not depend on the experiment."""
    from bottleneck.experiments import scores

    experiment = ranked.experiment
    settings = experiment.settings
    loss = scores(experiment).get("log_loss")
    return {
        "number": experiment.number,
        "image_set": settings.get("image_set"),
        "model": settings.get("model"),
        **{key: settings.get(key) for key in ("layer", "pool", "clf", "C", "n_neighbors")},
        **{key: settings.get(key) for key in ("balanced", "standardize", "policy", "views")},
        metric: ranked.mean,
        "std": ranked.std,
        **({} if metric == "log_loss" else {"log_loss": loss and loss.mean}),
        "folds": len(experiment.folds),
        "seconds": experiment.seconds,
    }


def _print_ranked(ranked: Sequence["Ranked"], metric: str) -> None:
    print_table(_without_what_is_the_same([_row(each, metric) for each in ranked]))
    note(f"mean of {metric} over the folds and its deviation, seconds in all")


def _without_what_is_the_same(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    same = {key for key in _ONLY_WHERE_THEY_DIFFER if len({str(row[key]) for row in rows}) == 1}
    return [{key: value for key, value in row.items() if key not in same} for row in rows]


def _described(experiment: "Experiment") -> dict[str, Any]:
    """Return an experiment as JSON holds it, with its scores."""
    from bottleneck.experiments import scores

    found = {name: asdict(score) for name, score in scores(experiment).items()}
    return {**asdict(experiment), "key": experiment.key, "scores": found}


def _print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerows([*([row.keys() for row in rows[:1]]), *(row.values() for row in rows)])


def _flat(found: "Comparison") -> dict[str, Any]:
    """Return a comparison as one row."""
    row = asdict(found)
    row["first_mean"], row["second_mean"] = row.pop("means")
    row["low"], row["high"] = row.pop("interval")
    return {**row, "better": found.better}


def _print_comparison(found: "Comparison", pair: Sequence["Experiment"]) -> None:
    from bottleneck.experiments import rank

    rows = [_row(each, found.metric) for each in rank(pair, found.metric)]
    print_table(_without_what_is_the_same(rows))
    low, high = found.interval
    print(
        f"{found.metric} of {found.first} less that of {found.second}: {found.difference:+.4f} "
        f"(95% interval {low:+.4f} to {high:+.4f}), paired over {found.folds} folds"
    )
    print(
        f"the interval excludes 0: {found.better} is better"
        if found.better
        else "the interval includes 0: these folds do not tell which is better"
    )
