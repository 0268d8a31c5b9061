"""The demo's images (about a second)."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottleneck.demo import write_demo_images
from bottleneck.errors import UsageError


def contents(folder: Path) -> dict[str, str]:
    return {
        each.relative_to(folder).as_posix(): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in folder.rglob("*")
        if each.is_file()
    }


def photograph(path: Path) -> None:
    Image.fromarray(np.zeros((25, 25), np.uint8)).save(path)


@pytest.mark.parametrize("name", ["face/000.png", "face/mine.png", "notes.txt"])
@pytest.mark.parametrize("write", [photograph, lambda path: path.write_text("my own")])
def test_a_file_of_the_users_is_never_replaced(tmp_path, name, write):
    (path := tmp_path / name).parent.mkdir(exist_ok=True)
    if write is photograph and path.suffix != ".png":
        path = path.with_suffix(".png")
    write(path)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="contains other files, such as"):
        write_demo_images(tmp_path)
    assert contents(tmp_path) == before


def test_a_dangling_link_of_the_users_is_never_replaced(tmp_path):
    (tmp_path / "face").mkdir()
    (link := tmp_path / "face/000.png").symlink_to("gone")
    with pytest.raises(UsageError, match="contains other files"):
        write_demo_images(tmp_path)
    assert link.is_symlink()


def test_images_are_written_once_and_completed(tmp_path):
    assert write_demo_images(tmp_path) == 200
    before = contents(tmp_path)
    with Image.open(tmp_path / "face/001.png") as image:
        image.save(
            tmp_path / "face/001.png", optimize=True, compress_level=1
        )  # as others encode it
    other = contents(tmp_path)
    (tmp_path / "face/000.png").unlink()
    assert write_demo_images(tmp_path) == 1
    assert contents(tmp_path) == {**other, "face/000.png": before["face/000.png"]}
