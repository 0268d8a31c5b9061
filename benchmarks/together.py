"""Extraction with three bases at once against one after the other: ``benchmarks/together.py``.

EfficientNet-Lite 0, 1 and 2 have three input sizes, so that they share the decoding of an image but
not its resizing. Weights are random: they do not change the time. All ratios are of runs that
alternate in one process, medians of the rounds, of wall time and of the processor's time, which
other programs disturb less. Bars: at least twice as fast on photographs of 12 megapixels, never
slower on those of 500 x 375 pixels.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from common import Tables, medians, run, write_photographs
from extraction import write_large

BASES = ("efficientnet_lite0", "timm:tf_efficientnet_lite1", "timm:tf_efficientnet_lite2")
NAMES = {"large": "12 megapixels", "small": "500 x 375 pixels"}


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    bases = [FrozenBase(model, weights="random") for model in BASES]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_large(place / "large", given.large)
        write_photographs(place / "small", given.images)
        for name in NAMES:
            yield name, compared(place / name, bases, given.rounds)


def compared(folder: Path, bases: Sequence[FrozenBase], rounds: int) -> dict[str, Any]:
    """Return seconds and the processor's seconds per 100 images of both ways, and ratios."""
    images = ImageSet.open(folder)
    count = len({item.digest for item in images.items})
    busy: dict[str, list[float]] = {"apart": [], "together": []}

    def timed(name: str) -> float:
        with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
            started, before = time.perf_counter(), time.process_time()
            for group in [[base] for base in bases] if name == "apart" else [bases]:
                extract_features(images, group, Cache(cache))
            busy[name].append(100 * (time.process_time() - before) / count)
            return 100 * (time.perf_counter() - started) / count

    timed("together")  # what is prepared at the first call of a network does not count
    for values in busy.values():
        values.clear()
    found: dict[str, Any] = dict(medians(rounds, {name: lambda n=name: timed(n) for name in busy}))
    seconds = {name: sorted(values)[len(values) // 2] for name, values in busy.items()}
    found |= {f"processor, {name}": value for name, value in seconds.items()}
    found["ratio"] = found["apart"] / found["together"]
    return found | {"ratio of the processor's": seconds["apart"] / seconds["together"]}


def tables(found: dict[str, Any]) -> Tables:
    head = ("apart", "together", "ratio", "ratio of the processor's time")
    rows: list = [("seconds for 100 images", *head)]
    for name, shown in NAMES.items():
        own = found[name]
        keys = ("apart", "together", "ratio", "ratio of the processor's")
        rows.append((shown, *(own[key] for key in keys)))
    return {"several bases": rows}


if __name__ == "__main__":
    run(measure, tables, large=(24, 2), images=(128, 4), rounds=(3, 1))
