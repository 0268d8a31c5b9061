"""Features of images, from the cache or their files. About 3 s."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottleneck import Cache, FrozenBase, ImageSet, extract_features, load_features
from bottleneck.errors import UsageError
from bottleneck.images import RejectedImage
from bottleneck.lookup import are_cached, feature_rows
from bottleneck.settings import LookupSettings


@pytest.fixture
def stored(little, make_images) -> Cache:
    base = FrozenBase(little, ["first", "last"], weights="random", pool="avg")
    extract_features(ImageSet.from_folder(make_images(cat=8, dog=8)), base, Cache("cache"))
    return Cache("cache")


def test_rows_are_the_same_from_the_cache_and_from_files(stored, calls):
    """In the order of the images, of which some are new and one cannot be read."""
    features = load_features(stored)
    Image.new("RGB", (40, 40), "red").save("new.png")
    Path("bad.png").write_text("no image")
    paths = ["data/dog/001.png", "new.png", "bad.png", "data/cat/000.png"]
    images = ImageSet.from_paths(paths)
    assert are_cached(features.selection, images, stored).tolist() == [True, False, False, True]
    mixed = list(feature_rows(features.selection, images, cache=stored))
    assert len(calls) == 1
    computed = list(feature_rows(features.selection, images, LookupSettings(batch_size=2)))
    for one, other, path in zip(mixed, computed, paths, strict=True):
        if path == "bad.png":
            assert isinstance(one, RejectedImage)
            assert one == other
        else:
            assert one.shape == (1, features.X.shape[1])
            assert np.abs(one - other).max() < 1e-3
    place = features.paths.tolist().index("data/dog/001.png")
    assert np.array_equal(mixed[0][0], features.X[place])


def test_views_are_computed_beside_each_image(stored):
    source, images = load_features(stored).selection, ImageSet.from_paths(["data/dog"])
    rows = list(feature_rows(source, images, cache=stored, views=2, augment="flip"))
    assert [each.shape for each in rows] == [(3, 5)] * 8
    plain = np.concatenate(list(feature_rows(source, images, cache=stored)))
    assert np.abs(np.stack(rows)[:, 0] - plain).max() < 1e-3


def test_bases_of_other_features_are_refused(stored):
    source, images = load_features(stored).selection, ImageSet.from_paths(["data/dog"])
    with pytest.raises(UsageError, match="`base` has 2 bases, but the features are of 1"):
        list(feature_rows(source, images, bases=[None, None]))
