"""What compression saves and costs: ``benchmarks/compression.py``.

Writes and reads activations of real photographs, computed with real weights, through the cache's
own writer and reader: the size, and the speed of writing, of reading all rows, and of a random
tenth, as medians of interleaved rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck import FrozenBase, ImageSet
from bottleneck.cache import COMPRESSIONS, Cache
from bottleneck.extract import feature_batches
from bottleneck.records import BankRecord
from common import Tables, run, write_photographs

FINGERPRINT = "ab" * 32
LAYERS = {
    "EfficientNet-Lite0, `last_conv`": ("efficientnet_lite0", "last_conv"),
    "EfficientNet-Lite0, pooled": ("efficientnet_lite0", "penultimate"),
    "EfficientNet-Lite2, pooled": ("efficientnet_lite2", "penultimate"),
}


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for name in given.layers:
        rows = activations(*LAYERS[name], given.images)
        size = given.megabytes * 2**20
        rows = np.concatenate([rows] * (size // rows.nbytes + 1))[: size // rows[0].nbytes]
        zeros = float((rows[:1000] == 0).mean())
        yield name, {"shape": rows.shape[1:], "zeros": zeros, **figures(rows, given.rounds)}


def activations(model: str, layer: str, count: int) -> np.ndarray:
    """Return those of crops of scikit-image's photographs."""
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), count, size=(240, 240))
        images = ImageSet.from_folder(folder)
        base = FrozenBase(model, [layer])
        (name,) = base.layers
        batches = [batch.features[name] for batch in feature_batches(base, images.items)]
    return np.concatenate(batches).astype(np.float16)


def figures(rows: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    digests = [f"{number:064x}" for number in range(len(rows))]
    chosen = np.random.default_rng(0).choice(len(rows), len(rows) // 10, replace=False)
    tenth = [digests[number] for number in chosen]
    speeds = {compress: [[], [], []] for compress in COMPRESSIONS}
    sizes = {}
    for _ in range(rounds):
        for compress in COMPRESSIONS:
            with tempfile.TemporaryDirectory() as folder:
                bank = Cache(folder).bank("base", FINGERPRINT)
                bank.describe(BankRecord.imported(FINGERPRINT, "m", {"layer": [6]}))
                started = time.perf_counter()
                with bank.writer("float16", compress=compress) as writer:
                    for start in range(0, len(rows), 64):
                        some = slice(start, start + 64)
                        writer.append(digests[some], {"layer": rows[some]})
                write = rows.nbytes / (time.perf_counter() - started)
                sizes[compress] = bank.size
                bank.read("layer", digests)
                for place, asked in ((1, digests), (2, tenth)):
                    started = time.perf_counter()
                    size = bank.read("layer", asked).nbytes
                    speeds[compress][place].append(size / (time.perf_counter() - started))
                speeds[compress][0].append(write)
    return {
        compress: {
            "ratio": rows.nbytes / sizes[compress],
            **{
                f"{name} GB/s": statistics.median(speeds[compress][place]) / 1e9
                for place, name in enumerate(("write", "read", "random tenth"))
            },
        }
        for compress in COMPRESSIONS
    }


def tables(found: dict[str, Any]) -> Tables:
    head = ("activations (float16)", "zeros", "", "size", "write, GB/s", "read, GB/s")
    rows: list = [(*head, "random tenth, GB/s")]
    for name, own in found.items():
        for compress in COMPRESSIONS:
            title = (name, f"{own['zeros']:.0%}") if compress == "none" else ("", "")
            values = dict(own[compress])
            size = f"1/{values.pop('ratio'):.1f}"
            rows.append((*title, f"`{compress}`", size, *values.values()))
    return {"compression": rows}


if __name__ == "__main__":
    run(
        measure,
        tables,
        layers=(tuple(LAYERS), ("EfficientNet-Lite0, pooled",)),
        images=(200, 8),
        megabytes=(256, 1),
        rounds=(3, 1),
    )
