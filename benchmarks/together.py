"""Extraction with three bases at once against one after the other: ``benchmarks/together.py``.

They share the reading and decoding of an image; of the MobileNets two share its resizing, too, the
EfficientNet-Lites have three input sizes. Weights are random: they do not change the time. All
ratios are of runs that alternate in one process, medians of the rounds: of wall time, and of the
processor's time, which other programs disturb less. Bars: at least twice as fast with three
MobileNets on photographs of 12 megapixels, never slower on those of 500 x 375 pixels.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from common import Tables, medians, run, write_photographs
from extraction import write_large

BASES = {
    "MobileNetV2, V3 small, V3 large": (
        "mobilenet_v2",
        "mobilenet_v3_small",
        "mobilenet_v3_large",
    ),
    "EfficientNet-Lite 0, 1, 2": (
        "efficientnet_lite0",
        "timm:tf_efficientnet_lite1",
        "timm:tf_efficientnet_lite2",
    ),
}
NAMES = {"large": "12 megapixels", "small": "500 x 375 pixels"}


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_large(place / "large", given.large)
        write_photographs(place / "small", given.images)
        for title, models in BASES.items():
            bases = [FrozenBase(model, weights="random") for model in models]
            for name in NAMES:
                yield f"{title}: {name}", compared(place / name, bases, given.rounds)


def compared(folder: Path, bases: Sequence[FrozenBase], rounds: int) -> dict[str, float]:
    """Return the seconds of both ways for 100 images, and the ratios of time."""
    images = ImageSet.open(folder)
    ways = {"apart": [[base] for base in bases], "together": [bases]}
    busy: dict[str, list[float]] = {name: [] for name in ways}

    def seconds(name: str) -> float:
        with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
            started, before = time.perf_counter(), time.process_time()
            for group in ways[name]:
                extract_features(images, group, Cache(cache))
            busy[name].append(time.process_time() - before)
            return 100 * (time.perf_counter() - started) / len(images.items)

    seconds("together")  # the first call of a network prepares it
    busy["together"].clear()
    found = medians(rounds, {name: lambda name=name: seconds(name) for name in ways})
    spent = {name: statistics.median(values) for name, values in busy.items()}
    ratio = found["apart"] / found["together"]
    return found | {"ratio": ratio, "processor's ratio": spent["apart"] / spent["together"]}


def tables(found: dict[str, Any]) -> Tables:
    keys = ("apart", "together", "ratio", "processor's ratio")
    head = ("apart, s", "together, s", "ratio", "ratio of the processor's time")
    rows: list = [("", "photographs", *head)]
    for title in BASES:
        for name, shown in NAMES.items():
            own = found[f"{title}: {name}"]
            rows.append((title, shown, *(own[key] for key in keys)))
    return {"several bases": rows}


if __name__ == "__main__":
    run(measure, tables, large=(24, 6), images=(128, 6), rounds=(3, 1))
