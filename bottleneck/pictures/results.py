"""Draw the results of evaluation, advice and training."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bottleneck.errors import UsageError, counted
from bottleneck.extras import import_extra
from bottleneck.pictures.figures import drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bottleneck.advise import Advice, Estimate
    from bottleneck.evaluate import Evaluation

__all__ = [
    "best_epoch",
    "draw_advice",
    "draw_confusion_matrix",
    "draw_history",
    "draw_training",
    "epoch_log",
]

_CHARACTERS_PER_INCH = 12
"""Of names below an axis, which have half of the picture's width."""
_LONGEST_SIDE = 25.0
_TITLE = 110
"""Characters in a line of the title above curves."""
_MOST_MARKED = 40
"""Epochs that are marked by points."""
_MOST_NUMBERS = 30
_FONT, _SMALLEST_FONT = 10.0, 6.0
"""Sizes of the names of classes, in points."""
_POINTS_PER_INCH = 72
_SHARE_OF_AXES = 0.75
_SLANTED: Final[dict[str, Any]] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
"""Long names below an axis."""


def draw_confusion_matrix(evaluation: "Evaluation", title: str, file: str | Path) -> Path:
    """Draw a confusion matrix as a picture.

    Colours show fractions of a row; numbers, for up to 30 classes, count images. Of hundreds of
    classes, only as many are named as can be read.

    Parameters
    ----------
    evaluation : Evaluation
        An evaluation with k classes.
    title : str
        Title above the matrix; the accuracy is below it.
    file : str or Path
        Path that ends in ``.png``, ``.svg`` or ``.pdf``.

    Returns
    -------
    Path
        Path of the picture.

    Raises
    ------
    UsageError
        The file has another ending, or images may have several classes.
    MissingExtraError
        matplotlib is not installed.
    """
    if evaluation.confusion is None:
        raise UsageError(
            f"{title} has images with several classes, but a confusion matrix needs one class "
            f"for each; leave `picture` out"
        )
    labels = [found.label.replace("$", r"\$") for found in evaluation.classes]
    low, high = evaluation.accuracy_interval
    title = (
        f"{title}, {counted(evaluation.images, f'{evaluation.split} image')}\n"
        f"accuracy {evaluation.accuracy:.3f} (95% interval {low:.3f} to {high:.3f})"
    )
    side = min(_LONGEST_SIDE, max(5.0, 0.45 * len(labels) + 2.5))
    with drawn(file, title, side, side) as figure:
        axes = figure.subplots()
        counts = np.array(evaluation.confusion)
        shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        numbered: Iterable[Any] = np.argwhere(counts) if len(labels) <= _MOST_NUMBERS else []
        for row, column in numbered:
            color = "white" if shares[row, column] > 0.5 else "black"  # noqa: PLR2004 - half of it
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color)
        crowded = sum(map(len, labels)) > _CHARACTERS_PER_INCH * side / 2
        room = _POINTS_PER_INCH * _SHARE_OF_AXES * side / len(labels)
        step = ceil(_SMALLEST_FONT / room)
        font: dict[str, Any] = {"fontsize": min(_FONT, step * room)}
        places = range(0, len(labels), step)
        axes.set_xticks(places, labels[::step], **font, **(_SLANTED if crowded else {}))
        axes.set_yticks(places, labels[::step], **font)
        axes.set(xlabel="predicted class", ylabel="true class")
    return Path(file)


def draw_advice(advice: "Advice", file: str | Path) -> Path:
    """Draw a learning curve with its forecast, and the accuracy on each layer.

    Parameters
    ----------
    advice : Advice
        The result of `bottleneck.advise_on`.
    file : str or Path
        Path that ends in ``.png``, ``.svg`` or ``.pdf``.

    Returns
    -------
    Path
        Path of the picture.

    Raises
    ------
    UsageError
        The file has another ending.
    MissingExtraError
        matplotlib is not installed.
    """
    evidence = advice.evidence
    title = (
        f"{advice.clf} on {advice.source.model}, {counted(evidence.images, 'training image')} of "
        f"{advice.source.image_set}: {advice.verdict.kind}"
    )
    count = len(evidence.layers)
    with drawn(file, title, max(11.0, 6.5 + 0.45 * count), 4.6) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.0, max(0.8, 0.08 * count)])
        _draw_curve(left, advice)
        _draw_layers(right, advice)
    return Path(file)


def draw_history(
    history: Sequence[Mapping[str, float]],
    kept: int,
    title: str,
    file: str | Path,
    start: Mapping[str, float] | None = None,
) -> Path:
    """Draw the losses and accuracies of a training by epoch.

    Parameters
    ----------
    history : sequence of mapping
        ``epoch`` and the metrics of each; those of held-out images start with ``val_``.
    kept : int
        The epoch whose network was saved; 0 if it was none of these.
    title : str
        Title of the picture; a long one is broken into lines.
    file : str or Path
        Path that ends in ``.png``, ``.svg`` or ``.pdf``.
    start : mapping of str to float, optional
        ``val_loss`` and ``val_accuracy`` before the first epoch.

    Returns
    -------
    Path
        Path of the picture.

    Raises
    ------
    UsageError
        The file has another ending.
    MissingExtraError
        matplotlib is not installed.
    """
    before = [{"epoch": 0, **start}] if start else []
    marker = "." if len(history) <= _MOST_MARKED else ""  # a single epoch has no line
    with drawn(file, textwrap.fill(title, _TITLE), 9.0, 4.0) as figure:
        for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for rows, name, label in (
                (history, metric, "training images"),
                ([*before, *history], f"val_{metric}", "held-out images"),
            ):
                values = [each[name] for each in rows]
                axes.plot([each["epoch"] for each in rows], values, marker=marker, label=label)
            if kept:
                axes.axvline(kept, color="grey", linestyle=":", label=f"kept: epoch {kept}")
            axes.set(xlabel="epoch", ylabel="log loss (nats)" if metric == "loss" else metric)
            axes.set_xlim(left=0.5 - len(before), right=len(history) + 0.5)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.legend()
    return Path(file)


def best_epoch(scores: Mapping[str, Any]) -> int:
    """Return the epoch whose network was saved; 0 if it was none.

    Parameters
    ----------
    scores : mapping
        Scores of a head with a history.

    Returns
    -------
    int
    """
    if "best_epoch" in scores:
        return int(scores["best_epoch"])
    return int(min(scores["history"], key=lambda epoch: epoch["val_loss"])["epoch"])


def draw_training(scores: Mapping[str, Any], name: str, file: str | Path) -> Path:
    """Draw the history of a head's training, see `draw_history`.

    Parameters
    ----------
    scores : mapping
        Scores of a head with a history that is not empty.
    name : str
        Name of the head.
    file : str or Path
        Path that ends in ``.png``, ``.svg`` or ``.pdf``.

    Returns
    -------
    Path
        Path of the picture.

    Raises
    ------
    UsageError, MissingExtraError
        As for `draw_history`.
    """
    title, first = f"{name}: {scores.get('reading', '')}", ("val_loss", "val_accuracy")
    known = "start_val_loss" in scores
    start = {metric: scores[f"start_{metric}"] for metric in first} if known else None
    return draw_history(scores["history"], best_epoch(scores), title, file, start)


@contextmanager
def epoch_log(folder: str | Path) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield a function that logs an epoch of training for TensorBoard at once.

    Parameters
    ----------
    folder : str or Path
        Folder of the run's event files.

    Yields
    ------
    callable
        Takes an epoch of the history, see `draw_history`.

    Raises
    ------
    MissingExtraError
        tensorboard is not installed.
    """
    tensorboard = import_extra("torch.utils.tensorboard", "logging for TensorBoard", "tensorboard")
    with tensorboard.SummaryWriter(str(folder)) as writer:

        def log(epoch: Mapping[str, float]) -> None:
            for name, value in epoch.items():
                if name != "epoch":
                    split = "validation" if name.startswith("val_") else "train"
                    tag = f"{name.removeprefix('val_')}/{split}"
                    writer.add_scalar(tag, value, int(epoch["epoch"]))
            writer.flush()

        yield log


def _draw_curve(axes: "Axes", advice: "Advice") -> None:
    curve = advice.evidence.curve
    sizes = [point.images for point in curve.points]
    values, low, high = _columns(point.accuracy for point in curve.points)
    axes.plot(sizes, [point.train_accuracy for point in curve.points], "^:", label="training")
    axes.plot(sizes, values, "o-", color="C1", label="held out")
    axes.fill_between(sizes, low, high, color="C1", alpha=0.2, linewidth=0, label="95% interval")
    later = [each.images for each in curve.forecasts]
    reach = np.geomspace(sizes[0], later[-1])
    law = [1 - curve.law.error(images) for images in reach]
    axes.plot(reach, law, "--", color="grey", label="power law")
    values, low, high = _columns(each.accuracy for each in curve.forecasts)
    spread = (values - low, high - values)
    axes.errorbar(later, values, spread, fmt="s", color="C2", capsize=4, label="forecast")
    label = "other layers"
    for each in advice.evidence.layers:
        if each.difference:
            points = [(point.images, point.accuracy.value) for point in each.curve.points]
            axes.plot(*np.transpose(points), color="C0", alpha=0.4, lw=1, zorder=1, label=label)
            label = ""
    axes.set_xscale("log")
    axes.set_xticks([*sizes, *later], map(str, [*sizes, *later]), rotation=45)
    axes.minorticks_off()
    axes.set(xlabel="training images", ylabel="accuracy")
    axes.set_title(f"learning curve of {advice.source.layer_name}", fontsize=10)
    axes.legend(fontsize=8)


def _columns(estimates: "Iterable[Estimate]") -> np.ndarray:
    """Return values and the lower and upper limits of their intervals, shape (3, n)."""
    return np.transpose([(each.value, each.low, each.high) for each in estimates])


def _draw_layers(axes: "Axes", advice: "Advice") -> None:
    layers = advice.evidence.layers
    values = [each.accuracy.value for each in layers]
    spread = [each.deviation for each in layers]
    axes.errorbar(range(len(layers)), values, spread, fmt="o-", capsize=4, color="C0")
    names = [each.name.replace("$", r"\$") for each in layers]
    axes.set_xticks(range(len(layers)), names, **_SLANTED, fontsize=8)
    axes.set(ylabel="held-out accuracy", xmargin=0.1)
    axes.set_title("layers, with standard deviation over folds", fontsize=10)
