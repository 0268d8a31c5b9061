"""The command on the experiment log: leaderboard."""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottleneck.cli.app import app
from bottleneck.cli.options import AsJson, Log
from bottleneck.cli.output import note, print_json, print_table
from bottleneck.errors import UsageError

if TYPE_CHECKING:
    from bottleneck.experiments import Comparison, Experiment, ExperimentLog, Ranked

__all__ = ["leaderboard", "print_best"]

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


@app.command()
def leaderboard(
    log: Log = Path("experiments.sqlite"),
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            metavar="METRIC",
            help="accuracy, balanced_accuracy, log_loss, calibration_error or average_precision: "
            "best first. By default accuracy, of several labels average_precision.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="KEY=VALUE",
            help="Only experiments with this setting, such as clf=svm; may repeat.",
        ),
    ] = None,
    top: Annotated[int | None, typer.Option("--top", min=1, help="Only so many.")] = None,
    compare: Annotated[
        tuple[int, int] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            help="Instead: two experiments by their numbers, paired over the folds.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of text.")] = False,
) -> None:
    """Sort the experiments of sweeps by what they reached, or compare two of them."""
    from bottleneck.experiments import ExperimentLog

    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other; give one")
    if compare and (where or top):
        raise UsageError("--where and --top choose rows of the table; leave them out at --compare")
    store = ExperimentLog(log)
    if compare:
        _compare(store, compare, sort, as_json=as_json, as_csv=as_csv)
    else:
        _rank(store, sort, _settings_of(where or []), top, as_json=as_json, as_csv=as_csv)


def _rank(
    store: "ExperimentLog",
    sort: str | None,
    where: Mapping[str, str],
    top: int | None,
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    from bottleneck.experiments import default_metric, rank, scores

    experiments = store.experiments()
    metric = sort or default_metric(experiments)
    ranked = rank(experiments, metric, where)[:top]
    if as_json:
        print_json([_described(each.experiment) for each in ranked])
    elif as_csv:
        _print_csv([_row(each, metric) for each in ranked])
    elif not ranked:
        chosen = " where " + " and ".join(f"{key}={text}" for key, text in where.items())
        print(f"no experiments in {store.file}{chosen if where else ''}")
    else:
        _print_ranked(ranked, metric)
        without = sum(metric not in scores(each) for each in experiments)
        if without:
            note(f"note: {without} experiments in {store.file} have no {metric}, and are left out")


def print_best(experiments: Sequence["Experiment"], *, as_json: bool) -> None:
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


def _settings_of(texts: Sequence[str]) -> dict[str, str]:
    """Return what ``KEY=VALUE`` texts say."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--where {text!r} cannot be; expected KEY=VALUE, such as clf=svm")
        if key in found:
            raise UsageError(f"--where {key}= is given twice, and no experiment has both; give one")
        found[key] = value
    return found


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
