"""Contact sheets of images, of which some are gone or hostile. About 1 s."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottleneck.errors import UsageError
from bottleneck.files import sha256_of
from bottleneck.images import ImageItem
from bottleneck.pictures import draw_sheet, thumbnail


def colored(path: str, color: str, size: tuple[int, int] = (300, 200)) -> Path:
    Image.new("RGB", size, color).save(path)
    return Path(path)


def item(path: str | Path) -> ImageItem:
    return ImageItem(str(path), sha256_of(Path(path)) if Path(path).is_file() else "ab" * 32)


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened)


def test_images_are_drawn_in_order_with_captions():
    paths = [colored(f"{color}.png", color) for color in ("red", "blue", "lime")]
    draw_sheet([(item(each), f"caption\nof {each.stem}") for each in paths], "sheet.png", "title")
    sheet = pixels("sheet.png")
    middle = sheet[38 + 80]
    assert [middle[8 + 80 + 168 * n].tolist() for n in range(3)] == [
        [255, 0, 0],
        [0, 0, 255],
        [0, 255, 0],
    ]
    assert sheet[:30].min() < 100  # the title
    assert sheet[38 + 162 :].min() < 100  # the captions


def test_seven_images_take_two_rows_of_six():
    path = colored("image.png", "red", (20, 20))
    draw_sheet([(item(path), "")] * 6 + [None, (item(path), "")], "sheet.png", "")
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (6 * 168 + 8, 2 * 228 + 38)


def test_what_cannot_be_read_is_an_empty_tile_that_says_so():
    Path("text.png").write_text("no image")
    changed = item(colored("changed.png", "blue"))
    colored("changed.png", "red")
    shown = [*map(item, ("gone.png", "text.png", colored("there.png", "red"), ".")), changed]
    draw_sheet([(each, "caption") for each in shown], "s.png", "")
    sheet = pixels("s.png")
    tiles = [sheet[38 : 38 + 160, 8 + 168 * n : 168 + 168 * n] for n in range(5)]
    grey = [(tile == 128).all(axis=2).sum() > 600 for tile in tiles]  # the frame
    assert grey == [True, True, False, True, True]
    assert all(tile[4:-4, 4:-4].min() < 100 for tile in (*tiles[:2], *tiles[3:]))
    assert len({tile.tobytes() for tile in tiles}) == 5


def test_hostile_captions_and_titles_are_drawn():
    path = colored("image.png", "red", (1, 4000))
    draw_sheet(
        [(item(path), "\x1b[31m<b>\u202e" + "w" * 300)] * 2, "sheet.png", "\n".join("abc") * 99
    )
    draw_sheet([], "none.png", "nothing")
    assert pixels("none.png").shape[1] > 300


def test_a_thumbnail_has_the_proportions_of_its_image():
    assert thumbnail(colored("wide.jpg", "red", (1000, 500)).read_bytes(), 160).size == (160, 80)
    assert thumbnail(colored("small.png", "red", (10, 20)).read_bytes(), 160).size == (10, 20)


def test_another_ending_is_refused():
    with pytest.raises(UsageError, match="'sheet.pdf'; expected a .png"):
        draw_sheet([], "sheet.pdf", "")
