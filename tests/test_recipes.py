"""Neighbours, networks, several classes per image and weights, against scikit-learn.

About 9 s in the first tier.
"""

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scaled import LeastScaler
from sklearn.datasets import make_moons, make_multilabel_classification
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from bottleneck import Head
from bottleneck.cache import Cache
from bottleneck.errors import DataError, UsageError
from bottleneck.experiments import ExperimentLog
from bottleneck.heads import MLP, RECIPES, fit_rows
from bottleneck.heads.estimator import HeadClassifier
from bottleneck.heads.scoring import score_metrics
from bottleneck.labels import Targets, classes_of, join_classes, rarest_classes
from bottleneck.sweep import run_sweep

SEVERAL = [name for name, recipe in RECIPES.items() if recipe.multilabel]


def moons(samples: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that no straight line tells apart."""
    X, y = make_moons(samples, noise=0.15, random_state=0)
    return (X * [3, 0.2] + 5).astype(np.float32), np.array(["one", "other"])[y]


def tagged(samples: int = 400, features: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels such as ``class 0;class 2``, and the indicators that they stand for."""
    X, carried = make_multilabel_classification(
        samples, features, n_classes=4, n_labels=2, random_state=0
    )
    names = np.array([f"class {number}" for number in range(4)])
    labels = [join_classes(names[row]) for row in carried.astype(bool)]
    return X.astype(np.float32), np.array(labels), carried.astype(bool)


@pytest.mark.parametrize("features", [2, 700])
@pytest.mark.parametrize("n_neighbors", [1, 7])
def test_neighbours_are_scikit_learns(features, n_neighbors):
    """With fewer and with more features than rows; one extra vote is split evenly."""
    X, y = moons()
    generator = np.random.default_rng(0)
    X = np.hstack([X, generator.normal(size=(len(X), features - 2)).astype(np.float32)])
    head = fit_rows(X[:300], y[:300], "knn", n_neighbors=n_neighbors)
    plain = make_pipeline(LeastScaler(), KNeighborsClassifier(n_neighbors)).fit(X[:300], y[:300])
    votes = plain.predict_proba(X[300:]) * n_neighbors
    shares = np.exp(head.decision_function(X[300:]))
    assert np.abs(shares - (votes + 0.5) / (n_neighbors + 1)).max() < 1e-5
    assert np.array_equal(head.predict(X[300:]), plain.predict(X[300:]))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    held_out = cross_val_score(plain, X[:300], y[:300], cv=folds).mean()
    assert head.scores["accuracy"] == pytest.approx(held_out, abs=1e-9)


def test_the_number_of_neighbours_is_chosen():
    """One search gives the scores of all candidates, equal to separate ones."""
    X, y = moons(200)
    head = fit_rows(X, y, "knn")
    candidates = head.scores["candidates"]
    best = min(candidates, key=lambda each: each["log_loss"])
    assert head.hyperparameters == {"n_neighbors": best["n_neighbors"]}
    assert best["n_neighbors"] > 1
    for candidate in candidates:
        alone = fit_rows(X, y, "knn", n_neighbors=candidate["n_neighbors"])
        assert alone.scores["candidates"] == [candidate]


def test_neighbours_are_found_far_from_the_origin():
    """Feature means are a thousand times the deviations, and sample weights have any scale."""
    X, y = moons()
    far = X + np.array([0, 300], dtype=np.float32)
    head = fit_rows(far[:300], y[:300], "knn", n_neighbors=5)
    plain = make_pipeline(LeastScaler(), KNeighborsClassifier(5))
    plain.fit(far[:300].astype(np.float64), y[:300])
    assert np.mean(head.predict(far[300:]) == plain.predict(far[300:].astype(np.float64))) > 0.98
    light, plain = (
        fit_rows(far, y, "knn", sample_weight=np.full(400, weight)) for weight in (1e-4, 1)
    )
    assert light.hyperparameters == plain.hyperparameters
    assert light.scores["log_loss"] == pytest.approx(plain.scores["log_loss"], rel=1e-3)


@pytest.mark.parametrize(("rows", "given", "most"), [(30, 100, 24), (30, 25, 24), (2, 3, 2)])
def test_more_neighbours_than_training_rows_are_refused(rows, given, most):
    """Also more than a fold has; two rows cannot be folded."""
    X, y = moons(rows)
    y[:2] = np.unique(moons(40)[1])
    for model in (partial(fit_rows, X, y), lambda clf, **own: HeadClassifier(clf, **own).fit(X, y)):
        with pytest.raises(UsageError, match=rf"`n_neighbors` is {given}, .* give at most {most}$"):
            model("knn", n_neighbors=given)
        assert model("knn", n_neighbors=most)


@pytest.mark.parametrize(("rows", "tried"), [(2, [1]), (6, [1, 3, 5]), (30, [1, 3, 5, 9, 17])])
def test_no_more_neighbours_are_tried_than_there_are_rows(rows, tried):
    X, y = moons(2 * rows)
    held = X[rows:], y[rows:]
    y[:2] = np.unique(moons(40)[1])
    head = fit_rows(X[:rows], y[:rows], "knn", validation=held)
    assert [each["n_neighbors"] for each in head.scores["candidates"]] == tried


@pytest.mark.parametrize("clf", ["knn", "mlp"])
def test_what_is_not_linear_is_learnt(clf):
    X, y = moons(600)
    straight, curved = (fit_rows(X[:400], y[:400], each) for each in ("softmax", clf))
    right = [np.mean(head.predict(X[400:]) == y[400:]) for head in (straight, curved)]
    assert right[0] < 0.92
    assert right[1] > 0.95


def test_a_network_stops_by_itself_and_keeps_its_best_epoch():
    X, y = moons(300)
    done = []
    settings = MLP(
        hidden=64,
        patience=4,
        epochs=200,
        learning_rate=0.01,
    )
    head = fit_rows(X, y, settings, progress=lambda *given: done.append(given))
    history = head.scores["history"]
    losses = [epoch["val_loss"] for epoch in history]
    best = int(np.argmin(losses))
    assert len(history) == best + 1 + 4 < 200
    assert [epoch["epoch"] for epoch in history] == list(range(1, len(history) + 1))
    assert done == [("mlp", epoch["epoch"], 200) for epoch in history]
    assert losses[best] < losses[0]
    # What is kept are the weights of that epoch: its held-out loss, but for the temperature.
    assert head.scores["candidates"][0]["log_loss"] == pytest.approx(losses[best], rel=1e-4)
    assert head.hyperparameters["hidden"] == 64
    head.save("heads/net")
    with Path("heads/net/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == losses
    assert Head.load("heads/net").scores["history"] == history


def test_training_depends_on_the_seed_alone():
    X, y = moons(120)
    settings = MLP(hidden=16, epochs=3)
    first, again, other = (fit_rows(X, y, settings, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.decision_function(X), again.decision_function(X))
    assert not np.array_equal(first.decision_function(X), other.decision_function(X))


def test_validation_rows_say_when_to_stop():
    X, y = moons(300)
    head = fit_rows(X[:200], y[:200], MLP(hidden=32), validation=(X[200:], y[200:]))
    assert head.scores["held_out"] == "validation images"
    assert fit_rows(X, y, MLP(hidden=32, epochs=2)).scores["held_out"] == "one of 5 folds"


def test_a_diverging_training_is_an_error():
    X, y = moons(100)
    with pytest.raises(DataError, match=r"in epoch \d: its loss is nan, .*`learning_rate=1e\+29`"):
        fit_rows(X, y, MLP(learning_rate=1e30))
    for wrong in ({"hidden": 0}, {"dropout": 1.0}, {"epochs": 0}, {"learning_rate": float("nan")}):
        with pytest.raises(UsageError, match=f"`{next(iter(wrong))}` must be .*, got"):
            MLP(**wrong)


def test_one_image_in_a_class_leaves_nothing_to_stop_on():
    X, y = moons(20)
    y[:] = "many"
    y[0] = "once"
    with pytest.raises(DataError, match="class 'once' has 1 different .*, or val images"):
        fit_rows(X, y, "mlp")


PLAIN = {
    "logreg": lambda C: LogisticRegression(C=C, max_iter=10_000, tol=1e-8),
    "ridge": lambda C: RidgeClassifier(alpha=1 / (2 * C)),
}


@pytest.mark.parametrize("clf", PLAIN)
@pytest.mark.parametrize("features", [30, 600])
@pytest.mark.parametrize("balanced", [False, True])
def test_each_of_several_classes_is_scikit_learns(clf, features, balanced):
    X, labels, carried = tagged(features=features)
    head = fit_rows(X, labels, clf, C=0.03, balanced=balanced)
    weights = {"class_weight": "balanced"} if balanced else {}
    one = PLAIN[clf](0.03).set_params(**weights)
    plain = make_pipeline(LeastScaler(), OneVsRestClassifier(one))
    theirs = plain.fit(X.astype(np.float64), carried).decision_function(X.astype(np.float64))
    assert np.abs(head.decision_function(X) - theirs).max() < 1e-2
    assert head.multilabel
    assert head.classes == ("class 0", "class 1", "class 2", "class 3")


@pytest.mark.parametrize("clf", SEVERAL)
def test_several_classes_are_predicted(clf):
    """Better than chance on held-out rows, with independent probabilities of the classes."""
    X, labels, carried = tagged(800)
    head = fit_rows(X[:600], labels[:600], clf)
    scores = head.decision_function(X[600:])
    chance = carried[600:].mean(axis=0).mean()
    assert average_precision_score(carried[600:], scores) > chance + 0.15
    shares = head.predict_proba(X[600:])
    assert not np.allclose(shares.sum(axis=1), 1)
    given = [set(classes_of(label)) for label in head.predict(X[600:])]
    for own, row in zip(given, shares > 0.5, strict=True):
        assert own == {name for name, yes in zip(head.classes, row, strict=True) if yes}
    head.save("heads/several")
    loaded = Head.load("heads/several")
    assert np.array_equal(loaded.predict(X), head.predict(X))
    assert loaded.as_dict() == head.as_dict()
    reported = head.scores
    assert reported["average_precision"] == pytest.approx(
        average_precision_score(carried[600:], scores), abs=0.08
    )
    assert reported["log_loss"] < np.log(2)


def test_indicators_are_labels_too():
    X, labels, carried = tagged(200)
    named, numbered = fit_rows(X, labels, "logreg", C=0.1), fit_rows(X, carried, "logreg", C=0.1)
    assert np.array_equal(named.decision_function(X), numbered.decision_function(X))
    assert numbered.classes == ("0", "1", "2", "3")


def test_recipes_of_one_class_refuse_several():
    X, labels, _ = tagged(100)
    for clf in set(RECIPES) - set(SEVERAL):
        with pytest.raises(UsageError, match=f"{clf} gives each image one class.*logreg, svm"):
            fit_rows(X, labels, clf)
    everyone = np.array(["a;b", "a", "a;b", "a;"])
    with pytest.raises(DataError, match="class 'a' has no images of sample weight above 0, or all"):
        fit_rows(X[:4], everyone, "logreg")


@pytest.mark.parametrize("clf", sorted(set(RECIPES) - {"mlp", "lda"}))
def test_a_sample_weight_equals_copies_of_a_row(clf):
    X, y = moons(60)
    generator = np.random.default_rng(1)
    weights = generator.integers(0, 4, len(X))
    value = {"knn": {}, "centroid": {}}.get(clf, {"C": 0.5})
    known = np.repeat(X, weights, axis=0), np.repeat(y, weights)

    def fit(X, y, neighbours, **weighted):  # the nearest neighbours that vote are all rows
        own = {"n_neighbors": int(neighbours), "validation": known} if clf == "knn" else value
        return fit_rows(X, y, clf, **own, **weighted)

    weighted = fit(X, y, (weights > 0).sum(), sample_weight=weights)
    repeated = fit(*known, weights.sum())
    ours, theirs = (head.decision_function(X) for head in (weighted, repeated))
    if clf == "softmax":
        ours, theirs = (scores[:, 1] - scores[:, 0] for scores in (ours, theirs))
    if clf == "centroid":  # it is known but for a constant, which the mean of all rows changes
        ours, theirs = (scores - scores.mean(axis=1, keepdims=True) for scores in (ours, theirs))
    assert np.abs(ours - theirs).max() < 1e-3 * max(1, np.abs(theirs).max())


@pytest.mark.parametrize("clf", PLAIN)
def test_a_row_that_is_held_out_swallows_no_others(clf):
    """An almost constant feature gives it a larger norm than all other rows together."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(200, 3000)).astype(np.float32)
    y = np.repeat(["a", "b"], 100)
    X[y == "b", :30] += 0.5
    X[:, 0] = 0
    X[3, 0], X[0, 0] = 6e-8, 2.0
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    plain = make_pipeline(LeastScaler(), PLAIN[clf](1e-4))
    theirs = cross_val_score(plain, X.astype(np.float64), y, cv=folds).mean()
    assert fit_rows(X, y, clf, C=1e-4).scores["accuracy"] == pytest.approx(theirs, abs=0.006)


def test_semicolons_elsewhere_in_the_set_count():
    X, y = moons(60)
    head = fit_rows(X, y, "logreg", C=1.0, multilabel=True)
    assert head.multilabel
    with pytest.raises(UsageError, match="softmax gives each image one class"):
        fit_rows(X, y, multilabel=True)


def test_invalid_sample_weights_are_refused():
    X, y = moons(20)
    for weights in (np.ones(3), np.full(20, -1.0), np.full(20, np.nan)):
        with pytest.raises(UsageError, match="must be finite numbers of at least 0, one for each"):
            fit_rows(X, y, sample_weight=weights)
    with pytest.raises(DataError, match="class 'other' has no images of sample weight above 0"):
        fit_rows(X, y, sample_weight=(y == "one").astype(float))


def test_metrics_of_several_classes():
    targets = Targets.among(np.array(["a;b", "b", ";"]), ("a", "b"), multilabel=True)
    scores = np.array([[2.0, 1.0], [1.0, 3.0], [-1.0, -2.0]])
    found = score_metrics("independent", scores, targets)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["balanced_accuracy"] == pytest.approx(((1 + 0.5) / 2 + 1) / 2)
    assert found["average_precision"] == pytest.approx(1)
    signs = np.array([[1, 1], [-1, 1], [-1, -1]])
    assert found["log_loss"] == pytest.approx(np.log1p(np.exp(-signs * scores)).mean())
    sure = 1 / (1 + np.exp(-np.abs(scores)))
    right = np.array([[1, 1], [0, 1], [1, 1]])
    bins = (sure * 15).astype(int)
    gap = sum(abs((sure - right)[bins == each].sum()) for each in np.unique(bins))
    assert found["calibration_error"] == pytest.approx(gap / 6)


@given(st.lists(st.sets(st.sampled_from("abcde")), min_size=1))
def test_labels_are_read_as_they_are_written(named):
    labels = [join_classes(sorted(classes)) for classes in named]
    assert [set(classes_of(label)) for label in labels] == named
    targets = Targets.among(np.array(labels), tuple("abcde"), multilabel=True)
    again = [set(np.array(targets.classes)[row]) for row in targets.codes]
    assert again == named
    counts = {each: sum(each in classes for classes in named) for each in "abcde"}
    for classes, rarest in zip(named, rarest_classes(labels), strict=True):
        assert counts.get(rarest, 0) == min((counts[each] for each in classes), default=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_finds_what_the_processor_finds():
    X, y = tagged(400, 800)[:2]
    y = np.array([each.partition(";")[0] for each in y])
    on_processor, on_gpu = (fit_rows(X, y, "mlp", device=device) for device in ("cpu", "cuda"))
    assert on_gpu.hyperparameters == on_processor.hyperparameters
    gap = np.abs(on_gpu.decision_function(X) - on_processor.decision_function(X))
    assert gap.max() < 1e-2 * np.abs(on_processor.decision_function(X)).max()


@pytest.mark.parametrize("clf", [name for name in RECIPES if name != "mlp"])
def test_a_device_is_refused_where_nothing_is_trained_on_it(clf):
    X, y = tagged(40, 8)[:2]
    y = np.array([each.partition(";")[0] for each in y])
    with pytest.raises(UsageError, match=f"`device` applies to mlp only; {clf} is fitted on the"):
        fit_rows(X, y, clf, device="cuda")
    log = ExperimentLog(Path("log.sqlite"))
    with pytest.raises(UsageError, match=f"`device` applies to mlp only, not to {clf}; leave it"):
        run_sweep(Cache("cache"), [], log, clfs=[clf], device="cuda")
    assert run_sweep(Cache("cache"), [], log, clfs=[clf, "mlp"], device="cuda") == []
