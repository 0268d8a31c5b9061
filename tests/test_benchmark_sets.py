"""Loaders of public image sets for benchmarks, on small folders laid out like the packages.

About 1 s in the first tier.
"""

import csv
import json
import shutil
from pathlib import Path

import matplotlib as mpl
import pytest
from benchmarked import FOLDER
from PIL import Image

FONTS = ("DejaVuSans", "STIXGeneral", "cmr10", "cmss10")


@pytest.fixture
def sets(monkeypatch):
    """The module, with limits that suit few images."""
    monkeypatch.syspath_prepend(FOLDER)
    import sets  # noqa: PLC0415 - benchmarks are scripts of a folder of their own

    monkeypatch.setattr(sets, "FEWEST", 3)
    return sets


def table(file: str) -> list[dict[str, str]]:
    with Path(file).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def picture(path: str, shade: int) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), shade).save(path)


def figures() -> Path:
    """Write five pictures of each of six kinds of figures in two folders."""
    for number in range(60):
        people, kind = ("dwarves", "elves")[number % 2], "abcdef"[number // 10]
        picture(f"game/1.16/core/images/units/{people}/{kind}-{number}.png", number)
    picture("game/1.16/core/images/units/boats/boat.png", 99)
    return Path("game")


def test_letters_of_a_font_stay_in_one_split_and_are_drawn_the_same_again(sets):
    for name in FONTS:
        shutil.copy(Path(mpl.get_data_path(), "fonts", "ttf", f"{name}.ttf"), ".")
    images = sets.load("letters", Path(), Path("out"))
    rows, drawn = table("out/letters-0.csv"), [item.digest for item in images.items]
    assert {row["label"] for row in rows} == set(sets.LETTERS) == set(images.classes)
    splits = {(row["group"], row["split"]) for row in rows}
    assert len(splits) == len(dict(splits)) == len(FONTS)
    assert {split for _, split in splits} == {"train", "test"}
    assert images.conflicts == images.leaks == ()
    with Image.open(rows[0]["path"]) as letter:
        assert letter.size == (96, 96)
        assert letter.getextrema() == (0, 255)
    assert [item.digest for item in sets.load("letters", Path(), Path("out")).items] == drawn


def test_seeds_change_splits_only_and_train_leaves_the_test_images(sets):
    source = figures()
    first, other = (sets.load("sprites", source, Path("out"), seed=seed) for seed in (0, 1))
    assert first.classes == ("dwarves", "elves")
    assert {item.digest for item in first.items} == {item.digest for item in other.items}
    assert first.digest_of("test") != other.digest_of("test")
    few = sets.load("sprites", source, Path("out"), train=6)
    assert few.digest_of("test") == first.digest_of("test")
    assert (first.name, other.name, few.name) == ("sprites-0", "sprites-1", "sprites-0-6")
    labels = [item.label for item in few.items if item.split == "train"]
    assert sorted(labels) == ["dwarves"] * 3 + ["elves"] * 3
    fewer = sets.load("sprites", source, Path("out"), images=20)
    assert len(fewer.items) == 20


def drawings() -> None:
    """Write eight images in two folders, a copy and a link."""
    for number in range(8):
        picture(f"png/{'ab'[number % 2]}/deep/{number}.png", number)
    Path("png/a/link.png").symlink_to(Path("png/b/deep/1.png").resolve())
    Path("png/a/copy.png").write_bytes(Path("png/a/deep/0.png").read_bytes())


def test_drawings_in_two_folders_or_too_large_are_left_out_and_copies_are_one(sets):
    drawings()
    Path("png/b/large.png").write_bytes(bytes(sets.LARGEST))
    for source in ("png", "."):
        images = sets.load("clipart", Path(source), Path("out"))
        assert len(images.items) == 7
        assert images.conflicts == ()


def test_emoji_of_one_thing_are_one_group(sets):
    things = {
        "1F468-200D-1F692": "People & Body",
        "1F469-200D-1F692": "People & Body",
        "1F468": "People & Body",
        "1F34E": "Food & Drink",
        "1F34F": "Food & Drink",
        "1F3FB": "Component",
    }
    listed = [
        {"unified": code, "image": f"{code}.png", "category": category}
        for code, category in things.items()
    ]
    for shade, vendor in enumerate(("google", "twitter")):
        for place, each in enumerate(listed):
            picture(f"node/{vendor}/img/{vendor}/64/{each['image']}", shade * 10 + place)
        Path(f"node/{vendor}/emoji.json").write_text(json.dumps(listed))
    sets.load("emoji", Path("node"), Path("out"))
    rows = table("out/emoji-0.csv")
    assert len(rows) == 10
    assert sum(row["group"] == "1F692" for row in rows) == 4
    splits = {(row["group"], row["split"]) for row in rows}
    assert len(splits) == len(dict(splits)) == 4


def test_cells_of_a_module_are_one_group(sets, monkeypatch):
    monkeypatch.setattr(sets, "MODULE", 6)
    chances = ("0.0", "0.333", "0.667", "1.0")
    lines = [f"images/{number}.png  {chances[number % 4]} mono" for number in range(24)]
    for number in range(24):
        picture(f"elpv/data/images/{number}.png", number)
    Path("elpv/data/labels.csv").write_text("\n".join(lines))
    assert sets.load("cells", Path("elpv"), Path("out")).classes == ("defective", "functional")
    rows = table("out/cells-0.csv")
    assert sum(row["label"] == "defective" for row in rows) == 12
    splits = {(row["group"], row["split"]) for row in rows}
    assert len(splits) == len(dict(splits)) == 4


@pytest.mark.ci
def test_the_script_writes_a_table(run_benchmark):
    drawings()
    printed = run_benchmark("sets", "--clipart", "png", "--out", "tables")
    assert len(table("tables/clipart-0.csv")) == 7
    assert "clipart, images" in printed


def test_without_the_package_the_help_tells_how_to_obtain_it(sets):
    with pytest.raises(SystemExit, match=r"no images of letters in \.; see --help"):
        sets.load("letters", Path(), Path("out"))
    assert all(f"    {name} " in sets.__doc__ for name in sets.SETS)
