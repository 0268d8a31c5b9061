"""Sweeps over C and folds against scikit-learn's grid search: ``benchmarks/heads.py``.

Eight values of C from 1e-6 to 10 and five folds, on synthetic features like those behind a ReLU:
softmax with two classes on 2,000 x 25,088, with 20 classes on 5,000 x 2,048, and the SVM on both.
The reference is `GridSearchCV` with the faster of one job and one for each core; for the SVM it
solves the dual, as the primal took six to eight times as long (two classes: 208 and 161 s). Ours
includes the reduction, and is the median of the rounds. Beside times and ratios stands by how much
the objective of any fold is above the reference's. ``--only NAME`` measures some.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import LinearSVC

from bottleneck.solvers import reduce_rows
from bottleneck.solvers.path import PathPoint, fit_path
from common import Tables, run

GRID = [10.0**exponent for exponent in range(-6, 2)]
FOLDS = 5
TASKS = {
    "softmax, 2 classes": ("softmax", 2000, 25_088, 2, 10),
    "softmax, 20 classes": ("softmax", 5000, 2048, 20, 5),
    "svm, 2 classes": ("squared_hinge", 2000, 25_088, 2, 6),
    "svm, 20 classes": ("squared_hinge", 5000, 2048, 20, 6),
}
"""Loss, rows, features, classes, and the bar."""


def features(rows: int, columns: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    X = np.maximum(generator.standard_normal((rows, columns), dtype=np.float32), 0)
    directions = generator.standard_normal((columns, classes), dtype=np.float32)
    scores = (X - X.mean(0)) @ directions
    noise = 0.5 * scores.std() * generator.standard_normal(scores.shape, dtype=np.float32)
    return X, (scores + noise).argmax(axis=1)


def ours(X: np.ndarray, y: np.ndarray, loss: str, folds: list) -> tuple[list[PathPoint], list]:
    """Return the solutions, and seconds for the reduction and the rest."""
    started = time.perf_counter()
    reduction = reduce_rows(X, standardize=False)
    reduced = time.perf_counter()
    fit = np.ones((len(X), FOLDS))
    for fold, (_, held) in enumerate(folds):
        fit[held, fold] = 0
    points = fit_path(reduction.rows, y, fit, GRID, loss)
    for fold, (_, held) in enumerate(folds):  # what a grid search has done when it ends
        for point in points:
            reduction.rows[held] @ point.weight[fold].T + point.bias[fold]
    return points, [reduced - started, time.perf_counter() - reduced]


REFERENCES = {
    "softmax": LogisticRegression(max_iter=1000),
    "squared_hinge": LinearSVC(dual=True),
}


def search(X: np.ndarray, y: np.ndarray, estimator: object, folds: list, jobs: int) -> float:
    started = time.perf_counter()
    GridSearchCV(estimator, {"C": GRID}, cv=folds, n_jobs=jobs, refit=False).fit(X, y)
    return time.perf_counter() - started


def objectives(
    X: np.ndarray, y: np.ndarray, estimator: object, folds: list, loss: str
) -> np.ndarray:
    """Return what the reference reaches for each C and fold, its intercept made free."""
    found = np.zeros((len(GRID), FOLDS))
    for place, C in enumerate(GRID):
        for fold, (rows, _) in enumerate(folds):
            fitted = estimator.set_params(C=C).fit(X[rows], y[rows])
            scores = X[rows].astype(np.float64) @ fitted.coef_.T.astype(np.float64)
            found[place, fold] = objective(
                scores + fitted.intercept_, fitted.coef_, y[rows], C, loss
            )
    return found


def objective(scores: np.ndarray, weight: np.ndarray, y: np.ndarray, C: float, loss: str) -> float:
    penalty = float((weight.astype(np.float64) ** 2).sum()) / 2
    if loss == "softmax" and scores.shape[1] > 1:
        own = scores[np.arange(len(y)), y]
        return penalty + C * float((np.logaddexp.reduce(scores, axis=1) - own).sum())
    signs = 2 * (y[:, None] == (np.arange(scores.shape[1]) if scores.shape[1] > 1 else 1)) - 1
    if loss == "softmax":
        return penalty + C * float(np.logaddexp(0, -signs * scores).sum())
    return penalty + C * float((np.maximum(0, 1 - signs * scores) ** 2).sum())


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    warnings.simplefilter("ignore", ConvergenceWarning)
    for name in given.only:
        loss, rows, columns, classes, bar = TASKS[name]
        X, y = features(rows // given.shrink, columns // given.shrink, classes)
        yield name, {"bar": bar, **compare(X, y, loss, given.rounds)}


def compare(X: np.ndarray, y: np.ndarray, loss: str, rounds: int) -> dict[str, Any]:
    folds = list(StratifiedKFold(FOLDS).split(X, y))
    runs = [ours(X, y, loss, folds) for _ in range(rounds)]
    points = runs[0][0]
    seconds = [statistics.median(each[1][part] for each in runs) for part in (0, 1)]
    estimator = REFERENCES[loss]
    times = {jobs: search(X, y, estimator, folds, jobs) for jobs in (1, -1)}
    reference = objectives(X, y, estimator, folds, loss)
    mine = np.array([point.objective.sum(axis=1) for point in points])
    return {
        "shape": X.shape,
        "seconds": sum(seconds),
        "of the reduction": seconds[0],
        "reference": {"one job": times[1], "one for each core": times[-1]},
        "ratio": min(times.values()) / sum(seconds),
        "worst objective above the reference": float((mine / reference - 1).max()),
        "all converged": all(bool(point.converged.all()) for point in points),
    }


def tables(found: dict[str, Any]) -> Tables:
    rows: list = [("", "reference", "ours", "of it the reduction", "ratio")]
    for name, own in found.items():
        reference = "; ".join(f"{kind} {value:.1f} s" for kind, value in own["reference"].items())
        size = " x ".join(f"{side:,}" for side in own["shape"])
        seconds = (f"{own['seconds']:.2f} s", f"{own['of the reduction']:.2f} s")
        rows.append((f"{name}, {size}", reference, *seconds, own["ratio"]))
    return {"heads": rows}


if __name__ == "__main__":
    run(
        measure,
        tables,
        only=(tuple(TASKS), ("softmax, 2 classes", "svm, 2 classes")),
        rounds=(3, 1),
        shrink=(1, 40),
    )
