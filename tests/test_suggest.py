"""What to label next: uncertain images that differ, none of them labelled already. About 5 s."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottleneck import (
    Cache,
    FrozenBase,
    ImageSet,
    extract_features,
    fit_head,
    load_features,
    suggest_images,
)
from bottleneck.errors import DataError
from bottleneck.suggest import choose_uncertain, uncertainty_of


@pytest.fixture
def head(make_images, little):
    """A head on sixteen images, in the folder ``heads``; and nine new images in ``new``."""
    make_images(cat=8, dog=8)
    make_images("new", seed=1, any=9)
    base = FrozenBase(little, ["flat"], weights="random")
    extract_features("data", base, "cache")
    made = fit_head(load_features("cache"), C=1.0)
    made.save("heads/h")
    return made


def test_the_margin_tells_how_uncertain_a_head_is():
    shares = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.6, 0.1, 0.3]])
    assert uncertainty_of(shares) == pytest.approx([1, 0, 0.7])
    several = np.array([[0.5, 0.5], [1.0, 0.0], [0.5, 1.0]])
    assert uncertainty_of(several, multilabel=True) == pytest.approx([1, 0, 0.5])


def test_copies_and_certain_rows_come_last():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 8)).astype(np.float32)
    X[10:20] = X[:10]  # copies
    unsure = np.ones(30)
    unsure[20:] = 0
    chosen = choose_uncertain(X, unsure, 10)
    assert len(set(chosen % 10)) == 10
    assert (chosen < 20).all()
    assert sorted(choose_uncertain(X, unsure, 99)) == list(range(30))
    assert sorted(choose_uncertain(np.zeros((4, 2)), np.zeros(4), 3)) != []


def test_joined_layers_count_alike():
    """The choice is the same whatever the scale of a layer."""
    rng = np.random.default_rng(0)
    parts, unsure = [rng.normal(size=(200, d)) for d in (12, 5)], rng.random(200)
    first, other = (
        choose_uncertain(np.hstack([scale * parts[0], parts[1]]), unsure, 30, widths=(12, 5))
        for scale in (1.0, 1e4)
    )
    assert first.tolist() == other.tolist()


def test_a_choice_of_fewer_is_its_beginning():
    rng = np.random.default_rng(0)
    X, unsure = rng.normal(size=(200, 8)), rng.random(200)
    many = choose_uncertain(X, unsure, 40)
    assert len(set(many)) == 40
    assert choose_uncertain(X, unsure, 15).tolist() == many[:15].tolist()


def test_labelled_images_and_copies_are_left_out(head):
    shutil.copy("new/any/000.png", "new/any/copy.png")
    shutil.copytree("data/cat", "new/cat")
    found = suggest_images(head, "new", n=50, cache="cache")
    assert found.candidates == 9
    assert found.labelled == 8
    assert {each.path for each in found.images} == {f"new/any/{k:03d}.png" for k in range(9)}
    for each in found.images:
        assert each.predicted in {"cat", "dog"}
        assert each.uncertainty == pytest.approx(2 * (1 - each.probability), abs=1e-6)
    with pytest.raises(DataError, match="16 images are labelled already"):
        suggest_images(head, "data", cache="cache")


def test_features_in_the_cache_are_not_computed(head, calls, little):
    first = suggest_images(head, "new", n=5)
    images = ImageSet.from_paths(["new"], name="new")
    extract_features(images, FrozenBase(little, ["flat"], weights="random"), Cache("cache"))
    calls.clear()
    again = suggest_images(head, "new", n=5, cache="cache")
    assert not calls
    assert again.images == first.images


@pytest.mark.usefixtures("head")
def test_the_command_lists_writes_and_draws(bottleneck):
    done = bottleneck("suggest", "new", "--n", 4, "--output", "n.csv", "--gallery", "n.png")
    assert done.code == 0
    assert "4 of 9 images to label next" in done.out
    with Path("n.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["path", "predicted", "probability", "uncertainty"]
    assert len(rows) == 4
    with Image.open("n.png") as sheet:
        assert sheet.width == 4 * 168 + 8
    assert bottleneck("suggest", "new", "--n", 4, "--gallery", "n.html").code == 0
    assert Path("n.html").read_text().count("data:image/jpeg") == 4
    told = json.loads(bottleneck("suggest", "new", "--n", 4, "--json").out)
    assert [each["path"] for each in told["images"]] == [row["path"] for row in rows]
    assert bottleneck("suggest", "new", "--n", 4, "--csv").out == Path("n.csv").read_text()


@pytest.mark.usefixtures("head")
def test_an_image_that_cannot_be_read_is_told(bottleneck):
    Path("new/any/bad.png").write_bytes(Path("new/any/000.png").read_bytes()[:200])
    done = bottleneck("suggest", "new", "--n", 4)
    assert done.code == 1
    assert "new/any/bad.png" in done.err
    assert bottleneck("suggest", "nowhere").code == 2
    assert bottleneck("suggest", "new", "--n", 0).code == 2
