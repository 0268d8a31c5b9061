"""Similar images: exact against all cosines, in memory and streamed. About 5 s."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics.pairwise import cosine_similarity

from bottleneck import Cache, FrozenBase, ImageSet, extract_features, load_features
from bottleneck.errors import UsageError
from bottleneck.features import StreamedRows
from bottleneck.similar import near_duplicate_groups, nearest


@pytest.fixture
def stored(little, make_images) -> Cache:
    """A cache of 60 images' features by a small network."""
    images = ImageSet.from_folder(make_images(cat=30, dog=30))
    extract_features(images, FrozenBase(little, ["first"], weights="random"), Cache("cache"))
    return Cache("cache")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_nearest_rows_are_those_of_all_cosines(dtype):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(5000, 700)).astype(dtype)
    queries = generator.normal(size=(600, 700))
    places, cosines = nearest(X, queries, 7)
    expected = cosine_similarity(queries, X.astype(float))
    order = np.argsort(-expected, axis=1)[:, :7]
    assert np.allclose(cosines, np.take_along_axis(expected, order, axis=1), atol=2e-6)
    assert np.allclose(np.take_along_axis(expected, places, axis=1), cosines, atol=2e-6)
    assert (places == order).mean() > 0.999


def test_equal_cosines_are_in_the_order_of_the_rows():
    X = np.tile(np.eye(3, dtype=np.float32), (4000, 1)) * np.arange(1, 12001)[:, None]
    places, cosines = nearest(X, np.eye(3)[[1]], 5)
    assert places.tolist() == [[1, 4, 7, 10, 13]]
    assert (cosines == 1).all()


def test_zeros_have_no_direction_and_huge_values_have_one():
    X = np.array([[0, 0], [3e30, 4e30], [-1e-3, 0]], np.float32)
    places, cosines = nearest(X, np.array([[3.0, 4.0], [0, 0]]), 9)
    assert places.tolist() == [[1, 0, 2], [0, 1, 2]]
    assert cosines.tolist() == [[1, 0, pytest.approx(-0.6)], [0, 0, 0]]


def test_streamed_rows_have_the_same_neighbours_and_groups(stored):
    whole, streamed = load_features(stored), load_features(stored, memory=1)
    assert isinstance(streamed.X, StreamedRows)
    for one, other in zip(
        nearest(whole.X, whole.X[:5], 9), nearest(streamed.X, whole.X[:5], 9), strict=True
    ):
        assert np.array_equal(one, other)
    groups = near_duplicate_groups(whole.X, 0.99)
    assert [each.tolist() for each in groups] == [
        each.tolist() for each in near_duplicate_groups(streamed.X, 0.99)
    ]
    assert groups


@pytest.mark.parametrize("block", [1, 2**28])
@pytest.mark.parametrize("most", [0, 2**22])
def test_groups_are_the_connected_rows(block, most, monkeypatch):
    """Also if blocks are compared one by one, and groups are merged after each."""
    monkeypatch.setattr("bottleneck.similar._BLOCK_BYTES", 4 * 16 * 1700 * block)
    monkeypatch.setattr("bottleneck.similar._MOST_PAIRS", most)
    generator = np.random.default_rng(0)
    X = generator.normal(size=(5000, 16)).astype(np.float32)
    chain = np.linspace(0, 1, 40)[:, None]  # whose ends are far apart
    X[::125] = X[0] * (1 - chain) + X[1] * chain
    X[[5, 4999]] = 0
    groups = near_duplicate_groups(X, 0.995)
    graph = csr_array(cosine_similarity(X) >= 0.995 - 5e-7)
    _, labels = connected_components(graph, directed=False)
    expected = [np.flatnonzero(labels == label).tolist() for label in range(labels.max() + 1)]
    assert [each.tolist() for each in groups] == [each for each in expected if len(each) > 1]
    assert set(range(0, 5000, 125)) <= set(groups[0].tolist())


def test_wrong_arguments_are_refused():
    X = np.ones((3, 2), np.float32)
    with pytest.raises(UsageError, match="`top` must be at least 1, got 0"):
        nearest(X, X, 0)
    with pytest.raises(UsageError, match=r"`queries` have shape \(3, 1\); expected \(m, 2\)"):
        nearest(X, X[:, :1], 1)
    with pytest.raises(UsageError, match="`threshold` must be above 0 and at most 1, got 90"):
        near_duplicate_groups(X, 90)
