"""Size and time of the page of a report: ``benchmarks/report.py``.

The images are photographs of 500 x 375 pixels, and small ones of 96 x 72 where they are many; their
features are random numbers around a mean for each class. The first report is a whole command, with
the imports of libraries. The second has the thumbnails of the first one, in a process that has
imported everything. The head's own time, for evaluation and the scores of all images, is in each.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck import Cache, Head, fit_head, load_features, make_report, write_report
from bottleneck.exchange import import_array
from bottleneck.report.judging import judge
from common import Tables, rate, run, run_process, write_photographs

FEW = 2000
"""Images above this number are small ones."""
CLASSES = 10


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    here = Path.cwd()
    for count in given.images:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            cache, head = prepare(count, given.width)
            yield f"{count:,} images", figures(cache, {"head": head})
            os.chdir(here)


def prepare(count: int, width: int) -> tuple[Cache, Head]:
    """Make images, features and a head in the current folder."""
    write_photographs(Path("data"), count, (500, 375) if count <= FEW else (96, 72))
    paths = sorted(Path("data").rglob("*.jpg"))
    for path in paths:  # some crops are the same, which is seen as a copy
        path.write_bytes(path.read_bytes() + str(path).encode())
    labels = np.arange(count) % CLASSES
    lines = [f"{path},class {label}" for path, label in zip(paths, labels, strict=True)]
    Path("table.csv").write_text("\n".join(["path,label", *lines]))
    generator = np.random.default_rng(0)
    means = generator.normal(size=(CLASSES, width))
    rows = 0.1 * means[labels] + generator.normal(size=(count, width))
    np.save("rows.npy", rows.astype(np.float32))
    cache = Cache("cache")
    import_array(cache, "rows.npy", "table.csv", model="random", layer="rows")
    head = fit_head(load_features(cache), "lda")
    head.save("heads/head")
    return cache, head


def figures(cache: Cache, heads: dict[str, Head]) -> dict[str, Any]:
    """Time two reports on one file, and one in a folder with all images."""
    found: dict[str, Any] = {}
    command = [sys.executable, "-m", "bottleneck", "report", "--output", "first.html"]
    started = time.perf_counter()
    _, _, usage = run_process(command)
    found["first report, s"] = time.perf_counter() - started
    found["of a processor, s"] = usage.ru_utime + usage.ru_stime
    make_report(cache, heads)  # imports what the others need
    judging = partial(judge, "head", heads["head"], cache, "test", None)
    found["of that the head, s"] = 1 / rate(judging, 1)
    started = time.perf_counter()
    report = make_report(cache, heads)
    write_report(report, "report.html")
    found["second report, s"] = time.perf_counter() - started
    found["shown"] = len(report.images)
    found["MB"] = Path("report.html").stat().st_size / 1e6
    started = time.perf_counter()
    write_report(make_report(cache, heads, everything=True), "all", "folder")
    found["all in a folder, s"] = time.perf_counter() - started
    found["MB of its page"] = Path("all/index.html").stat().st_size / 1e6
    return found


def tables(found: dict[str, Any]) -> Tables:
    names = [name for figures in found.values() for name in figures]
    head = list(dict.fromkeys(names))
    return {
        "reports": [
            ["", *head],
            *([name, *(own[each] for each in head)] for name, own in found.items()),
        ]
    }


if __name__ == "__main__":
    run(measure, tables, images=((1000, 50_000), (60,)), width=(1280, 64))
