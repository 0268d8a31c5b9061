"""Draw augmented views of images, next to their names."""

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torchvision.utils import make_grid

from bottleneck.augment import find_policy
from bottleneck.bases import Transform
from bottleneck.bases.encoded import Encoded
from bottleneck.errors import BadImageError, DataError
from bottleneck.extract.decoding import preprocess_views
from bottleneck.images import ImageItem, ImageSet, read_file
from bottleneck.images.lettering import drawable, wrapped
from bottleneck.settings import StoreSettings

__all__ = ["draw_views"]

_SIDE = 160
_SHORTER = 183
"""As in the classic preprocessing: 224 of 256."""
_NAMES = 150
_GAP = 4
_LINES = 11
"""Lines of text that fit beside a picture."""


def draw_views(images: ImageSet, augment: str, *, views: int = 8, count: int = 6) -> Image.Image:
    """Draw some training images in rows: name, unaugmented image, then its views.

    Images of all classes take turns. They are resized and cropped as for most bases, to 160 pixels;
    the views equal those in the cache but for the size.

    Parameters
    ----------
    images : ImageSet
        Training images are drawn if there are any.
    augment : str
        Augmentation policy, as for `extract_features`.
    views : int
        Number of views of each image.
    count : int
        Maximum number of rows.

    Returns
    -------
    PIL.Image.Image
        An RGB picture.

    Raises
    ------
    UsageError
        `views` is out of range, or `augment` is ``none``.
    DataError
        None of the images can be read.
    """
    StoreSettings(views=views, augment=augment)  # says so where there can be no such views
    policy = find_policy(augment)
    transform = Transform((_SHORTER, _SHORTER), (_SIDE, _SIDE), "bilinear", (0.0,) * 3, (1.0,) * 3)
    rows = []
    for item in _in_turn(images):
        try:
            image = Encoded(read_file(item))
            seen = preprocess_views(transform, image, policy, item.digest, range(views + 1))
        except BadImageError:
            continue
        rows.append((item, seen))
        if len(rows) == count:
            break
    if not rows:
        raise DataError(f"no image of {images.name!r} could be read; give other `data`")
    return _sheet(rows)


def _in_turn(images: ImageSet) -> list[ImageItem]:
    """Return the images with the classes taking turns, each class in its own order."""
    train = [item for item in images.items if item.split == "train"]
    classes: dict[str | None, list[ImageItem]] = {}
    for item in train or images.items:
        classes.setdefault(item.label, []).append(item)
    return [item for item in chain(*zip_longest(*classes.values())) if item]


def _sheet(rows: Sequence[tuple[ImageItem, Sequence[torch.Tensor]]]) -> Image.Image:
    """Return a sheet of rows of pictures, uint8 of shape (3, height, width), with their names."""
    pictures = torch.stack([picture for _, row in rows for picture in row])
    grid = make_grid(pictures, nrow=len(rows[0][1]), padding=_GAP, pad_value=255)
    sheet = Image.new("RGB", (_NAMES - _GAP + grid.shape[2], grid.shape[1]), "white")
    sheet.paste(Image.fromarray(grid.movedim(0, -1).numpy()), (_NAMES - _GAP, 0))
    draw = ImageDraw.Draw(sheet)
    for number, (item, _) in enumerate(rows):
        top = _GAP + number * (_SIDE + _GAP)
        font, label = drawable(item.label or "")
        lines = wrapped(label, font, _NAMES - 2 * _GAP, _LINES)
        draw.text((_GAP, top), "\n".join(lines), "black", font)
        top += round(draw.textbbox((0, 0), "\n".join(lines), font)[3]) + _GAP if label else 0
        font, name = drawable(Path(item.path).name)
        rest = wrapped(name, font, _NAMES - 2 * _GAP, _LINES - len(lines))
        draw.text((_GAP, top), "\n".join(rest), "grey", font)
    return sheet
