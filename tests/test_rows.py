"""Heads on features read in blocks equal heads on features in memory.

About 4 s in the first tier.
"""

import json

import numpy as np
import pytest

from bottleneck import Head, evaluate_head, load_features, select_features
from bottleneck.errors import UsageError
from bottleneck.features import StreamedRows, free_memory
from bottleneck.heads import RECIPES, fit_rows

LITTLE = 12 * 10**5
"""Less than the features take."""
STREAMING = [name for name, recipe in RECIPES.items() if recipe.streams]


@pytest.fixture
def both(faces_cache):
    """The same features in memory and in blocks."""
    selection = select_features(faces_cache)
    whole = load_features(faces_cache, selection)
    return whole, load_features(faces_cache, selection, memory=LITTLE)


def test_features_larger_than_memory_are_read_in_blocks(both, faces_cache):
    whole, blocks = both
    assert isinstance(blocks.X, StreamedRows)
    assert np.array_equal(np.concatenate(list(blocks.X.blocks())), whole.X)
    train, test = blocks.split("train"), blocks.split("test")
    assert np.array_equal(np.concatenate(list(train.X.blocks())), whole.split("train").X)
    joined = np.concatenate(list(train.X.joined(test.X).blocks()))
    assert np.array_equal(joined, np.vstack([whole.split("train").X, whole.split("test").X]))
    plenty = load_features(faces_cache, blocks.selection, memory=free_memory())
    assert isinstance(plenty.X, np.ndarray)


def test_stored_maps_are_pooled_block_by_block(bottleneck, make_images):
    from bottleneck import Cache  # noqa: PLC0415 - beside the fixture of that name

    make_images(cat=6, dog=6)
    layer = ("--model", "efficientnet_lite0", "--layer", "blocks.0", "--data", "data")
    assert bottleneck("extract", *layer).code == 0
    cache = Cache("cache")
    selection = select_features(cache, pool="avg")
    whole, blocks = (load_features(cache, selection, memory=size) for size in (None, 500))
    assert isinstance(blocks.X, StreamedRows)
    assert np.array_equal(np.concatenate(list(blocks.X.blocks())), whole.X)


@pytest.mark.parametrize("clf", STREAMING)
@pytest.mark.parametrize("how", [{}, {"balanced": True}, {"standardize": False}])
def test_heads_are_those_of_features_in_memory(both, clf, how):
    """Up to the solver's tolerance, sample weights included."""
    whole, blocks = (each.split("train") for each in both)
    weights = np.random.default_rng(0).integers(0, 3, len(whole)) / 2
    ours, theirs = (
        fit_rows(
            each.X, each.labels, clf, C=1e-3, groups=each.digests, sample_weight=weights, **how
        )
        for each in (blocks, whole)
    )
    scores, expected = (head.decision_function(whole.X) for head in (ours, theirs))
    assert np.abs(scores - expected).max() < 0.05 * np.abs(expected).max()
    assert ours.scores["accuracy"] == pytest.approx(theirs.scores["accuracy"], abs=0.03)


@pytest.mark.ci
def test_the_same_penalty_is_chosen(both):
    whole, blocks = (each.split("train") for each in both)
    ours, theirs = (fit_rows(each.X, each.labels, groups=each.digests) for each in (blocks, whole))
    assert ours.hyperparameters == theirs.hyperparameters
    for candidate, expected in zip(
        ours.scores["candidates"], theirs.scores["candidates"], strict=True
    ):
        assert candidate == pytest.approx(expected, rel=0.05, abs=0.005)


def test_validation_images_and_evaluation(both):
    whole, blocks = both
    heads = [
        fit_rows(
            each.split("train").X,
            each.split("train").labels,
            C=0.01,
            validation=(each.split("test").X, each.split("test").labels),
        )
        for each in both
    ]
    assert heads[0].scores["held_out"] == heads[1].scores["held_out"] == "validation images"
    assert heads[1].temperature == pytest.approx(heads[0].temperature, rel=0.1)
    found, expected = (evaluate_head(heads[1], each) for each in (blocks, whole))
    assert found.log_loss == pytest.approx(expected.log_loss, rel=1e-5)
    assert found.confusion == expected.confusion


@pytest.mark.ci
def test_several_classes_balanced_in_passes(both):
    """Each class has its own weights."""
    whole, blocks = (each.split("train") for each in both)
    labels = np.char.add(whole.labels, np.where(np.arange(len(whole)) % 3, "", ";third"))
    for clf in ("logreg", "svm"):
        ours, theirs = (
            fit_rows(each.X, labels, clf, C=1e-3, balanced=True) for each in (blocks, whole)
        )
        scores, expected = (head.decision_function(whole.X) for head in (ours, theirs))
        assert np.abs(scores - expected).max() < 0.05 * np.abs(expected).max()


def test_other_classifiers_need_features_in_memory(both):
    _, blocks = both
    for clf in set(RECIPES) - set(STREAMING):
        with pytest.raises(UsageError, match=f"{clf} needs all features in memory"):
            fit_rows(blocks.X, blocks.labels, clf)


@pytest.mark.ci
def test_fit_head_in_passes_finds_the_weights_of_a_fit_in_memory(bottleneck, faces_cache):
    cache = ("--cache", faces_cache.root)
    done = bottleneck("fit-head", *cache, "--memory", "1200kB", "--name", "passes", "--C", 0.01)
    assert done.code == 0, done.err
    assert bottleneck("fit-head", *cache, "--name", "whole", "--C", 0.01).code == 0
    ours, theirs = (Head.load(f"heads/{name}").model.weight for name in ("passes", "whole"))
    assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)
    refused = bottleneck("fit-head", *cache, "--memory", "1200kB", "--clf", "lda")
    assert refused.code == 2
    assert "choose one of softmax, logreg, svm" in refused.err
    refused = bottleneck("fit-head", *cache, "--memory", "much")
    assert (
        "--memory must be a number with kB, MB, GB or TB, such as 500MB, got 'much'" in refused.err
    )


def test_sweeps_share_the_memory(bottleneck, faces_cache):
    cache = ("--cache", faces_cache.root, "--jobs", 1, "--C", 0.01, "--json")
    passes = bottleneck("sweep", *cache, "--memory", "1200kB", "--log", "passes.sqlite")
    assert passes.code == 0, passes.err
    whole = bottleneck("sweep", *cache)
    (ours,), (theirs,) = (json.loads(each.out) for each in (passes, whole))
    assert ours["settings"] == theirs["settings"]
    for fold, expected in zip(ours["folds"], theirs["folds"], strict=True):
        # Inner folds are standardised with their own moments in passes, and with the fold's here.
        for name in expected.keys() - {"inner_log_loss", "inner_calibration_error"}:
            assert fold[name] == pytest.approx(expected[name], rel=0.05, abs=0.005), name
        assert fold.keys() == expected.keys()
    refused = bottleneck("sweep", *cache, "--memory", "1200kB", "--clf", "svm", "--clf", "knn")
    assert refused.code == 2
    assert "knn needs all features in memory" in refused.err
