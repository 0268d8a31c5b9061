"""How the price of a sweep grows: ``python tests/benchmarks/reduction.py [ROWS...]``.

Softmax of two classes, eight values of C and five folds, on 1,000 to 16,000 rows of 25,088 features
(10 GB of memory for the last). What is predicted has the Gram matrix, n^2 d multiply-adds, and its
Cholesky factor, n^3 / 3, at the rates that two other runs of LAPACK and BLAS have here, and n^2 for
the solver, from its time at the smallest n. Prints seconds, writes ``reduction.json`` and draws
``reduction.png`` into the current folder.
"""

import json
import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpstrf
from sklearn.model_selection import StratifiedKFold

sys.path.insert(0, str(Path(__file__).parent))
from heads import features, ours

mpl.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = 25_088


def rates() -> tuple[float, float]:
    """Return seconds per multiply-add of a Gram matrix and of a pivoted Cholesky factor."""
    n = 3000
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
    measured: dict[int, tuple[float, float]], predicted: dict[int, tuple[float, float]]
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
    axes.set_title(f"8 values of C, 5 folds, softmax, {COLUMNS:,} features", loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig("reduction.png", dpi=100)


def main() -> None:
    counts = [int(count) for count in sys.argv[1:]] or [1000, 2000, 4000, 8000, 16_000]
    product, factor = rates()
    measured, predicted = {}, {}
    for n in counts:
        X, y = features(n, COLUMNS, 2)
        points, seconds = ours(X, y, "softmax", list(StratifiedKFold(5).split(X, y)))
        measured[n] = tuple(seconds)
        first = counts[0]
        predicted[n] = (
            product * n**2 * COLUMNS + factor * n**3 / 3,
            measured[first][1] * (n / first) ** 2,
        )
        converged = all(point.converged.all() for point in points)
        print(n, measured[n], "predicted", predicted[n], converged, flush=True)
    draw(measured, predicted)
    results = {n: {"measured": measured[n], "predicted": predicted[n]} for n in counts}
    Path("reduction.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
