"""Near-duplicates by perceptual hash and by features: ``benchmarks/alike.py``.

Makes copies of images: half as large, compressed as JPEG of quality 30, and cropped by a twentieth
on each side. Of the demo's faces and of the sets of ``sets.py`` (``--packages FOLDER``), each
image with each of its copies is a pair to find, and each two images of a class are a pair not to
find. The measures are the differing bits of ImageHash's ``phash`` and the cosine of features
(EfficientNet-Lite0, penultimate). Figures are the area under the ROC curve (AUROC), and the share
of the copies found where one in a thousand other pairs is (recall), with the threshold for that;
and the shares of copies and of other pairs at the thresholds of the commands.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from imagehash import phash
from PIL import Image
from sklearn.metrics import roc_auc_score

import sets
from bottleneck import BottleneckFeatures, ImageSet
from bottleneck.demo import write_demo_images
from bottleneck.images import decode
from bottleneck.images.compare import _DISTANCE
from bottleneck.settings import SuspectSettings
from common import Tables, run

NAMES = ("clipart", "letters", "emoji")
"""Not the sprites, of which many are all but the same."""
RATE = 1e-3
"""Of other pairs that are taken for copies."""
SHIPPED = {"hash": -_DISTANCE, "features": SuspectSettings().near}
"""Thresholds of ``extract --near-duplicates``, in bits that may differ, and of ``suspects``."""


def smaller(image: Image.Image, file: Path) -> None:
    image.resize((max(1, image.width // 2), max(1, image.height // 2))).save(file)


def compressed(image: Image.Image, file: Path) -> None:
    image.save(file.with_suffix(".jpg"), quality=30)


def cropped(image: Image.Image, file: Path) -> None:
    across, down = image.width // 20, image.height // 20
    image.crop((across, down, image.width - across, image.height - down)).save(file)


KINDS: dict[str, Callable[[Image.Image, Path], None]] = {
    "half as large": smaller,
    "JPEG of quality 30": compressed,
    "cropped by 5% on each side": cropped,
}


def images_of(name: str, given: argparse.Namespace, folder: Path) -> ImageSet | None:
    """Return a set; None if its package is not given."""
    if name == "faces":
        write_demo_images(folder / "data")
        return ImageSet.from_folder(folder / "data")
    if not given.packages:
        return None
    return sets.load(name, given.packages / name, folder / "tables")


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for name in ("faces", *NAMES):
        with tempfile.TemporaryDirectory() as folder:
            if images := images_of(name, given, Path(folder)):
                yield name, figures(images, given.images, Path(folder))


def figures(images: ImageSet, most: int, folder: Path) -> dict[str, dict[str, float]]:
    items = images.items[:: max(1, len(images.items) // most)]
    for number, item in enumerate(items):
        image = Image.fromarray(decode(Path(item.path).read_bytes()))
        for kind, make in {"as it is": lambda image, file: image.save(file), **KINDS}.items():
            (folder / kind).mkdir(exist_ok=True)
            make(image, folder / kind / f"{number}.png")
    files = {
        kind: sorted((folder / kind).iterdir(), key=lambda path: int(path.stem))
        for kind in ("as it is", *KINDS)
    }
    base = BottleneckFeatures("efficientnet_lite0", cache=folder / "cache")
    hashes, features = {}, {}
    for kind, own in files.items():
        hashes[kind] = np.array([phash(Image.open(path)).hash.ravel() for path in own])
        rows = base.fit_transform(own)
        features[kind] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [
        pair for pair in combinations(range(len(items)), 2)
        if items[pair[0]].label == items[pair[1]].label
    ]  # fmt: skip
    first, second = np.transpose(pairs)
    plain = "as it is"
    others = {
        "hash": -(hashes[plain][first] != hashes[plain][second]).sum(axis=1),
        "features": np.einsum("ij,ij->i", features[plain][first], features[plain][second]),
    }
    found = {}
    for kind in KINDS:
        copies = {
            "hash": -(hashes[plain] != hashes[kind]).sum(axis=1),
            "features": np.einsum("ij,ij->i", features[plain], features[kind]),
        }
        found[kind] = {
            key: value
            for way, own in copies.items()
            for key, value in judged(way, own, others[way]).items()
        }
    return found


def judged(way: str, copies: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Return AUROC, and recall with as many other pairs as are allowed at most."""
    truth = np.repeat([1, 0], [len(copies), len(others)])
    area = roc_auc_score(truth, np.concatenate([copies, others]))
    allowed = int(RATE * len(others))
    limit = np.sort(others)[::-1][allowed]
    return {
        f"{way}: AUROC": float(area),
        f"{way}: recall": float((copies > limit).mean()),
        f"{way}: threshold": float(abs(limit)),
        f"{way}: copies as shipped": float((copies >= SHIPPED[way]).mean()),
        f"{way}: other pairs as shipped": float((others >= SHIPPED[way]).mean()),
    }


def tables(found: dict[str, Any]) -> Tables:
    """Return two tables; thresholds are bits for the hash and cosines for features."""
    every = [
        (f"{name}, {kind}", own) for name, kinds in found.items() for kind, own in kinds.items()
    ]
    result: Tables = {}
    for title, shipped in (("alike", False), ("alike as shipped", True)):
        names = [key for key in every[0][1] if key.endswith(" as shipped") == shipped]
        head = [key.removesuffix(" as shipped") for key in names]
        rows = [(name, *(own[key] for key in names)) for name, own in every]
        result[title] = [("set and copies", *head), *rows]
    return result


if __name__ == "__main__":
    run(measure, tables, packages=(None, None), images=(200, 12))
