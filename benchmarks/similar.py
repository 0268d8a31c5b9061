"""The most similar images of a million: ``benchmarks/similar.py``.

Fills a bank of 1,000,000 x 1,280 float16 (2.6 GB) with random rows, shifted and used again so that
this is fast, and finds the 20 nearest rows by cosine to one
image and to a hundred, read in blocks with 500 MB, every checksum verified; beside it, the time in
which the bank alone is read. Then the same for a tenth of the rows in memory as float32, beside
scikit-learn's ``NearestNeighbors(metric="cosine")``, and groups of near-duplicates in a fiftieth of
the rows. Times are seconds, the medians of interleaved rounds.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from bottleneck.cache import Cache
from bottleneck.features import StreamedRows
from bottleneck.features.stored import StoredColumns
from bottleneck.records import BankRecord, FeatureSource
from bottleneck.similar import near_duplicate_groups, nearest
from common import Tables, medians, run

FINGERPRINT = "ab" * 32
MEMORY = 500 * 10**6
TOP = 20
BLOCK = 8192
"""Rows that are drawn; later ones are these, shifted by one column each time."""
SOURCE = FeatureSource(
    layer="layer",
    alias=None,
    bank="base",
    fingerprint=FINGERPRINT,
    image_set="made",
    model="base",
    weights="imported",
    weights_random=False,
    adjustments={},
    precision="fp32",
    dtype="float16",
    axes="C",
    stored_pool="none",
    pool="none",
)


def fill(folder: Path, rows: int, columns: int) -> StreamedRows:
    """Write features like those behind a ReLU."""
    bank = Cache(folder).bank("base", FINGERPRINT)
    bank.describe(BankRecord.imported(FINGERPRINT, "base", {"layer": [columns]}))
    drawn = np.random.default_rng(0).standard_normal((min(rows, BLOCK), columns), np.float32)
    block = np.maximum(drawn, 0).astype(np.float16)
    digests = np.array([f"{number:064x}" for number in range(rows)])
    with bank.writer("float16") as writer:
        for shift, start in enumerate(range(0, rows, BLOCK)):
            own = digests[start : start + BLOCK]
            writer.append(own.tolist(), {"layer": np.roll(block, shift, axis=1)[: len(own)]})
    own = [StoredColumns([bank], SOURCE, columns)]
    return StreamedRows(own, digests, np.zeros(rows, np.uint16), MEMORY)


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    def measured() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return measured


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        X = fill(Path(name), given.rows, given.columns)
        many = X[: given.queries].read()
        ways = {
            "reading alone": seconds(lambda: [len(block) for block in X.blocks()]),
            "nearest to 1": seconds(lambda: nearest(X, many[:1], TOP)),
            f"nearest to {given.queries}": seconds(lambda: nearest(X, many, TOP)),
        }
        yield f"{given.rows:,} x {given.columns:,} in blocks", medians(given.rounds, ways)
        held = X[: given.rows // 10].read()
        some = held[: given.rows // 50]
    reference = NearestNeighbors(n_neighbors=TOP, metric="cosine", algorithm="brute").fit(held)
    ways = {
        "nearest": seconds(lambda: nearest(held, many, TOP)),
        "scikit-learn": seconds(lambda: reference.kneighbors(many)),
    }
    found = medians(given.rounds, ways)
    found["ratio"] = found["scikit-learn"] / found["nearest"]
    yield f"{len(held):,} x {given.columns:,} in memory, to {given.queries}", found
    groups = seconds(lambda: near_duplicate_groups(some, 0.9))
    yield f"{len(some):,} x {given.columns:,} in memory", {"near-duplicates": groups()}


def tables(found: dict[str, Any]) -> Tables:
    rows = [(name, way, value) for name, own in found.items() for way, value in own.items()]
    return {"similar": [("rows", "", "seconds"), *rows]}


if __name__ == "__main__":
    run(
        measure,
        tables,
        rows=(1_000_000, 1000),
        columns=(1280, 64),
        queries=(100, 5),
        rounds=(3, 1),
    )
