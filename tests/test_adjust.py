"""Features adjusted before a head sees them: the same in fitting, scoring, torch and fine-tuning.

About 3 s in the first tier.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scaled import LeastScaler
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer

from bottleneck import (
    Cache,
    FrozenBase,
    Head,
    HeadClassifier,
    ImageSet,
    evaluate_head,
    extract_features,
    features_of,
    fit_head,
    load_features,
    run_sweep,
    select_features,
)
from bottleneck.errors import DataError, UsageError
from bottleneck.files import read_json, write_json
from bottleneck.finetune import finetune_head
from bottleneck.heads import RECIPES, fit_rows
from bottleneck.heads.adjust import Adjust
from bottleneck.predict import predict_images
from bottleneck.settings import FinetuneSettings

BOTH = {"power": 0.5, "normalize": "l2"}


def rows(count: int = 60, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Features with zeros, as of rectified units, a row of nothing else, and their labels."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 3
    X = generator.standard_normal((count, width)) + generator.standard_normal((3, width))[labels]
    X[:, 5:] = np.maximum(X[:, 5:], 0)
    X[7] = 0
    return (X * 10 ** generator.uniform(-2, 2, (count, 1))).astype(np.float32), labels.astype(str)


def test_adjusted_rows_are_those_of_scikit_learn():
    X, _ = rows()
    signed = np.sign(X) * np.sqrt(np.abs(X))
    assert np.allclose(Adjust(0.5)(X), signed, rtol=1e-6)
    assert np.allclose(Adjust(0.5, "l2")(X), Normalizer().fit_transform(signed), atol=1e-6)
    assert Adjust(normalize="l2")(X.astype(np.float16)).dtype == np.float32
    assert Adjust()(X) is X
    parts = [Normalizer().fit_transform(each) for each in (signed[:, :5], signed[:, 5:])]
    assert np.allclose(Adjust(0.5, "l2", (5, 15))(X), np.hstack(parts), atol=1e-6)


def test_a_head_on_adjusted_features_is_that_of_a_pipeline():
    X, y = rows()
    root = FunctionTransformer(lambda each: np.sign(each) * np.sqrt(np.abs(each)))
    steps = root, Normalizer(), LeastScaler(), LogisticRegression(C=0.1, tol=1e-8, max_iter=999)
    expected = make_pipeline(*steps).fit(X, y).decision_function(X)
    found = fit_rows(X, y, C=0.1, **BOTH).decision_function(X)
    centred = (each - each.mean(axis=1, keepdims=True) for each in (expected, found))
    assert np.allclose(*centred, atol=2e-3)
    estimator = HeadClassifier(C=0.1, **BOTH).fit(X, y)
    assert np.allclose(estimator.decision_function(X), found, atol=1e-5)


def test_heads_of_the_version_before_are_read_and_that_version_reads_no_new_ones():
    """It did not adjust features, and would predict others without a word."""
    X, y = rows()
    head = fit_rows(X, y, C=1.0, **BOTH)
    file = head.save("head") / "head.json"
    record = read_json(file)
    assert record["schema"] == 6
    del record["widths"]
    write_json(file, record | {"schema": 4})
    loaded = Head.load("head")
    assert np.array_equal(loaded.decision_function(X), head.decision_function(X))
    write_json(file, record | {"widths": [3]})
    with pytest.raises(DataError, match="'widths' is .3., expected a sum of 20"):
        Head.load("head")


@pytest.mark.parametrize("clf", RECIPES)
@pytest.mark.parametrize("adjust", [BOTH, {"power": 0.3}, {"normalize": "l2"}])
def test_a_module_scores_as_numpy_does_also_after_loading(clf, adjust):
    X, y = rows()
    given = {"hidden": 8, "epochs": 5} if clf == "mlp" else {}
    fit_rows(X, y, clf, **adjust, **given).save("head")
    head = Head.load("head")
    scores = head.decision_function(X)
    assert np.abs(head.to_module()(torch.from_numpy(X)).detach().numpy() - scores).max() <= 1e-5
    plain = replace(head, power=1.0, normalize="none")
    assert np.abs(plain.decision_function(X) - scores).max() > 1e-3


def test_units_that_are_off_get_no_gradient():
    X, y = rows()
    values = torch.from_numpy(X).requires_grad_()
    fit_rows(X, y, "centroid", **BOTH).to_module()(values).sum().backward()
    assert values.grad.isfinite().all()
    assert not values.grad[values == 0].any()
    assert values.grad[0].any()


def test_adjustments_are_the_same_in_all_commands(bottleneck, make_images, little):
    """Fitted in memory and in passes over the cache, evaluated, predicted and swept."""
    images = ImageSet.from_folder(make_images("data", cat=12, dog=12))
    cache = Cache("cache")
    extract_features(images, FrozenBase(little, ["second_relu"], weights="random"), cache)
    features = load_features(cache, select_features(cache))
    head = fit_head(features, C=1.0, **BOTH)
    assert (head.power, head.normalize) == (0.5, "l2")
    streamed = fit_head(load_features(cache, select_features(cache), memory=1), C=1.0, **BOTH)
    X = features.X
    assert np.allclose(head.decision_function(X), streamed.decision_function(X), atol=5e-3)
    items = [item for item in images.items if item.split == "test"]
    predicted = list(predict_images(head, [item.path for item in items]))
    held = features_of(head.source, cache, split="test")
    right = np.mean([one.label == item.label for one, item in zip(predicted, items, strict=True)])
    assert evaluate_head(head, held).accuracy == pytest.approx(right)
    asked = {"clfs": ("softmax",), "C": (1.0,), "cv": 3, "jobs": 1}
    run_sweep(cache, [features.selection], "experiments.sqlite", **asked)
    (done,) = run_sweep(cache, [features.selection], "experiments.sqlite", **asked, **BOTH)
    assert done.number == 2
    assert {"power": 0.5, "normalize": "l2"}.items() <= done.settings.items()
    listed = bottleneck("leaderboard", "--where", "normalize=none", "--csv").out
    assert len(listed.splitlines()) == 2
    told = bottleneck("fit-head", "--experiment", "2", "--name", "again").out
    assert "power = 0.5, normalize = l2" in told
    again = Head.load("heads/again")
    assert np.allclose(again.decision_function(X), head.decision_function(X), atol=1e-4)
    with pytest.raises(UsageError, match=r"`power` must be a number above 0 and of at most 1"):
        fit_head(features, power=2)


@pytest.mark.ci
def test_fine_tuning_goes_on_from_adjusted_features(make_images, little):
    """Its network reproduces the head before the first step, or it would refuse to start."""
    cache = Cache("cache")
    images = ImageSet.from_folder(make_images("data", cat=20, dog=20))
    extract_features(
        images, FrozenBase(little, ["flat"], weights="random", precision="fp32"), cache
    )
    head = fit_head(load_features(cache, select_features(cache)), C=1.0, **BOTH)
    how = FinetuneSettings("second", epochs=2, val_share=0.3, batch_size=8, precision="fp32")
    finetune_head(head, None, cache, "heads/tuned", how)
    tuned = Head.load("heads/tuned")
    assert (tuned.power, tuned.normalize) == (0.5, "l2")
    assert len(tuned.scores["history"]) == 2
