"""A contact sheet of augmented views."""

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bottleneck.augment import find_policy
from bottleneck.bases import Transform
from bottleneck.errors import BadImageError, DataError
from bottleneck.extract.compute import preprocess_views
from bottleneck.images import ImageItem, ImageSet
from bottleneck.settings import StoreSettings

__all__ = ["draw_views"]

_SIDE = 160
_SHORTER = 183
"""As the classic preprocessing has it: 224 of 256."""
_NAMES = 150
_GAP = 4
_LETTERS = 22
_FONT_SIZE = 12


def draw_views(images: ImageSet, augment: str, *, views: int = 8, count: int = 6) -> Image.Image:
    """Draw a row for each of some training images: its name, the plain image, then its views.

    The images are of all classes in turn. They are resized and cropped as for most bases, to 160
    pixels; the views are those of the same numbers in the cache, but for the size.

    Parameters
    ----------
    images : ImageSet
        Training images are shown if it has any.
    augment : str
        How the views are made, as for `extract_features`.
    views : int
        How many.
    count : int
        Rows at most.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    UsageError
        There cannot be so many views, or `augment` changes nothing.
    DataError
        None of the images can be read.
    """
    StoreSettings(views=views, augment=augment)  # says so where there can be no such views
    policy = find_policy(augment)
    transform = Transform((_SHORTER, _SHORTER), (_SIDE, _SIDE), "bilinear", (0.0,) * 3, (1.0,) * 3)
    rows = []
    for item in _in_turn(images):
        try:
            data = Path(item.path).read_bytes()
            seen = preprocess_views(transform, data, policy, item.digest, range(views + 1))
        except (OSError, BadImageError):
            continue
        rows.append((item, [np.asarray(each.movedim(0, -1)) for each in seen]))
        if len(rows) == count:
            break
    if not rows:
        raise DataError(f"no image of {images.name!r} could be read; give other `data`")
    return _sheet(rows)


def _in_turn(images: ImageSet) -> list[ImageItem]:
    """Return the images of all classes in turn, each class in its own order."""
    train = [item for item in images.items if item.split == "train"]
    classes: dict[str | None, list[ImageItem]] = {}
    for item in train or images.items:
        classes.setdefault(item.label, []).append(item)
    return [item for item in chain(*zip_longest(*classes.values())) if item]


def _sheet(rows: Sequence[tuple[ImageItem, Sequence[np.ndarray]]]) -> Image.Image:
    step = _SIDE + _GAP
    columns = len(rows[0][1])
    sheet = Image.new("RGB", (_NAMES + columns * step, len(rows) * step + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_SIZE)
    for number, (item, pictures) in enumerate(rows):
        top = _GAP + number * step
        lines = [item.label or "", Path(item.path).name]
        draw.text((_GAP, top), "\n".join(line[:_LETTERS] for line in lines), "black", font)
        for place, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (_NAMES + place * step, top))
    return sheet
