"""Metrics against scikit-learn and textbook values; refusals. About 2 s in the first tier."""

import csv
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import source_record
from PIL import Image
from sklearn import metrics

from bottleneck import evaluate_head, load_features, misclassified, select_features
from bottleneck.cli.fitted import _print_evaluation, _write_errors
from bottleneck.demo import write_demo_images
from bottleneck.errors import DataError, MissingExtraError, WrongTypeError
from bottleneck.evaluate import Evaluation, Misclassified, UnknownClass
from bottleneck.evaluate.measure import _evaluated
from bottleneck.features import Features
from bottleneck.heads import Head, fit_rows
from bottleneck.heads.models import Affine
from bottleneck.heads.scoring import score_metrics
from bottleneck.images import ImageItem, ImageSet
from bottleneck.labels import Targets
from bottleneck.pictures import check_picture, draw_confusion_matrix, epoch_log


@pytest.fixture(scope="module")
def features(faces_cache):
    return load_features(faces_cache, select_features(faces_cache))


@pytest.fixture(scope="module")
def head(features) -> Head:
    """A head that errs now and then: strong penalty, twenty features."""
    train = features.split("train")
    weak = fit_rows(train.X[:, :20], train.labels, C=1e-3)
    weight = np.zeros((2, features.X.shape[1]), np.float32)
    weight[:, :20] = weak.model.weight
    return replace(weak, model=replace(weak.model, weight=weight))


def test_metrics_equal_scikit_learns(head, features):
    found = evaluate_head(head, features)
    test = features.split("test")
    given, shares = head.predict(test.X), head.predict_proba(test.X)
    assert found.images == 40
    assert 0.5 < found.accuracy < 1
    assert found.accuracy == metrics.accuracy_score(test.labels, given)
    assert found.balanced_accuracy == pytest.approx(
        metrics.balanced_accuracy_score(test.labels, given)
    )
    assert found.log_loss == pytest.approx(metrics.log_loss(test.labels, shares), rel=1e-5)
    assert found.confusion == metrics.confusion_matrix(test.labels, given).tolist()
    carried = np.stack([test.labels == label for label in head.classes], axis=1)
    precisions = [
        metrics.average_precision_score(own, column)
        for own, column in zip(carried.T, head.decision_function(test.X).T, strict=True)
    ]
    assert [row.average_precision for row in found.classes] == pytest.approx(precisions)
    assert found.average_precision == pytest.approx(np.mean(precisions))
    precision, recall, _, support = metrics.precision_recall_fscore_support(test.labels, given)
    for row, *expected in zip(found.classes, precision, recall, support, strict=True):
        assert [row.precision, row.recall, row.images] == pytest.approx(expected)


def evaluation_of(confusion: np.ndarray, classes: tuple[str, ...], copies: int = 1) -> Evaluation:
    """An evaluation of sure answers, of which so many are of that class and given that one.

    In turn, so many of them are in one group.
    """
    codes, given = np.repeat(np.argwhere(confusion >= 0), confusion.ravel(), axis=0).T
    scores = np.log(np.eye(len(classes)) + 1e-3)[given]
    targets = Targets(classes, codes)
    metrics = score_metrics("softmax", scores, targets)
    return _evaluated("test", np.arange(len(codes)) // copies, targets, scores, metrics)


def test_wilsons_interval_is_the_published_one():
    """81 of 263: 0.2553 to 0.3662, as Newcombe 1998 (Statistics in Medicine 17) prints it."""
    confusion = np.array([[81, 182], [0, 0]])
    found = evaluation_of(confusion, ("a", "b"))
    for low, high in (found.accuracy_interval, found.classes[0].recall_interval):
        assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert found.classes[0].precision_interval[1] == 1


def test_images_of_a_group_count_as_one():
    """Ten of each are as one, also where all is right; the images of one group say nothing."""
    confusion = np.array([[60, 20], [0, 60]])
    single, tenfold = evaluation_of(confusion, ("a", "b")), evaluation_of(10 * confusion, "ab", 10)
    for low, high in (tenfold.accuracy_interval, tenfold.classes[0].recall_interval):
        assert 0 < low < high < 1
    # Student's t in place of the normal distribution makes it a little wider.
    assert tenfold.accuracy_interval == pytest.approx(single.accuracy_interval, abs=0.003)
    assert tenfold.accuracy_interval[0] < single.accuracy_interval[0]
    low, high = tenfold.classes[1].recall_interval
    assert (low, high) == (pytest.approx(single.classes[1].recall_interval[0], abs=0.003), 1)
    assert (tenfold.groups, tenfold.images) == (140, 1400)
    one = evaluation_of(np.array([[20, 0], [0, 20]]), "ab", 40)
    assert (one.accuracy_interval, one.groups) == ((0, 1), 1)


@pytest.mark.parametrize(("copies", "said"), [(1, None), (4, "40, which the i"), (160, "1, which")])
def test_groups_are_told_where_they_are_fewer(copies, said, capsys):
    _print_evaluation("x", evaluation_of(np.array([[60, 20], [0, 80]]), ("a", "b"), copies))
    printed = capsys.readouterr().out
    assert bool(re.search(rf"\bgroups +{said}", printed)) == bool(said)


def test_absent_classes_have_no_metrics():
    confusion = np.array([[3, 0, 0], [1, 1, 0], [0, 0, 0]])
    found = evaluation_of(confusion, ("a", "b", "c"))
    assert found.classes[2].average_precision is None
    assert found.classes[2].recall is None
    assert found.classes[2].precision is None
    assert found.classes[2].recall_interval is found.classes[2].precision_interval is None
    assert found.balanced_accuracy == pytest.approx((1 + 0.5) / 2)
    assert found.log_loss == pytest.approx(np.log(1003) * 1 / 5 + np.log(1003 / 1001) * 4 / 5)
    assert found.confusion == confusion.tolist()


def test_misclassified_images_are_listed(head, features):
    found = misclassified(head, features)
    test = features.split("test")
    shares = head.predict_proba(test.X)
    given, codes = shares.argmax(axis=1), (test.labels == head.classes[1]).astype(int)
    wrong = [
        (str(test.paths[n]), test.labels[n], head.classes[given[n]], shares[n, given[n]])
        for n in np.argsort(-shares.max(axis=1), kind="stable")
        if given[n] != codes[n]
    ]
    assert len(found) == round(40 * (1 - evaluate_head(head, features).accuracy))
    assert [(each.path, each.label, each.predicted, each.confidence) for each in found] == wrong
    for each in found:
        assert each.label_probability == pytest.approx(1 - each.confidence)
        assert each.confidence > 0.5


def test_misclassified_images_of_several_classes():
    """The confidence is that of the worst decision on a class."""
    model = Affine(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    head = Head(clf="logreg", classes=("a", "b", "c"), model=model, multilabel=True)
    rows = np.array([[2, -2, -2], [3, 1, -3], [-1, -1, -4], [1, -1, 1]], np.float32)
    labels, splits = np.array(["a", "a;b", "c", "b"]), np.full(4, "test")
    items = [ImageItem(f"{n}.png", f"{n}" * 64, label, "test") for n, label in enumerate(labels)]
    features = Features(
        rows,
        labels,
        np.array([item.digest for item in items]),
        splits,
        np.array([item.path for item in items]),
        np.ones(4),
        np.zeros(4, np.uint16),
        ImageSet("x", tuple(items)),
        source_record(),
    )
    found = misclassified(head, features)
    assert [(each.path, each.label, each.predicted) for each in found] == [
        ("2.png", "c", ";"),  # none
        ("3.png", "b", "a;c"),
    ]
    assert found[0].confidence == pytest.approx(1 / (1 + np.exp(-4)), rel=1e-5)
    assert found[1].confidence == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-5)
    assert found[0].label_probability is None


def test_the_worst_confusions_come_first():
    confusion = np.array([[5, 2, 0], [3, 1, 2], [0, 0, 9]])
    found = evaluation_of(confusion, ("a", "b", "c"))
    pairs = [tuple(each.values())[:3] for each in found.worst_confusions(9)]
    assert pairs == [("b", "a", 3), ("b", "c", 2), ("a", "b", 2)]
    assert found.worst_confusions(1)[0]["share"] == 0.5
    assert replace(found, confusion=None).worst_confusions(9) == []


@pytest.mark.parametrize("count", [8, 31])
def test_many_classes_have_no_printed_matrix(capsys, count):
    confusion = np.eye(count, dtype=int) * 9
    confusion[3, 4] = 2
    _print_evaluation("x", evaluation_of(confusion, tuple(f"class {n}" for n in range(count))))
    out = capsys.readouterr().out
    assert bool(re.search("^class 3 +0 +0 +0 +9 +2", out, re.MULTILINE)) == (count == 8)
    assert ("most frequent confusions" in out) == (count == 31)
    assert re.search("class 3 +class 4 +2 +0.18", out) or count == 8


def test_errors_are_written_as_a_table(bottleneck, head, features, faces_cache):
    replace(head, source=features.provenance).save("heads/weak")
    where = ("evaluate", "--cache", faces_cache.root)
    done = bottleneck(*where, "--errors", "new/errors.csv", "--json")
    rows = list(csv.DictReader(io.StringIO(Path("new/errors.csv").read_text())))
    accuracy = json.loads(done.out)["accuracy"]
    assert len(rows) == round(40 * (1 - accuracy))
    assert f"{len(rows)} misclassified images written to new/errors.csv" in done.err
    assert list(rows[0]) == ["path", "label", "predicted", "confidence", "label_probability"]
    assert rows[0]["label"] != rows[0]["predicted"]
    sure = [float(row["confidence"]) for row in rows]
    assert sure == sorted(sure, reverse=True)
    refused = bottleneck(*where, "--errors", "errors.png")
    assert refused.code == 2
    assert "--errors must be a file ending in .csv" in refused.err


@pytest.mark.parametrize(("safe", "mark"), [(True, "'"), (False, "")])
def test_formulas_in_errors_are_harmless_on_request(safe, mark):
    _write_errors(Path("errors.csv"), [Misclassified("=a.png", "+b", "c", 0.75, 0.25)], safe=safe)
    _, row = Path("errors.csv").read_text().splitlines()
    assert row == f'"{mark}=a.png","{mark}+b","c",0.75,0.25'


def test_a_missing_split_is_an_error(head, features, faces_cache):
    with pytest.raises(DataError, match="has no val images, only test, train.*`split"):
        evaluate_head(head, features, "val")
    with pytest.raises(DataError, match="has no val images, only test, train.*`split"):
        load_features(faces_cache, split="val")


def test_arguments_of_other_types_are_refused(head, features):
    with pytest.raises(WrongTypeError, match=r"^`head` must be Head, got .* \(Features\)"):
        evaluate_head(features, head)
    for wrong in ("features", None):
        with pytest.raises(
            WrongTypeError, match="^`features` must be Features, got .*; give the result"
        ):
            evaluate_head(head, wrong)


def test_unknown_classes_are_counted_and_known_ones_scored(head, features):
    other = replace(features, y=np.where(features.labels == "face", "face", "stranger"))
    found, whole = evaluate_head(head, other), evaluate_head(head, features)
    faces = whole.classes[0].images
    assert found.unknown_classes == [UnknownClass("stranger", whole.images - faces)]
    assert found.images == faces
    assert found.accuracy == found.classes[0].recall == whole.classes[0].recall
    assert not whole.unknown_classes
    with pytest.raises(DataError, match="have the class 'other', which the head was not fitted"):
        evaluate_head(head, replace(features, y=np.full(len(features), "other")))


def test_an_evaluation_is_saved_as_json(head, features):
    found = evaluate_head(head, features)
    found.save("out/evaluation.json")
    saved = json.loads(Path("out/evaluation.json").read_text())
    assert saved["accuracy"] == found.accuracy
    assert saved["classes"][0]["label"] == "face"


@pytest.mark.parametrize(
    ("module", "use", "sentence"),
    [
        ("matplotlib", lambda: check_picture("x.png"), "drawing a picture needs matplotlib, which"),
        ("torch.utils.tensorboard", lambda: epoch_log("x").__enter__(), "TensorBoard needs tensor"),
        ("skimage.data", lambda: write_demo_images("x"), "the demo needs scikit-image, which is"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, module, use, sentence):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=f"{sentence}.*; run 'pip install "):
        use()


@pytest.mark.ci
def test_a_picture_of_many_classes_names_what_can_be_read():
    labels = tuple(f"class {number}" for number in range(230))
    found = evaluation_of(np.eye(230, dtype=int), labels)
    draw_confusion_matrix(found, "h", "c.svg")
    named = set(re.findall("<!-- (class [0-9]+) -->", Path("c.svg").read_text()))
    assert len(named) == 115


@pytest.mark.parametrize("classes", [2, 12])
def test_the_picture_is_drawn_within_its_frame(classes):
    """The picture's edge is only background: no label is cut off."""
    labels = tuple(f"a rather long class $name^$ {number}" for number in range(classes))
    confusion = np.eye(classes, dtype=int) * 7
    found = evaluation_of(confusion, labels)
    draw_confusion_matrix(found, "a head with quite a long name-softmax", "out/confusion.png")
    pixels = np.asarray(Image.open("out/confusion.png").convert("L"))
    assert min(pixels.shape) > 400
    assert pixels.std() > 20
    for edge in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]):
        assert edge.min() == 255
