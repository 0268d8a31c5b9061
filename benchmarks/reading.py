"""How fast a bank is read: ``benchmarks/reading.py``.

Fills a bank, warm in the page cache, and reads it whole and a random tenth of its rows, every
checksum verified; beside it a plain file of the same bytes is read into memory. Figures are medians
of interleaved rounds. The bars, at 4 GB: 0.6 of the plain file's speed, and 0.5 of the sequential
speed for the random rows. ``--folder`` puts the bank on another disk.
"""

import argparse
import hashlib
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.cache import Cache
from bottleneck.records import BankRecord
from common import Tables, rate, run

FINGERPRINT = "ab" * 32
LAYERS = {
    "VGG16, `block5_pool`": (512, 7, 7),
    "ResNet-50, pooled": (2048,),
    "EfficientNet-Lite0, pooled": (1280,),
}
PAIRS = (
    ("whole bank", "plain file"),
    ("whole bank", "np.fromfile"),
    ("random tenth", "whole bank"),
)


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for name, shape in LAYERS.items():
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            yield name, figures(Path(folder), shape, int(given.gigabytes * 1e9), given.rounds)


def figures(folder: Path, shape: tuple[int, ...], size: int, rounds: int) -> dict[str, float]:
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
    ways = {
        "plain file": plain.read_bytes,
        "np.fromfile": lambda: np.fromfile(plain, np.uint8),
        "whole bank": lambda: bank.read("layer", digests),
        "random tenth": lambda: bank.read("layer", tenth),
    }
    sizes = dict.fromkeys(ways, plain.stat().st_size) | {
        "whole bank": 2 * rows * int(np.prod(shape))
    }
    sizes["random tenth"] = sizes["whole bank"] // rows * len(tenth)
    speeds = [
        {way: rate(read, sizes[way]) / 1e9 for way, read in ways.items()} for _ in range(rounds)
    ]
    plain.unlink()
    found = {f"{way}, GB/s": statistics.median(each[way] for each in speeds) for way in ways}
    for one, other in PAIRS:
        found[f"{one} by {other}"] = statistics.median(each[one] / each[other] for each in speeds)
    return found


def tables(found: dict[str, Any]) -> Tables:
    ratios = [f"{one} by {other}" for one, other in PAIRS]
    rows = [
        (name, *(own[each] for each in ["whole bank, GB/s", *ratios]))
        for name, own in found.items()
    ]
    return {"reading": [("rows (float16)", "whole bank, GB/s", *ratios), *rows]}


if __name__ == "__main__":
    run(measure, tables, gigabytes=(4.0, 0.001), rounds=(5, 1), folder=(None, None))
