"""Draw scores against costs, with the Pareto front."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottleneck.errors import UsageError, some_of
from bottleneck.experiments import LOWER_IS_BETTER
from bottleneck.pictures.figures import drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bottleneck.standings import Standings

__all__ = ["draw_pareto"]

_WIDE = 8
"""Costs that differ by more than this factor have a logarithmic axis."""
_CHARACTERS_PER_INCH = 12
"""Of the names beside the axes."""
_POINT = 13
"""Size of a point, in which its number stands."""


def draw_pareto(standings: "Standings", file: str | Path) -> Path:
    """Draw the score of each base against the cost of a prediction, with the Pareto front.

    Parameters
    ----------
    standings : Standings
        The result of `bottleneck.standings.rank_bases`.
    file : str or Path
        Path that ends in ``.png``, ``.svg`` or ``.pdf``.

    Returns
    -------
    Path
        Path of the picture.

    Raises
    ------
    UsageError
        The file has another ending, or the cost of a base is unknown.
    MissingExtraError
        matplotlib is not installed.
    """
    metric = standings.metric
    work = {each.model: each.cost.multiply_adds_per_prediction or 0 for each in standings.bases}
    if unknown := some_of([model for model, known in work.items() if not known]):
        raise UsageError(
            f"scores cannot be drawn against costs, as those of {unknown} are unknown: imported "
            f"features have none, and others must be in the cache; name another one with `cache`, "
            f"choose bases with `where`, or leave `pareto` out"
        )
    bases = sorted(standings.bases, key=lambda each: work[each.model])
    x = np.array([work[each.model] for each in bases], float)
    y = np.array([each.score for each in bases])
    limits = [each.interval or (each.score, each.score) for each in bases]
    spread = np.abs(np.transpose(limits) - y)
    front = np.array([bool(each.on_front) for each in bases])
    title = f"bases on {standings.image_set}, each with its best head"
    names = [each.model.replace("$", r"\$") for each in bases]
    width = 7.0 + max(map(len, names)) / _CHARACTERS_PER_INCH
    with drawn(file, title, width, 5.0) as figure:
        axes = figure.subplots()
        for chosen, color, label in ((front, "C0", "Pareto front"), (~front, "C7", "others")):
            if chosen.any():
                own: dict[str, Any] = {"color": color, "capsize": 4, "label": label, "fmt": "o"}
                own["markersize"] = _POINT
                axes.errorbar(x[chosen], y[chosen], spread[:, chosen], **own)
        _scale(axes, x)
        # Between two bases of the front, and beyond them, the cheaper one is the best there is.
        end = axes.get_xlim()[1]
        reached = [*x[front], end], [*y[front], y[front][-1]]
        axes.plot(*reached, color="C0", alpha=0.4, drawstyle="steps-post", zorder=1)
        lower = " (lower is better)" if metric in LOWER_IS_BETTER else ""
        axes.set(
            xlabel="multiply-adds of base and head per prediction",
            ylabel=f"held-out {metric}{lower}, with 95% interval",
        )
        axes.legend(fontsize=8, markerscale=0.5)
        _number_points(axes, x, y, names)
    return Path(file)


def _scale(axes: "Axes", x: np.ndarray) -> None:
    """Choose a logarithmic axis where costs differ widely, and ticks such as 300 M."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.margins(x=0.12, y=0.15)
    if x.max() > _WIDE * x.min() > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlim(axes.get_xlim())


def _number_points(axes: "Axes", x: np.ndarray, y: np.ndarray, names: list[str]) -> None:
    """Write numbers on points, which may be close, and their names beside the axes."""
    for number, place in enumerate(zip(x, y, strict=True), start=1):
        axes.annotate(str(number), place, ha="center", va="center", fontsize=8, color="white")
    told = "\n".join(f"{number}  {name}" for number, name in enumerate(names, start=1))
    beside: dict[str, Any] = {"va": "top", "fontsize": 9, "linespacing": 1.5}
    axes.annotate(told, (1.03, 1.0), xycoords="axes fraction", **beside)
