"""How the price of a sweep grows: ``benchmarks/reduction.py``.

Softmax of two classes, eight values of C and five folds, on 1,000 to 16,000 rows of 25,088 features
(10 GB of memory for the last). What is predicted has the Gram matrix, n^2 d multiply-adds, and its
Cholesky factor, n^3 / 3, at the rates that two other runs of LAPACK and BLAS have here, and n^2 for
the solver, from its time at the smallest n. ``--picture FILE`` draws them.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpstrf
from sklearn.model_selection import StratifiedKFold

from common import run
from heads import features, ours

mpl.use("Agg")
from matplotlib import pyplot as plt


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    product, factor = rates(given.side)
    measured: dict[int, tuple[float, float]] = {}
    predicted: dict[int, tuple[float, float]] = {}
    for n in given.rows:
        X, y = features(n, given.columns, 2)
        points, seconds = ours(X, y, "softmax", list(StratifiedKFold(5).split(X, y)))
        measured[n] = tuple(seconds)
        first = given.rows[0]
        predicted[n] = (
            product * n**2 * given.columns + factor * n**3 / 3,
            measured[first][1] * (n / first) ** 2,
        )
        names = ("reduction, s", "solver, s")
        yield (
            f"{n} rows",
            dict(zip(names, measured[n], strict=True))
            | {f"{name} predicted": value for name, value in zip(names, predicted[n], strict=True)}
            | {"all converged": all(bool(point.converged.all()) for point in points)},
        )
    if given.picture:
        draw(given.picture, given.columns, measured, predicted)


def rates(n: int) -> tuple[float, float]:
    """Return seconds per multiply-add of a Gram matrix and of a pivoted Cholesky factor."""
    block = np.random.default_rng(0).standard_normal((n, n))
    times = []
    for _ in range(3):
        started = time.perf_counter()
        gram = dsyrk(1.0, block.T, trans=1, lower=1)
        between = time.perf_counter()
        dpstrf(gram, lower=1, overwrite_a=1)
        times.append((between - started, time.perf_counter() - between))
    product, factor = np.median(times, axis=0)
    return product / n**3, factor / (n**3 / 3)


def draw(
    file: Path,
    columns: int,
    measured: dict[int, tuple[float, float]],
    predicted: dict[int, tuple[float, float]],
) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    rows = list(measured)
    for place, (name, colour) in enumerate((("reduction", "C0"), ("solver", "C1"))):
        axes.plot(rows, [measured[n][place] for n in rows], "o-", color=colour, label=name)
        axes.plot(
            rows,
            [predicted[n][place] for n in rows],
            "--",
            color=colour,
            label=f"{name}, predicted",
        )
    axes.set(xscale="log", yscale="log", xlabel="images", ylabel="seconds")
    axes.set_xticks(rows, [f"{n:,}" for n in rows])
    axes.minorticks_off()
    axes.set_title(f"8 values of C, 5 folds, softmax, {columns:,} features", loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    run(
        measure,
        rows=((1000, 2000, 4000, 8000, 16_000), (100, 200)),
        columns=(25_088, 400),
        side=(3000, 200),
        picture=(None, None),
    )
