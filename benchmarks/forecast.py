"""How near a forecast comes: ``benchmarks/forecast.py``.

For three bases, ``bottleneck extract --dry-run`` and then ``bottleneck extract``, each a process of
its own, on crops of scikit-image's photographs (500 x 375 pixels, JPEG). The bar is a ratio of what
happened to what was forecast between 0.75 and 1.25 for seconds, bytes on disk and peak memory.
Weights are random: they do not change the time.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import peak_memory, run, run_process, write_photographs

BASES = {
    "vgg16": ("block5_pool", 1),
    "resnet50": ("last_conv", 2),
    "efficientnet_lite0": ("penultimate", 4),
}
"""Model to its layer, and how many times the number of images it gets."""


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for model in given.models:
        layer, times = BASES[model]
        rounds = [one_round(model, layer, given.images * times) for _ in range(given.rounds)]
        figures: dict[str, Any] = {"layer": layer, "images": given.images * times}
        for name in rounds[0]:
            forecasts, actual = zip(*(found[name] for found in rounds), strict=True)
            ratios = [done / told for told, done in zip(forecasts, actual, strict=True)]
            figures[name] = {
                "forecast": statistics.median(forecasts),
                "actual": statistics.median(actual),
                "actual by forecast": statistics.median(ratios),
                "from": min(ratios),
                "to": max(ratios),
            }
        yield model, figures


def one_round(model: str, layer: str, images: int) -> dict[str, tuple[float, float]]:
    """Return what was forecast and what happened."""
    with tempfile.TemporaryDirectory() as folder:
        photographs, cache = Path(folder) / "photographs", Path(folder) / "cache"
        write_photographs(photographs, images)
        arguments = ["extract", "--model", model, "--layer", layer, "--weights", "random"]
        arguments += ["--data", str(photographs), "--cache", str(cache)]
        told, _ = command(*arguments, "--dry-run")
        done, memory = command(*arguments)
        written = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    return {
        "seconds": (told["seconds"], done["seconds"]),
        "megabytes on disk": (told["bytes_on_disk"] / 1e6, written / 1e6),
        "megabytes of memory": (told["peak_memory"] / 1e6, memory),
    }


def command(*arguments: str) -> tuple[dict, float]:
    """Return what a command prints as JSON, and the megabytes that it took."""
    printed, _, usage = run_process([sys.executable, "-m", "bottleneck", *arguments, "--json"])
    return json.loads(printed), peak_memory(usage)


if __name__ == "__main__":
    run(
        measure,
        models=(tuple(BASES), ("efficientnet_lite0",)),
        images=(400, 4),
        rounds=(3, 1),
    )
