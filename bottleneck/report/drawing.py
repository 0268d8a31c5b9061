"""Pictures of other modules, as SVG within a page."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bottleneck.errors import MissingExtraError

__all__ = ["Picture", "drawing"]


@dataclass(frozen=True)
class Picture:
    """A drawing.

    Attributes
    ----------
    svg : str
        The drawing as SVG; empty if there is none.
    alt : str
        What it shows, in words; or why there is none.
    """

    svg: str
    alt: str


def drawing(draw: Callable[[Path], object], alt: str) -> Picture:
    """Return what a function draws.

    Parameters
    ----------
    draw : callable
        Takes the path of the picture, which ends in ``.svg``.
    alt : str
        What it shows, in words.

    Returns
    -------
    Picture
        Without a drawing, and with the reason, if matplotlib is not installed.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "picture.svg"
        try:
            draw(file)
        except MissingExtraError as error:
            return Picture("", f"not drawn: {error}")
        return Picture(file.read_text(encoding="utf-8"), alt)
