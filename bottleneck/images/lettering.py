"""Text on pictures, in fonts that have its letters."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import ImageFont

__all__ = ["drawable", "wrapped"]

_FONT_SIZE = 12
_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "arial.ttf",
    "msyh.ttc",
    "malgun.ttf",
)
"""Fonts of systems that have more letters than Pillow's."""
_NO_LETTER = "\U0010ffff"


def drawable(text: str) -> tuple[Any, str]:
    r"""Return a font that has the letters of a text, and the text as it can be drawn.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    font : PIL.ImageFont.FreeTypeFont
        The font that lacks the fewest letters.
    text : str
        With escapes, such as ``\u732b``, for letters that no font has and for control characters.
    """
    lacking = [({letter for letter in text if not _has(font, letter)}, font) for font in _fonts()]
    missing, font = min(lacking, key=lambda each: len(each[0]))
    escaped = [
        letter.encode("unicode_escape").decode() if letter in missing else letter for letter in text
    ]
    return font, "".join(escaped)


def wrapped(text: str, font: Any, width: float, most: int) -> list[str]:
    """Return a text in lines that fit, broken between words where possible.

    Parameters
    ----------
    text : str
        Any text that can be drawn.
    font : PIL.ImageFont.FreeTypeFont
        Its font.
    width : float
        Width of a line, in pixels.
    most : int
        Maximum number of lines; what does not fit is left out.

    Returns
    -------
    list of str
    """
    lines = [""]
    for letter in text:
        if font.getlength(lines[-1] + letter) > width:
            head, blank, last = lines[-1].rpartition(" ")
            lines[-1:] = [head, last] if blank and head else [lines[-1], ""]
        lines[-1] += letter
        if len(lines) > most:
            break
    return lines[:most]


@cache
def _fonts() -> list[Any]:
    """Return Pillow's own font, which has few letters, and those that are installed."""
    names = list(_FONTS)
    matplotlib = find_spec("matplotlib")
    for folder in (matplotlib and matplotlib.submodule_search_locations) or ():
        names.insert(0, str(Path(folder, "mpl-data/fonts/ttf/DejaVuSans.ttf")))
    found = [ImageFont.load_default(_FONT_SIZE)]
    for name in names:
        try:
            found.append(ImageFont.truetype(name, _FONT_SIZE))
        except OSError:
            continue
    return found


@cache
def _has(font: Any, letter: str) -> bool:
    """Return whether a font has a letter; otherwise all look the same."""
    if not letter.isprintable():
        return False
    found, none = font.getmask(letter), font.getmask(_NO_LETTER)
    return letter == " " or (found.size, bytes(found)) != (none.size, bytes(none))
