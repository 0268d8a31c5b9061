"""Heads: the arithmetic against scikit-learn, the choice of C, saving and loading.

About 15 s in the first tier.
"""

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import source_record
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as save_arrays
from scaled import LeastScaler
from sklearn.covariance import ledoit_wolf
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from bottleneck import Head, load_features, select_features
from bottleneck.cli.notes import note_candidates
from bottleneck.errors import DataError, UnknownNameError, UsageError
from bottleneck.files import read_json, write_json
from bottleneck.heads import (
    C_GRID,
    MLP,
    RECIPES,
    calibration_error,
    find_head,
    fit_rows,
    head_names,
)
from bottleneck.heads.problem import row_weights
from bottleneck.heads.scoring import log_probabilities
from bottleneck.heads.strata import _stratified
from bottleneck.labels import Targets

PLAIN = {
    "softmax": lambda C: LogisticRegression(C=C, max_iter=10_000, tol=1e-8),
    "logreg": lambda C: OneVsRestClassifier(LogisticRegression(C=C, max_iter=10_000, tol=1e-8)),
    # It penalises the intercept, which is the less the larger the column that stands for it is.
    "svm": lambda C: LinearSVC(C=C, max_iter=10**6, tol=1e-9, dual=False, intercept_scaling=30),
    "ridge": lambda C: RidgeClassifier(alpha=1 / (2 * C)),
}


def problem(classes: int, features: int, samples: int = 120) -> tuple[np.ndarray, np.ndarray]:
    X, y = make_classification(
        n_samples=samples,
        n_features=features,
        n_informative=min(features, 8),
        n_redundant=0,
        n_classes=classes,
        class_sep=0.7,
        random_state=0,
    )
    scale = np.geomspace(0.1, 10, features)
    return (X * scale + 3).astype(np.float32), np.array([f"class {label}" for label in y])


@pytest.mark.parametrize(("count", "seed"), [(2, 0), (5, 3), (7, 2**32 - 1)])
def test_folds_are_those_of_scikit_learn(count, seed):
    strata = np.random.default_rng(seed).choice([3, 0, 2, 1], size=211, p=[0.5, 0.3, 0.15, 0.05])
    plain = StratifiedKFold(count, shuffle=True, random_state=seed).split(strata, strata)
    for own, (_, theirs) in zip(_stratified(strata, count, seed), plain, strict=True):
        np.testing.assert_array_equal(own, theirs)


@pytest.mark.parametrize("clf", PLAIN)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("features", [10, 300])
def test_scores_equal_scikit_learns_pipeline(clf, classes, features):
    """With fewer and with more features than samples; standardisation folded in."""
    X, y = problem(classes, features)
    head = fit_rows(X, y, clf, C=0.03)
    plain = make_pipeline(LeastScaler(), PLAIN[clf](0.03)).fit(X.astype(np.float64), y)
    theirs = plain.decision_function(X.astype(np.float64))
    ours = head.decision_function(X)
    assert ours.shape == (120, classes)
    if classes == 2:
        ours = ours[:, 1] - ours[:, 0] if clf == "softmax" else ours[:, 1]
    assert np.abs(ours - theirs).max() < 1e-2 * max(1, np.abs(theirs).max())
    assert np.mean(head.predict(X) == plain.predict(X.astype(np.float64))) > 0.99
    if hasattr(plain, "predict_proba"):
        expected = plain.predict_proba(X.astype(np.float64))
        own = np.exp(log_probabilities(head.link, head.decision_function(X), temperature=1.0))
        assert np.abs(own - expected).max() < 5e-3
    assert np.allclose(head.predict_proba(X).sum(axis=1), 1)


def test_c_is_chosen_as_a_grid_search_would():
    """The lowest held-out log loss."""
    X, y = problem(3, 40, samples=200)
    head = fit_rows(X, y, "softmax", seed=3)
    folds = StratifiedKFold(5, shuffle=True, random_state=3)
    search = GridSearchCV(
        make_pipeline(LeastScaler(), LogisticRegression(max_iter=10_000, tol=1e-8)),
        {"logisticregression__C": C_GRID},
        cv=folds,
        scoring={"accuracy": "accuracy", "log_loss": "neg_log_loss"},
        refit=False,
    ).fit(X.astype(np.float64), y)
    accuracy = search.cv_results_["mean_test_accuracy"]
    losses = -search.cv_results_["mean_test_log_loss"]
    for candidate, expected, loss in zip(head.scores["candidates"], accuracy, losses, strict=True):
        assert candidate["accuracy"] == pytest.approx(expected, abs=1e-9)
        assert candidate["log_loss"] == pytest.approx(loss, rel=2e-2)
    assert C_GRID[losses.argmin()] == head.hyperparameters["C"]
    assert head.scores["held_out"] == "5 folds"


def test_validation_images_choose_c_and_are_not_trained_on():
    X, y = problem(3, 20, samples=300)
    head = fit_rows(X[:150], y[:150], validation=(X[150:], y[150:]))
    assert head.scores["held_out"] == "validation images"
    alone = fit_rows(X[:150], y[:150], C=head.hyperparameters["C"])
    assert np.array_equal(alone.model.weight, head.model.weight)
    with pytest.raises(DataError, match="have the class 'unheard'"):
        fit_rows(X, y, validation=(X[:1], np.array(["unheard"])))


@pytest.mark.parametrize("clf", ["softmax", "logreg"])
def test_noise_gets_a_strong_penalty(clf):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(300, 30)).astype(np.float32)
    head = fit_rows(X, generator.choice(["a", "b"], 300), clf)
    assert head.hyperparameters["C"] <= 1e-3


def test_groups_stay_in_one_fold():
    """Duplicate rows with random labels are not recognised."""
    generator = np.random.default_rng(0)
    X = np.repeat(generator.normal(size=(60, 200)).astype(np.float32), 2, axis=0)
    y = np.repeat(generator.choice(["a", "b"], 60), 2)
    groups = np.repeat(np.arange(60), 2)
    known = fit_rows(X, y, C=1.0).scores["accuracy"]
    honest = fit_rows(X, y, C=1.0, groups=groups).scores["accuracy"]
    assert known > 0.9
    assert honest < 0.75


@pytest.mark.ci
def test_real_features_reach_the_reference(faces_cache):
    """5-fold logistic regression on the pooled features: 0.995 was measured elsewhere."""
    features = load_features(faces_cache, select_features(faces_cache))
    head = fit_rows(features.X, features.labels, "softmax", groups=features.digests)
    C = head.hyperparameters["C"]
    assert head.scores["accuracy"] >= 0.985
    plain = cross_val_score(
        make_pipeline(LeastScaler(), LogisticRegression(C=C, max_iter=1000)),
        features.X,
        features.labels,
        cv=5,
    )
    assert head.scores["accuracy"] == pytest.approx(plain.mean(), abs=0.015)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("features", [10, 300])
def test_linear_discriminants_of_the_shrunk_covariance(classes, features):
    """By scikit-learn's estimate of the covariance, in the full width."""
    X, y = problem(classes, features)
    head = fit_rows(X, y, "lda")
    Z = LeastScaler().fit_transform(X.astype(np.float64))
    means = np.stack([Z[y == label].mean(axis=0) for label in head.classes])
    apart = Z - means[np.searchsorted(head.classes, y)]
    covariance, _ = ledoit_wolf(apart, assume_centered=True)
    weight = np.linalg.solve(covariance, means.T).T
    shares = np.array([np.mean(y == label) for label in head.classes])
    expected = Z @ weight.T - (weight * means).sum(axis=1) / 2 + np.log(shares)
    ours = head.decision_function(X)
    ours, expected = (each - each.mean(axis=1, keepdims=True) for each in (ours, expected))
    assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("features", [10, 300])
def test_the_nearest_mean_wins(features):
    X, y = problem(4, features)
    head = fit_rows(X, y, "centroid")
    plain = make_pipeline(LeastScaler(), NearestCentroid()).fit(X.astype(np.float64), y)
    assert np.array_equal(head.predict(X), plain.predict(X.astype(np.float64)))
    assert head.hyperparameters == {}
    with pytest.raises(UsageError, match="centroid has no `C`"):
        fit_rows(X, y, "centroid", C=1.0)


@pytest.mark.parametrize("clf", RECIPES)
def test_balanced_classes_count_the_same(clf):
    """As if both classes had the same number of images."""
    X, y = problem(2, 20, samples=400)
    kept = np.flatnonzero((y == "class 0") | (np.arange(400) % 8 == 0))
    plain, balanced = (fit_rows(X[kept], y[kept], clf, balanced=each) for each in (False, True))
    recall = [np.mean(head.predict(X[y == "class 1"]) == "class 1") for head in (plain, balanced)]
    assert recall[1] >= recall[0]
    if clf != "centroid":  # a mean has no neighbour that could outweigh it
        assert recall[1] > recall[0] + 0.05


def test_balanced_weights_need_no_memory_for_each_class():
    """Each class has the same total; no number is kept for each row and class."""
    generator = np.random.default_rng(0)
    labels = np.concatenate([np.arange(200), generator.integers(0, 200, 9800)])
    weights = generator.uniform(0.5, 2, 10_000)
    targets = Targets.of(labels)
    tracemalloc.start()
    found = row_weights(targets, weights, balanced=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * weights.nbytes
    members = np.array([weights[labels == each].sum() for each in labels])
    assert np.allclose(found, weights * weights.sum() / (200 * members))


@pytest.mark.parametrize("clf", ["softmax", "svm", "lda"])
def test_features_may_keep_their_own_scale(clf):
    X, y = problem(3, 300)
    head = fit_rows(X, y, clf, C=None if clf == "lda" else 0.01, standardize=False)
    scaled = fit_rows(2 * X, y, clf, C=None if clf == "lda" else 0.0025, standardize=False)
    gap = np.abs(head.decision_function(X) - scaled.decision_function(2 * X)).max()
    assert gap < 1e-3 * np.abs(head.decision_function(X)).max()


def test_the_calibration_error_is_that_of_its_definition():
    shares = np.array([[0.9, 0.1], [0.92, 0.08], [0.3, 0.7], [1.0, 0.0]])
    right = Targets(("a", "b"), np.array([0, 1, 1, 0]))
    # Bins of a fifteenth: 0.9 and 0.92 share one, 0.7 and 1 are alone.
    assert calibration_error(shares, right) == pytest.approx((abs(1.82 - 1) + 0.3 + 0) / 4)


@pytest.mark.parametrize(
    "clf", [pytest.param(clf, marks=pytest.mark.ci if clf == "mlp" else []) for clf in RECIPES]
)
def test_probabilities_are_calibrated(clf):
    """On held-out images; margins are calibrated only by their temperature."""
    X, y = problem(4, 12, samples=2000)
    head = fit_rows(X[:1000], y[:1000], clf)
    targets = Targets.among(y[1000:], head.classes, multilabel=False)
    scores = head.decision_function(X[1000:])
    plain = calibration_error(
        np.exp(log_probabilities(head.link, scores, temperature=1.0)), targets
    )
    calibrated = calibration_error(head.predict_proba(X[1000:]), targets)
    assert calibrated < plain + 0.02
    if clf in {"svm", "ridge"}:
        assert calibrated < plain / 1.5
    reported = head.scores
    near = 0.1 if clf == "mlp" else 0.05  # which held out a fifth of the images only
    assert reported["calibration_error"] == pytest.approx(calibrated, abs=near)
    assert reported["calibration_error_without_temperature"] == pytest.approx(plain, abs=near)


def test_the_svms_temperature_calibrates_held_out_scores(faces_cache):
    """Margins of an SVM are not log odds, but nearly are when divided by the temperature."""
    features = load_features(faces_cache, select_features(faces_cache))
    train, test = features.split("train"), features.split("test")
    head = fit_rows(train.X, train.labels, "svm")
    calibrated = log_loss(test.labels, head.predict_proba(test.X), labels=head.classes)
    scores = head.decision_function(test.X).astype(np.float64)
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert calibrated < 0.5 * log_loss(test.labels, softmax, labels=head.classes)


@pytest.mark.parametrize("clf", RECIPES)
def test_saved_and_loaded_heads_are_the_same(clf):
    X, y = problem(3, 12)
    head = fit_rows(X, y, clf, source=source_record())
    head.save("heads/one")
    names = ["head.json", "head.safetensors", *(["history.csv"] if clf == "mlp" else [])]
    assert sorted(path.name for path in Path("heads/one").iterdir()) == names
    loaded = Head.load("heads/one")
    assert np.array_equal(loaded.decision_function(X), head.decision_function(X))
    assert np.array_equal(loaded.predict_proba(X), head.predict_proba(X))
    assert loaded.as_dict() == head.as_dict()
    assert [path.name for path in Path("heads").iterdir()] == ["one"]
    fit_rows(X, y, "svm", C=1e-4).save("heads/one")
    assert Head.load("heads/one").hyperparameters == {"C": 1e-4}
    assert sorted(path.name for path in Path("heads/one").iterdir()) == names[:2]
    assert [path.name for path in Path("heads").iterdir()] == ["one"]


def test_heads_of_numbered_classes_are_loaded_in_their_order():
    generator = np.random.default_rng(0)
    y = np.arange(60) % 12
    for labels in (y, y - 6, y / 2):
        head = fit_rows(generator.normal(size=(60, 4)).astype(np.float32), labels, "ridge", C=1.0)
        head.save("heads/numbered")
        assert Head.load("heads/numbered").classes == tuple(map(str, np.unique(labels)))


def test_saving_leaves_other_files_alone():
    """A head that is replaced loses its evaluations, and nothing else."""
    X, y = problem(2, 4)
    folder = fit_rows(X, y).save("heads/one")
    (folder / "thesis.txt").write_text("mine")
    (folder / "evaluation-test.json").write_text("{}")
    fit_rows(X, y, C=9.0).save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "head.json",
        "head.safetensors",
        "thesis.txt",
    ]
    assert Head.load(folder).hyperparameters["C"] == 9
    Path("heads/empty").mkdir()
    fit_rows(X, y).save("heads/empty")
    Path("heads/dangling").symlink_to("nowhere")
    with pytest.raises(
        UsageError, match="'heads/dangling' already exists and is not a head folder"
    ):
        fit_rows(X, y).save("heads/dangling")


@pytest.mark.parametrize("clf", ["softmax", "knn", "mlp"])
def test_a_head_is_one_torch_module(clf):
    X, y = problem(3, 12)
    head = fit_rows(X, y, clf)
    with torch.inference_mode():
        scores = head.to_module()(torch.from_numpy(X)).numpy()
    assert np.allclose(scores, head.decision_function(X), atol=1e-4)


def test_a_head_loads_without_torch(tmp_path):
    X, y = problem(2, 4)
    fit_rows(X, y).save(tmp_path / "head")
    code = (
        "import sys; from bottleneck import Head;"
        f"Head.load({str(tmp_path / 'head')!r}); assert 'torch' not in sys.modules"
    )
    finished = subprocess.run([sys.executable, "-c", code], check=False)
    assert finished.returncode == 0


def test_damaged_heads_are_refused():
    X, y = problem(2, 4)
    fit_rows(X, y).save("heads/a")
    fit_rows(X, y, C=9.0).save("heads/b")
    Path("heads/b/head.safetensors").write_bytes(Path("heads/a/head.safetensors").read_bytes())
    with pytest.raises(DataError, match="come from different heads"):
        Head.load("heads/b")
    Path("heads/a/head.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        Head.load("heads/a")
    fit_rows(X, y).save("heads/b")
    whole = Path("heads/b/head.json").read_text()
    for part, other in (('"C": ', '"C": 1'), ('"temperature": 1', '"temperature": 7'), ("{", "")):
        assert part in whole
        Path("heads/b/head.json").write_text(whole.replace(part, other, 1))
        with pytest.raises(DataError, match="cannot be read .*run 'bottleneck fit-head' again"):
            Head.load("heads/b")
    for text in ("[]", "null"):
        Path("heads/b/head.json").write_text(text)
        with pytest.raises(DataError, match="cannot be read"):
            Head.load("heads/b")
    fit_rows(X, y).save("heads/b")
    metadata = read_json(Path("heads/b/head.json"))
    write_json(Path("heads/b/head.json"), metadata | {"schema": 1})
    with pytest.raises(DataError, match="wrote it: schema 1, expected 6.*; run 'bottleneck fit-h"):
        Head.load("heads/b")


def test_the_head_saved_last_is_the_newest_whatever_the_clock_says():
    """The clock is set back between two of them."""
    X, y = problem(2, 10)
    fit_rows(X, y, C=1.0).save("heads/first")
    content = read_json(Path("heads/first/head.json"))
    later = {"schema": 6, "created": "2099-01-01T00:00:00+00:00"}
    write_json(Path("heads/first/head.json"), content | later)
    for name in ("then", "last"):
        fit_rows(X, y, C=1.0).save(f"heads/{name}")
        assert find_head("heads")[0].name == name


def test_the_newest_head_is_found():
    X, y = problem(2, 4)
    with pytest.raises(DataError, match="no heads in 'heads'"):
        find_head("heads")
    fit_rows(X, y, "svm").save("heads/first")
    assert find_head("heads")[0].name == "first"
    fit_rows(X, y, "softmax").save("heads/another")
    assert head_names("heads") == ["another", "first"]
    assert find_head("heads")[0].name == "another"
    later = read_json(Path("heads/first/head.json")) | {"created": "2999-01-01T00:00:00+00:00"}
    write_json(Path("heads/first/head.json"), later)
    assert find_head("heads")[0].name == "first"
    Path("heads/first/head.json").write_text("{")
    os.utime("heads/first/head.json", (2**33, 2**33))
    with pytest.raises(DataError, match="'heads/first/head.json' cannot be read"):
        find_head("heads")
    fit_rows(X, y, "svm").save("heads/first")
    assert find_head("heads", "first")[1].clf == "svm"
    with pytest.raises(UnknownNameError, match="no head 'frist' in 'heads'; did you mean 'first'"):
        find_head("heads", "frist")
    with pytest.raises(UnknownNameError, match="no head 'heads/frist'.*; did you mean 'first'"):
        find_head("heads", "heads/frist")
    for name in ("heads/first", "./heads/first/", Path("heads/first").resolve(), "first/"):
        path, head = find_head("heads", name)
        assert path.resolve() == Path("heads/first").resolve()
        assert head.clf == "svm"
    assert find_head("nowhere", "heads/first")[0] == Path("heads/first")
    for name in ("", "..", "heads", "heads/frist", "/nowhere"):
        with pytest.raises(UnknownNameError, match="no head .* in 'heads'"):
            find_head("heads", name)


def test_invalid_arguments_are_refused():
    X, y = problem(2, 4)
    with pytest.raises(UnknownNameError, match="got 'smv'; did you mean 'svm'"):
        fit_rows(X, y, "smv")
    for C in (0.0, -1.0, 1e300, float("nan"), float("inf")):
        with pytest.raises(
            UsageError, match="`C` must be auto or a number from 1e-10 to 1e\\+10, got"
        ):
            fit_rows(X, y, C=C)
    with pytest.raises(DataError, match="have 1 class"):
        fit_rows(X, np.full(len(X), "one"))
    lonely = y.copy()
    lonely[:] = "many"
    lonely[0] = "once"
    with pytest.raises(DataError, match="class 'once' has 1 different training image.*`C"):
        fit_rows(X, lonely)
    copies = np.where(np.arange(len(X)) < 3, "copied", "many")
    with pytest.raises(DataError, match="class 'copied' has 1 different training image"):
        fit_rows(X, copies, groups=np.maximum(np.arange(len(X)), 2))
    assert fit_rows(X, lonely, C=1.0).classes == ("many", "once")
    with pytest.raises(UsageError, match=r"features of shape \(2, 5\) do not fit this head"):
        fit_rows(X, y).predict(np.zeros((2, 5)))


def test_all_small_classes_are_named_with_what_helps():
    """For a choice of hyperparameters, whatever the classifier; large numbers of folds shrink."""
    X, _ = problem(2, 3, samples=60)
    y = np.array(["many"] * 54 + ["2", "10", "1"] + ["few"] * 3)
    listed = r"3 classes have too few different training images \('1': 1, '2': 1, '10': 1\)"
    for clf in ("softmax", "svm", "knn", "mlp"):
        with pytest.raises(DataError, match=f"{listed}, but 2 folds need 2.*`min_images=3`"):
            fit_rows(X, y, clf)
    head = fit_rows(X[y != "1"], np.where(y == "few", "few", "many")[y != "1"])
    assert head.scores["held_out"] == "3 folds"


def test_rows_and_labels_must_match():
    X, y = problem(2, 4)
    for features, labels in ((X, y[:5]), (X[:0], y[:0]), (X[:, 0], y)):
        with pytest.raises(UsageError, match="expected one row of features for each label"):
            fit_rows(features, labels)
    with pytest.raises(UsageError, match="expected one row of features for each label"):
        fit_rows(X, y, validation=(X[:0], y[:0]))
    X[3, 1] = np.nan
    with pytest.raises(DataError, match="the features contain nan or inf"):
        fit_rows(X, y)


def test_separable_scores_have_a_bounded_temperature():
    """A perfect score on the folds must not turn a later mistake into an infinite loss."""
    generator = np.random.default_rng(0)
    y = np.repeat(["a", "b"], 20)
    X = (generator.normal(size=(40, 5)) + 20 * (y == "b")[:, None]).astype(np.float32)
    head = fit_rows(X, y, "svm")
    assert head.scores["accuracy"] == 1
    wrong = head.predict_proba(X[:1] + 20)[0, 0]
    assert wrong > 1e-6


def test_constant_features_do_no_harm():
    X, y = problem(2, 6)
    X[:, 2] = 5.0
    head = fit_rows(X, y)
    assert np.isfinite(head.model.weight).all()
    assert abs(head.model.weight[0, 2]) < 1e-12


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("clf", RECIPES)
def test_weights_that_are_not_finite_never_predict(clf, wrong, tmp_path):
    """In memory, and in files whose digest was made to fit."""
    X, y = problem(2, 5, samples=40)
    head = fit_rows(X, y, MLP(hidden=3, epochs=1) if clf == "mlp" else clf)
    folder = head.save(tmp_path / clf)
    for name, array in head.model.arrays.items():
        spoilt = array.copy()
        spoilt.flat[-1] = wrong
        with pytest.raises(DataError, match=f"^{name} contains nan or inf"):
            replace(head, model=replace(head.model, **{name: spoilt}))
        content = save_arrays({**head.model.arrays, name: spoilt})
        (folder / "head.safetensors").write_bytes(content)
        record = read_json(folder / "head.json")
        record["weights_sha256"] = hashlib.sha256(content).hexdigest()
        write_json(folder / "head.json", record)
        with pytest.raises(DataError, match=f"cannot be read \\({name} contains nan or inf"):
            Head.load(folder)


@pytest.mark.parametrize(
    ("name", "value"), [("scale", 0.0), ("scale", -1.0), ("votes", -1.0), ("counts", -1.0)]
)
def test_neighbours_that_cannot_be_compared_are_refused(name, value):
    model = fit_rows(*problem(2, 5, samples=40), "knn").model
    array = model.arrays[name].copy()
    array.flat[0] = value
    with pytest.raises(DataError, match=f"{name} must be at least"):
        replace(model, **{name: array})


NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters=";\0"), min_size=1),
    min_size=2,
    max_size=6,
    unique=True,
)


@settings(deadline=None, max_examples=10)
@given(names=NAMES, numbers=st.lists(st.integers(-20, 120), min_size=2, max_size=6, unique=True))
def test_heads_of_any_class_names_are_read_back(tmp_path_factory, names, numbers):
    """Also of names that people sort otherwise than texts: class 2, class 10."""
    folder = tmp_path_factory.mktemp("heads")
    for labels in (names, [f"class {number}" for number in numbers], list(map(str, numbers))):
        y = np.array([*labels, *labels], dtype=object)
        head = fit_rows(np.random.default_rng(0).normal(size=(len(y), 3)), y, "centroid")
        head.save(folder / "h")
        assert Head.load(folder / "h").classes == head.classes


@pytest.mark.parametrize("clf", RECIPES)
def test_scores_that_are_not_finite_are_no_prediction(clf):
    """Of features that are not finite, or that weights make too large."""
    X, y = problem(2, 5, samples=40)
    head = fit_rows(X, y, MLP(hidden=3, epochs=1) if clf == "mlp" else clf)
    for wrong in (np.nan, np.inf, -np.inf):
        spoilt = X.copy()
        spoilt[3, 1] = wrong
        for ask in (head.predict, head.predict_proba, head.decision_function):
            with pytest.raises(DataError, match="the head gives scores that are nan or inf"):
                ask(spoilt)


@pytest.mark.parametrize("clf", sorted(set(RECIPES) - {"mlp"}))
@pytest.mark.parametrize("size", [1e-30, 1e15, 3e38])
def test_features_of_any_size_give_finite_weights_or_an_error(clf, size):
    X, y = problem(2, 5, samples=40)
    large = (X / np.abs(X).max() * np.float32(size)).astype(np.float32)
    with np.errstate(all="ignore"), contextlib.suppress(DataError):
        head = fit_rows(large, y, clf)
        assert np.isfinite(head.predict_proba(large)).all()


def test_a_few_images_that_make_most_of_the_log_loss_are_told(capsys):
    """And that they decide C, against the accuracy: three are extreme where others hardly vary.

    Thousands of times as large as other features; where they are not larger, nothing is extreme.
    """
    generator, classes = np.random.default_rng(0), np.arange(120) % 20
    means, noise = (generator.standard_normal((n, 60)) for n in (20, 120))
    X = np.maximum((means * 0.8)[classes] + noise - 1.2, 0)
    hardly = 1e-6 * generator.standard_normal((120, 3))
    hardly[[10, 50, 90], [0, 1, 2]] = 1
    labels = np.array([f"c{n:02d}" for n in classes])
    fine = np.hstack([X, hardly]).astype(np.float32), labels
    usual = fit_rows(*fine, "logreg")
    assert usual.hyperparameters["C"] > 1e-3
    assert not any(each["extreme_images"] for each in usual.scores["candidates"])
    rows = np.hstack([X, 1e8 * hardly]).astype(np.float32), labels
    chosen = fit_rows(*rows, "logreg")
    assert chosen.hyperparameters["C"] == 1e-6
    note_candidates(chosen)
    extreme, accurate = capsys.readouterr().err.splitlines()
    told = r"note: \d+% of the log loss at C = \S+ is that of \d images?, whose labels? had a prob"
    assert re.match(told, extreme)
    assert re.match(r"note: C was chosen by log loss; C = \S+ is more accurate on the", accurate)
    given = fit_rows(*rows, "logreg", C=0.1)
    assert given.scores["extreme_images"] == 2
    assert given.scores["extreme_loss_share"] > 0.99
    note_candidates(given)
    assert " of the log loss is that of 2 images" in capsys.readouterr().err
    note_candidates(fit_rows(*fine, "logreg", C=0.1))
    assert not capsys.readouterr().err
