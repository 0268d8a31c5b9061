"""How fast a bank is read: ``python tests/benchmarks/reading.py [GIGABYTES] [FOLDER]``.

Fills a bank, warm in the page cache, and reads it whole and a random tenth of its rows, every
checksum verified; beside it a plain file of the same bytes is read into memory. Prints medians of
interleaved rounds and writes them to ``reading.json``. The bars, at 4 GB: 0.6 of the plain file's
speed, and 0.5 of the sequential speed for the random rows.
"""

import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bottleneck.cache import Cache
from bottleneck.records import BankRecord

ROUNDS = 5
FINGERPRINT = "ab" * 32
LAYERS = {"vgg16 block5_pool": (512, 7, 7), "resnet50 pooled": (2048,), "lite0 pooled": (1280,)}


def main() -> None:
    size = int(float(sys.argv[1] if len(sys.argv) > 1 else 4) * 1e9)
    place = sys.argv[2] if len(sys.argv) > 2 else None
    results = {}
    for name, shape in LAYERS.items():
        with tempfile.TemporaryDirectory(dir=place) as folder:
            results[name] = measure(Path(folder), shape, size)
        for key, value in results[name].items():
            print(f"{name:20} {key:32} {value:.2f}", flush=True)
    Path("reading.json").write_text(json.dumps(results, indent=2) + "\n")


def measure(folder: Path, shape: tuple[int, ...], size: int) -> dict[str, float]:
    rows = size // (2 * int(np.prod(shape)))
    digests = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(rows)]
    bank = Cache(folder).bank("base", FINGERPRINT)
    bank.describe(BankRecord.imported(FINGERPRINT, "m", {"layer": [6]}))
    generator = np.random.default_rng(0)
    with bank.writer("float16", part_seconds=np.inf) as writer:
        for start in range(0, rows, 256):
            some = digests[start : start + 256]
            writer.append(some, {"layer": generator.random((len(some), *shape), np.float32)})
    plain = folder / "plain"
    with plain.open("wb") as target:
        for part in bank.parts():
            target.write(part.path.read_bytes())
    chosen = generator.choice(rows, rows // 10, replace=False)
    tenth = [digests[number] for number in chosen]
    sequential, random, reference, numpy = [], [], [], []
    for _ in range(ROUNDS):
        reference.append(speed(lambda: len(plain.read_bytes())))
        numpy.append(speed(lambda: np.fromfile(plain, np.uint8).nbytes))
        sequential.append(speed(lambda: bank.read("layer", digests).nbytes))
        random.append(speed(lambda: bank.read("layer", tenth).nbytes))
    figures = {
        "plain file, GB/s": statistics.median(reference),
        "plain file by np.fromfile, GB/s": statistics.median(numpy),
        "whole bank, GB/s": statistics.median(sequential),
        "random tenth, GB/s": statistics.median(random),
    }
    pairs = list(zip(sequential, reference, numpy, random, strict=True))
    figures["whole bank / plain file"] = statistics.median(s / r for s, r, _, _ in pairs)
    figures["whole bank / np.fromfile"] = statistics.median(s / n for s, _, n, _ in pairs)
    figures["random tenth / whole bank"] = statistics.median(g / s for s, _, _, g in pairs)
    plain.unlink()
    return figures


def speed(read) -> float:
    started = time.perf_counter()
    size = read()
    return size / (time.perf_counter() - started) / 1e9


if __name__ == "__main__":
    main()
