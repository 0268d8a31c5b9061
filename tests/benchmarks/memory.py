"""What extraction and streaming hold in memory: ``python tests/benchmarks/memory.py [IMAGES]``.

Extracts 1,000 and then 50,000 images by a tiny base, each in a process of its own, and prints the
peak of its memory. The rows are small, so that the part being put together, which grows to 128 MiB
whatever the number of images, does not hide what else grows. Then streams a bank of 2 GB with a
budget of 64 MB. Writes the figures to ``memory.json``.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

EXTRACT = """
import resource, sys
from bottleneck import Cache, FrozenBase, ImageSet, extract_features
base = FrozenBase("mobilenet_v2", ["features.2"], weights="random", image_size=(32, 32), pool="avg")
extract_features(ImageSet.from_folder(sys.argv[1]), base, Cache(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
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
    for start in range(0, 40_000, 250):
        digests = [f"{number:064x}" for number in range(start, start + 250)]
        writer.append(digests, {"layer": generator.random((250, 25_088), np.float32)})
"""
STREAM = """
import resource, sys
import numpy as np
from bottleneck.cache import Cache
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
bank = Cache(sys.argv[1]).bank("base", "ab" * 32)
digests = [f"{number:064x}" for number in np.random.default_rng(0).permutation(40_000)]
before = peak()
total = sum(block.nbytes for block in bank.stream("layer", digests, memory=64 * 10**6))
assert total == 40_000 * 25_088 * 2
print(peak() - before)
"""


def run(code: str, *arguments: object) -> float:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(finished.stdout or 0)


def write_images(folder: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    for number in range(count):
        target = folder / f"class{number % 2}"
        target.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(target / f"{number:06d}.bmp")


def main() -> None:
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (1_000, many):
            write_images(folder / str(count), count)
            peak = run(EXTRACT, folder / str(count), folder / f"cache{count}")
            figures[f"extraction of {count} images, peak MB"] = peak
        figures["growth"] = peak / figures["extraction of 1000 images, peak MB"]
        run(FILL, folder / "bank")
        figures["streaming 2 GB in random order, budget 64 MB, growth MB"] = run(
            STREAM, folder / "bank"
        )
    for key, value in figures.items():
        print(f"{key:60} {value:.2f}")
    Path("memory.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
