"""The search for C against scikit-learn, and a whole sweep: ``benchmarks/sweeps.py``.

The protocol of DINOv2 and DINOv3: logistic regression for 45 values of C from 1e-6 to 1e5. Here
each is judged by the log loss on held-out rows of five folds. The reference fits them all with
`LogisticRegression(max_iter=1000)`, in one process or in one for each core, whichever is faster on
a few fits; ours is `bottleneck.heads.stepping.choose_stepwise`, as `advise` chooses. Both have the
same rows, as float32, and folds. On ``--wide`` columns the reference fits five of the 45 values on
one fold, which is scaled to 45 values and five folds, and the log losses are those of our choice on
that fold. Rows are drawn: rectified mixtures of causes of falling strength, with about the variance
in their first components that the features of a network have; their shares are printed.

For ridge and LDA, all values and folds are fitted, and held-out rows scored; LDA has one value, as
its shrinkage is a formula. That of ridge is timed with the Gram matrices given, too.

The sweep is the command, its start included: EfficientNet-Lite0, four layers, three poolings, and
softmax, svm, ridge and lda, on ``--images`` images of clipart (see ``sets.py``) if ``--packages``
has their folder, else on photographs of two classes. A fifth of them are test images.
"""

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.heads.prepare import make_problem, recipe_of
from bottleneck.heads.problem import Fold, Problem
from bottleneck.heads.stepping import choose_stepwise, held_rows
from bottleneck.settings import FitSettings
from bottleneck.solvers import threads_for
from bottleneck.solvers.closed_form import solve_shifted
from common import Tables, run, run_process, write_photographs
from recipes import MODEL
from sets import load

GRID = np.logspace(-6, 5, 45).tolist()
FOLDS, CLASSES = 5, 10
EVERY = 9
"""Of the 45 values, each so-many-th is fitted on many columns."""
LAYERS = ("blocks.2", "blocks.4", "blocks.6", "last_conv")
POOLS = ("avg", "max", "gem")
CLFS = ("softmax", "svm", "ridge", "lda")
ROWS = {
    "softmax, 45 C x 5 folds": "10 times as fast",
    "softmax, 45 C x 5 folds, wide": "30 times as fast",
    "ridge, 45 C x 5 folds": "1 s, Gram matrices given",
    "lda, 5 folds": "1 s",
    "sweep": "60 s",
}
"""What is measured, and the bar."""


def features(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows like those of a network, and classes that the strongest causes tell."""
    normal = np.random.default_rng(0).standard_normal
    strengths = np.arange(1, 513, dtype=np.float32)[:, None] ** -0.4
    causes = normal((rows, 512), np.float32)
    mixing = strengths * normal((512, columns), np.float32)
    X = np.maximum(causes @ mixing + 0.5 * normal((rows, columns), np.float32), 0)
    scores = causes[:, :64] @ normal((64, CLASSES), np.float32)
    y = (scores + 0.25 * scores.std() * normal(scores.shape)).argmax(axis=1)
    return (X - X.mean(axis=0)) / X.std(axis=0), y


def components(X: np.ndarray) -> list[float]:
    """Return the share of the variance in the first 1, 10, 64 and 256 components of some rows."""
    some = X[:1500, :1280].astype(np.float64)
    values = np.linalg.svd(some - some.mean(axis=0), compute_uv=False) ** 2
    return [float(values[:count].sum() / values.sum()) for count in (1, 10, 64, 256)]


def problem_on(X: np.ndarray, y: np.ndarray, clf: str) -> tuple[Problem, list[Fold]]:
    """Return the problem on rows as they are given, and its folds."""
    problem = make_problem(X, y, recipe_of(clf), FitSettings(clf=clf, standardize=False))
    return problem, problem.folds(FOLDS)


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    warnings.simplefilter("ignore", ConvergenceWarning)
    for name in given.only:
        bar = {"bar": ROWS[name]}
        if name == "sweep":
            yield name, bar | sweep(given)
        elif name.startswith("softmax"):
            wide = name.endswith("wide")
            X, y = features(given.rows, given.wide if wide else given.columns)
            yield name, bar | {"shape": X.shape} | softmax(X, y, given.rounds, one_fold=wide)
        else:
            X, y = features(given.rows, given.columns)
            clf = name.partition(",")[0]
            yield name, bar | {"shape": X.shape} | closed(X, y, clf, given.rounds)


def softmax(X: np.ndarray, y: np.ndarray, rounds: int, *, one_fold: bool) -> dict[str, Any]:
    problem, folds = problem_on(X, y, "softmax")
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        with threads_for(X.size):
            value, scores = choose_stepwise(recipe_of("softmax"), "softmax", problem, folds, GRID)
        times.append(time.perf_counter() - started)
    held = np.split(scores, np.cumsum([fold.held.sum() for fold in folds])[:-1])
    losses = [log_loss(y[fold.held], shares(own)) for fold, own in zip(folds, held, strict=True)]
    jobs = fastest(X, y, folds[0])
    if one_fold:
        found = reference(X, y, folds[:1], GRID[4::EVERY], jobs)
        seconds = found[0] * len(GRID) * FOLDS / len(GRID[4::EVERY])
        _, ((theirs,),) = reference(X, y, folds[:1], [value], jobs)
        ours, chosen = losses[0], value
    else:
        seconds, each = reference(X, y, folds, GRID, jobs)
        counts = [int(fold.held.sum()) for fold in folds]
        means = np.average(each, axis=1, weights=counts)
        theirs, chosen = means.min(), GRID[int(means.argmin())]
        ours = np.average(losses, weights=counts)
    return {
        "reference": seconds,
        "processes of the reference": jobs,
        "ours": statistics.median(times),
        "ratio": seconds / statistics.median(times),
        "C of the reference": chosen,
        "our C": value,
        "log loss of the reference": float(theirs),
        "our log loss": float(ours),
        "variance of the first 1, 10, 64, 256 components": components(X),
    }


def shares(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores - scores.max(axis=1, keepdims=True)).astype(np.float64)
    return odds / odds.sum(axis=1, keepdims=True)


def fit(X: np.ndarray, y: np.ndarray, fold: Fold, C: float) -> tuple[float, float]:
    """Return the seconds that the reference takes to fit and score, and its log loss."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    started = time.perf_counter()
    fitted = LogisticRegression(C=C, max_iter=1000).fit(X[fold.fit], y[fold.fit])
    found = fitted.predict_proba(X[fold.held])
    seconds = time.perf_counter() - started
    return seconds, log_loss(y[fold.held], shares(np.log(found + 1e-30)))


def reference(
    X: np.ndarray, y: np.ndarray, folds: Sequence[Fold], grid: Sequence[float], jobs: int
) -> tuple[float, np.ndarray]:
    """Return the seconds of all fits, as if no process ever waited, and log losses by C, fold."""
    tasks = [joblib.delayed(fit)(X, y, fold, C) for C in grid for fold in folds]
    found = np.array(joblib.Parallel(jobs)(tasks))
    return found[:, 0].sum() / jobs, found[:, 1].reshape(len(grid), len(folds))


def fastest(X: np.ndarray, y: np.ndarray, fold: Fold) -> int:
    """Return with how many processes the reference is faster: one, or one for each core."""
    counts = {1, joblib.cpu_count()}
    seconds = {
        jobs: reference(X, y, [fold] * joblib.cpu_count(), GRID[16:17], jobs)[0] for jobs in counts
    }
    return min(seconds, key=seconds.__getitem__)


def closed(X: np.ndarray, y: np.ndarray, clf: str, rounds: int) -> dict[str, Any]:
    problem, folds = problem_on(X, y, clf)
    recipe, rows = recipe_of(clf), problem.reduction().rows
    reduced = replace(problem, X=rows, n_features=X.shape[1])
    times, given = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        scored = list(recipe.held_out(reduced, folds, GRID if recipe.parameter else [None]))
        times.append(time.perf_counter() - started)
        given.append(from_gram_matrices(rows, y, folds))
    held = problem.targets.take(held_rows(folds))
    right = [(np.concatenate(each).argmax(axis=1) == held.codes).mean() for each in scored]
    known = {"with Gram matrices given": statistics.median(given)} if clf == "ridge" else {}
    return {"ours": statistics.median(times), **known, "best accuracy": float(max(right))}


def from_gram_matrices(rows: np.ndarray, y: np.ndarray, folds: Sequence[Fold]) -> float:
    """Return the seconds that ridge takes for all values and folds, with these matrices given."""
    own = [rows[fold.fit].astype(np.float64) for fold in folds]
    targets = [2.0 * (y[fold.fit, None] == np.arange(CLASSES)) - 1 for fold in folds]
    matrices = [(each.T @ each, each.T @ wanted) for each, wanted in zip(own, targets, strict=True)]
    started = time.perf_counter()
    for products, sums in matrices:
        list(solve_shifted(products, sums, [1 / (2 * C) for C in GRID]))
    return time.perf_counter() - started


def sweep(given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.packages:
            source = given.packages / "clipart"
            images = load("clipart", source, folder / "set", images=given.images)
        else:
            write_photographs(folder / "photographs", given.images)
            images = ImageSet.open(folder / "photographs")
        layers = list(LAYERS[: given.layers])
        for pool in POOLS:
            base = FrozenBase(MODEL, layers, pool=pool)
            extract_features(images, base, Cache(folder / "cache"))
        options = {"layer": layers, "pool": POOLS, "clf": CLFS}
        chosen = [f"--{option}={value}" for option, values in options.items() for value in values]
        command = [sys.executable, "-m", "bottleneck", "sweep", *chosen]
        command += ["--cache", str(folder / "cache"), "--json"]
        times, experiments = [], 0
        for number in range(given.rounds):
            log = folder / f"{number}.sqlite"
            started = time.perf_counter()
            printed, *_ = run_process([*command, "--log", str(log)])
            times.append(time.perf_counter() - started)
            experiments = printed.count('"clf"')
    return {"images": len(images.items), "ours": statistics.median(times), "shown": experiments}


def tables(found: dict[str, Any]) -> Tables:
    rows: list = [("", "reference", "ours", "ratio", "bar", "log loss less the reference's")]
    for name, own in found.items():
        size = f", {' x '.join(f'{side:,}' for side in own['shape'])}" if "shape" in own else ""
        what = name.removesuffix(", wide")
        seconds = f"{own['ours']:.3g} s"
        if (given := own.get("with Gram matrices given")) is not None:
            seconds += f"; with Gram matrices given {given:.2g} s"
        if "reference" not in own:
            rows.append((f"{what}{size}", "", seconds, "", own["bar"], ""))
            continue
        scaled = ", scaled" if name.endswith("wide") else ""
        less = f"{own['our log loss'] - own['log loss of the reference']:+.1g}"
        theirs = f"{own['reference']:.0f} s{scaled}"
        rows.append((f"{what}{size}", theirs, seconds, own["ratio"], own["bar"], less))
    return {"sweeps": rows}


if __name__ == "__main__":
    run(
        measure,
        tables,
        only=(tuple(ROWS), tuple(ROWS)),
        rows=(5000, 200),
        columns=(1024, 40),
        wide=(25_088, 400),
        images=(2000, 40),
        layers=(4, 1),
        rounds=(3, 1),
        packages=(None, None),
    )
