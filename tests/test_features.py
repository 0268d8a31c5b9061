"""Choosing an extraction, and labels joined to rows by digest."""

import numpy as np
import pytest

from bottleneck import Cache, FrozenBase, ImageSet, extract_features, load_features, select_features
from bottleneck.errors import DataError, UnknownNameError, UsageError
from bottleneck.features import features_of


def extracted(folder, *layers, model="squeezenet1_1", name=None) -> Cache:
    cache = Cache("cache")
    base = FrozenBase(model, layers, weights="random")
    extract_features(ImageSet.from_folder(folder, name=name), base, cache)
    return cache


def test_rows_and_labels_belong_together(make_images):
    """Each row is what the base gives for the image at that row's path."""
    folder = make_images(cat=7, dog=5)
    cache = extracted(folder, "features.12")
    features = load_features(cache)
    base = FrozenBase("squeezenet1_1", ["features.12"], weights="random")
    for row, path, label in zip(features.X, features.paths, features.labels, strict=True):
        assert path.split("/")[1] == label
        alone = Cache("alone")
        extract_features(ImageSet.from_paths([path]), base, alone)
        own = load_features(alone, select_features(alone)).X[0]
        assert np.allclose(row, own, rtol=2e-3, atol=1e-4)


def test_splits(faces_cache):
    features = load_features(faces_cache, select_features(faces_cache))
    train, test = features.split("train"), features.split("test")
    assert (len(train), len(test)) == (160, 40)
    assert features.X.dtype == np.float32
    assert not set(train.digests) & set(test.digests)
    assert len(features.split("val")) == 0


def test_the_last_extraction_is_chosen(make_images):
    cache = extracted(make_images(cat=3, dog=3), "features.3")
    assert select_features(cache).layer == "features.3.cat"
    extracted("data", "features.12")
    assert select_features(cache).layer == "features.12.cat"
    assert select_features(cache, layer="features.3").layer == "features.3.cat"


def test_several_layers_must_be_told_apart(make_images):
    cache = extracted(make_images(cat=3, dog=3), "features.3", "features.12")
    with pytest.raises(UsageError, match="2 layers: features.3.cat, features.12.cat; .*`layer"):
        select_features(cache)
    assert select_features(cache, layer="features.12").layer == "features.12.cat"


def test_nothing_that_matches(make_images):
    with pytest.raises(DataError, match="no extraction in the cache folder 'cache'"):
        select_features(Cache("cache"))
    cache = extracted(make_images(cat=3, dog=3), "features.12")
    with pytest.raises(UnknownNameError, match="did you mean 'squeezenet1_1'"):
        select_features(cache, model="squeezenet1_0")
    with pytest.raises(UnknownNameError, match="there are squeezenet1_1 features.12.cat of 'data'"):
        select_features(cache, image_set="other")


def test_an_unlabelled_set_has_features_but_no_labels(make_images):
    make_images(flat=3)
    cache = extracted("data/flat", "features.12")
    features = load_features(cache)
    assert len(features) == 3
    with pytest.raises(DataError, match="image set 'flat' has no labels"):
        _ = features.labels


def test_another_set_of_the_same_name_is_noticed(make_images):
    """The features of one model, the image set since extracted by another."""
    cache = extracted(make_images(cat=3, dog=3), "features.12")
    make_images(cow=3, seed=4)
    extracted("data", model="resnet18")
    with pytest.raises(DataError, match="'data' has been extracted from other images or labels"):
        select_features(cache, model="squeezenet1_1")


def test_features_of_a_heads_source(make_images):
    """Refused when the training images, or their labels, are others now."""
    folder = make_images(cat=6, dog=6)
    cache = extracted(folder, "features.12")
    source = load_features(cache).provenance
    assert len(features_of(source, cache)) == 12
    with pytest.raises(DataError, match="no image set 'data' in the cache folder 'other'"):
        features_of(source, Cache("other"))
    (folder / "cat/000.png").rename(folder / "dog/new.png")
    extracted(folder, "features.12")
    with pytest.raises(DataError, match="training images of 'data' have changed"):
        features_of(source, cache)
