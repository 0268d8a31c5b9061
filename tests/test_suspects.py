"""Wrong labels, outliers and look-alikes are found; labels are corrected. About 10 s."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sites import installed

from bottleneck import ImageSet, find_suspects, load_features, select_features
from bottleneck.errors import DataError, MissingExtraError, UsageError
from bottleneck.heads import held_out_probabilities
from bottleneck.images import ImageItem, correct_labels
from bottleneck.labels import Targets
from bottleneck.report import Card, write_gallery
from bottleneck.similar import neighbour_distances
from bottleneck.suspects import LookAlikes, judge_several, judge_single, tell_apart

FLIPPED = (3, 50, 120)


@pytest.fixture(scope="module")
def features(faces_cache):
    return load_features(faces_cache, select_features(faces_cache))


@pytest.fixture(scope="module")
def flipped(features):
    """Faces of which three training images have the other label."""
    labels = features.labels.copy()
    train = np.flatnonzero(features.splits == "train")[list(FLIPPED)]
    labels[train] = np.where(labels[train] == "face", "no_face", "face")
    return replace(features, y=labels), {str(path) for path in features.paths[train]}


def test_labels_that_were_flipped_are_the_first_suspects(flipped):
    given, wrong = flipped
    found = find_suspects(given)
    assert {each.path for each in found.labels[:3]} == wrong
    assert found.images == 160
    for each in found.labels[:3]:
        assert {each.label, each.suggested} == {"face", "no_face"}
        assert each.score < 0.2
    scores = [each.score for each in found.labels]
    assert scores == sorted(scores)
    assert len(find_suspects(given, top=7).labels) == 7


def test_test_images_are_judged_only_when_asked(features):
    labels = features.labels.copy()
    (first, *_) = np.flatnonzero(features.splits == "test")
    labels[first] = "no_face" if labels[first] == "face" else "face"
    given = replace(features, y=labels)
    assert all(each.split == "train" for each in find_suspects(given, clf="lda", top=999).labels)
    found = find_suspects(given, test=True)
    assert found.images == 200
    assert found.labels[0].path == features.paths[first]


def test_probabilities_are_of_heads_that_have_not_seen_the_row(features):
    """Labels drawn at random are guessed no better than at random, also where rows are copies."""
    train = np.flatnonzero(features.splits == "train")
    rng = np.random.default_rng(0)
    labels = features.labels.copy()
    labels[train] = rng.permutation(labels[train])
    twice = replace(features, y=labels).take(np.r_[train, train])
    held = held_out_probabilities(twice, "lda")
    right = held.probabilities.argmax(axis=1) == held.targets.codes
    assert right.mean() < 0.6
    assert held.rows.tolist() == list(range(320))
    assert held.probabilities.sum(axis=1) == pytest.approx(1)


def test_cleanlab_judges_rows_of_several_classes():
    rng = np.random.default_rng(0)
    codes = rng.random((200, 3)) < 0.5
    shares = np.where(codes, 0.95, 0.05)
    wrong = codes.copy()
    wrong[[5, 17], [0, 2]] ^= True
    counted, scores, suggested = judge_several(Targets(("a", "b", "c"), wrong), shares)
    assert np.flatnonzero(counted).tolist() == [5, 17]
    assert sorted(scores.argsort()[:2]) == [5, 17]
    for row in range(200):
        own = ";".join(np.array(list("abc"))[codes[row]])
        assert (suggested[row].strip(";") == own) == (row in {5, 17})


def test_a_set_of_one_class_is_judged_too():
    codes = (np.arange(60) % 2 == 0)[:, None]
    shares = np.where(codes, 0.9, 0.1)
    wrong = codes.copy()
    wrong[[4, 7]] ^= True
    counted, scores, suggested = judge_several(Targets(("a",), wrong), shares)
    assert np.flatnonzero(counted).tolist() == [4, 7]
    assert sorted(scores.argsort()[:2]) == [4, 7]
    assert [each.strip(";") for each in suggested] == ["" if own else "a" for own in wrong[:, 0]]


def test_the_likeliest_other_class_is_suggested():
    shares = np.full((60, 3), 0.05)
    codes = np.arange(60) % 3
    shares[np.arange(60), codes] = 0.9
    wrong = codes.copy()
    wrong[0] = 2
    counted, scores, suggested = judge_single(Targets(("a", "b", "c"), wrong), shares)
    assert np.flatnonzero(counted).tolist() == [0]
    assert scores[0] == pytest.approx(0.05)
    assert suggested[0] == "a"
    assert all(name != ("a", "b", "c")[code] for name, code in zip(suggested, wrong, strict=True))


def test_a_label_that_is_the_likeliest_is_no_suspect():
    """Which cleanlab counts by its low probability."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(4, 0.7), 300)
    codes = rng.integers(4, size=300)
    counted, _, suggested = judge_single(Targets(("a", "b", "c", "d"), codes), shares)
    assert counted.any()
    assert (shares.argmax(axis=1) != codes)[counted].all()
    assert all(suggested[row] != "abcd"[codes[row]] for row in range(300))


def test_an_image_unlike_all_others_and_look_alikes_are_found(features):
    X = np.random.default_rng(0).normal(size=(len(features), 20)) * 0.1 + 1
    X[7] = -1
    X[20] = X[160] * 2 + 1e-4
    found = find_suspects(replace(features, X=X.astype(np.float32)), clf="lda", near=0.9999)
    assert [each.path for each in found.outliers] == [features.paths[7]]
    assert found.outliers[0].distance > 1.9
    (group,) = found.look_alikes
    assert group.paths == features.paths[[20, 160]].tolist()
    assert group.disagree == (
        len({*features.labels[[20, 160]]}) + len({*features.splits[[20, 160]]}) > 2
    )


def test_an_outlier_of_one_joined_layer_is_found_whatever_its_scale(features):
    rng = np.random.default_rng(0)
    small, large = (rng.normal(size=(len(features), 20)) * 0.1 + 1 for _ in range(2))
    small[7] = -1
    X = np.hstack([small, 1000 * large]).astype(np.float32)
    found = find_suspects(replace(features, X=X, widths=(20, 20)), clf="lda")
    assert [each.path for each in found.outliers] == [features.paths[7]]
    assert found.outliers[0].distance == pytest.approx(1, abs=0.1)


def test_distances_leave_the_row_itself_out():
    X = np.eye(3, dtype=np.float32)
    assert neighbour_distances(X, 10).tolist() == [1, 1, 1]
    assert neighbour_distances(X[:1], 10).tolist() == [0]


def test_what_cannot_be_judged_is_refused(features, monkeypatch):
    images = replace(features.images, name="data")
    with pytest.raises(DataError, match="'data' has no labels"):
        find_suspects(replace(features, y=None, images=images))
    single = features.take(np.array([0, int(np.argmax(features.labels != features.labels[0]))]))
    with pytest.raises(DataError, match="2 folds need 2"):
        find_suspects(replace(single, splits=np.array(["train", "train"])))
    only = replace(features.take(features.splits == "test"), images=images)
    with pytest.raises(DataError, match="only test images; give `test`"):
        find_suspects(only)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(MissingExtraError, match="needs cleanlab.*'pip install cleanlab'"):
        find_suspects(features)


def test_an_early_release_of_cleanlab_is_refused(features, tmp_path):
    """One under another licence; here, only what tells its version is of such a release."""
    folder = tmp_path / "site" / "cleanlab-2.8.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: cleanlab\nVersion: 2.8.1\n")
    told = "needs cleanlab>=2.9, but 2.8.1 is installed; run 'pip install \"cleanlab>=2.9\"'"
    with installed(folder.parent), pytest.raises(MissingExtraError, match=told):
        find_suspects(features)


@pytest.fixture
def faces_here(faces_cache):
    Path("cache").symlink_to(faces_cache.root)
    return ImageSet.read_csv(faces_cache.set_file("data"))


def write(rows, header=("path", "label", "suggested", "score"), file="reviewed.csv") -> str:
    with Path(file).open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


def test_the_command_lists_draws_and_corrects(bottleneck, faces_here):
    done = bottleneck("suspects", "--clf", "lda", "--top", 3, "--output", "s.csv", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    with Path("s.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == [each["path"] for each in told["labels"]]
    assert list(rows[0]) == ["path", "label", "suggested", "score"]
    shown = bottleneck("suspects", "--clf", "lda", "--top", 3, "--gallery", "s.png")
    assert "judged by lda on 5 folds: 3 suspects" in shown.out
    assert rows[0]["path"][-12:] in shown.out
    alone = {each["path"] for name in ("labels", "outliers") for each in told[name]}
    together = [path for each in told["look_alikes"] for path in each["paths"]]
    with Image.open("s.png") as sheet:
        assert sheet.size[0] * sheet.size[1] > 96 * 96 * len([*alone, *together])
    page = bottleneck("suspects", "--clf", "lda", "--top", 3, "--gallery", "s.html")
    assert page.err.endswith(f"{len([*alone, *together])} images shown in s.html\n")
    text = Path("s.html").read_text()
    assert text.count("data:image/jpeg") == len([*alone, *together])
    assert text.count("outlier ") == len(told["outliers"])
    printed = bottleneck("suspects", "--clf", "lda", "--top", 3, "--csv").out
    assert printed == Path("s.csv").read_text()

    first = faces_here.items[0]
    other = "no_face" if first.label == "face" else "face"
    write([(first.path, first.label, other, 0.1)])
    done = bottleneck("suspects", "--fix", "reviewed.csv", "--output", "fixed.csv")
    assert done.code == 0
    assert "1 label of 'data' corrected in fixed.csv" in done.out
    fixed = ImageSet.open("fixed.csv")
    assert fixed.items[0].label == other
    old = {(item.digest, item.label, item.split) for item in faces_here.items[1:]}
    assert {(item.digest, item.label, item.split) for item in fixed.items[1:]} == old


@pytest.mark.parametrize(
    ("rows", "header", "told"),
    [
        ([("x.png", "face", "no_face", 1)], None, "names 'x.png' in line 2, which is not in image"),
        ([("PATH", "LABEL", "nose", 1)], None, "the class 'nose' in line 2, which image set"),
        ([("PATH", "nose", "face", 1)], None, "has the label 'nose', but it is"),
        ([("PATH", "LABEL", "", 1)], None, "suggests no label in line 2"),
        ([("PATH", "LABEL", "face", 1), ("PATH", "LABEL", "no_face", 1)], None, "keep one of"),
        ([], None, "has no rows; there is nothing to correct"),
        ([("PATH", "face")], ("path", "label"), "has no column suggested; expected the header"),
        ([("PATH", "a", "b")], ("path", "suggested", "notes"), "an unknown column 'notes'"),
    ],
)
def test_a_reviewed_table_that_is_wrong_is_refused(bottleneck, faces_here, rows, header, told):
    first = faces_here.items[0]
    words = {"PATH": first.path, "LABEL": first.label}
    rows = [[words.get(cell, cell) for cell in row] for row in rows]
    write(rows, header or ("path", "label", "suggested", "score"))
    done = bottleneck("suspects", "--fix", "reviewed.csv", "--output", "fixed.csv")
    assert told in done.err
    assert done.code in {1, 2}
    assert not Path("fixed.csv").exists()


@pytest.mark.usefixtures("faces_here")
def test_a_reviewed_table_is_not_replaced(bottleneck):
    Path("reviewed.csv").write_text("kept")
    done = bottleneck("suspects", "--fix", "reviewed.csv", "--output", "reviewed.csv")
    assert done.code == 2
    assert Path("reviewed.csv").read_text() == "kept"
    assert (
        "--fix has no effect without --output"
        in bottleneck("suspects", "--fix", "reviewed.csv").err
    )
    missing = bottleneck("suspects", "--fix", "none.csv", "--output", "fixed.csv")
    assert missing.code == 2
    assert "no reviewed table 'none.csv'" in missing.err


def test_weights_and_groups_stay_and_paths_are_of_the_tables_folder(make_images):

    make_images(cat=3, dog=3)
    images = ImageSet.open("data")
    items = [
        replace(item, weight=0.5, group=f"g{place}") for place, item in enumerate(images.items)
    ]
    images = replace(images, items=tuple(items))
    write([(items[0].path, "dog")], ("path", "suggested"))
    done = correct_labels(images, "reviewed.csv", "data/fixed.csv")
    assert (done.images, done.changed) == (6, 1)
    with Path("data/fixed.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["path"].startswith("cat/")
    again = ImageSet.open("data/fixed.csv")
    assert [(each.weight, each.group, each.split) for each in again.items] == [
        (each.weight, each.group, each.split) for each in items
    ]
    assert [each.label for each in again.items] == ["dog", *(each.label for each in items[1:])]


def test_a_name_that_spreadsheets_were_kept_from_reading_is_found():

    items = [ImageItem(f"={number}.png", "ab" * 32, "=a", "train") for number in range(2)]
    items += [ImageItem("b.png", "cd" * 32, "b", "train")]
    images = ImageSet("odd", tuple(items))
    write([("'=0.png", "'=a", "b", 0.1), ("b.png", "b", "'=a", 0.1)])
    assert correct_labels(images, "reviewed.csv", "fixed.csv").changed == 2


def test_an_image_may_lose_all_classes_where_it_may_have_several():

    items = [
        ImageItem(f"{name}.png", "ab" * 32, label, "train")
        for name, label in (("x", "a;b"), ("y", "b"))
    ]
    images = ImageSet("several", tuple(items))
    write([("x.png", "a;b", ";", 0.1), ("y.png", "b", "b;a", 0.1)])
    assert correct_labels(images, "reviewed.csv", "fixed.csv").changed == 2
    write([("x.png", "a;b", "a;c", 0.1)])
    with pytest.raises(UsageError, match="the class 'c' in line 2"):
        correct_labels(images, "reviewed.csv", "fixed.csv")


def test_groups_of_very_many_look_alikes_are_left_out():
    """They are those of features that hardly tell images apart."""
    two, many = (LookAlikes(["p"] * n, ["a"] * n, ["train"] * n) for n in (2, 25))
    left, note = tell_apart([many, two, many], 100)
    assert left == [two]
    assert note.startswith("no look-alikes are shown of 50 images, whose features are all close")
    assert tell_apart([many, two], 1000) == ([many, two], "")


def test_a_gallery_begins_with_what_stands_alone(faces_here):
    """The suspects, before the groups of look-alikes."""
    items = faces_here.items[:3]
    cards = [
        Card(item, {"": name}) for item, name in zip(items, ("one", "two", "three"), strict=True)
    ]
    write_gallery("s.html", "title", [cards[1:], cards[:1]])
    text = Path("s.html").read_text()
    assert text.index("one") < text.index('class="group"') < text.index("two") < text.index("three")
