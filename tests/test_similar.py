"""Similar images: exact against all cosines, in memory and streamed. About 12 s."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics.pairwise import cosine_similarity

from bottleneck import Cache, FrozenBase, ImageSet, extract_features, load_features
from bottleneck.errors import UsageError
from bottleneck.features import StreamedRows
from bottleneck.similar import (
    near_duplicate_groups,
    nearest,
    neighbour_distances,
    similar_images,
)
from bottleneck.suggest import choose_uncertain


@pytest.fixture
def stored(little, make_images) -> Cache:
    """A cache of 60 images' features by a small network."""
    images = ImageSet.from_folder(make_images(cat=30, dog=30))
    extract_features(images, FrozenBase(little, ["first"], weights="random"), Cache("cache"))
    return Cache("cache")


@pytest.fixture
def unlabelled(little) -> Cache:
    """A cache of 20 images in one folder, one of them all black, by a network without biases."""
    Path("pile").mkdir()
    for number in range(20):
        Image.new("RGB", (32, 32), (12 * number, 0, 255 - 12 * number)).save(f"pile/{number}.png")
    base = FrozenBase(little, ["first"], weights="random")
    extract_features(ImageSet.from_folder("pile"), base, Cache("piled"))
    return Cache("piled")


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


def test_joined_layers_count_alike():
    """Whatever the sizes of their values; the mean of the cosines of each."""
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=(2000, d)).astype(np.float32) for d in (40, 9)]
    X = np.hstack([parts[0], 1e4 * parts[1]])
    places, cosines = nearest(X, X[:20], 6, widths=(40, 9))
    expected = np.mean([cosine_similarity(each[:20], each) for each in parts], axis=0)
    order = np.argsort(-expected, axis=1)[:, :6]
    assert np.allclose(cosines, np.take_along_axis(expected, order, axis=1), atol=2e-6)
    assert (places == order).mean() > 0.99
    assert (nearest(X, X[:20], 6)[0] != order).mean() > 0.1
    every = np.mean([cosine_similarity(each) for each in parts], axis=0)
    nearby = 1 - np.sort(every, axis=1)[:, -6:-1].mean(axis=1)
    assert np.allclose(neighbour_distances(X, 5, widths=(40, 9)), nearby, atol=2e-6)
    first, second = np.nonzero(np.triu(every > 0.85, 1))  # none is of more than two
    groups = near_duplicate_groups(X, 0.85, widths=(40, 9))
    assert [each.tolist() for each in groups] == np.stack([first, second], axis=1).tolist()


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
    places, cosines = nearest(whole.X, whole.X[:5], 9)
    same, close = nearest(streamed.X, whole.X[:5], 9)
    assert np.array_equal(places, same)
    assert np.allclose(cosines, close, rtol=0, atol=2e-6)
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


def test_progress_goes_from_none_to_all_rows(monkeypatch):
    monkeypatch.setattr("bottleneck.similar._BLOCK_BYTES", 4 * 16 * 1700)
    X, told = np.random.default_rng(0).normal(size=(5000, 16)).astype(np.float32), []

    def progress(*given):
        told.append(given)

    nearest(X, X[:2], 3, progress=progress)
    neighbour_distances(X, 3, progress=progress)
    near_duplicate_groups(X, 0.9, progress=progress)
    choose_uncertain(X, np.ones(5000), 5, progress=progress)
    for stage, total in {
        "similar": 5000,
        "neighbours": 5000,
        "look-alikes": 5000,
        "choice": 5,
    }.items():
        done = [each[1] for each in told if each[0] == stage]
        assert done == sorted(done)
        assert done[-1] == total
        assert {each[2] for each in told if each[0] == stage} == {total}
        assert len(done) > 1


def test_wrong_arguments_are_refused():
    X = np.ones((3, 2), np.float32)
    with pytest.raises(UsageError, match="`top` must be at least 1, got 0"):
        nearest(X, X, 0)
    with pytest.raises(UsageError, match=r"`queries` have shape \(3, 1\); expected \(m, 2\)"):
        nearest(X, X[:, :1], 1)
    with pytest.raises(UsageError, match="`threshold` must be above 0 and at most 1, got 90"):
        near_duplicate_groups(X, 90)


def test_the_command_finds_copies_and_leaves_the_image_itself_out(bottleneck, stored):
    """The same images from the cache and from their files; a resized copy is the nearest."""
    with Image.open("data/cat/003.png") as image:
        image.resize((40, 40)).save("smaller.png")
    shutil.copy("data/cat/004.png", "moved.png")
    words = ("similar", "data/cat/003.png", "smaller.png", "moved.png", "--top", 3)
    found = json.loads(bottleneck(*words, "--json").out)
    assert (found["image_set"], found["layer"], found["rejected"]) == ("data", "first", [])
    known, new, moved = found["similar"]
    assert [len(each["neighbours"]) for each in found["similar"]] == [3, 3, 3]
    assert (known["itself"], new["itself"], moved["itself"]) == (1, 0, 1)
    assert "data/cat/003.png" not in {each["path"] for each in known["neighbours"]}
    assert "data/cat/004.png" not in {each["path"] for each in moved["neighbours"]}
    first = new["neighbours"][0]
    assert (first["path"], first["label"]) == ("data/cat/003.png", "cat")
    assert first["cosine"] > 0.95
    features = load_features(stored)
    place = features.paths.tolist().index("data/cat/003.png")
    expected = cosine_similarity(features.X[[place]], features.X)[0]
    best = np.sort(np.delete(expected, place))[::-1][:3]
    assert [each["cosine"] for each in known["neighbours"]] == pytest.approx(best, abs=2e-6)
    streamed = json.loads(bottleneck(*words, "--json", "--memory", "1").out)
    assert streamed == found


def test_the_command_compares_joined_layers(bottleneck, little, make_images):
    """The same from the cache, from files, and streamed."""
    images = ImageSet.from_folder(make_images(cat=10, dog=10))
    base = FrozenBase(little, ["first_relu", "flat"], weights="random", pool="avg")
    extract_features(images, base, Cache("cache"))
    shutil.copy("data/cat/004.png", "moved.png")
    with Image.open("moved.png") as image:
        image.save("new.bmp")
    words = ("similar", "moved.png", "new.bmp", "--layer", "first_relu", "--layer", "flat")
    found = json.loads(bottleneck(*words, "--join", "--top", 5, "--json").out)
    assert found["layer"] == "first_relu + flat"
    known, new = found["similar"]
    assert new["neighbours"][0] == {
        "path": "data/cat/004.png",
        "label": "cat",
        "split": known["neighbours"][0]["split"],
        "cosine": 1.0,
    }
    assert new["neighbours"][1:] == known["neighbours"][:4]
    streamed = bottleneck(*words, "--join", "--top", 5, "--memory", "1", "--json")
    assert json.loads(streamed.out) == found
    refused = bottleneck(*words)
    assert refused.code == 2
    assert "--layer is given 2 times (first_relu, flat), but features are of one; " in refused.err


@pytest.mark.usefixtures("stored")
def test_similar_images_are_written_as_text_table_and_picture(bottleneck):
    Path("data/dog/007.png").unlink()  # which is in the set, and in no picture
    words = ("data/cat", "--output", "found/similar.csv", "--gallery", "sheet.png")
    done = bottleneck("similar", *words, "--top", 49)
    assert done.code == 0, done.err
    assert done.out.count("most similar by little first\n") == 30
    assert "30 images left out of the own list, being in the set itself" in done.err
    with Path("found/similar.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30 * 49
    assert [row["rank"] for row in rows[:49]] == [str(rank) for rank in range(1, 50)]
    assert list(rows[0]) == ["image", "rank", "path", "label", "split", "cosine"]
    with Image.open("sheet.png") as image:
        assert image.width > 900


def test_images_that_cannot_be_used_are_listed(bottleneck, unlabelled):
    """Of an unlabelled set; features that are all zeros resemble nothing."""
    Path("bad.png").write_text("no image")
    features = load_features(unlabelled)
    assert features.y is None
    where = ("--cache", "piled", "--top", 2)
    done = bottleneck("similar", "pile/3.png", "bad.png", *where)
    assert done.code == 1
    assert "bad.png: not an image" in done.err
    header = done.out.splitlines()[1].split()
    assert header == ["path", "cosine"]
    rows = [np.zeros((1, features.X.shape[1]), np.float32)]
    images = ImageSet.from_paths(["pile/3.png"])
    found, rejected = similar_images(features, images, rows)
    assert not found
    assert [each.reason for each in rejected] == ["its features are all zeros"]


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("data/cat/000.png", "--in", "other"), 2, "no extraction with set 'other' in the cache"),
        (("data/cat/000.png", "--layer", "fist"), 2, "did you mean 'first'"),
        (("data/cat/000.png", "--cache", "none"), 1, "no extraction in the cache folder 'none'"),
        (("data/cat/000.png", "--top", "0"), 2, "--top must be a whole number of at least 1"),
        (("none.png",), 2, "none.png"),
        (("data/t.csv", "--output", "data/t.csv"), 2, "and would be replaced"),
        (
            ("data", "--gallery", "data/cat/000.png"),
            2,
            "--gallery 'data/cat/000.png' is one of the",
        ),
        (
            ("data/cat/000.png", "--gallery", "a.xyz"),
            2,
            "--gallery must be a file ending in .html or .png",
        ),
    ],
)
def test_mistakes_are_one_sentence(bottleneck, words, code, sentence):
    Path("data/t.csv").write_text("path\ndata/cat/000.png\n")
    finished = bottleneck("similar", *words)
    assert (finished.code, finished.out) == (code, "")
    assert sentence in finished.err
    assert len(finished.err.splitlines()) == 1
