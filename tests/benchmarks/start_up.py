"""How long commands take to answer: ``python tests/benchmarks/start_up.py``.

Prints medians and ratios, and writes them to ``start_up.json`` in the current folder. The bars are
0.3 s for ``--help``, and 2 s plus start-up for a second extraction of 200 images; start-up is what
``bottleneck models`` takes, which loads the same libraries and computes nothing.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bottleneck.demo import write_demo_images

RUNS = 7


def seconds(*arguments: str) -> float:
    """Median wall time of a command, each run a process of its own."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "bottleneck", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_demo_images("data")
        extract = ("extract", "--model", "efficientnet_lite0")
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "bottleneck", *extract], check=True, stdout=subprocess.DEVNULL
        )
        first = time.perf_counter() - started
        figures = {
            "help_seconds": seconds("--help"),
            "bare_python_seconds": seconds_of_python(),
            "start_up_seconds": seconds("models"),
            "first_extraction_seconds": first,
            "second_extraction_seconds": seconds(*extract),
        }
        os.chdir(here)
    figures["second_extraction_less_start_up_seconds"] = (
        figures["second_extraction_seconds"] - figures["start_up_seconds"]
    )
    figures["first_by_second"] = first / figures["second_extraction_seconds"]
    for name, value in figures.items():
        print(f"{name:42} {value:.3f}")
    Path("start_up.json").write_text(json.dumps(figures, indent=2) + "\n")


def seconds_of_python() -> float:
    """Median wall time of an interpreter that does nothing."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", ""], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
