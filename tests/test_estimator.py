"""Heads as scikit-learn's estimators. About 15 s in the first tier."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from bottleneck import MLP, BottleneckFeatures, HeadClassifier
from bottleneck.errors import UnknownNameError, UsageError
from bottleneck.heads import RECIPES, fit_rows

# Weights count like repeated rows for a given C (see test_recipes.py); but what is chosen or
# calibrated on folds sees other folds where rows are repeated.
EXPECTED = {"check_sample_weight_equivalence_on_dense_data": "folds differ"}


@pytest.mark.filterwarnings("ignore")  # scikit-learn's own, of checks that are skipped
@pytest.mark.parametrize(
    "clf",
    [
        pytest.param(clf, marks=pytest.mark.ci if clf in {"logreg", "mlp", "svm"} else [])
        for clf in sorted(RECIPES)
    ],
)
def test_scikit_learns_checks(clf):
    """The value of a hyperparameter is chosen by ``knn`` only, which takes the least time."""
    chosen = MLP(hidden=8, epochs=20, learning_rate=0.05) if clf == "mlp" else clf
    C = 1.0 if clf in {"softmax", "logreg", "svm", "ridge"} else None
    results = check_estimator(
        HeadClassifier(chosen, C=C), expected_failed_checks=EXPECTED, on_skip=None, on_fail=None
    )
    failed = {
        each["check_name"]: each["exception"] for each in results if each["status"] == "failed"
    }
    assert not failed
    assert sum(each["status"] == "passed" for each in results) > 50


def test_it_fits_what_fit_head_fits():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    head = fit_rows(X, names, "svm", seed=3)
    estimator = HeadClassifier("svm", random_state=3).fit(X, names)
    assert estimator.head_.hyperparameters == head.hyperparameters
    assert np.array_equal(estimator.predict_proba(X), head.predict_proba(X))
    assert np.array_equal(estimator.predict(X), head.predict(X))
    assert np.array_equal(estimator.head_.predict(X), head.predict(X))
    assert estimator.decision_function(X).shape == (150, 3)
    two = HeadClassifier(C=1.0).fit(X[:100], y[:100])
    assert np.array_equal(two.decision_function(X) > 0, two.predict(X) == 1)


def test_columns_of_each_layer_have_a_norm_of_their_own():
    X, y = load_iris(return_X_y=True)
    apart = [each / np.linalg.norm(each, axis=1)[:, None] for each in (X[:, :1], X[:, 1:])]
    found = HeadClassifier(C=1.0, normalize="l2", widths=[1, 3]).fit(X, y)
    expected = HeadClassifier(C=1.0).fit(np.hstack(apart), y)
    assert np.allclose(found.predict_proba(X), expected.predict_proba(np.hstack(apart)), atol=1e-5)
    with pytest.raises(UsageError, match="`widths` of 3 columns in all do not fit features of 4"):
        HeadClassifier(C=1.0, normalize="l2", widths=[1, 2]).fit(X, y)


def test_searches_find_the_best_head():
    X, y = load_iris(return_X_y=True)
    search = GridSearchCV(
        HeadClassifier(), {"clf": ["softmax", "knn", "centroid"], "standardize": [True, False]}
    ).fit(X, y)
    assert search.best_score_ > 0.95
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    groups = np.arange(150) % 50  # each of all classes
    scores = cross_val_score(
        HeadClassifier("ridge"), X, y, groups=groups, cv=GroupKFold(3), params={"groups": groups}
    )
    assert scores.mean() > 0.7


def test_paths_in_classes_out(faces, faces_cache):
    """From images to classes in one pipeline, searched over pooling and penalty at once."""
    paths = sorted(map(str, faces.glob("*/*")))[::4]
    labels = np.array([path.split("/")[-2] for path in paths])
    pipeline = make_pipeline(
        BottleneckFeatures("efficientnet_lite0", cache=faces_cache.root),
        HeadClassifier(C=0.01),
    )
    assert cross_val_score(pipeline, paths, labels, cv=4).mean() > 0.9
    grid = {"headclassifier__C": [1e-6, 0.1], "headclassifier__clf": ["softmax", "svm"]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(paths, labels)
    assert search.predict(paths).tolist() == labels.tolist()
    copy = clone(search.best_estimator_)
    assert copy.get_params()["headclassifier__C"] == search.best_params_["headclassifier__C"]


def test_an_unknown_classifier_is_refused():
    with pytest.raises(UnknownNameError, match="no classifier 'svmm'; expected one of .*'svm'"):
        HeadClassifier("svmm").fit(np.eye(4), [0, 1, 0, 1])
