"""Cached views against augmentation on the fly: ``benchmarks/views.py``.

Fine-tunes EfficientNet-Lite0 from ``blocks.5`` up for 20 epochs on images of openclipart-png
(``--clipart`` and its folder ``png``; else the demo's faces), twice from the same head: once every
epoch decodes and augments the images and computes the whole network; once eight views of each image
are extracted up to the boundary, and the epochs read these. Figures are seconds, the extraction of
views included, test accuracies with their standard error, and the ratio.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bottleneck import Cache, FinetuneSettings, FrozenBase, extract_features
from bottleneck.finetune import finetune_head
from common import Tables, run
from plateau import LAYER, MODEL, SETTINGS, UNFROZEN, VIEWS, fitted, split, tested
from precision import pictures


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    epochs = given.epochs
    on_the_fly = FinetuneSettings(
        UNFROZEN, epochs=epochs, patience=epochs, seed=given.seed, **SETTINGS | {"views": None}
    )
    ways = {
        "on the fly": on_the_fly,
        "cached views": replace(on_the_fly, from_cache=True, views=VIEWS),
    }
    taken = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = pictures(folder / "images", given.clipart, every=given.every)
        images = split(images, given.seed)
        cache = Cache(folder / "cache")
        extract_features(images, FrozenBase(MODEL, [LAYER], pool="avg"), cache)
        head = fitted(cache, images)
        number = sum(item.split == "test" for item in images.items)
        yield "head", {"accuracy": tested(head, cache), "test images": number}
        for way, settings in ways.items():
            started = time.monotonic()
            tuned = finetune_head(head, images, cache, folder / way.replace(" ", "-"), settings)
            taken.append(time.monotonic() - started)
            extract_features(images, FrozenBase(str(tuned.folder)), cache)
            accuracy = tested(tuned.head, cache)
            error = (accuracy * (1 - accuracy) / number) ** 0.5
            yield way, {"seconds": taken[-1], "accuracy": accuracy, "standard error": error}
    yield "ratio", taken[0] / taken[1]


def tables(found: dict[str, Any]) -> Tables:
    rows = [
        (way, f"{own['seconds']:.0f}", f"{own['accuracy']:.3f} ± {own['standard error']:.3f}")
        for way, own in found.items()
        if way in {"on the fly", "cached views"}
    ]
    return {"views": [("", "seconds", "accuracy"), *rows, ("ratio", found["ratio"], "")]}


if __name__ == "__main__":
    run(measure, tables, clipart=(None, None), epochs=(20, 1), seed=(0, 0), every=(1, 8))
