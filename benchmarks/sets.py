"""Image sets that packages carry, for benchmarks: ``benchmarks/sets.py``.

Each has at most 2,400 images, which differ from ImageNet's as users' images do. None of them is in
this repository; packages of Debian 12, npm and PyPI hold them, at most 146 MB each:

    clipart   drawings by folder, openclipart-png (public domain)
              apt download openclipart-png && dpkg-deb -x openclipart-png_*.deb clipart
    letters   A to Z in 100 fonts, fonts-aenigma (free to copy and change, naming Brian Kent)
              apt download fonts-aenigma && dpkg-deb -x fonts-aenigma_*.deb letters
    emoji     emoji of Google (Apache-2.0) and Twitter (CC-BY-4.0) by category
              npm install --prefix emoji emoji-datasource-google@16 emoji-datasource-twitter@16
    sprites   figures of a game by people, wesnoth-1.16-data (GPL-2+)
              apt download wesnoth-1.16-data && dpkg-deb -x wesnoth-1.16-data_*.deb sprites
    cells     solar cells by their state, elpv-dataset (CC-BY-NC-SA-4.0)
              pip install --no-deps --target cells elpv-dataset==1.0.0.post1

With the folder of a package (``--clipart clipart --letters letters`` and so on), this script writes
a table for ``bottleneck extract`` into the folder ``--out``, and prints what is in it. Its splits
keep groups whole: a font, the emoji of one thing, the pictures of one figure, a block of 60 solar
cells. The same packages give the same images and labels; ``--seed`` draws other splits, and
``--train`` so many of the training images. `load` does the same from Python.
"""

import argparse
import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from bottleneck import ImageSet
from bottleneck.images.dividing import split_items
from bottleneck.images.items import ImageItem
from common import run

MOST = 2400
FOLDERS = 8
LARGEST = 1_000_000
"""Bytes of a drawing; a few larger ones have hundreds of millions of pixels."""
FONTS = 100
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FEWEST = 10
"""Kinds of figures that a folder of sprites must have to be a class, as each is a group."""
MODULE = 60
"""Solar cells in a block: as many as most modules have, but a module may lie in two blocks."""
_PERSON = {"200D", "FE0F", "2640", "2642", "1F468", "1F469", "1F9D1"}
"""Code points that only tell who does something, and joiners."""


@dataclass(frozen=True)
class Row:
    """An image, its label, and what it must not be parted from: images of a group are alike."""

    path: Path
    label: str
    group: str


def load(
    name: str,
    source: Path,
    out: Path,
    *,
    images: int = MOST,
    seed: int = 0,
    train: int = 0,
    test_share: float = 0.2,
) -> ImageSet:
    """Return an image set from the files of its package.

    Parameters
    ----------
    name : str
        One of `SETS`.
    source : Path
        Folder of the package's files, at any depth.
    out : Path
        Folder for the table, ``NAME-SEED.csv``, and for images that have to be drawn.
    images : int
        The most images, as many of each class as there are.
    seed : int
        Seed of the splits, and of the training images. The images are the same with each.
    train : int
        Keep so many training images, and all test images; 0 for all.
    test_share : float
        Share of test images.

    Returns
    -------
    ImageSet
        With the splits train and test, and the name of its table.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = by_turns(distinct(SETS[name](source, out)))[:images]
    if not rows:
        raise SystemExit(f"no images of {name} in {source}; see --help for how to obtain them")
    parts = split_groups(rows, seed, test_share)
    parts["train"] = by_turns(parts["train"], seed)[: train or None]
    table = out / f"{name}-{seed}{f'-{train}' if train else ''}.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split", "group"])
        for split, own in parts.items():
            writer.writerows([row.path.resolve(), row.label, split, row.group] for row in own)
    return ImageSet.open(table)


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Return one of identical images, and none of those that have several labels."""
    same: dict[bytes, list[Row]] = defaultdict(list)
    for row in rows:
        same[hashlib.sha256(row.path.read_bytes()).digest()].append(row)
    return [found[0] for found in same.values() if len({row.label for row in found}) == 1]


def by_turns(rows: Iterable[Row], seed: int = 0) -> list[Row]:
    """Return rows in an order that is drawn, in which the classes take turns."""
    placed, seen = [], Counter[str]()
    for row in sorted(rows, key=lambda row: rank(f"{seed} {row.label} {row.path.name}")):
        placed.append((seen[row.label], row))
        seen[row.label] += 1
    return [row for _, row in sorted(placed, key=lambda each: (each[0], each[1].label))]


def rank(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def split_groups(rows: list[Row], seed: int, test_share: float) -> dict[str, list[Row]]:
    """Divide rows as `ImageSet.with_splits` does, but groups instead of images."""
    items = [ImageItem(str(row.path), row.group, row.label) for row in rows]
    parts: dict[str, list[Row]] = {"train": [], "test": []}
    for row, item in zip(rows, split_items(items, test_share=test_share, seed=seed), strict=True):
        parts[item.split or ""].append(row)
    return parts


def clipart(source: Path, _out: Path) -> Iterator[Row]:
    """Yield the images of the largest folders of openclipart-png, each a group of its own."""
    top = next((path for path in sorted(source.rglob("png")) if path.is_dir()), source)
    found = {path: sorted(path.rglob("*.png")) for path in sorted(top.iterdir()) if path.is_dir()}
    for folder in sorted(found, key=lambda path: -len(found[path]))[:FOLDERS]:
        for path in found[folder]:
            if path.stat().st_size < LARGEST:
                yield Row(path, folder.name, path.relative_to(top).as_posix())


def letters(source: Path, out: Path) -> Iterator[Row]:
    """Draw the letters in one font of each family, black on white, as large as they fit."""
    families: dict[str, Path] = {}
    for file in sorted(source.rglob("*.ttf")):
        family = ImageFont.truetype(file).getname()[0] or file.stem
        families.setdefault(family.split()[0].lower(), file)
    for file in sorted(families.values(), key=lambda file: rank(file.name))[:FONTS]:
        font = ImageFont.truetype(file, 128, layout_engine=ImageFont.Layout.BASIC)
        for letter in LETTERS:
            if picture := drawn(letter, font):
                path = out / "letters" / f"{letter}-{file.stem}.png"
                path.parent.mkdir(exist_ok=True)
                picture.save(path)
                yield Row(path, letter, file.stem)


def drawn(letter: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """Return the picture of a letter, 96 x 96; None if the font has nothing for it."""
    canvas = Image.new("L", (512, 512), "white")
    ImageDraw.Draw(canvas).text((256, 256), letter, font=font, anchor="mm")
    box = ImageOps.invert(canvas).getbbox()
    return box and ImageOps.expand(ImageOps.pad(canvas.crop(box), (72, 72), color=255), 12, 255)


def emoji(source: Path, _out: Path) -> Iterator[Row]:
    """Yield emoji by category; a woman, a man and a person doing the same are one group."""
    for file in sorted(source.rglob("emoji.json")):
        for each in json.loads(file.read_text(encoding="utf-8")):
            codes = each["unified"].split("-")
            group = "-".join(code for code in codes if code not in _PERSON) or each["unified"]
            for path in sorted(file.parent.glob(f"img/*/64/{each['image']}")):
                if each["category"] != "Component":
                    yield Row(path, each["category"], group)


def sprites(source: Path, _out: Path) -> Iterator[Row]:
    """Yield the pictures of figures by their people's folder; a group is one kind of figure."""
    for top in sorted(source.rglob("core/images/units")):
        for folder in sorted(top.iterdir()):
            figures = {
                path: re.split("[-+./]", path.relative_to(folder).as_posix())[0]
                for path in sorted(folder.rglob("*.png"))
            }
            if len(set(figures.values())) >= FEWEST:
                for path, figure in figures.items():
                    yield Row(path, folder.name, f"{folder.name}/{figure}")


def cells(source: Path, _out: Path) -> Iterator[Row]:
    """Yield solar cells by state; they lie in the order of the modules, of about 60 cells each."""
    for file in sorted(source.rglob("labels.csv")):
        for number, line in enumerate(file.read_text().splitlines()):
            name, probability, _ = line.split()
            state = "functional" if float(probability) < 0.5 else "defective"
            yield Row(file.parent / name, state, f"module {number // MODULE}")


SETS: dict[str, Callable[[Path, Path], Iterator[Row]]] = {
    "clipart": clipart,
    "letters": letters,
    "emoji": emoji,
    "sprites": sprites,
    "cells": cells,
}


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for name in SETS:
        if source := getattr(given, name):
            images = load(name, source, given.out, seed=given.seed, train=given.train)
            yield name, contents(images)


def contents(images: ImageSet) -> dict[str, float]:
    """Return the counts of images, classes and megabytes."""
    splits = Counter(item.split for item in images.items)
    size = sum(Path(item.path).stat().st_size for item in images.items)
    return {
        "images": len(images.items),
        "classes": len(images.classes),
        "train": splits["train"],
        "test": splits["test"],
        "megabytes": round(size / 1e6, 1),
    }


if __name__ == "__main__":
    folders: dict[str, tuple[None, None]] = dict.fromkeys(SETS, (None, None))
    run(measure, **folders, out=(Path("sets"), Path("sets")), seed=(0, 0), train=(0, 0))
