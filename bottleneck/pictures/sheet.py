"""Draw a contact sheet: thumbnails of images with captions."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from PIL import Image, ImageDraw

from bottleneck.errors import BadImageError, UsageError, unquoted
from bottleneck.files import output_file
from bottleneck.images import ImageItem, decode, in_threads, read_file
from bottleneck.images.lettering import drawable, wrapped

__all__ = ["COLUMNS", "draw_sheet", "thumbnail"]

_SIDE = 160
_GAP = 8
COLUMNS = 6
"""Images in a row."""
_LINE = 15
"""Height of a line of text, in pixels."""
_CAPTION, _TITLE = 4, 2
"""Lines of text that have room."""


def draw_sheet(
    images: Sequence[tuple[ImageItem, str] | None], file: str | Path, title: str
) -> Path:
    """Draw thumbnails of images with captions below them, in rows of six.

    An image that cannot be read, as it has moved or changed since, is an empty tile that says so.

    Parameters
    ----------
    images : sequence of (ImageItem, str) or None
        Images with their captions, in the order drawn; lines of a caption may be separated by
        newlines. None leaves a place empty.
    file : str or Path
        Path that ends in ``.png``; it is replaced.
    title : str
        Title above the images.

    Returns
    -------
    Path
        Path of the picture.

    Raises
    ------
    UsageError
        The file has another ending.
    OSError
        It cannot be written.
    """
    path = Path(file)
    if path.suffix.lower() != ".png":
        raise UsageError(f"a contact sheet cannot be written as {str(path)!r}; expected a .png")
    columns = max(1, min(len(images), COLUMNS))
    tile, row = _SIDE + _GAP, _SIDE + _GAP + _CAPTION * _LINE
    top = _GAP + _TITLE * _LINE
    size = max(columns, 3) * tile + _GAP, ceil(len(images) / columns) * row + top
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_GAP, _GAP), title, size[0] - 2 * _GAP, _TITLE)
    there = [(place, each) for place, each in enumerate(images) if each]
    drawn = in_threads(_shown, [item for _, (item, _) in there], waiting=COLUMNS)
    for (place, (_, caption)), picture in zip(there, drawn, strict=True):
        left, upper = _GAP + place % columns * tile, top + place // columns * row
        if isinstance(picture, str):
            draw.rectangle((left, upper, left + _SIDE - 1, upper + _SIDE - 1), outline="grey")
            _write(draw, (left + _GAP, upper + _GAP), picture, _SIDE - 2 * _GAP, 3)
        else:
            offset = (_SIDE - picture.width) // 2, (_SIDE - picture.height) // 2
            sheet.paste(picture, (left + offset[0], upper + offset[1]))
        _write(draw, (left, upper + _SIDE + 2), caption, _SIDE, _CAPTION)
    with output_file(path) as target:
        sheet.save(target, "PNG")
    return path


def thumbnail(data: bytes, side: int) -> Image.Image:
    """Return an image as a small RGB picture of its own proportions.

    Parameters
    ----------
    data : bytes
        The image file.
    side : int
        Longest side of the picture, in pixels; a smaller image keeps its size.

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    BadImageError
        It is no image, or is damaged.
    """
    picture = Image.fromarray(decode(data, enough=(side, side)))
    picture.thumbnail((side, side))
    return picture


def _shown(item: ImageItem) -> Image.Image | str:
    """Return a thumbnail, or why there is none."""
    try:
        return thumbnail(read_file(item), _SIDE)
    except BadImageError as error:
        return f"cannot be shown: {unquoted(error)}"


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, most: int
) -> None:
    """Write lines of text, each in a font that has its letters, as many as have room."""
    lines = [
        (font, line)
        for given in text.split("\n")
        for font, shown in [drawable(given)]
        for line in wrapped(shown, font, width, most)
    ]
    for number, (font, line) in enumerate(lines[:most]):
        draw.text((place[0], place[1] + number * _LINE), line, "black", font)
