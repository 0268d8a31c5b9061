"""Draw images next to those that are similar to them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bottleneck.errors import BadImageError, counted, one_line
from bottleneck.images import ImageItem, decode, read_file
from bottleneck.pictures.figures import drawn

if TYPE_CHECKING:
    from bottleneck.similar import Similar

__all__ = ["draw_similar"]

_ACROSS = 8
_MOST = 39
"""Similar images that are drawn of each: five rows with the image itself."""
_CELLS = 200
"""Pictures of all images together."""
_INCHES = 1.5
_PIXELS = 200
"""Of the square that an image fits in."""
_CELL = 250
"""Height with two lines of text."""
_GAP = 4
_CHARACTERS = 28


def draw_similar(found: "Sequence[Similar]", title: str, file: str | Path) -> Path:
    """Draw each image in front of those that are similar to it, with labels and cosines.

    Parameters
    ----------
    found : sequence of Similar
        From `bottleneck.similar.similar_images`, at least one; as many are drawn as give 200
        pictures, of which at most 40 are of one.
    title : str
        Title of the picture.
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
    cells: list[tuple[ImageItem, str] | None] = []
    most = 1 + min(_MOST, max(len(each.neighbours) for each in found))
    across, shown = min(_ACROSS, most), max(1, _CELLS // most)
    for each in found[:shown]:
        cells += [None] * (-len(cells) % across)
        cells.append((each.item, "the image itself"))
        for other in each.neighbours[:_MOST]:
            cells.append((other.item, f"{other.item.label or ''} {other.cosine:.3f}"))
    if len(found) > shown:
        title += f" ({shown} of {counted(len(found), 'image')})"
    down = -(-len(cells) // across)
    sheet = np.full((_CELL * down, _PIXELS * across, 3), 255, np.uint8)
    texts: list[tuple[int, int, str]] = []
    for place, cell in enumerate(cells):
        if cell:
            left, top = _PIXELS * (place % across), _CELL * (place // across)
            texts += _paste(sheet, left, top, *cell)
    with drawn(file, title, _INCHES * across, _INCHES * _CELL / _PIXELS * down + 0.5) as figure:
        axes = figure.subplots()
        axes.imshow(sheet)
        axes.axis("off")
        for left, top, text in texts:
            axes.text(left, top, text, fontsize=6)
    return Path(file)


def _paste(
    sheet: np.ndarray, left: int, top: int, item: ImageItem, text: str
) -> Iterator[tuple[int, int, str]]:
    """Paste an image into a sheet, and yield what is to be written on it and where."""
    try:
        pixels = _thumbnail(item)
    except BadImageError as error:
        yield left + 4, top + _PIXELS // 2, _shown(str(error))
    else:
        height, width = pixels.shape[:2]
        y, x = top + (_PIXELS - height) // 2, left + (_PIXELS - width) // 2
        sheet[y : y + height, x : x + width] = pixels
    yield left + 4, top + _PIXELS + 14, _shown(text)
    yield left + 4, top + _PIXELS + 36, _shown(Path(item.path).name)


def _shown(text: str) -> str:
    """Return a text that fits below an image, without what matplotlib takes for mathematics."""
    text = one_line(text)
    if len(text) > _CHARACTERS:
        text = f"{text[: _CHARACTERS - 9]}…{text[-8:]}"
    return text.replace("$", r"\$")


def _thumbnail(item: ImageItem) -> np.ndarray:
    from PIL import Image

    side = _PIXELS - 2 * _GAP
    image = Image.fromarray(decode(read_file(item), enough=(side, side)))
    scale = side / max(image.size)
    size = [max(1, round(scale * each)) for each in image.size]
    kind = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return np.asarray(image.resize((size[0], size[1]), kind))
