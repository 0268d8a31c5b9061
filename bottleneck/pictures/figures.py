"""Figures that are saved as pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bottleneck.errors import UsageError
from bottleneck.extras import import_extra
from bottleneck.files import output_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_picture", "drawn"]

_SUFFIXES = (".png", ".svg", ".pdf")


def check_picture(file: str | Path) -> Path:
    """Check the path of a picture and return it.

    Parameters
    ----------
    file : str or Path
        ``.png``, ``.svg`` or ``.pdf``.

    Returns
    -------
    Path

    Raises
    ------
    UsageError
        The path does not end in a picture format.
    MissingExtraError
        matplotlib is not installed.
    """
    path = Path(file)
    if path.suffix not in _SUFFIXES:
        raise UsageError(
            f"a picture cannot be written as {str(path)!r}; expected a name in "
            f"{', '.join(_SUFFIXES)}"
        )
    import_extra("matplotlib", "drawing a picture", "matplotlib")
    return path


@contextmanager
def drawn(file: str | Path, title: str, width: float, height: float) -> Iterator["Figure"]:
    """Yield a figure that is saved as a picture at the end.

    Parameters
    ----------
    file : str or Path
        As for `check_picture`.
    title : str
        Title above the figure.
    width, height : float
        Size in inches.

    Yields
    ------
    matplotlib.figure.Figure
    """
    path = check_picture(file)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    yield figure
    figure.draw_without_rendering()  # makes the layout
    figure.set_layout_engine("none")  # which saving would make again, twice
    with output_file(path) as target:
        figure.savefig(
            target, format=path.suffix[1:], dpi=150, bbox_inches="tight", pad_inches=0.15
        )
