"""Solvers of linear heads beside each other: ``python tests/benchmarks/solvers.py``.

All are given the same reduced rows, and follow the same values of C for two of five folds, each in
a process of its own with one thread. Ours is `bottleneck.solvers.path.fit_path`. Beside it are the
one of another version of the package (``--before FOLDER``, which has its folder ``bottleneck``);
SciPy's minimisers on the same objective with Hessian products, or without our preconditioner, each
from the solution for the C before; and scikit-learn, `LogisticRegression` likewise and `LinearSVC`.
Rounds alternate. Prints the medians, their ratios to ours, and by how much the worst objective of
any C and fold is above the lowest that any solver found; what takes longer than ``--limit`` seconds
is ended. ``--only TASK`` and ``--solvers NAME...`` measure some, ``--json FILE`` keeps the figures.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

sys.path.insert(0, str(Path(__file__).parent))
from common import processor
from heads import GRID, TASKS, features, objective

from bottleneck.solvers import reduce_rows
from bottleneck.solvers.path import fit_path

FOLDS = 5
MEASURED = 2
MORE = {
    "softmax, 200 classes": ("softmax", 5000, 1024, 200),
    "softmax, 10 classes, 45 C": ("softmax", 5000, 1024, 10),
    "softmax, 10 classes, correlated": ("softmax", 5000, 1024, 10),
    "svm, 10 classes, correlated": ("squared_hinge", 5000, 1024, 10),
}
MANY = np.logspace(-6, 1, 45).tolist()
NEWTON = ("Newton-CG", "trust-ncg", "trust-krylov")
SOLVERS = ("ours", "before", "plain L-BFGS-B", *NEWTON, "scikit-learn")

Affine = tuple[np.ndarray, np.ndarray]
"""Weight (k, r) and bias (k,), one of them for two classes."""


def correlated(rows: int, columns: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features that share 64 causes of falling strength, as those of networks do."""
    normal = np.random.default_rng(0).standard_normal
    strengths = np.arange(1, 65, dtype=np.float32)[:, None] ** -0.5
    causes = normal((rows, 64), np.float32)
    mixing = strengths * normal((64, columns), np.float32)
    X = np.maximum(causes @ mixing + normal((rows, columns), np.float32), 0)
    scores = causes @ normal((64, classes), np.float32)
    return X, (scores + scores.std() * normal(scores.shape)).argmax(axis=1)


class Smooth:
    """The objective of one fold, its gradient and its Hessian products, for SciPy's minimisers."""

    def __init__(self, rows: np.ndarray, labels: np.ndarray, loss: str, C: float) -> None:
        from bottleneck.solvers.losses import Targets  # noqa: PLC0415 - not in earlier versions

        self.rows, self.C = rows, C
        self.targets = Targets.of(labels, loss)
        self.ones = np.ones(len(rows), rows.dtype)
        self.shape = rows.shape[1] + 1, self.targets.width

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        columns = flat.reshape(self.shape)
        losses, slopes = self.targets.losses(self.scores(columns), self.ones)
        value = self.C * losses.sum() + (columns[:-1] ** 2).sum() / 2
        return value, self.back(slopes, columns)

    def product(self, flat: np.ndarray, direction: np.ndarray) -> np.ndarray:
        columns, direction = flat.reshape(self.shape), direction.reshape(self.shape)
        scores, change = self.scores(columns), self.scores(direction)
        if self.targets.loss == "softmax":
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            bent = shares * (change - (shares * change).sum(axis=1, keepdims=True))
        elif self.targets.loss == "logistic":
            shares = 1 / (1 + np.exp(-scores))
            bent = shares * (1 - shares) * change
        else:
            bent = 2 * (self.targets.wanted * scores < 1) * change
        return self.back(bent, direction)

    def scores(self, columns: np.ndarray) -> np.ndarray:
        own = columns.astype(self.rows.dtype)
        return self.rows @ own[:-1] + own[-1]

    def back(self, slopes: np.ndarray, columns: np.ndarray) -> np.ndarray:
        product = np.vstack([(slopes.T @ self.rows).T, slopes.sum(axis=0)])
        product = self.C * product.astype(np.float64)
        product[:-1] += columns[:-1]
        return product.ravel()


def ours(rows: np.ndarray, labels: np.ndarray, loss: str, grid: Sequence[float]) -> list[Affine]:
    points = fit_path(rows, labels, np.ones((len(rows), 1)), grid, loss)
    return [(point.weight[0], point.bias[0]) for point in points]


def minimised(
    method: str, rows: np.ndarray, labels: np.ndarray, loss: str, grid: Sequence[float]
) -> list[Affine]:
    options = {
        "plain L-BFGS-B": {"ftol": 1e-8, "gtol": 0, "maxiter": 5000, "maxfun": 10_000},
        "Newton-CG": {"xtol": 1e-6, "maxiter": 200},
        "trust-ncg": {"gtol": 1e-4, "maxiter": 200},
        "trust-krylov": {"gtol": 1e-4, "maxiter": 200},
    }[method]
    found, flat = [], None
    for C in grid:
        smooth = Smooth(rows, labels, loss, C)
        flat = np.zeros(np.prod(smooth.shape)) if flat is None else flat
        scale = smooth(flat)[0] / (1e12 if method == "plain L-BFGS-B" else 1)

        def scaled(at: np.ndarray, smooth: Smooth = smooth, scale: float = scale) -> tuple:
            value, gradient = smooth(at)
            return value / scale, gradient / scale

        products = (
            {}
            if method == "plain L-BFGS-B"
            else {
                "hessp": lambda at, way, smooth=smooth, scale=scale: smooth.product(at, way) / scale
            }
        )
        flat = minimize(
            scaled,
            flat,
            jac=True,
            method=method.removeprefix("plain "),
            options=options,
            **products,
        ).x
        columns = flat.reshape(smooth.shape)
        found.append((columns[:-1].T, columns[-1]))
    return found


def scikit_learn(
    rows: np.ndarray, labels: np.ndarray, loss: str, grid: Sequence[float]
) -> list[Affine]:
    found = []
    estimator = (
        LogisticRegression(warm_start=True, tol=1e-6, max_iter=1000)
        if loss == "softmax"
        else LinearSVC(dual=True)
    )
    for C in grid:
        fitted = estimator.set_params(C=C).fit(rows, labels)
        found.append((fitted.coef_.copy(), fitted.intercept_.copy()))
    return found


def solver(name: str) -> Callable[..., list[Affine]]:
    if name in {"ours", "before"}:
        return ours
    if name == "scikit-learn":
        return scikit_learn
    return lambda *given: minimised(name, *given)


def work(folder: Path, name: str, loss: str, grid: Sequence[float], fold: int) -> None:
    """Solve one fold, and print the seconds and the objectives."""
    warnings.simplefilter("ignore")
    X, y = np.load(folder / "rows.npy"), np.load(folder / "labels.npy")
    fit = list(StratifiedKFold(FOLDS).split(X, y))[fold][0]
    X, y = X[fit], y[fit]
    solve = solver(name)
    some = np.arange(len(X)) % 20 == 0
    codes = np.unique(y[some], return_inverse=True)[1]
    solve(X[some], codes, loss, grid[:1])  # libraries are loaded here
    started = time.perf_counter()
    found = solve(X, y, loss, grid)
    seconds = time.perf_counter() - started
    values = [
        objective(X.astype(np.float64) @ weight.T + bias, weight, y, C, loss)
        for C, (weight, bias) in zip(grid, found, strict=True)
    ]
    print(json.dumps([seconds, values]))


def run(
    given: argparse.Namespace, folder: Path, name: str, loss: str, grid: Sequence[float]
) -> tuple[float, np.ndarray] | None:
    """Return the longest seconds of a process for each fold, and the objectives (f, C)."""
    package = given.before if name == "before" else str(Path(__file__).parents[2])
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    task = [str(folder), name, loss, json.dumps(list(grid))]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--work", *task, str(fold)],
            env={**os.environ, **one, "PYTHONPATH": str(package)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for fold in range(MEASURED)
    ]
    found = []
    for process in processes:
        try:
            found.append(json.loads(process.communicate(timeout=given.limit)[0]))
        except subprocess.TimeoutExpired:
            for each in processes:
                each.kill()
                each.communicate()
            return None
    return max(seconds for seconds, _ in found), np.array([values for _, values in found])


def measure(task: str, given: argparse.Namespace) -> dict[str, object]:
    loss, n_rows, columns, classes = {**TASKS, **MORE}[task][:4]
    grid = (MANY if "45" in task else GRID)[:: given.every]
    made = correlated if "correlated" in task else features
    X, y = made(*(max(1, size // given.shrink) for size in (n_rows, columns)), classes)
    chosen = [name for name in given.solvers if name != "before" or given.before]
    times: dict[str, list[float]] = {name: [] for name in chosen}
    values: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "rows.npy", rows := reduce_rows(X, standardize=False).rows)
        np.save(folder / "labels.npy", y)
        for number in range(given.rounds):
            for each in chosen[:: 1 - 2 * (number % 2)]:
                if len(times[each]) < number:
                    continue  # it took too long before
                if found := run(given, folder, each, loss, grid):
                    times[each].append(found[0])
                    values[each] = found[1]
    lowest = np.min(list(values.values()), axis=0)
    print(f"{task}, {rows.shape[0]:,} x {rows.shape[1]:,}, {len(grid)} values of C", flush=True)
    result: dict[str, object] = {"rows": rows.shape, "values of C": len(grid)}
    for each in chosen:
        if not times[each]:
            print(f"  {each:16} more than {given.limit:.0f} s", flush=True)
            continue
        seconds, above = statistics.median(times[each]), float((values[each] / lowest - 1).max())
        ratio = seconds / statistics.median(times["ours"]) if "ours" in chosen else 1.0
        result[each] = {"seconds": seconds, "times ours": ratio, "worst objective above": above}
        print(f"  {each:16} {seconds:8.2f} s {ratio:6.2f} x ours, {above:+.1e}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=[*TASKS, *MORE], default=[*TASKS, *MORE])
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=SOLVERS)
    parser.add_argument("--before", help="folder of another version of the package")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300, help="seconds that a process may take")
    parser.add_argument("--every", type=int, default=1, help="take each so many-th value of C")
    parser.add_argument("--shrink", type=int, default=1, help="to try it: divides rows and columns")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        folder, name, loss, grid, fold = given.work
        work(Path(folder), name, loss, json.loads(grid), int(fold))
        return
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(processor())
    results: dict[str, object] = {"processor": processor()}
    results |= {task: measure(task, given) for task in given.only}
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
