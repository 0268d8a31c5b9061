"""Pictures of results."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottleneck.errors import MissingExtraError, UsageError
from bottleneck.evaluate import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_confusion_matrix"]

_SUFFIXES = (".png", ".svg", ".pdf")
_CHARACTERS_PER_INCH = 12
_LONGEST_SIDE = 25.0
_MOST_NUMBERS = 50


def draw_confusion_matrix(evaluation: Evaluation, title: str, file: str | Path) -> Path:
    """Draw a confusion matrix as a picture.

    Colours show the share of a row; numbers, of up to 50 classes, count images.

    Parameters
    ----------
    evaluation : Evaluation
        k classes.
    title : str
        Stands above the matrix, with the accuracy below it.
    file : str or Path
        ``.png``, ``.svg`` or ``.pdf``.

    Raises
    ------
    UsageError
        The file has another ending.
    MissingExtraError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError(
            "pictures need matplotlib, which is not installed; 'pip install matplotlib' brings it"
        ) from None
    path = Path(file)
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"no picture {str(path)!r}; expected a name in {', '.join(_SUFFIXES)}")
    labels = [found.label.replace("$", r"\$") for found in evaluation.classes]
    side = min(_LONGEST_SIDE, max(5.0, 0.45 * len(labels) + 2.5))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    _fill(axes, evaluation.confusion)
    crowded = sum(map(len, labels)) > _CHARACTERS_PER_INCH * side / 2
    slant: dict[str, Any] = (
        {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    )
    axes.set_xticks(range(len(labels)), labels, **slant)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    low, high = evaluation.accuracy_interval
    figure.suptitle(
        f"{title}, {evaluation.images} {evaluation.split} images\n"
        f"accuracy {evaluation.accuracy:.3f} (95% interval {low:.3f} to {high:.3f})",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.15)
    return path


def _fill(axes: "Axes", confusion: list[list[int]]) -> None:
    shares = [[count / max(1, sum(row)) for count in row] for row in confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(confusion) > _MOST_NUMBERS:
        return
    for row, counts in enumerate(confusion):
        for column, count in enumerate(counts):
            dark = shares[row][column] > 0.5  # noqa: PLR2004 - half of the colour scale
            axes.text(
                column,
                row,
                str(count),
                ha="center",
                va="center",
                color="white" if dark else "black",
            )
