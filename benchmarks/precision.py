"""What bf16 and float16 do to features: ``benchmarks/precision.py``.

EfficientNet-Lite0's pooled features of scikit-image's 200 faces, and of 1,200 images in the eight
largest folders of Debian's openclipart-png where its folder ``png`` is given by ``--clipart``. For
each way of computing and storing: the smallest cosine with float32 features of any image, and the
accuracy of five folds of a logistic regression, the same folds for all, with its standard error.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bottleneck import (
    Cache,
    FrozenBase,
    ImageSet,
    extract_features,
    load_features,
    select_features,
)
from bottleneck.demo import write_demo_images
from common import NO_BF16, Tables, computes_bf16, run
from sets import load

IMAGES = 1200
WAYS = {
    "float32, stored as float32": ("fp32", "float32"),
    "`auto`, stored as float16": ("auto", "float16"),
    "bf16, stored as float16": ("bf16", "float16"),
}


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = {"faces": pictures(folder / "faces", every=given.every)}
        if given.clipart:
            sets["openclipart"] = pictures(folder / "clipart", given.clipart)
        for each, images in sets.items():
            yield each, compare(images, folder / "cache")


def pictures(folder: Path, clipart: Path | None = None, *, every: int = 1) -> ImageSet:
    """Return images of openclipart-png where its folder is given, else each so-many-th face."""
    if clipart:
        return load("clipart", clipart, folder, images=IMAGES)
    folder.mkdir(parents=True, exist_ok=True)
    write_demo_images(folder)
    images = ImageSet.open(folder)
    return replace(images, items=images.items[::every], split_seed=None)


def compare(images: ImageSet, folder: Path) -> dict:
    results: dict[str, dict] = {}
    exact = None
    for way, (precision, dtype) in WAYS.items():
        if precision == "bf16" and not computes_bf16():
            results[way] = {"computed in": NO_BF16}
            continue
        base = FrozenBase("efficientnet_lite0", ["penultimate"], precision=precision)
        cache = Cache(folder / precision / dtype)
        extract_features(images, base, cache, dtype=dtype)
        features = load_features(cache, select_features(cache))
        X = features.X.astype(np.float64)
        exact = X if exact is None else exact
        norms = np.linalg.norm(X, axis=1) * np.linalg.norm(exact, axis=1)
        cosines = (X * exact).sum(axis=1) / norms
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        scores = cross_val_score(head, X, features.labels, cv=folds)
        results[way] = {
            "computed in": base.precision,
            "images": len(X),
            "smallest cosine": float(cosines.min()),
            "images below 0.999": int((cosines < 0.999).sum()),
            "accuracy": float(scores.mean()),
            "standard error": float(scores.std(ddof=1) / np.sqrt(len(scores))),
        }
    return results


def tables(found: dict[str, Any]) -> Tables:
    made = {}
    for each, ways in found.items():
        count = next(iter(ways.values()))["images"]
        head = ("smallest cosine", "below 0.999", "accuracy of five folds")
        made[f"precision, {each}"] = [(f"{count} images of {each}", *head)]
        made[f"precision, {each}"] += [
            (
                way,
                f"{own['smallest cosine']:.8f}",
                own["images below 0.999"],
                f"{own['accuracy']:.3f} +- {own['standard error']:.3f}",
            )
            for way, own in ways.items()
            if "images" in own
        ]
    return made


if __name__ == "__main__":
    run(measure, tables, clipart=(None, None), every=(1, 8))
