"""The search for C, against scikit-learn's fits of the whole grid. About 6 s."""

import warnings
from collections import Counter

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from bottleneck.heads.prepare import make_problem, recipe_of
from bottleneck.heads.problem import Fold
from bottleneck.heads.stepping import choose_stepwise, search
from bottleneck.settings import FitSettings

GRID = np.logspace(-6, 5, 45).tolist()
PLAIN = FitSettings(standardize=False)


def rows_of(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return correlated features, and classes that they tell but for some noise."""
    normal = np.random.default_rng(0).standard_normal
    causes = normal((150, 20)) / np.arange(1, 21)
    X = causes @ normal((20, 40)) + 0.1 * normal((150, 40))
    return X, (causes @ normal((20, 3)) + noise * normal((150, 3))).argmax(axis=1)


def log_loss_of(X: np.ndarray, y: np.ndarray, folds: list[Fold], C: float, **options) -> float:
    """Return the log loss of all held-out rows by scikit-learn's fits."""
    plain = LogisticRegression(C=C, **options)
    shares = [plain.fit(X[own.fit], y[own.fit]).predict_proba(X[own.held]) for own in folds]
    return log_loss(np.concatenate([y[own.held] for own in folds]), np.concatenate(shares))


@pytest.mark.parametrize(
    "noise", [0.0, *(pytest.param(each, marks=pytest.mark.ci) for each in (0.3, 3.0))]
)
def test_few_values_are_as_good_as_all_that_scikit_learn_fits(noise):
    """The best held-out log loss is that of 45 values, and each is that of an exact solution."""
    X, y = rows_of(noise)
    problem = make_problem(X, y, recipe_of("softmax"), PLAIN)
    folds = problem.folds(3)
    found = list(search(recipe_of("softmax"), "softmax", problem, folds, GRID))
    assert len(found) < 20
    assert set(Counter(tried.value for tried in found).values()) == {1}
    best = min(found, key=lambda tried: tried.log_loss)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = [log_loss_of(X, y, folds, C, max_iter=1000) for C in GRID]
        for tried in found:
            exact = log_loss_of(X, y, folds, tried.value, max_iter=20_000, tol=1e-9)
            assert tried.log_loss == pytest.approx(exact, rel=2e-3)
    assert best.log_loss <= min(theirs) + 1e-3
    value, scores = choose_stepwise(recipe_of("softmax"), "softmax", problem, folds, GRID)
    assert value == best.value
    assert np.array_equal(scores, np.concatenate(best.scores))


@pytest.mark.parametrize("grid", [[0.1], [1.0, 0.01], [10.0, 0.1, 1e-3, 0.1]])
def test_a_short_grid_in_any_order_is_searched_from_its_end(grid):
    problem = make_problem(*rows_of(0.3), recipe_of("svm"), PLAIN)
    found = list(search(recipe_of("svm"), "softmax", problem, problem.folds(3), grid))
    assert {tried.value for tried in found} <= set(grid)
    assert found[0].value == max(grid)


def test_values_that_cost_no_fit_are_all_tried():
    problem = make_problem(*rows_of(0.3), recipe_of("ridge"), PLAIN)
    found = search(recipe_of("ridge"), "softmax", problem, problem.folds(3), GRID)
    assert [tried.value for tried in found] == GRID
