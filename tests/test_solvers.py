"""Exact reduction and the batched solver, against scikit-learn at tight tolerance.

About 10 s in the first tier.
"""

from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scaled import LeastScaler
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_info, threadpool_limits

from bottleneck.solvers import path, reduce_rows
from bottleneck.solvers.closed_form import fit_ridge
from bottleneck.solvers.losses import LOSSES, Targets, evaluate_rows, in_steps
from bottleneck.solvers.path import PathPoint, fit_path, step_path

GRID = tuple(10.0**exponent for exponent in range(-6, 2))


def problems() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    normal = generator.standard_normal
    base = normal((60, 8))
    constant = normal((50, 6)).astype(np.float32)
    constant[:, 2] = 3.3
    many = np.arange(800) % 200
    return {
        "random": (normal((120, 15)), generator.integers(0, 3, 120)),
        "wide": (normal((80, 300)), generator.integers(0, 2, 80)),
        "separable": (separable := normal((100, 10)), (separable[:, 0] > 0).astype(int)),
        "collinear": (np.hstack([base, base @ normal((8, 200))]), generator.integers(0, 4, 60)),
        "constant column": (constant, generator.integers(0, 2, 50)),
        "tiny": (np.array([[0.0, 1], [1, 0], [0, 2]]), np.array([0, 1, 0])),
        "rows that repeat": (np.repeat(normal((20, 50)), 3, axis=0), np.tile([0, 1, 1], 20)),
        "200 classes": (normal((800, 40)) + 2 * normal((200, 40))[many], many),
    }


PROBLEMS = problems()


def scores_of(point: PathPoint, rows: np.ndarray, fold: int = 0) -> np.ndarray:
    return rows @ point.weight[fold].T + point.bias[fold]


def objective_of(
    affine: tuple[np.ndarray, np.ndarray], X: np.ndarray, y: np.ndarray, C: float, loss: str
) -> np.ndarray:
    """What is minimised, by itself: shape (k,), or (1,) for softmax of several classes."""
    weight, bias = affine
    scores = X @ weight.T + bias
    penalty = (weight**2).sum(axis=1) / 2
    if loss == "softmax" and len(weight) > 1:
        own = scores[np.arange(len(y)), y]
        return np.array([penalty.sum() + C * (np.logaddexp.reduce(scores, axis=1) - own).sum()])
    signs = 2 * (y[:, None] == (np.arange(len(weight)) if len(weight) > 1 else 1)) - 1
    if loss == "squared_hinge":
        return penalty + C * (np.maximum(0, 1 - signs * scores) ** 2).sum(axis=0)
    return penalty + C * np.logaddexp(0, -signs * scores).sum(axis=0)


# At this tolerance the reference ends where float64 can tell no further, and warns of it.
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge after")
@pytest.mark.parametrize("loss", ["softmax", "logistic"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_logistic_losses_equal_scikit_learn(name, loss):
    """Scores within 1e-3, objectives no more than 1e-5 above, for every C; weights lifted back."""
    X, y = PROBLEMS[name]
    reduction = reduce_rows(X, standardize=False)
    points = fit_path(reduction.rows, y, np.ones((len(X), 1)), GRID, loss)
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    classes = len(np.unique(y))
    for point in points[:: 3 if classes > 100 else 1]:
        assert point.converged.all()
        weight, bias = reduction.lift(point.weight[0], point.bias[0], X)
        ours = X @ weight.T + bias
        if loss == "softmax" or classes == 2:
            targets = [y]
        else:
            targets = [(y == label).astype(int) for label in range(min(classes, 4))]
        options = {"C": point.C, "tol": 1e-10, "max_iter": 100_000}
        plain = [LogisticRegression(**options).fit(centred, target) for target in targets]
        theirs = np.hstack([each.decision_function(centred).reshape(len(X), -1) for each in plain])
        ours = ours[:, : theirs.shape[1]]
        if loss == "softmax" and classes > 2:  # a constant for all classes changes nothing
            ours, theirs = (each - each.mean(axis=1, keepdims=True) for each in (ours, theirs))
        assert np.abs(ours - theirs).max() < 1e-3
        coefficients = np.vstack([each.coef_ for each in plain])
        intercepts = np.concatenate([each.intercept_ for each in plain])
        for target, best in zip(
            [y] if loss == "softmax" or classes == 2 else [y] * len(coefficients),
            [slice(None)] if loss == "softmax" or classes == 2 else range(len(coefficients)),
            strict=True,
        ):
            if loss == "softmax" or classes == 2:
                reference = objective_of((coefficients, intercepts), centred, target, point.C, loss)
            else:
                one = (target == best).astype(int)
                own = coefficients[best][None], intercepts[best][None]
                reference = objective_of(own, centred, one, point.C, loss)
            assert (point.objective[0, best] <= reference * (1 + 1e-5)).all()


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "200 classes"])
def test_the_squared_hinge_is_minimised(name):
    """Against L-BFGS on the same objective, as LinearSVC penalises the intercept."""
    X, y = PROBLEMS[name]
    reduction = reduce_rows(X, standardize=False)
    rows = reduction.rows
    classes = len(np.unique(y))
    for point in fit_path(rows, y, np.ones((len(X), 1)), GRID, "squared_hinge"):
        assert point.converged.all()
        for k in range(len(point.weight[0])):
            signs = 2.0 * (y == (k if classes > 2 else 1)) - 1

            def loss_and_gradient(v, signs=signs, C=point.C):
                short = np.maximum(0, 1 - signs * (rows @ v[:-1] + v[-1]))
                pull = -2 * C * signs * short
                value = v[:-1] @ v[:-1] / 2 + C * short @ short
                return value, np.r_[v[:-1] + pull @ rows, pull.sum()]

            best = minimize(
                loss_and_gradient,
                np.zeros(rows.shape[1] + 1),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-11},
            )
            assert point.objective[0, k] <= best.fun * (1 + 1e-5)
            theirs = rows @ best.x[:-1] + best.x[-1]
            assert np.abs(scores_of(point, rows)[:, k] - theirs).max() < 1e-3
        affine = point.weight[0], point.bias[0]
        own = objective_of(affine, rows, y, point.C, "squared_hinge")
        assert np.allclose(own, point.objective[0], rtol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_fold_is_as_if_its_other_rows_were_not_there(loss):
    """Also for rows held out of a reduction of all rows, and with sample weights."""
    X, y = PROBLEMS["wide"]
    y = y + (np.arange(80) % 5 == 0)
    generator = np.random.default_rng(1)
    fit = generator.random((80, 3)) < 0.7
    counts = fit * generator.uniform(0.5, 2, (80, 3))
    reduction = reduce_rows(X, standardize=False)
    together = fit_path(reduction.rows, y, counts, [1e-4, 1e-2, 1.0], loss)
    for fold in range(3):
        own = fit[:, fold]
        apart = reduce_rows(X[own], standardize=False)
        alone = fit_path(apart.rows, y[own], counts[own, fold, None], [1e-4, 1e-2, 1.0], loss)
        for point, expected in zip(together, alone, strict=True):
            weight, bias = apart.lift(expected.weight[0], expected.bias[0], X[own])
            found = scores_of(point, reduction.rows, fold)
            assert np.abs(found - (X @ weight.T + bias)).max() < 1e-3
            assert np.allclose(point.objective[fold], expected.objective[0], rtol=1e-6)


def test_weights_count_like_copies():
    X, y = PROBLEMS["random"]
    counts = 1 + np.arange(len(X)) % 3
    (weighted,) = fit_path(X, y, counts[:, None], [0.1], "softmax")
    copied, labels = np.repeat(X, counts, axis=0), np.repeat(y, counts)
    (repeated,) = fit_path(copied, labels, np.ones((len(copied), 1)), [0.1], "softmax")
    assert np.allclose(scores_of(weighted, X), scores_of(repeated, X), atol=1e-4)


def test_each_label_of_several_is_a_problem_of_its_own():
    X, _ = PROBLEMS["random"]
    labels = np.random.default_rng(0).random((120, 4)) < 0.3
    (together,) = fit_path(X, labels, np.ones((120, 1)), [0.1], "logistic")
    for k in range(4):
        (alone,) = fit_path(X, labels[:, k].astype(int), np.ones((120, 1)), [0.1], "logistic")
        assert np.allclose(scores_of(together, X)[:, k], scores_of(alone, X)[:, 0], atol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_folds_together_have_the_solutions_of_each(loss):
    X, y = PROBLEMS["random"]
    counts = (np.arange(120)[:, None] % 4 != np.arange(4)).astype(float)
    together = fit_path(X, y, counts, GRID, loss)
    for fold in range(4):
        alone = fit_path(X, y, counts[:, fold, None], GRID, loss)
        for found, point in zip(together, alone, strict=True):
            assert found.C == point.C
            assert np.allclose(found.objective[fold], point.objective[0], rtol=1e-6)
            assert np.allclose(scores_of(found, X, fold), scores_of(point, X), atol=1e-3)


@pytest.mark.parametrize("n_features", [3, 9])
def test_rows_that_are_all_alike_leave_the_intercepts(n_features):
    y = np.array([0, 1, 1, 2, 2, 2])
    rows = reduce_rows(np.ones((6, n_features))).rows
    assert rows.shape == (6, 3 if n_features < 6 else 0)
    (point,) = fit_path(rows, y, np.ones((6, 1)), [1.0], "softmax")
    shares = np.exp(point.bias[0])
    assert np.allclose(shares / shares.sum(), [1 / 6, 2 / 6, 3 / 6], atol=1e-5)


def test_a_solver_that_may_take_no_more_steps_says_so(monkeypatch):
    X, y = PROBLEMS["wide"]
    monkeypatch.setattr("bottleneck.solvers.path._STEPS", 2)
    for loss in LOSSES:
        points = fit_path(X, y, np.ones((80, 1)), [1e-12, 10.0], loss)
        assert [point.converged.tolist() for point in points] == [[True], [False]]


def test_a_grid_may_stand_in_any_order_and_twice():
    X, y = PROBLEMS["random"]
    points = fit_path(X, y, np.ones((120, 1)), [1.0, 1e-4, 1.0], "logistic")
    assert [point.C for point in points] == [1.0, 1e-4, 1.0]
    assert np.array_equal(points[0].weight, points[2].weight)


def test_float32_is_as_good_where_there_are_many_numbers(monkeypatch):
    X, y = PROBLEMS["wide"]
    exact = fit_path(reduce_rows(X).rows, y, np.ones((80, 1)), GRID, "logistic")
    monkeypatch.setattr("bottleneck.solvers.reduction.SMALL", 0)
    reduction = reduce_rows(X)
    assert reduction.rows.dtype == np.float32
    for loss in LOSSES:
        expected = fit_path(reduction.rows.astype(np.float64), y, np.ones((80, 1)), GRID, loss)
        found = fit_path(reduction.rows, y, np.ones((80, 1)), GRID, loss)
        for single, double in zip(found, expected, strict=True):
            assert single.converged.all()
            assert np.allclose(single.objective, double.objective, rtol=1e-5)
    weight, bias = reduction.lift(found[-1].weight[0], found[-1].bias[0], X)
    assert np.abs(X @ weight.T + bias - scores_of(found[-1], reduction.rows)).max() < 1e-4
    assert len(exact) == len(found)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_reduction_keeps_every_inner_product(data):
    """In no more columns than rows, also where rows or columns are dependent or constant."""
    n_samples = data.draw(st.integers(1, 7))
    n_features = data.draw(st.integers(1, 12))
    values = st.floats(-100, 100).map(lambda value: round(value, 3))
    X = data.draw(arrays(np.float64, (n_samples, n_features), elements=values))
    train = data.draw(arrays(bool, n_samples))
    train[0] = True
    standardize = data.draw(st.booleans())
    reduction = reduce_rows(X, train, standardize=standardize)
    assert reduction.rows.shape[1] <= max(n_samples, 1)
    scaler = LeastScaler(with_std=standardize).fit(X[train])
    Z = scaler.transform(X)
    largest = np.abs(Z @ Z.T).max() + 1e-9
    assert np.allclose(reduction.rows @ reduction.rows.T, Z @ Z.T, atol=1e-9 * largest)
    weight = np.ones((2, reduction.rows.shape[1]))
    lifted, bias = reduction.lift(weight, np.array([0.5, -1]), X)
    expected = reduction.rows @ weight.T + [0.5, -1]
    assert np.allclose(X @ lifted.T + bias, expected, atol=1e-6 * largest**0.5 + 1e-6)


def test_a_reduction_by_blocks_is_the_same(monkeypatch):
    X, _ = PROBLEMS["wide"]
    expected = reduce_rows(X)
    monkeypatch.setattr("bottleneck.solvers.reduction._BLOCK_BYTES", 1)
    found = reduce_rows(X)
    assert np.allclose(found.rows @ found.rows.T, expected.rows @ expected.rows.T)


@pytest.mark.skipif(cpu_count() < 2, reason="a BLAS has a single thread here")
def test_scipys_blas_has_one_thread_while_numpys_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two pools whose threads spin on the same cores made fits up to ten times as slow.
    site = Path(scipy.__file__).parents[1]

    def threads() -> dict[str, int]:
        blas = [each for each in threadpool_info() if each["user_api"] == "blas"]
        own = [Path(each["filepath"]).is_relative_to(site / "scipy.libs") for each in blas]
        return {
            "scipy" if scipys else "other": each["num_threads"]
            for scipys, each in zip(own, blas, strict=True)
        }

    seen: list[dict[str, int]] = []

    def evaluate(*given: Any) -> Any:
        seen.append(threads())
        return evaluate_rows(*given)

    monkeypatch.setattr(path, "evaluate_rows", evaluate)
    with threadpool_limits(2):
        before = threads()
        if "scipy" not in before:
            pytest.skip("SciPy and NumPy share one BLAS here")
        fit_path(np.eye(6), np.arange(6) % 2, np.ones((6, 1)), [1.0], "softmax")
        assert threads() == before == {"scipy": 2, "other": 2}
    assert seen
    assert all(each == {"scipy": 1, "other": 2} for each in seen)


@pytest.mark.parametrize("order", [(1e-3, 1e-2, 0.1), (0.1, 1e-2, 1e-3)])
@pytest.mark.parametrize("loss", ["softmax", "logistic", "squared_hinge"])
def test_steps_find_the_solutions_of_the_whole_path(loss, order):
    """In either direction, of several folds at once, with rows that are not fitted on."""
    generator = np.random.default_rng(0)
    rows, labels = generator.normal(size=(60, 8)), np.arange(60) % 3
    weights = generator.uniform(0.5, 2, (60, 3)) * (generator.random((60, 3)) < 0.8)
    step = step_path(rows, labels, weights, loss)
    for C, theirs in zip(order, fit_path(rows, labels, weights, order, loss), strict=True):
        own = step(C)
        assert own.C == C
        np.testing.assert_allclose(own.weight, theirs.weight, atol=1e-4)
        np.testing.assert_allclose(own.objective, theirs.objective, rtol=1e-9)


def test_the_zeros_of_a_cholesky_factor_are_not_multiplied() -> None:
    """Nearly half of it; some rows are not fitted on. Rows without such zeros stay as they are."""
    generator = np.random.default_rng(0)
    labels = np.arange(1200) % 3
    chosen = np.flatnonzero(generator.random(1200) < 0.9)
    weights = generator.uniform(0.5, 2, (1200, 2))
    columns = generator.normal(size=(1200, 6))
    for width, most in ((1500, 0.7), (900, 1.0)):
        rows = reduce_rows(generator.normal(size=(1200, width)).astype(np.float32)).rows
        rows = rows.astype(np.float64)
        order, parts = in_steps(rows, chosen)
        assert sorted(order) == chosen.tolist()
        assert sum(part.size for part in parts) <= most * rows[chosen].size
        assert (len(parts) > 1) == (most < 1)
        targets, own = Targets.of(labels, "softmax"), columns[: rows.shape[1] + 1]
        found = evaluate_rows(parts, targets.take(order), weights[order], own)
        plain = evaluate_rows([rows[chosen]], targets.take(chosen), weights[chosen], own)
        for each, other in zip(found, plain, strict=True):
            np.testing.assert_allclose(each, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [1, 8, 45])
@pytest.mark.parametrize("shape", [(60, 9), (60, 2), (60, 1), (50, 90)])
def test_ridge_of_many_values_equals_scikit_learn(shape, count):
    """With sample weights and rows that are held out, and also where a feature is constant."""
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=shape), np.arange(shape[0]) % 3
    X[:, 3:4] = 1.0
    reduction = reduce_rows(X)
    weights = generator.uniform(0.5, 2, len(X)) * (generator.random(len(X)) < 0.8)
    grid = np.logspace(5, -6, count).tolist()
    targets = 2.0 * (y[:, None] == np.arange(3)) - 1
    for C, (weight, bias, _) in zip(grid, fit_ridge(reduction, y, weights, grid), strict=True):
        theirs = Ridge(1 / (2 * C), solver="svd").fit(reduction.rows, targets, weights)
        own = reduction.rows @ weight.T + bias
        assert np.abs(own - theirs.predict(reduction.rows)).max() < 1e-6
