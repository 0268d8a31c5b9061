"""Print bases side by side: their scores, intervals and costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bottleneck
from bottleneck.cli import notes
from bottleneck.cli.output import loading, print_table, show, wanted
from bottleneck.cli.outputs import check_picture
from bottleneck.cli.streams import note
from bottleneck.errors import counted
from bottleneck.settings import RankSettings

if TYPE_CHECKING:
    from bottleneck.costs import Cost
    from bottleneck.experiments import ExperimentLog
    from bottleneck.standings import Standing, Standings

__all__ = ["costs_shown", "print_bases"]

_MEGA, _MILLI = 1e6, 1e-3


def print_bases(
    log: "ExperimentLog",
    settings: RankSettings,
    cache: Path,
    picture: Path | None,
    *,
    spreadsheet_safe: bool,
) -> None:
    """Print a line for each base with its best head, and draw its score against its cost.

    Parameters
    ----------
    log, settings : ExperimentLog, RankSettings
        The experiments, and which of them count.
    cache : Path
        Folder of the cache of their features.
    picture : Path or None
        The file to draw to.
    spreadsheet_safe : bool
        As for `print_table`.

    Raises
    ------
    DataError, UsageError
        See `bottleneck.standings.rank_bases`.
    """
    check_picture(picture)
    from bottleneck.experiments import default_metric, rank, source_of

    experiments = log.experiments()
    metric = settings.sort or default_metric(experiments)
    chosen = [each.experiment for each in rank(experiments, metric, settings.wanted)]
    with loading():
        from bottleneck.standings import rank_bases

        found = rank_bases(chosen, bottleneck.Cache(cache), settings.sort)
    if picture:
        from bottleneck.pictures import draw_pareto

        draw_pareto(found, picture)
    bases, store = found.bases[: settings.top], bottleneck.Cache(cache)
    images = bottleneck.ImageSet.read_csv(store.set_file(found.image_set))
    notes.note_features(images, [source_of(each.experiment) for each in bases], store)
    if wanted("csv"):
        print_table([_flat(each) for each in bases], spreadsheet_safe=spreadsheet_safe)
    else:
        show(found.as_dict(settings.top), lambda: _print_tables(found, bases))
    if picture:
        note(f"{found.metric} against cost drawn to {picture}")


def costs_shown(cost: "Cost") -> dict[str, Any]:
    """Return the columns of a table of costs.

    Parameters
    ----------
    cost : Cost
        What features cost.

    Returns
    -------
    dict of str to Any
        A column's heading to its value.
    """
    return {
        "ms per image": _scaled(cost.seconds_per_image, _MILLI),
        "multiply-adds": _scaled(cost.multiply_adds_per_image),
        "MB on disk": _scaled(cost.bytes_on_disk, _MEGA),
        "ms per prediction": _scaled(cost.seconds_per_prediction, _MILLI),
        "multiply-adds with head": _scaled(cost.multiply_adds_per_prediction),
    }


def _scaled(value: float | None, unit: float = 1.0) -> float | None:
    return None if value is None else value / unit


def _print_tables(found: "Standings", shown: "Sequence[Standing]") -> None:
    metric = found.metric
    rows = [
        {
            "base": each.model,
            "number": each.experiment.number,
            "layer": each.experiment.layer,
            "pool": each.experiment.settings.get("pool"),
            "clf": each.experiment.settings.get("clf"),
            metric: round(each.score, 4),
            "95% interval": each.interval and "{:.3f} to {:.3f}".format(*each.interval),
            "minus the first": _difference(each),
        }
        for each in shown
    ]
    title = f"bases on {found.image_set!r}, each with its best head"
    print_table(rows, title, spare=("pool", "number", "clf", "layer"))
    fronts = {True: "yes", False: "no", None: None}
    costs = [
        {"base": each.model, **costs_shown(each.cost), "Pareto front": fronts[each.on_front]}
        for each in shown
    ]
    print_table(costs, "costs", spare=("multiply-adds with head",))
    _note_scores(found)


def _difference(each: "Standing") -> str | None:
    if each.difference is None:
        return None
    half = each.difference_interval and each.difference_interval[1] - each.difference
    return f"{each.difference:+.3f}" + (f" ± {half:.3f}" if half is not None else "")


def _note_scores(found: "Standings") -> None:
    """Note what the scores are scores of, and which of them were selected."""
    metric, bases = found.metric, found.bases
    if all(each.held_out for each in bases):
        note(
            f"{metric} on images that nothing was selected on: each fold is scored by the head of "
            f"the base that is best on folds of the other images"
        )
    else:
        told = ", ".join(each.model for each in bases if not each.held_out)
        note(
            f"note: {metric} of {told} is that of the best of its heads on the same images, so it "
            f"is too good: quote that of 'bottleneck evaluate' on test images"
        )
    if found.choice is not None and len(bases) > 1:
        note(
            f"the first is the best of {counted(len(bases), 'base')} on these folds, so its "
            f"{metric} is too good; that of the choice of base and head together is "
            f"{found.choice:.4g}"
        )
    if found.folds == 1 and len(bases) > 1:
        models = " ".join(f"--model {each.model}" for each in bases if " + " not in each.model)
        note(
            f"note: one fold has no interval; 'bottleneck sweep --set {found.image_set} {models} "
            f"--cv 5' makes five of the training images"
        )
    if found.left_out:
        note(
            f"note: left out: {', '.join(found.left_out)}, with other folds than these; sweep all "
            f"bases in one call, with the same --cv, --repeats, --seed and --shots"
        )


def _flat(each: "Standing") -> dict[str, Any]:
    """Return a row of CSV."""
    low, high = each.interval or (None, None)
    less, more = each.difference_interval or (None, None)
    own = each.as_dict()
    names = ("number", "layer", "pool", "selected", "best_of", "held_out", "score")
    return {
        "model": each.model,
        **{name: own[name] for name in names},
        "low": low,
        "high": high,
        "difference": each.difference,
        "difference_low": less,
        "difference_high": more,
        **own["cost"],
        "on_front": each.on_front,
    }
