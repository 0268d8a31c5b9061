"""Cost per image as the images grow, and of a second run: ``benchmarks/growth.py``.

Extracts EfficientNet-Lite0's pooled features of few and of many small photographs, each in a
process of its own, in turn. Then the price of extracting again: VGG16's ``block5_pool``, the second
run against the first, and the whole second command, imports included.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import Tables, peak_memory, run, run_process, write_photographs

CODE = """
import sys, time
from bottleneck import Cache, FrozenBase, ImageSet, extract_features
model, layer, data, cache = sys.argv[1:]
base = FrozenBase(model, [layer], weights="random")
started = time.monotonic()
extraction = extract_features(ImageSet.open(data), base, Cache(cache))
print(time.monotonic() - started, extraction.images)
"""


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found: dict[int, list[tuple[float, float]]] = {count: [] for count in given.images}
        for count in found:
            write_photographs(place / str(count), count, size=(240, 180))
        for number in range(given.rounds):
            for count, measured in found.items():
                cache = place / f"cache-{count}-{number}"
                seconds, images, memory = extraction(
                    "efficientnet_lite0", "penultimate", place / str(count), cache
                )
                measured.append((seconds / images, memory))
        for count, measured in found.items():
            cost, memory = map(statistics.median, zip(*measured, strict=True))
            yield f"{count:,} images", {"ms per image": 1e3 * cost, "peak, MB": memory}
        yield "again", again(place, given)


def again(place: Path, given: argparse.Namespace) -> dict[str, float]:
    write_photographs(place / "photographs", given.again)
    arguments = (given.model, given.layer, place / "photographs", place / "again")
    first = extraction(*arguments)[0]
    second = statistics.median(extraction(*arguments)[0] for _ in range(given.rounds))
    command = [sys.executable, "-m", "bottleneck", "extract", "--model", given.model]
    command += ["--layer", given.layer, "--weights", "random"]
    command += ["--data", str(arguments[2]), "--cache", str(arguments[3])]
    whole = []
    for _ in range(given.rounds):
        started = time.monotonic()
        run_process(command)
        whole.append(time.monotonic() - started)
    return {
        "first run, s": first,
        "second run, s": second,
        "second by first": second / first,
        "whole second command, s": statistics.median(whole),
    }


def extraction(model: str, layer: str, images: Path, cache: Path) -> tuple[float, int, float]:
    """Return seconds, images and megabytes of an extraction, start-up excluded."""
    arguments = [model, layer, str(images), str(cache)]
    printed, _, usage = run_process([sys.executable, "-c", CODE, *arguments])
    seconds, images_done = printed.split()
    return float(seconds), int(images_done), peak_memory(usage)


def tables(found: dict[str, Any]) -> Tables:
    again_, grown = found["again"], [name for name in found if name != "again"]
    head = ("small photographs, EfficientNet-Lite0, pooled", "ms per image", "peak, MB")
    return {
        "more images": [head, *((name, *found[name].values()) for name in grown)],
        "a second run": [tuple(again_), tuple(again_.values())],
    }


if __name__ == "__main__":
    run(
        measure,
        tables,
        images=((500, 20_000), (4, 8)),
        rounds=(3, 1),
        again=(1000, 4),
        model=("vgg16", "resnet18"),
        layer=("block5_pool", "penultimate"),
    )
