"""Pictures of other modules, as SVG within a page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bottleneck.errors import MissingExtraError

__all__ = ["Picture", "drawing", "epochs_of"]


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


def epochs_of(name: str, scores: Mapping[str, Any]) -> Picture | None:
    """Return the curves of a training in epochs.

    Parameters
    ----------
    name : str
        Name of the head.
    scores : mapping of str to Any
        Its scores.

    Returns
    -------
    Picture or None
        None if it was not trained in epochs.
    """
    if not scores.get("history"):
        return None
    alt = f"Loss and accuracy of {name} by epoch, on training and held-out images"

    def draw(file: Path) -> None:
        from bottleneck.pictures import draw_training

        draw_training(scores, name, file)

    return drawing(draw, alt)
