"""The commands that fit and compare heads: fit-head, sweep, leaderboard."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_doc import Doc

import bottleneck
from bottleneck.cli import choices, notes, options
from bottleneck.cli.bases import print_bases
from bottleneck.cli.command import add_command
from bottleneck.cli.epochs import draw_epochs, epochs_shown, print_reading
from bottleneck.cli.output import print_table, progress_shown, show, wanted
from bottleneck.cli.outputs import check_picture
from bottleneck.cli.shots import note_fewer, print_curves
from bottleneck.cli.streams import note
from bottleneck.errors import counted
from bottleneck.fields import Option
from bottleneck.settings import FitFeatures, RankSettings, SweepFeatures, check_for_mlp

if TYPE_CHECKING:
    from bottleneck.experiments import Ranked
    from bottleneck.features import Features
    from bottleneck.records import AnySource

__all__ = ["fit_head", "leaderboard", "sweep"]

_ALWAYS_SHOWN = ("layer", "pool", "clf", "C")
_SOMETIMES_SHOWN = ("shots", "n_neighbors", "balanced", "standardize", "power", "normalize")
_SHOWN = ("image_set", "model", *_ALWAYS_SHOWN, *_SOMETIMES_SHOWN, "policy", "views")
"""Settings in the table of experiments; most are shown only if experiments differ in them."""
_BEST = 10


@add_command("fit-head", "Heads")
def fit_head(
    settings: bottleneck.FitSettings,
    chosen: FitFeatures,
    experiment: options.ExperimentSettings,
    epochs: options.EpochSettings,
    folders: options.Folders,
    name: options.NewName = None,
    near_duplicates: options.NearDuplicates = False,
    memory: options.Memory = None,
) -> Any:
    """Fit a classifier on the features of the cache's last extraction.

    Or, with --experiment or --best, the classifier of a sweep on its features.
    """
    from bottleneck.heads import check_head_folder

    store, limit = bottleneck.Cache(folders.cache), options.memory_of(memory)
    found = choices.choose_features(store, experiment, chosen, settings)
    selection, settings, with_selection = found
    check_for_mlp(settings.clf, [name for name, file in asdict(epochs).items() if file])
    check_picture(epochs.picture)
    features = bottleneck.load_features(store, selection, memory=limit, split=("train", "val"))
    folder = folders.heads / (name or f"{features.selection.slug}-{settings.clf}")
    check_head_folder(folder)
    alike = notes.find_alike(features.images) if near_duplicates else {}
    lines = epochs_shown(folder.name, settings.epochs, epochs.tensorboard)
    with progress_shown() as progress, lines as shown:
        how: dict[str, Any] = {"progress": progress, "watch": shown.watch}
        head = with_selection(bottleneck.fit_head(features, settings, **how))
    replaced = folder.exists()
    head.save(folder)
    notes.note_features(features.images, [features.selection], store)
    odd = {"leaks": features.images.leaks, "conflicts": features.images.conflicts, **alike}
    described = {"head": folder.name, **head.as_dict(), **odd}
    show(described, lambda: _print_fit(head, features, folder))
    if settings.clf == "mlp":
        draw_epochs(head.scores, folder.name, epochs.picture)
    notes.note_replaced(replaced)
    return head


def _print_fit(head: "bottleneck.Head", features: "Features", folder: Path) -> None:
    """Print what a head was fitted on, the chosen hyperparameter, and held-out metrics."""
    source, train, scores = features.selection, features.training(), head.scores
    views = f", {counted(source.views, 'view')} each" if source.views else ""
    print(
        f"{head.clf} on {counted(int((train.views == 0).sum()), 'image')}{views} of "
        f"{source.image_set!r}, {counted(train.X.shape[1], 'feature')} of {source}"
    )
    facts = [
        f"{name} = {value if isinstance(value, bool) else f'{value:g}'}"
        for name, value in head.hyperparameters.items()
    ]
    facts += [f"power = {head.power:g}"] * (head.power != 1)
    facts += [f"normalize = {head.normalize}"] * (head.normalize != "none")
    if "held_out" in scores:
        if len(scores["candidates"]) > 1:
            facts.append(f"chosen on {scores['held_out']}")
        if history := scores.get("history"):
            from bottleneck.pictures import best_epoch

            facts.append(f"best epoch {best_epoch(scores)} of {len(history)}")
        chosen = "the epoch" if history else next(iter(head.hyperparameters), "")
        selected, held_out = bool(history) or len(scores["candidates"]) > 1, "held-out "
        if experiment := scores.get("experiment"):
            selected, chosen = True, f"one of {counted(experiment['best_of'], 'experiment')}"
            if experiment["fold_out"] is None:
                selected, held_out = False, f"on images where {chosen} was selected: "
        metrics = ("average_precision", "accuracy") if head.multilabel else ("accuracy",)
        for name in metrics:
            beside = f" ({scores['selected'][name]:.4f} where {chosen} was selected)"
            told = f"{held_out}{name.replace('_', ' ')} {scores[name]:.4f}"
            facts.append(told + beside * selected)
    if facts:
        print(", ".join(facts))
    if "held_out" in scores:
        _print_calibration(head)
        notes.note_candidates(head)
    else:
        note(
            "note: no held-out score could be computed, as the training images of some class "
            "cannot be split into two folds; add images"
        )
    print_reading(scores)
    if not scores.get("converged", True):
        note("note: the solver stopped before it converged; a smaller --C converges sooner")
    print(f"saved as {folder}")


def _print_calibration(head: "bottleneck.Head") -> None:
    scores, plain = head.scores, head.scores["calibration_error_without_temperature"]
    scaled = head.temperature != 1
    beside = f", without temperature scaling {plain:.4f}" if scaled else ""
    why = "" if scaled else ", as no other improves both log loss and calibration"
    held_out = "held-out "
    if experiment := scores.get("experiment"):  # its figures are not those of this fit alone
        beside = why = ""
        held_out = "" if experiment["fold_out"] is None else held_out
    print(
        f"{held_out}calibration error {scores['calibration_error']:.4f}{beside} (temperature "
        f"{head.temperature:.3g}{why})"
    )
    if scores["log_loss"] > (guessing := scores["guessing_log_loss"]):
        note(
            f"warning: the held-out log loss of {scores['log_loss']:.4g} is above that of "
            f"guessing by the classes' shares ({guessing:.4g}), so its probabilities mislead; "
            f"try another --clf or --layer, or add images"
        )


@add_command("sweep", "Heads", "as_json", "wide")
def sweep(
    settings: bottleneck.SweepSettings,
    chosen: SweepFeatures,
    log: options.Log = Path("experiments.sqlite"),
    mlflow: Annotated[
        str | None, Doc("Also log to this MLflow URI: sqlite:///mlflow.db."), Option(metavar="URI")
    ] = None,
    jobs: options.Jobs = -1,
    backend: Annotated[str, Doc("joblib backend: loky, threading, multiprocessing, ...")] = "loky",
    memory: options.Memory = None,
    cache: options.CacheFolder = Path("cache"),
) -> Any:
    """Cross-validate classifiers on cached layers, and log the results.

    Experiments in the log are not run again.
    """
    from bottleneck.experiments import log_to_mlflow

    store, experiments = bottleneck.Cache(cache), bottleneck.ExperimentLog(log)
    selections = choices.choose_several(store, chosen)
    if mlflow:
        log_to_mlflow((), mlflow)  # what cannot be logged is told before anything is computed
    before = len(experiments.experiments()) if log.exists() else 0
    limit = options.memory_of(memory)
    with progress_shown(unit="folds") as progress, options.in_parallel(jobs, backend):
        found = bottleneck.run_sweep(
            store, selections, experiments, settings, memory=limit, progress=progress
        )
    if mlflow:
        note(f"{counted(log_to_mlflow(found, mlflow), 'experiment')} logged to {mlflow}")
    _note_selections(store, selections)
    notes.note_folds([each.settings["cv"] for each in found], settings.cv)
    _print_found(found, settings)
    new = len(experiments.experiments()) - before
    by = " --by model" * (len({each.model for each in selections}) > 1)
    note(
        f"{counted(len(found), 'experiment')}, {new} of them new, in {log}; see 'bottleneck "
        f"leaderboard{by}'"
    )
    return found


def _print_found(
    found: "Sequence[bottleneck.Experiment]", settings: bottleneck.SweepSettings
) -> None:
    from bottleneck.experiments import default_metric, rank

    metric = default_metric(found)
    note_fewer(found)
    if settings.shots == ("all",) or wanted("json"):
        _print_ranked(rank(found, metric), metric, None if wanted("json") else _BEST)
    else:
        print_curves(found, metric, _SHOWN)


def _note_selections(store: "bottleneck.Cache", selections: "Sequence[AnySource]") -> None:
    images = bottleneck.ImageSet.read_csv(store.set_file(selections[0].image_set))
    notes.note_features(images, selections, store)
    for each in selections:
        if each.views:
            note(f"{each}: fitted on {counted(each.views, 'view')} of each training image")


@add_command("leaderboard", "Heads", "as_json", "as_csv", "wide")
def leaderboard(
    settings: RankSettings,
    log: options.Log = Path("experiments.sqlite"),
    heads: options.HeadsFolder = Path("heads"),
    finetuned: Annotated[
        bool,
        Doc("Show only fine-tuned models, beside the heads that they started from."),
        Option(unless=("compare",)),
    ] = False,
    pareto: options.Pareto = None,
    cache: options.CacheFolder = Path("cache"),
    spreadsheet_safe: Annotated[options.SpreadsheetSafe, Option(needs=("as_csv",))] = False,
) -> None:
    """Rank the experiments of sweeps, or bases; show what fine-tuning gained."""
    from bottleneck.experiments import default_metric, fine_tuned, rank, scores

    store = bottleneck.ExperimentLog(log)
    if settings.compare:
        _compare(store, settings, spreadsheet_safe=spreadsheet_safe)
        return
    if settings.by:
        print_bases(store, settings, cache, pareto, spreadsheet_safe=spreadsheet_safe)
        return
    tuned = [] if wanted("json", "csv") and not finetuned else fine_tuned(heads)
    if finetuned or (tuned and not log.exists()):
        notes.print_fine_tuned(tuned, cache, spreadsheet_safe=spreadsheet_safe)
        return
    experiments = store.experiments()
    metric = settings.sort or default_metric(experiments)
    ranked = rank(experiments, metric, settings.wanted)
    if ranked or wanted("json", "csv"):
        _print_ranked(ranked, metric, settings.top, spreadsheet_safe=spreadsheet_safe)
    else:
        chosen = f" where {' and '.join(settings.where)}" if settings.where else ""
        print(f"no experiments in {store.file}{chosen}")
    if tuned:
        notes.print_fine_tuned(tuned, cache)
    without = sum(metric not in scores(each) for each in experiments)
    if without:
        note(f"note: left out: {counted(without, 'experiment')} in {store.file} without {metric}")


def _print_ranked(
    ranked: Sequence["Ranked"],
    metric: str,
    top: int | None = None,
    *,
    spreadsheet_safe: bool = False,
) -> None:
    """Print the first rows of a ranking, and the score of the choice of the first."""
    from bottleneck.experiments import unselected

    number, score = unselected(ranked, metric) if ranked else (0, None)
    rows = [_described(each) if wanted("json") else _row(each, metric) for each in ranked]
    same = {key for key in _SHOWN if len({str(row.get(key)) for row in rows}) == 1}
    rows = rows[:top]
    if wanted("json", "csv"):
        for place, row in enumerate(rows):
            row["best_of"], row["fold_out"] = (None, None) if place else (number, score)
        print_table(rows, spreadsheet_safe=spreadsheet_safe)
        return
    left_out = same.difference(_ALWAYS_SHOWN)
    shown = [{key: row[key] for key in row if key not in left_out} for row in rows]
    print_table(shown, spare=("seconds", "folds"))
    note(f"mean and standard deviation of {metric} over the folds, total seconds")
    if score is not None:
        note(
            f"the first is the best of {number} on these folds, so its {metric} is too good; that "
            f"of the choice is {score:.4g} on images that nothing was selected on (each fold is "
            f"scored by what is best on folds of the other images)"
        )
    elif number > 1:
        note(
            f"the first is the best of {number} on the same images, so its {metric} is too good: "
            f"quote that of 'bottleneck evaluate' on test images"
        )


def _row(ranked: "Ranked", metric: str) -> dict[str, Any]:
    """Return a row of the table; all experiments have the same columns."""
    from bottleneck.experiments import scores

    experiment = ranked.experiment
    loss = scores(experiment).get("log_loss")
    return {
        "number": experiment.number,
        **{key: experiment.told.get(key) for key in _SHOWN},
        "layer": experiment.layer,
        metric: ranked.mean,
        "std": ranked.std,
        **({} if metric == "log_loss" else {"log_loss": loss and loss.mean}),
        "folds": len(experiment.folds),
        "seconds": experiment.seconds,
    }


def _described(ranked: "Ranked") -> dict[str, Any]:
    """Return an experiment with its scores, in JSON types."""
    from bottleneck.experiments import interval_of, scores

    experiment = ranked.experiment
    found = {
        name: asdict(score) | {"interval": interval_of(experiment, name)}
        for name, score in scores(experiment).items()
    }
    return {**asdict(experiment), "key": experiment.key, "scores": found}


def _compare(
    store: "bottleneck.ExperimentLog", settings: RankSettings, *, spreadsheet_safe: bool
) -> None:
    """Print the comparison of two experiments on the same folds."""
    from bottleneck.experiments import compare, default_metric, rank

    first, second = (store.experiment(number) for number in settings.compare or ())
    metric = settings.sort or default_metric([first, second])
    found = compare(first, second, metric)
    row, better, (low, high) = asdict(found), {"better": found.better}, found.interval
    if wanted("csv"):
        row["first_mean"], row["second_mean"] = row.pop("means")
        row["low"], row["high"] = row.pop("interval")
        print_table([row | better], spreadsheet_safe=spreadsheet_safe)
        return

    def text() -> None:
        _print_ranked(rank([first, second], metric), metric)
        print(
            f"{metric} of {found.first} minus that of {found.second}: {found.difference:+.4f} "
            f"(95% interval {low:+.4f} to {high:+.4f}), paired over {counted(found.folds, 'fold')}"
        )
        print(
            f"the interval excludes 0: {found.better} is better"
            if found.better
            else "the interval includes 0: these folds do not show which is better"
        )

    show(row | better, text)
