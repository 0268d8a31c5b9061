"""Training in passes against training in memory: ``benchmarks/streaming.py``.

Fills a bank of 200,000 x 4,096 float16 (1.6 GB): features like those behind a ReLU, and ten classes
that overlap. Fits one softmax in memory and one in passes with 500 MB, each in a process of its own
after an interpreter that only imports what both use. In memory it is fitted to the tolerance that
is the default there and to the one of the passes. Figures are times, passes, the peaks of memory,
and by how much the objectives differ, computed for all by the same function in float64. Peaks are
read from ``/proc``, so it runs on Linux.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.cache import Cache
from bottleneck.records import BankRecord
from common import Tables, run, run_process

MEMORY = 500 * 10**6
IMPORTS = """
import sys, time
import numpy as np
from bottleneck.cache import Cache
from bottleneck.solvers import reduce_rows
from bottleneck.solvers.path import fit_path
from bottleneck.solvers.streamed import stream_path
"""
GIVEN = """
folder, C = sys.argv[1], float(sys.argv[2])
labels = np.load(f"{folder}/labels.npy")
bank = Cache(folder).bank("base", "ab" * 32)
digests = [f"{number:064x}" for number in range(len(labels))]
counts = np.ones((len(labels), 1))
"""
IN_MEMORY = """
started = time.perf_counter()
X = bank.read("layer", digests).astype(np.float32)
reduction = reduce_rows(X)
prepared = time.perf_counter() - started
np.save(f"{folder}/scale.npy", reduction.scale)
for name, options in {"default": {}, "same": {"tolerance": float(sys.argv[3])}}.items():
    started = time.perf_counter()
    (point,) = fit_path(reduction.rows, labels, counts, [C], "softmax", **options)
    weight, bias = reduction.lift(point.weight[0], point.bias[0], X)
    np.savez(f"{folder}/{name}.npz", weight=weight, bias=bias)
    print(prepared + time.perf_counter() - started)
"""
STREAMED = """
memory = int(sys.argv[4])
started = time.perf_counter()
passes = []
def read():
    passes.append(1)
    return bank.stream("layer", digests, memory=memory // 4)
(point,) = stream_path(
    read,
    labels,
    counts,
    [C],
    "softmax",
    tolerance=float(sys.argv[3]),
    most_bytes=memory // 2,
)
print(time.perf_counter() - started)
print(len(passes))
np.savez(f"{folder}/streamed.npz", weight=point.weight[0], bias=point.bias[0])
"""
PEAK = """
from pathlib import Path
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024)
"""
TOLERANCE = 1e-5
"""The default of `stream_path`."""
LATENT = 64


def fill(folder: Path, rows: int, columns: int) -> None:
    generator = np.random.default_rng(0)
    normal = generator.standard_normal
    strengths = np.arange(1, LATENT + 1, dtype=np.float32)[:, None] ** -0.5
    mixing = strengths * normal((LATENT, columns), np.float32)
    directions = normal((LATENT, 10), np.float32)
    bank = Cache(folder).bank("base", "ab" * 32)
    bank.describe(BankRecord.imported("ab" * 32, "m", {"layer": [6]}))
    labels = []
    with bank.writer("float16") as writer:
        for start in range(0, rows, 1000):
            numbers = range(start, min(start + 1000, rows))
            latent = normal((len(numbers), LATENT), np.float32)
            X = np.maximum(latent @ mixing + normal((len(numbers), columns), np.float32), 0)
            scores = latent @ directions
            labels.append((scores + scores.std() * normal(scores.shape)).argmax(axis=1))
            writer.append([f"{number:064x}" for number in numbers], {"layer": X})
    np.save(folder / "labels.npy", np.concatenate(labels))


def objective(folder: Path, name: str, C: float) -> float:
    labels = np.load(folder / "labels.npy")
    found = np.load(folder / f"{name}.npz")
    weight, bias = (found[part].astype(np.float64) for part in ("weight", "bias"))
    total = float(((weight * np.load(folder / "scale.npy")) ** 2).sum()) / 2
    digests = [f"{number:064x}" for number in range(len(labels))]
    start = 0
    for block in Cache(folder).bank("base", "ab" * 32).stream("layer", digests, memory=2**27):
        scores = block.astype(np.float64) @ weight.T + bias
        own = scores[np.arange(len(block)), labels[start : start + len(block)]]
        total += C * float((np.logaddexp.reduce(scores, axis=1) - own).sum())
        start += len(block)
    return total


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, given.rows, given.columns)
        arguments = [name, str(given.C), str(TOLERANCE), str(MEMORY)]

        def process(code: str) -> list[float]:
            printed, *_ = run_process([sys.executable, "-c", IMPORTS + code + PEAK, *arguments])
            return [float(line) for line in printed.split()]

        (base,) = process("")
        seconds, passes, streamed = process(GIVEN + STREAMED)
        default, same, in_memory = process(GIVEN + IN_MEMORY)
        values = {
            each: objective(folder, each, given.C) for each in ("default", "same", "streamed")
        }
    best = min(values.values())
    yield (
        f"{given.rows:,} x {given.columns:,}",
        {
            "streamed, seconds": seconds,
            "passes": passes,
            "in memory, seconds": default,
            "in memory to the same tolerance, seconds": same,
            "ratio of times": seconds / default,
            "ratio of times to the same tolerance": seconds / same,
            "objective above the least": values["streamed"] / best - 1,
            "objective above in memory": values["streamed"] / values["default"] - 1,
            "the same tolerance in memory, above the least": values["same"] / best - 1,
            "interpreter, MB": base / 1e6,
            "streamed above the interpreter, MB": (streamed - base) / 1e6,
            "in memory above the interpreter, MB": (in_memory - base) / 1e6,
        },
    )


def tables(found: dict[str, Any]) -> Tables:
    rows: list = []
    for name, own in found.items():
        rows += [(f"softmax of ten classes, {name} float16", ""), *own.items()]
    return {"passes": rows}


if __name__ == "__main__":
    run(measure, tables, rows=(200_000, 1000), columns=(4096, 64), C=(0.01, 0.01))
