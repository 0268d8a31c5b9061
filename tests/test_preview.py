"""Augmented views are drawn with the names of their classes, whatever their letters. About 1 s."""

import numpy as np
from PIL import Image

from bottleneck import ImageSet
from bottleneck.extract import draw_views


def test_a_row_for_each_class_is_drawn(bottleneck, make_images):
    make_images(**{f"class{number}": 2 for number in range(8)})
    for options, rows in (((), 8), (("--images", 3), 3)):
        assert bottleneck("augment-preview", "--augment", "flip", "--views", 1, *options).code == 0
        with Image.open("augment-preview.png") as sheet:
            assert sheet.height == 4 + rows * 164


def test_names_of_classes_are_on_the_sheet(make_images):
    make_images(**{"猫": 2, "犬": 2, "long " * 12: 2})
    sheet = np.asarray(draw_views(ImageSet.from_folder("data"), "flip", views=1))
    names = [row[:, :142] for row in np.split(sheet[: 3 * 164], 3)]
    assert all(row.min() < 100 for row in names)
    assert len({row[:20].tobytes() for row in names}) == 3
