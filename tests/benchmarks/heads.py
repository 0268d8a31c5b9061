"""Sweeps over C and folds against scikit-learn's grid search: ``python tests/benchmarks/heads.py``.

Eight values of C from 1e-6 to 10 and five folds, on synthetic features like those behind a ReLU:
softmax with two classes on 2,000 x 25,088, with 20 classes on 5,000 x 2,048, and the SVM on both.
The reference is `GridSearchCV` with the faster of one job and one for each core, and for the SVM
with the faster of the primal and the dual. Ours includes the reduction, and is the median of three
runs. Prints times and ratios, by how much the objective of any fold is above the reference's, and
writes ``heads.json`` into the current folder. ``--only NAME`` measures one.
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import LinearSVC

from bottleneck.solvers import reduce_rows
from bottleneck.solvers.path import PathPoint, fit_path

GRID = [10.0**exponent for exponent in range(-6, 2)]
FOLDS = 5
ROUNDS = 3
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


def references(loss: str) -> dict[str, object]:
    if loss == "softmax":
        return {"lbfgs": LogisticRegression(max_iter=1000)}
    return {"primal": LinearSVC(dual=False), "dual": LinearSVC(dual=True)}


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


def measure(name: str) -> dict[str, object]:
    loss, rows, columns, classes, bar = TASKS[name]
    X, y = features(rows, columns, classes)
    folds = list(StratifiedKFold(FOLDS).split(X, y))
    runs = [ours(X, y, loss, folds) for _ in range(ROUNDS)]
    points = runs[0][0]
    seconds = [statistics.median(run[1][part] for run in runs) for part in (0, 1)]
    print(f"{name}: ours {sum(seconds):.2f} s, {seconds[0]:.2f} of them the reduction", flush=True)
    times = {}
    for kind, estimator in references(loss).items():
        for jobs in (1, -1):
            times[f"{kind}, {jobs} jobs"] = search(X, y, estimator, folds, jobs)
            print(f"  {kind}, {jobs} jobs: {times[f'{kind}, {jobs} jobs']:.1f} s", flush=True)
    best = min(times, key=times.__getitem__)
    reference = objectives(X, y, references(loss)[best.partition(",")[0]], folds, loss)
    mine = np.array([point.objective.sum(axis=1) for point in points])
    above = float((mine / reference - 1).max())
    ratio = times[best] / sum(seconds)
    print(f"  {ratio:.1f} times faster than {best}, bar {bar}; worst objective {above:+.1e}")
    return {
        "seconds": sum(seconds),
        "of the reduction": seconds[0],
        "references": times,
        "ratio": ratio,
        "bar": bar,
        "worst objective above the reference": above,
        "all converged": all(point.converged.all() for point in points),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=TASKS)
    only = parser.parse_args().only
    warnings.simplefilter("ignore", ConvergenceWarning)
    results = {name: measure(name) for name in TASKS if only in {None, name}}
    Path("heads.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
