"""What extraction and streaming hold in memory: ``benchmarks/memory.py``.

Extracts few and then many images by a tiny base, each in a process of its own, and gives the peak
of its memory. The rows are small, so that the part being put together, which grows to 128 MiB
whatever the number of images, does not hide what else grows. Then streams a bank of 2 GB, in random
order, with a budget of 64 MB.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common import Tables, peak_memory, run, run_process

EXTRACT = """
import sys
from bottleneck import Cache, FrozenBase, ImageSet, extract_features
base = FrozenBase("mobilenet_v2", ["features.2"], weights="random", image_size=(32, 32), pool="avg")
extract_features(ImageSet.from_folder(sys.argv[1]), base, Cache(sys.argv[2]))
"""
FILL = """
import sys
import numpy as np
from bottleneck.cache import Cache
from bottleneck.records import BankRecord
bank = Cache(sys.argv[1]).bank("base", "ab" * 32)
bank.describe(BankRecord.imported("ab" * 32, "m", {"layer": [6]}))
generator = np.random.default_rng(0)
with bank.writer("float16") as writer:
    for start in range(0, int(sys.argv[2]), 250):
        digests = [f"{number:064x}" for number in range(start, start + 250)]
        writer.append(digests, {"layer": generator.random((250, 25_088), np.float32)})
"""
STREAM = """
import resource, sys
import numpy as np
from bottleneck.cache import Cache
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
bank = Cache(sys.argv[1]).bank("base", "ab" * 32)
digests = [f"{number:064x}" for number in np.random.default_rng(0).permutation(int(sys.argv[2]))]
before = peak()
total = sum(block.nbytes for block in bank.stream("layer", digests, memory=64 * 10**6))
assert total == len(digests) * 25_088 * 2
print(peak() - before)
"""


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peaks = []
        for count in given.images:
            write_images(folder / str(count), count)
            peaks.append(process(EXTRACT, folder / str(count), folder / f"cache{count}")[1])
            yield f"extraction of {count:,} images", {"peak, MB": peaks[-1]}
        yield "growth", {"ratio": peaks[-1] / peaks[0]}
        process(FILL, folder / "bank", given.rows)
        printed, _ = process(STREAM, folder / "bank", given.rows)
        gigabytes = given.rows * 25_088 * 2 / 1e9
        yield "streaming", {"GB": gigabytes, "budget, MB": 64, "growth, MB": float(printed)}


def process(code: str, *arguments: object) -> tuple[str, float]:
    printed, _, usage = run_process([sys.executable, "-c", code, *map(str, arguments)])
    return printed, peak_memory(usage)


def write_images(folder: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    for number in range(count):
        target = folder / f"class{number % 2}"
        target.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(target / f"{number:06d}.bmp")


def tables(found: dict[str, Any]) -> Tables:
    own = list(found.items())
    rows = [(name, figures["peak, MB"]) for name, figures in own[:-2]]
    streaming = found["streaming"]
    title = f"streaming {streaming['GB']:.1f} GB in random order with a budget of 64 MB, growth"
    return {"memory": [("", "MB"), *rows, (title, streaming["growth, MB"])]}


if __name__ == "__main__":
    run(measure, tables, images=((1_000, 50_000), (4, 8)), rows=(40_000, 250))
