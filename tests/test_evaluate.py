"""Metrics against scikit-learn and textbook values; refusals."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from bottleneck import evaluate_head, load_features, select_features
from bottleneck.demo import write_demo_images
from bottleneck.errors import DataError, MissingExtraError, WrongTypeError
from bottleneck.evaluate import Evaluation, UnknownClass, _evaluated
from bottleneck.heads import Head, fit_rows
from bottleneck.heads.scoring import score_metrics
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


def evaluation_of(confusion: np.ndarray, classes: tuple[str, ...]) -> Evaluation:
    """An evaluation of sure answers, of which so many are of that class and given that one."""
    codes, given = np.repeat(np.argwhere(confusion >= 0), confusion.ravel(), axis=0).T
    scores = np.log(np.eye(len(classes)) + 1e-3)[given]
    targets = Targets(classes, codes)
    return _evaluated("test", 0, targets, scores, score_metrics("softmax", scores, targets))


def test_wilsons_interval():
    """81 of 263: 0.2553 to 0.3662, as Newcombe 1998 (Statistics in Medicine 17) prints it."""
    confusion = np.array([[81, 182], [0, 0]])
    low, high = evaluation_of(confusion, ("a", "b")).accuracy_interval
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_absent_classes_have_no_metrics():
    confusion = np.array([[3, 0, 0], [1, 1, 0], [0, 0, 0]])
    found = evaluation_of(confusion, ("a", "b", "c"))
    assert found.classes[2].average_precision is None
    assert found.classes[2].recall is None
    assert found.classes[2].precision is None
    assert found.balanced_accuracy == pytest.approx((1 + 0.5) / 2)
    assert found.log_loss == pytest.approx(np.log(1003) * 1 / 5 + np.log(1003 / 1001) * 4 / 5)
    assert found.confusion == confusion.tolist()


def test_a_missing_split_is_an_error(head, features):
    with pytest.raises(DataError, match="has no val images, only test, train.*`split"):
        evaluate_head(head, features, "val")


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


def test_saved_as_json(head, features):
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
