"""From image files to classes: the same as from cached features. About 20 s in the first tier."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bottleneck import (
    Cache,
    FrozenBase,
    ImageSet,
    extract_features,
    features_of,
    load_base,
    load_features,
    predict_images,
)
from bottleneck.bases import find_model
from bottleneck.errors import DataError, PathMissingError, WeightsError
from bottleneck.heads import RECIPES, fit_rows
from bottleneck.images import RejectedImage
from bottleneck.predict import Prediction


def fitted(cache: Cache, clf: str = "softmax"):
    features = load_features(cache)
    train = features.split("train")
    return features, fit_rows(train.X, train.labels, clf, source=features.provenance)


def assert_agree(features, head) -> None:
    """The same class for every test image, and scores within 1e-2."""
    test = features.split("test")
    images = ImageSet.from_paths(list(test.paths))
    found = list(predict_images(head, images, batch_size=7))
    assert [prediction.path for prediction in found] == list(test.paths)
    assert [prediction.label for prediction in found] == list(head.predict(test.X))
    scores = np.array([list(prediction.scores.values()) for prediction in found])
    assert np.abs(scores - head.decision_function(test.X)).max() < 1e-2
    shares = np.array([list(prediction.probabilities.values()) for prediction in found])
    assert np.abs(shares - head.predict_proba(test.X)).max() < 1e-2


@pytest.mark.parametrize(
    "clf",
    [
        pytest.param(
            clf, marks=() if clf in {"softmax", "logreg", "knn", "mlp"} else pytest.mark.ci
        )
        for clf in RECIPES
    ],
)
def test_cached_and_end_to_end_scores_agree(faces_cache, clf):
    features, head = fitted(faces_cache, clf)
    assert len(features.split("test")) == 40
    assert_agree(features, head)


@pytest.mark.ci
def test_they_agree_on_a_flattened_map_of_three_classes(make_images):
    base = FrozenBase("vgg11", ["block5_pool"], weights="random")
    cache = Cache("cache")
    extract_features(ImageSet.from_folder(make_images(cat=10, cow=10, dog=10)), base, cache)
    assert_agree(*fitted(cache))


@pytest.mark.ci
def test_bad_images_are_reported_and_not_fatal(faces, faces_cache):
    _, head = fitted(faces_cache)
    folder = Path("new images")
    folder.mkdir()
    for number in range(3):
        shutil.copy(faces / f"face/00{number}.png", folder)
    (folder / "cut.png").write_bytes((folder / "000.png").read_bytes()[:200])
    (folder / "empty.jpg").touch()
    (folder / "folder.png").mkdir()
    found = list(predict_images(head, [folder]))
    rejected = {Path(bad.path).name for bad in found if isinstance(bad, RejectedImage)}
    assert rejected == {"cut.png", "empty.jpg", "folder.png"}
    assert [one.label for one in found if isinstance(one, Prediction)] == ["face"] * 3


def test_a_head_without_a_recorded_base_is_refused(faces_cache):
    features, head = fitted(faces_cache)
    bare = fit_rows(features.X, features.labels, C=head.hyperparameters["C"])
    with pytest.raises(DataError, match="does not record which features it was fitted on"):
        load_base(bare)
    with pytest.raises(DataError, match="does not record which features it was fitted on"):
        features_of(bare.source, faces_cache)


def test_the_base_must_be_the_one_fitted_on(little, make_images):
    """Moved weights can be renamed; other weights are refused."""
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(find_model(little).build((32, 32)).state_dict(), f"{seed}.pth")
    cache = Cache("cache")
    base = FrozenBase(little, weights="0.pth")
    extract_features(ImageSet.from_folder(make_images(cat=6, dog=6)), base, cache)
    _, head = fitted(cache)
    Path("0.pth").rename("moved.pth")
    with pytest.raises(PathMissingError, match="no weights file '0.pth'"):
        load_base(head)
    assert load_base(head, weights="moved.pth").weights_name == "moved.pth"
    with pytest.raises(WeightsError, match="is not the base that computed these features"):
        load_base(head, weights="1.pth")


def test_images_in_the_cache_are_not_computed_again(faces, faces_cache, calls):
    """The same results in the same order, and no base is needed where all are there."""
    features, head = fitted(faces_cache)
    old = [str(faces / f"face/{number:03d}.png") for number in (1, 0)]
    Image.new("RGB", (40, 40), "red").save("new.png")
    Path("bad.png").write_text("no image")
    known = list(predict_images(head, [*old, old[0]], cache=faces_cache))
    assert not calls
    assert [each.path for each in known] == [*old, old[0]]
    found = list(predict_images(head, [old[0], "new.png", "bad.png", old[1]], cache=faces_cache))
    assert [each.path for each in found] == [old[0], "new.png", "bad.png", old[1]]
    assert calls
    assert isinstance(found[2], RejectedImage)
    for one, other in zip([found[0], found[3]], known[:2], strict=True):
        assert (one.path, one.label) == (other.path, other.label)
        assert one.scores == pytest.approx(other.scores, rel=1e-5)
    rows = [list(features.paths).index(path) for path in old]
    expected = head.decision_function(features.X[rows])
    assert np.allclose([list(each.scores.values()) for each in known[:2]], expected)
    computed = list(predict_images(head, old))
    assert [each.label for each in computed] == [each.label for each in known[:2]]


def test_labels_of_images_are_repeated(faces, faces_cache):
    _, head = fitted(faces_cache)
    images = ImageSet.from_folder(faces)
    found = list(predict_images(head, images, cache=faces_cache))
    assert [each.true_label for each in found] == [item.label for item in images.items]
    first = found[0].likeliest()
    assert list(first.values()) == sorted(first.values(), reverse=True)
    assert list(found[0].likeliest(1)) == [found[0].label]


def test_predictions_are_written_to_a_file(bottleneck, faces, faces_cache):
    _, head = fitted(faces_cache)
    head.save("heads/h")
    where = ("predict", faces / "face/000.png", faces / "face/000.png", "--cache", faces_cache.root)
    printed = bottleneck(*where)
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [row["path"] for row in rows] == [str(faces / "face/000.png")] * 2
    done = bottleneck(*where, "--output", "found/p.csv")
    assert (done.out, Path("found/p.csv").read_text()) == ("", printed.out)
    assert "2 images written to found/p.csv" in done.err
    ranked = list(csv.DictReader(io.StringIO(bottleneck(*where, "--top", 1).out)))
    assert list(ranked[0]) == ["path", "class", "class_1", "p_1"]
    assert float(ranked[0]["p_1"]) == max(float(rows[0][f"p({each})"]) for each in head.classes)
    assert bottleneck(*where, "--top", 9).out.splitlines()[0].count(",") == 5
    assert bottleneck(*where, "--output", "p.jsonl", "--top", 1).code == 0
    line = json.loads(Path("p.jsonl").read_text().splitlines()[0])
    assert line["probabilities"] == {"face": pytest.approx(float(ranked[0]["p_1"]), abs=1e-6)}
    Path("t.csv").write_text(f"path,label\n{faces / 'face/000.png'},face\n")
    own = Path("t.csv").read_text()
    refused = bottleneck("predict", "t.csv", "--cache", faces_cache.root, "--output", "./t.csv")
    assert (refused.code, Path("t.csv").read_text()) == (2, own)
    assert "is one of the files to read and would be replaced" in refused.err
    assert "but --json writes JSON lines" in bottleneck(*where, "--output", "a.csv", "--json").err
    Path("photo.png").write_text("mine")
    for wrong in ("photo.png", ".", "found"):
        finished = bottleneck(*where, "--output", wrong)
        assert finished.code == 2
        assert "--output must be a file ending in .csv or .jsonl" in finished.err
    assert Path("photo.png").read_text() == "mine"


def test_paths_are_read_from_standard_input(bottleneck, faces, faces_cache, monkeypatch):
    """One a line, or each ended by a NUL character, as their names may have ends of lines."""
    _, head = fitted(faces_cache)
    head.save("heads/h")
    shutil.copy(faces / "face/000.png", "a\nb.png")
    path = str(faces / "face/001.png")
    for content, expected in (
        (f"{path}\n{faces / 'face/002.png'}", [path, str(faces / "face/002.png")]),
        (f"a\nb.png\0{path}\0", ["a\nb.png", path]),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
        found = bottleneck("predict", "-", "--cache", faces_cache.root, "--json")
        assert found.code == 0, found.err
        assert [json.loads(line)["path"] for line in found.out.splitlines()] == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    refused = bottleneck("predict", "-")
    assert refused.code == 2
    assert "IMAGES is -, but standard input has no paths" in refused.err


def test_cached_images_are_predicted_without_torch(faces, faces_cache):
    _, head = fitted(faces_cache)
    head.save("heads/h")
    code = (
        "import sys; from bottleneck.cli import main\n"
        f"try: main(['predict', {str(faces / 'face')!r}, '--cache', {str(faces_cache.root)!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
