"""What all benchmarks share: how they are called, what they print and write, and how they measure.

A benchmark is a module with a generator ``measure(given)`` that yields names and figures as they
come, and calls `run`. Where a page of the documentation shows the figures, its function
``tables(found)`` makes tables of them, which ``run.py`` writes into the page. Each prints its
figures and, with ``--json FILE``, writes them with the processor, the versions and the date. No
benchmark fails because something is slow.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Tables = dict[str, list[Sequence[object]]]
"""Name of a table in the documentation to its rows, the first of them its head."""

_VERSIONS = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "h5py")


def run(
    measure: Callable[[argparse.Namespace], Iterator[tuple[str, Any]]],
    tables: Callable[[dict[str, Any]], Tables] | None = None,
    **sizes: tuple[Any, Any],
) -> None:
    """Run a benchmark from the command line.

    Parameters
    ----------
    measure : callable
        Yields names and figures, given the options.
    tables : callable, optional
        Returns tables of the figures by their names.
    **sizes
        The options: name to the usual value and that of ``--smoke``. Where the usual value is a
        tuple, several values may be given, names only from it; where it is None, a path.
    """
    given = options(**sizes)
    results: dict[str, Any] = {"environment": environment(), "figures": {}}
    show("", results["environment"])
    for name, figures in measure(given):
        show(name, figures)
        results["figures"][name] = figures
        write(given.json, results)
    if tables:
        results["tables"] = tables(results["figures"])
        write(given.json, results)


def options(**sizes: tuple[Any, Any]) -> argparse.Namespace:
    """Return the options of the command line, see `run`."""
    parser = argparse.ArgumentParser(
        description=sys.modules["__main__"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    for name, (usual, _) in sizes.items():
        several = isinstance(usual, tuple)
        sample = usual[0] if several else usual
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=Path if sample is None else type(sample),
            nargs="+" if several else None,
            choices=usual if several and isinstance(sample, str) else None,
            help=f"by default {' '.join(map(str, usual)) if several else usual}",
        )
    given = parser.parse_args()
    for name, values in sizes.items():
        if getattr(given, name) is None:
            setattr(given, name, values[given.smoke])
    return given


def environment() -> dict[str, str]:
    """Return processor, versions and date."""
    found = {"processor": processor(), "python": platform.python_version()}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return {**found, "date": datetime.now(UTC).date().isoformat()}


def processor() -> str:
    """Return the processor's name and how many of its cores there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    widest = "AVX-512" if any(" avx512f" in line for line in lines) else "AVX2 at most"
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor()}, {widest}"


def computes_bf16() -> bool:
    """Return whether this processor multiplies bfloat16; without it, that takes an age."""
    import torch  # noqa: PLC0415 - not every benchmark needs it

    from bottleneck.bases.precision import choose_precision  # noqa: PLC0415

    return choose_precision("auto", torch.device("cpu"), dense=True) == "bf16"


NO_BF16 = "skipped: this processor has no bf16"


def show(name: str, figures: Any) -> None:
    """Print figures, one in a line, after the names that lead to them."""
    if isinstance(figures, Mapping):
        for key, value in figures.items():
            show(f"{name}, {key}" if name else str(key), value)
        return
    text = f"{figures:.4g}" if isinstance(figures, float) else str(figures)
    print(f"{name:64} {text}", flush=True)


def write(path: Path | None, results: Mapping[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(results, indent=2) + "\n")


def medians(rounds: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Run all measures in turn, some times over; return the median of each."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return {name: statistics.median(values) for name, values in found.items()}


def rate(work: Callable[[], object], count: float) -> float:
    """Return how many of `count` things are done in a second of some work."""
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def write_photographs(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> None:
    """Write crops of scikit-image's photographs as JPEGs, in two folders."""
    from skimage import data  # noqa: PLC0415 - not every benchmark needs it

    generator = np.random.default_rng(0)
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    for number in range(count):
        photograph = Image.fromarray(photographs[number % len(photographs)])
        width = int(generator.integers(200, photograph.width))
        height = min(photograph.height, width * 3 // 4)
        left = int(generator.integers(photograph.width - width + 1))
        top = int(generator.integers(photograph.height - height + 1))
        crop = photograph.crop((left, top, left + width, top + height)).resize(size)
        path = folder / str(number % 2) / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=90)


def run_process(command: Sequence[str], codes: Sequence[int] = (0,)) -> tuple[str, int, Any]:
    """Return what a command prints, its exit code, and its ``rusage``."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode not in codes:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}: {errors.read()!r}")
        return output.read().decode(), process.returncode, usage


def peak_memory(usage: Any) -> float:
    """Return the megabytes of memory that a process took at most."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
