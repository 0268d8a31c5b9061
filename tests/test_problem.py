"""Images with several classes and sample weights, from the manifest to predictions.

About 6 s in the first tier.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bottleneck import Cache, Head, ImageSet, load_features, select_features
from bottleneck.errors import DataError, UsageError

BASE = ("--model", "efficientnet_lite0", "--layer", "global_pool.flatten")


@pytest.fixture
def manifest(faces) -> Path:
    """Photographs that are a face or not, and bright or not; a few of them are neither."""
    rows = []
    for path in sorted(faces.glob("*/*")):
        named = ["face"] * (path.parent.name == "face") + ["even"] * (int(path.stem) % 2 == 0)
        rows.append((path, ";".join(named) if len(named) == 1 else ";".join(named) or ";", 1.0))
    with Path("list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "weight"])
        writer.writerows(rows)
    return Path("list.csv")


@pytest.mark.ci
def test_from_the_manifest_to_predictions(bottleneck, manifest, faces):
    """Faces are recognised whatever the other class; a class of even numbers is not."""
    done = bottleneck("extract", "--data", manifest, *BASE)
    assert done.code == 0, done.err
    fitted = bottleneck("fit-head", "--clf", "logreg", "--name", "several")
    assert fitted.code == 0, fitted.err
    assert "held-out average precision 0." in fitted.out
    head = Head.load("heads/several")
    assert head.classes == ("even", "face")
    assert head.multilabel
    told = bottleneck("evaluate")
    assert re.search(r"^average precision  0\.\d+", told.out, re.MULTILINE)
    assert "true \\ predicted" not in told.out
    found = json.loads(bottleneck("evaluate", "--json").out)
    by_class = {each["label"]: each for each in found["classes"]}
    assert by_class["face"]["average_precision"] > 0.95
    assert by_class["even"]["average_precision"] < 0.9
    assert found["confusion"] is None
    refused = bottleneck("evaluate", "--picture", "no.png")
    assert refused.code == 2
    assert "a confusion matrix needs one class for each; leave --picture out" in refused.err
    lines = bottleneck("predict", faces / "face", "--json").out.splitlines()
    shares = [json.loads(line)["probabilities"] for line in lines]
    labels = [json.loads(line)["class"] for line in lines]
    assert np.mean(["face" in label.split(";") for label in labels]) > 0.9
    for label, share in zip(labels, shares, strict=True):
        assert set(filter(None, label.split(";"))) == {name for name in share if share[name] > 0.5}
    swept = bottleneck(
        "sweep", "--wide", "--clf", "ridge", "--clf", "knn", "--C", 0.01, "--jobs", 1
    )
    assert swept.code == 0, swept.err
    assert "average_precision" in swept.out
    refused = bottleneck("fit-head")
    assert refused.code == 2
    assert "softmax gives each image one class, but the labels name several" in refused.err


def test_every_class_is_on_both_sides_of_the_split(manifest):
    images = ImageSet.from_manifest(manifest)
    assert images.classes == ("even", "face")
    for wanted in images.classes:
        splits = [each.split for each in images.items if wanted in each.label.split(";")]
        assert 0.15 < np.mean(np.array(splits) == "test") < 0.25
    with manifest.open() as file:
        rows = list(csv.reader(file))
    rows[1][1] = "rare;even"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(DataError, match="class 'rare' has 1 usable image"):
        ImageSet.from_manifest(manifest)


def test_weights_of_the_manifest_count(bottleneck, make_images):
    """They are kept with the set, are part of its digest, and the head sees them."""
    folder = make_images(cat=8, dog=8)
    rows = [
        (path, path.parent.name, 3 if path.parent.name == "cat" else "")
        for path in sorted(folder.glob("*/*"))
    ]
    lines = "\n".join(f"{path},{label},{weight}" for path, label, weight in rows)
    Path("plain.csv").write_text("path,label,weight\n" + lines.replace(",3", ","))
    Path("heavy.csv").write_text("path,label,weight\n" + lines)
    digests, heads = {}, {}
    for name in ("plain", "heavy"):
        done = bottleneck("extract", "--data", f"{name}.csv", *BASE)
        assert done.code == 0, done.err
        cache = Cache("cache")
        features = load_features(cache, select_features(cache, image_set=name))
        digests[name] = features.images.digest_of("train")
        assert set(features.weights) == ({1, 3} if name == "heavy" else {1})
        assert bottleneck("fit-head", "--C", 1e-5, "--set", name, "--name", name).code == 0
        scores = Head.load(f"heads/{name}").decision_function(features.split("train").X)
        heads[name] = (scores[:, 0] - scores[:, 1]).mean()
    assert digests["plain"] != digests["heavy"]
    # Next to nothing but the intercept is left: three cats to a dog.
    assert heads["plain"] == pytest.approx(0, abs=0.05)
    assert heads["heavy"] == pytest.approx(np.log(3), abs=0.05)
    assert "weight" not in Path("cache/sets/plain.csv").read_text()
    again = ImageSet.read_csv("cache/sets/heavy.csv")
    assert {each.weight for each in again.items} == {1, 3}


@pytest.mark.parametrize("weight", ["-1", "nan", "inf", "much"])
def test_invalid_weights_in_a_manifest_are_refused(make_images, weight):
    folder = make_images(cat=2, dog=2)
    lines = [f"{path},{path.parent.name},{weight}" for path in folder.glob("*/*")]
    Path("list.csv").write_text("path,label,weight\n" + "\n".join(lines))
    with pytest.raises(UsageError, match=f"in line 2: 'weight' is '{weight}', expected"):
        ImageSet.from_manifest("list.csv")


def test_options_of_the_network_are_for_the_network(bottleneck, faces_cache):
    cache = ("--cache", faces_cache.root)
    for option in (("--epochs", 3), ("--picture", "a.png"), ("--learning-rate", 0.1)):
        refused = bottleneck("fit-head", *cache, *option)
        assert refused.code == 2
        assert refused.err.startswith(f"error: {option[0]} ")
        assert "give --clf mlp" in refused.err
    refused = bottleneck("fit-head", *cache, "--clf", "knn", "--C", 1)
    assert "knn has no --C; leave it out" in refused.err
    refused = bottleneck("fit-head", *cache, "--neighbors", 3)
    assert "softmax has no --neighbors; leave it out" in refused.err
    refused = bottleneck("fit-head", *cache, "--device", "tpu")
    assert refused.code == 2
    assert "no device 'tpu'; expected auto, cpu, cuda" in refused.err


def test_epochs_are_printed_drawn_and_logged(bottleneck, faces_cache):
    done = bottleneck(
        "fit-head", "--cache", faces_cache.root, "--clf", "mlp", "--hidden", 16, "--epochs", 5,
        "--picture", "epochs.png", "--tensorboard", "logs", "--name", "net",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "of 5 epochs" in done.err
    assert re.search(r"hidden = 16, .* best epoch \d of 5, held-out accuracy (0\.9|1)", done.out)
    assert re.search(r"^epoch 5 of 5: loss \d.*; validation loss \d", done.err, re.MULTILINE)
    reading = Head.load("heads/net").scores["reading"]
    assert f"\ncurves: {reading}\n" in done.out
    assert Path("epochs.png").stat().st_size > 10_000
    from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415 - slow
        EventAccumulator,
    )

    logged = EventAccumulator("logs/net")
    logged.Reload()
    history = Head.load("heads/net").scores["history"]
    assert sorted(logged.Tags()["scalars"]) == [
        "accuracy/train", "accuracy/validation", "loss/train", "loss/validation",
    ]  # fmt: skip
    values = [each.value for each in logged.Scalars("loss/validation")]
    assert values == pytest.approx([epoch["val_loss"] for epoch in history])
