"""What a least divisor of features gains: ``benchmarks/scaling.py``.

Standardized features are divided by their standard deviation, but at least by half the median one
(`bottleneck.solvers.reduction.divisors`). Heads with and without that least divisor are fitted on
features of EfficientNet-Lite0 for so many ``--sizes`` of training images (0 for all) of the sets in
``--packages`` (see ``sets.py``), or of the demo's faces, and judged on test images that have no
group in common with them. Figures are mean accuracy and log loss over ``--seeds`` splits.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bottleneck import (
    Cache,
    FrozenBase,
    ImageSet,
    evaluate_head,
    extract_features,
    features_of,
    fit_head,
    load_features,
    select_features,
)
from bottleneck.solvers.reduction import divisors
from common import Tables, run
from precision import pictures
from recipes import LAYER, MODEL
from sets import SETS, load

METRICS = ("accuracy", "log_loss")


def deviations(_mean: np.ndarray, deviation: np.ndarray, _widths: object = None) -> np.ndarray:
    """As scikit-learn's `StandardScaler`."""
    return np.where(deviation > 0, deviation, 1)


WAYS = {"the deviation": deviations, "at least half the median": divisors}


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for name in given.sets if given.packages else ("faces",):
        with tempfile.TemporaryDirectory() as place:
            for size in given.sizes:
                found = [
                    scores(split(name, size, seed, Path(place), given), Cache(Path(place, "cache")))
                    for seed in range(given.seeds)
                ]
                yield (
                    f"{name}, {size or 'all'}",
                    {
                        f"{metric}, {way}": float(np.mean([each[way][metric] for each in found]))
                        for metric in METRICS
                        for way in WAYS
                    },
                )


def split(name: str, size: int, seed: int, place: Path, given: argparse.Namespace) -> ImageSet:
    """Return a set with so many training images and other test images, divided by a seed."""
    if given.packages:
        source, out = given.packages / name, place / "set"
        return load(name, source, out, images=given.images, seed=seed, train=size)
    faces = pictures(place / f"faces-{size}", every=given.every)
    return faces.with_splits(test_share=0.3, seed=seed)


def scores(images: ImageSet, cache: Cache) -> dict[str, dict[str, float]]:
    """Return the scores of the test images by a head with each divisor."""
    extract_features(images, FrozenBase(MODEL, [LAYER], pool="avg"), cache)
    features = load_features(cache, select_features(cache, image_set=images.name))
    found = {}
    for way, scaling in WAYS.items():
        with mock.patch("bottleneck.solvers.reduction.divisors", scaling):
            head = fit_head(features)
        judged = evaluate_head(head, features_of(head.source, cache, split="test"))
        found[way] = {metric: getattr(judged, metric) for metric in METRICS}
    return found


def tables(found: dict[str, Any]) -> Tables:
    names = [each.replace("_", " ") for each in next(iter(found.values()))]
    rows = [(name, *(f"{value:.3f}" for value in own.values())) for name, own in found.items()]
    return {"scaling": [("set, training images", *names), *rows]}


if __name__ == "__main__":
    run(
        measure,
        tables,
        packages=(None, None),
        sets=(tuple(SETS), ("faces",)),
        sizes=((100, 300, 0), (0,)),
        images=(2400, 100),
        seeds=(3, 1),
        every=(1, 8),
    )
