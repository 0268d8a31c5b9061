"""Print how scores grow with the number of images of each class."""

from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from bottleneck.cli.output import print_table, wanted
from bottleneck.cli.streams import note
from bottleneck.errors import counted, some_of

if TYPE_CHECKING:
    from bottleneck.experiments import Experiment

__all__ = ["note_fewer", "print_curves"]

_MOST_ROWS = 10
_MOST_NAMES = 10


def print_curves(experiments: "Sequence[Experiment]", metric: str, shown: Sequence[str]) -> None:
    """Print a row for each head, with its score for each number of images of each class.

    Parameters
    ----------
    experiments : sequence of Experiment
        Experiments of one sweep.
    metric : str
        Metric that all of them have.
    shown : sequence of str
        Settings that tell the heads apart.
    """
    from bottleneck.experiments import LOWER_IS_BETTER, half_of

    rows: dict[str, dict[str, Any]] = {}
    means: dict[str, list[float]] = {}
    for each in experiments:
        facts = {key: each.told.get(key) for key in shown if key != "shots"}
        facts["layer"] = each.layer
        key = str(facts)
        value, half = mean(fold[metric] for fold in each.folds), half_of(each, metric)
        shots = str(each.told["shots"])
        rows.setdefault(key, facts).update({shots: round(value, 3), _half(shots): half})
        means.setdefault(key, []).append(value)
    ranked = sorted(rows, key=lambda key: mean(means[key]), reverse=metric not in LOWER_IS_BETTER)
    chosen = [rows[key] for key in ranked[: None if wanted("json") else _MOST_ROWS]]
    same = {key for key in chosen[0] if len({str(row.get(key)) for row in chosen}) == 1}
    counts = list(dict.fromkeys(str(each.told["shots"]) for each in experiments))
    halves = [_half(shots) for shots in counts]
    same -= {"layer", "clf", *counts, *halves}
    print_table([{key: row[key] for key in row if key not in same} for row in chosen], spare=halves)
    if left_out := len(rows) - len(chosen):
        note(
            f"{counted(left_out, 'more head')}; 'bottleneck leaderboard --where shots=N' lists all"
        )
    note(
        f"{metric} by the number of training images of each class (± is half its 95% interval), "
        f"over draws that are the same for all heads; scored on held-out images, which are not "
        f"drawn"
    )


def _half(shots: str) -> str:
    """Return the name of the column beside that of a number of shots."""
    return f"± {shots}"


def note_fewer(experiments: "Sequence[Experiment]") -> None:
    """Note which classes have fewer images than were to be drawn.

    Parameters
    ----------
    experiments : sequence of Experiment
        Experiments of one sweep.
    """
    told = {each.told["shots"]: each.settings.get("fewer_images") or {} for each in experiments}
    for shots, fewer in told.items():
        if fewer:
            classes = counted(len(fewer), "class has", "classes have")
            named = some_of([f"{label} ({n})" for label, n in fewer.items()], most=_MOST_NAMES)
            note(
                f"note: {classes} fewer than {shots} training images in a fold, all of which are "
                f"then fitted on: {named}"
            )
