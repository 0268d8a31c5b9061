"""Solvers of linear heads beside each other: ``benchmarks/solvers.py``.

All are given the same reduced rows, and follow the same values of C for two of five folds, each in
a process of its own with one thread. Ours is `bottleneck.solvers.path.fit_path`. Beside it are the
one of another version of the package (``--before FOLDER``, which has its folder ``bottleneck``);
SciPy's minimisers on the same objective with Hessian products, or without our preconditioner, each
from the solution for the C before; and scikit-learn, `LogisticRegression` likewise and `LinearSVC`.
Rounds alternate. Figures are the medians, their ratios to ours, and by how much the worst objective
of any C and fold is above the lowest that any solver found; what takes longer than ``--limit``
seconds is ended. ``--only TASK`` and ``--solvers NAME`` measure some; ``--every`` takes each
so-many-th value of C, and ``--shrink`` divides rows and columns.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from bottleneck.solvers import reduce_rows
from bottleneck.solvers.path import fit_path
from common import Tables, run
from heads import GRID, TASKS, features, objective

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


def work(name: str, loss: str, grid: Sequence[float], fold: int) -> None:
    """Solve one fold of the rows in this folder, and print the seconds and the objectives."""
    warnings.simplefilter("ignore")
    X, y = np.load("rows.npy"), np.load("labels.npy")
    fit = list(StratifiedKFold(FOLDS).split(X, y))[fold][0]
    X, y = X[fit], y[fit]
    solve = solver(name)
    some = np.arange(len(X)) % max(1, len(X) // 100) == 0
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


def solved(
    given: argparse.Namespace, folder: Path, name: str, loss: str, grid: Sequence[float]
) -> tuple[float, np.ndarray] | None:
    """Return the longest seconds of a process for each fold, and the objectives (f, C)."""
    package = given.before if name == "before" else Path(__file__).parents[1]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(map(str, (package, Path(__file__).parent)))
    task = (name, loss, list(grid))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"from solvers import work; work(*{task}, {fold})"],
            env={**os.environ, **one, "PYTHONPATH": path},
            cwd=folder,
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


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for task in given.only:
        yield task, compare(task, given)


def compare(task: str, given: argparse.Namespace) -> dict[str, Any]:
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
                if found := solved(given, folder, each, loss, grid):
                    times[each].append(found[0])
                    values[each] = found[1]
    lowest = np.min(list(values.values()), axis=0)
    result: dict[str, Any] = {"rows": rows.shape, "values of C": len(grid)}
    for each in chosen:
        if not times[each]:
            result[each] = f"more than {given.limit:.0f} s"
            continue
        seconds, above = statistics.median(times[each]), float((values[each] / lowest - 1).max())
        ratio = seconds / statistics.median(times["ours"]) if "ours" in times else 1.0
        result[each] = {"seconds": seconds, "times ours": ratio, "worst objective above": above}
    return result


def tables(found: dict[str, Any]) -> Tables:
    solvers = [each for each in SOLVERS if any(each in own for own in found.values())]
    rows: list = [("reduced rows, classes", *solvers)]
    for task, own in found.items():
        cells = []
        for each in solvers:
            figures = own.get(each, "")
            if isinstance(figures, dict):
                seconds, ratio, above = figures.values()
                figures = f"{seconds:.2f} s; {ratio:.2f}; {above:.0e}"
            cells.append(figures)
        rows.append((f"{task}, {own['rows'][0]:,} x {own['rows'][1]:,}", *cells))
    return {"solvers": rows}


if __name__ == "__main__":
    tasks = (*TASKS, *MORE)
    run(
        measure,
        tables,
        only=(tasks, ("softmax, 2 classes",)),
        solvers=(SOLVERS, ("ours", "Newton-CG", "scikit-learn")),
        rounds=(3, 1),
        limit=(300.0, 60.0),
        every=(1, 4),
        shrink=(1, 40),
        before=(None, None),
    )
