"""Novelty: percentiles are uniform for held-out images, and other images are far. About 10 s."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import kstest
from skimage import data

from bottleneck import (
    Cache,
    FrozenBase,
    Head,
    ImageSet,
    extract_features,
    fit_head,
    load_features,
    predict_images,
)
from bottleneck.errors import DataError, UsageError
from bottleneck.features import StreamedRows
from bottleneck.heads import RECIPES, fit_rows
from bottleneck.heads.novelty import Novelty, fit_novelty


def clusters(rows: int, seed: int, width: int = 200) -> np.ndarray:
    """Rows around five centres, in forty of their dimensions."""
    generator = np.random.default_rng(seed)
    fixed = np.random.default_rng(0)
    centres, mixing = fixed.normal(size=(5, 40)), fixed.normal(size=(40, width))
    latent = centres[generator.integers(5, size=rows)] + 0.7 * generator.normal(size=(rows, 40))
    noise = 0.3 * generator.normal(size=(rows, width))
    return np.maximum(latent @ mixing + noise, 0).astype(np.float32)


@pytest.mark.parametrize("rows", [60, 1000])
@pytest.mark.parametrize("validated", [False, True])
def test_percentiles_of_like_images_are_uniform(rows, validated):
    held = clusters(500, 9) if validated else None
    novelty = fit_novelty(clusters(rows, 1), np.arange(rows), held=held)
    found = novelty.percentiles(clusters(4000, 2))
    assert kstest(found / 100, "uniform").statistic < (0.1 if rows == 1000 else 0.25)


def test_copies_are_near_and_other_images_far():
    X = clusters(1000, 1)
    novelty = fit_novelty(X, np.arange(1000))
    assert novelty.percentiles(X).max() < 1
    other = np.random.default_rng(3).permuted(clusters(300, 4), axis=1)
    assert np.median(novelty.percentiles(other)) > 90


def test_identical_rows_are_held_out_together():
    """Otherwise each fold would have the other copies, and all distances be zero."""
    X, groups = np.tile(clusters(100, 1), (3, 1)), np.tile(np.arange(100), 3)
    novelty = fit_novelty(X, groups)
    assert novelty.quantiles.min() > 0.01
    assert fit_novelty(X, np.zeros(300)) is None


def test_joined_layers_count_alike_whatever_their_scale():
    X = np.hstack([clusters(500, 1), 1000 * clusters(500, 5)])
    other = np.hstack([np.abs(np.random.default_rng(0).normal(size=(500, 200))), X[:, 200:]])
    apart, together = (
        fit_novelty(X, np.arange(500), widths=widths) for widths in ((200, 200), (400,))
    )
    assert np.median(apart.percentiles(other)) > np.median(together.percentiles(other)) + 20


def test_degenerate_features_give_finite_percentiles():
    for X in (np.zeros((9, 3)), np.ones((9, 1)), np.eye(9) * 1e30):
        novelty = fit_novelty(X.astype(np.float32), np.arange(9))
        assert np.isfinite(novelty.percentiles(X)).all()


def test_a_sample_of_many_rows_is_kept(monkeypatch):
    monkeypatch.setattr("bottleneck.heads.novelty._MOST_ROWS", 300)
    novelty = fit_novelty(clusters(2000, 1), np.arange(2000))
    assert novelty.rows.shape == (300, 64)
    assert kstest(novelty.percentiles(clusters(2000, 2)) / 100, "uniform").statistic < 0.15


@pytest.mark.parametrize("clf", [pytest.param(clf, marks=pytest.mark.ci) for clf in RECIPES])
def test_every_classifier_has_the_same_novelty_and_keeps_it(faces_cache, clf):
    features = load_features(faces_cache)
    head = fit_head(features, clf)
    head.save("heads/h")
    test = features.split("test")
    found = Head.load("heads/h").novelty.percentiles(test.X)
    assert np.array_equal(found, head.novelty.percentiles(test.X))
    assert np.allclose(found, fit_head(features, "centroid").novelty.percentiles(test.X), atol=1)
    assert kstest(found / 100, "uniform").pvalue > 0.01


@pytest.fixture
def stored(little, make_images) -> Cache:
    base = FrozenBase(little, ["first", "last"], weights="random", pool="avg")
    images = ImageSet.from_folder(make_images(cat=40, dog=40))
    extract_features(images, base, Cache("cache"), views=1, augment="flip")
    return Cache("cache")


def test_streamed_rows_give_the_same(stored):
    """Of the unaugmented images; streamed features are those of the bank."""
    whole, streamed = load_features(stored), load_features(stored, memory=1)
    assert isinstance(streamed.X, StreamedRows)
    one, other = (fit_head(each, "softmax", C=1.0).novelty for each in (whole, streamed))
    assert np.allclose(one.quantiles, other.quantiles, atol=1e-3)
    assert len(one.rows) == int(((whole.splits == "train") & (whole.views == 0)).sum())


def test_predictions_tell_it_and_may_abstain(bottleneck, faces, faces_cache):
    """From the cache and from files; a photograph of a cat is no face, and gets no class."""
    head = fit_head(load_features(faces_cache), "centroid")
    head.save("heads/h")
    Image.fromarray(data.chelsea()).save("cat.png")
    paths = [faces / "face/003.png", "cat.png"]
    face, cat = predict_images(head, paths, cache=faces_cache, abstain=99)
    assert (face.label, cat.label) == ("face", None)
    assert face.novelty < 99 < cat.novelty
    assert next(iter(predict_images(head, paths[1:]))).label is not None
    where = ("predict", *paths, "--cache", faces_cache.root, "--abstain", "99")
    done = bottleneck(*where)
    assert "1 image without a class, farther from the training images than 99% of" in done.err
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["class"] for row in rows] == ["face", ""]
    assert float(rows[1]["novelty"]) == pytest.approx(cat.novelty, abs=0.01)
    lines = [json.loads(line) for line in bottleneck(*where, "--json").out.splitlines()]
    assert [each["class"] for each in lines] == ["face", None]
    assert lines[1]["probabilities"].keys() == {"face", "no_face"}
    assert bottleneck(*where[:-1], "100").code == 2


def test_a_head_without_novelty_is_read_and_cannot_abstain(bottleneck, faces, faces_cache):
    """As heads of earlier versions, and those that are fitted on arrays."""
    features = load_features(faces_cache)
    train = features.split("train")
    head = fit_rows(train.X, train.labels, "ridge", C=1.0, source=features.provenance)
    assert head.novelty is None
    head.save("heads/h")
    record = json.loads(Path("heads/h/head.json").read_text())
    assert record["schema"] == 6
    found = bottleneck("predict", faces / "face", "--cache", faces_cache.root)
    assert found.out.splitlines()[0] == '"path","class","p(face)","p(no_face)"'
    with pytest.raises(UsageError, match="run 'bottleneck fit-head' again, or leave `abstain` out"):
        predict_images(head, [faces / "face"], abstain=90)


@pytest.mark.parametrize("name", ["widths", "mean", "components", "rows", "quantiles"])
def test_arrays_that_do_not_fit_are_refused(name):
    novelty = fit_novelty(clusters(50, 1), np.arange(50))
    for wrong in (novelty.arrays[name][:0], novelty.arrays[name][None], np.array(["a"])):
        with pytest.raises(ValueError, match="novelty"):
            Novelty.of(novelty.arrays | {name: wrong}, 200)
    with pytest.raises(ValueError, match="novelty"):
        Novelty.of({key: each for key, each in novelty.arrays.items() if key != name}, 200)
    with pytest.raises(ValueError, match="do not fit 'n_features' 7"):
        Novelty.of(novelty.arrays, 7)
    X, y = clusters(50, 1), np.tile(list("ab"), 25)
    head = fit_rows(X, y, "ridge", C=1.0)
    bad = replace(novelty, **{name: novelty.arrays[name][:0]})
    replace(head, novelty=bad).save("heads/bad")
    with pytest.raises(DataError, match="cannot be read"):
        Head.load("heads/bad")
