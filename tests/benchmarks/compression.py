"""What compression saves and costs: ``python tests/benchmarks/compression.py``.

Writes and reads activations of real photographs, computed with real weights, through the cache's
own writer and reader: the size, and the speed of writing, of reading all rows, and of a random
tenth, as medians of interleaved rounds. Writes the figures to ``compression.json``.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from bottleneck import FrozenBase, ImageSet
from bottleneck.cache import COMPRESSIONS, Cache
from bottleneck.extract import feature_batches
from bottleneck.records import BankRecord

ROUNDS = 3
BYTES = 2**28
FINGERPRINT = "ab" * 32
LAYERS = {"efficientnet_lite0": ["last_conv", "penultimate"], "efficientnet_lite2": ["penultimate"]}
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def main() -> None:
    results = {}
    for model, layers in LAYERS.items():
        for layer in layers:
            rows = activations(model, layer)
            rows = np.concatenate([rows] * (BYTES // rows.nbytes + 1))[: BYTES // rows[0].nbytes]
            name = f"{model} {layer}"
            results[name] = {"zeros": float((rows[:1000] == 0).mean()), **measure(rows)}
            print(f"{name}, {rows.shape[1:]}, {results[name]['zeros']:.0%} zeros")
            for compress in COMPRESSIONS:
                figures = results[name][compress]
                print("  ", compress, "  ".join(f"{k} {v:.2f}" for k, v in figures.items()))
    Path("compression.json").write_text(json.dumps(results, indent=2) + "\n")


def activations(model: str, layer: str) -> np.ndarray:
    """Of 200 crops of scikit-image's photographs."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(200):
            photograph = getattr(data, PHOTOGRAPHS[number % len(PHOTOGRAPHS)])()
            top, left = (generator.integers(side - 240) for side in photograph.shape[:2])
            crop = Image.fromarray(photograph[top : top + 240, left : left + 240])
            crop.save(Path(folder) / f"{number}.png")
        images = ImageSet.from_folder(folder)
        base = FrozenBase(model, [layer])
        (name,) = base.layers
        batches = [batch.features[name] for batch in feature_batches(base, images.items)]
    return np.concatenate(batches).astype(np.float16)


def measure(rows: np.ndarray) -> dict[str, dict[str, float]]:
    digests = [f"{number:064x}" for number in range(len(rows))]
    chosen = np.random.default_rng(0).choice(len(rows), len(rows) // 10, replace=False)
    tenth = [digests[number] for number in chosen]
    speeds = {compress: [[], [], []] for compress in COMPRESSIONS}
    sizes = {}
    for _ in range(ROUNDS):
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


if __name__ == "__main__":
    main()
