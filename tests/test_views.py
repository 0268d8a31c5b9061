"""Augmented views in the cache, in heads and in predictions, with real weights.

About 5 s in the first tier.
"""

import csv
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import crops
from PIL import Image

from bottleneck import (
    Cache,
    ExperimentLog,
    FrozenBase,
    ImageSet,
    SweepSettings,
    extract_features,
    features_of,
    load_features,
    predict_images,
    run_sweep,
    select_features,
    select_layers,
)
from bottleneck.augment import POLICIES, find_policy
from bottleneck.cache import compact_bank, find_prunable
from bottleneck.errors import DataError, UnknownNameError, UsageError
from bottleneck.extract import (
    count_cached,
    forecast_extraction,
    preprocess,
    recheck_banks,
)
from bottleneck.features import StreamedRows
from bottleneck.heads import fit_rows
from bottleneck.heads.prepare import make_problem, recipe_of
from bottleneck.settings import TrainingSettings
from bottleneck.sources import read_source

STANDARD = find_policy("standard")
LITTLE = 1000
"""Bytes of memory, for which any features are too many."""


def write_set(root: Path, **counts: int) -> ImageSet:
    """Write ``SPLIT/CLASS/`` folders of two classes; return the set."""
    images = iter(crops(2 * sum(counts.values()), seed=5))
    for split, count in counts.items():
        for label in ("cat", "dog"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                next(images).save(folder / f"{number}.png")
    return ImageSet.from_folder(root)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> ImageSet:
    """Twelve train, four val and four test images; not to be changed."""
    return write_set(tmp_path_factory.mktemp("set") / "pets", train=6, val=2, test=2)


@pytest.fixture(scope="module")
def train(images) -> list[str]:
    """Digests of the training images."""
    return [item.digest for item in images.items if item.split == "train"]


@pytest.fixture(scope="module")
def viewed(images, lite0, tmp_path_factory) -> Cache:
    """A cache with three standard views; not to be changed."""
    cache = Cache(tmp_path_factory.mktemp("viewed"))
    extract_features(images, lite0, cache, views=3, augment="standard")
    return cache


def bank_of(cache: Cache, policy: str):
    return next(bank for bank in cache.banks() if bank.info.policy == policy)


def rows_of(cache: Cache, policy: str, train: list[str], view: int) -> np.ndarray:
    bank = bank_of(cache, policy)
    return bank.read(next(iter(bank.info.layers)), train, view=view)


def test_only_training_images_have_views(viewed, images, train, lite0):
    (layer,) = lite0.layers
    assert bank_of(viewed, "standard").known(layer) == {
        (digest, view) for digest in train for view in (1, 2, 3)
    }
    plain = next(bank for bank in viewed.banks() if bank.info.policy is None)
    assert plain.known(layer) == {(item.digest, 0) for item in images.items}


def test_a_views_features_are_those_of_its_pixels(viewed, images, lite0):
    item = next(item for item in images.items if item.split == "train")
    data = Path(item.path).read_bytes()
    for view in (1, 3):
        pixels = preprocess(lite0.transform, data, STANDARD, item.digest, view)
        batch = torch.stack([lite0.transform.normalise(pixels)] * 4)
        (expected,) = (rows[:1].numpy() for rows in lite0(batch).values())
        found = rows_of(viewed, "standard", [item.digest], view)
        assert np.array_equal(found, expected.astype(np.float16))


@pytest.mark.ci
def test_only_missing_views_are_computed_and_come_out_the_same(viewed, images, train, lite0, calls):
    """Bitwise, in whatever steps and order views are computed."""
    cache = Cache("cache")
    first = extract_features(images, lite0, cache, views=1, augment="standard")
    assert (first.computed, first.views_computed) == (20, 12)
    kept = [item for item in images.items if item.digest not in train[:3]]
    some = ImageSet("pets", tuple(reversed(kept)))
    assert extract_features(some, lite0, cache, views=2, augment="standard").views_computed == 9
    more = extract_features(images, lite0, cache, views=3, augment="standard")
    assert (more.computed, more.views_computed) == (0, 36 - 12 - 9)
    calls.clear()
    again = extract_features(images, lite0, cache, views=3, augment="standard")
    fewer = extract_features(images, lite0, cache, views=2, augment="standard")
    assert again.views_computed == fewer.views_computed == 0
    assert set(calls) == {3}  # canaries
    for view in (1, 2, 3):
        expected = rows_of(viewed, "standard", train, view)
        assert np.array_equal(rows_of(cache, "standard", train, view), expected)


def test_policies_have_separate_banks(images, train, lite0):
    """Views of two policies are never mixed; the same steps under another name are the same."""
    cache = Cache("cache")
    extract_features(images, lite0, cache)
    for policy in ("standard", "flip"):
        done = extract_features(images, lite0, cache, views=1, augment=policy)
        assert (done.computed, done.views_computed, done.policy) == (0, 12, policy)
    assert len(cache.banks()) == 3
    one, other = (rows_of(cache, name, train, 1) for name in ("standard", "flip"))
    assert not np.array_equal(one, other)
    Path("mine.yaml").write_text("- RandomHorizontalFlip: {p: 0.5}\n")
    same = extract_features(images, lite0, cache, views=1, augment="mine.yaml")
    assert same.views_computed == 0


@pytest.mark.ci
def test_an_image_is_read_once_for_all_of_its_views(images, lite0, monkeypatch):
    paths = []

    def counting(path):
        paths.append(path)
        return read_source(path)

    cache = Cache("cache")
    extract_features(images, lite0, cache)
    monkeypatch.setattr("bottleneck.images.items.read_source", counting)
    extract_features(images, lite0, cache, views=5, augment="standard")
    assert sorted(paths) == sorted(i.path for i in images.items if i.split == "train")


@pytest.mark.ci
def test_layers_that_lack_different_views(images, train):
    cache = Cache("cache")
    shallow = FrozenBase("efficientnet_lite0", "blocks.0", pool="avg")
    both = FrozenBase("efficientnet_lite0", ["blocks.0", "blocks.1"], pool="avg")
    extract_features(images, shallow, cache, views=1, augment="flip")
    done = extract_features(images, both, cache, views=2, augment="flip")
    assert done.views_computed == 12 + 12  # the first of one layer, the second of both
    for layer in done.layers:
        bank = cache.named(layer.view_bank)
        assert bank.known(layer.layer) == {(digest, view) for digest in train for view in (1, 2)}


def test_bad_images_have_no_views(lite0):
    root = Path("pets")
    write_set(root, train=2, test=1)
    (root / "train/cat/0.png").write_bytes(b"not an image")
    cache = Cache("cache")
    done = extract_features(ImageSet.from_folder(root), lite0, cache, views=2, augment="crop")
    assert [Path(each.path).name for each in done.rejected] == ["0.png"]
    assert done.views_computed == 3 * 2
    assert len(load_features(cache).training()) == 3 * 3


def test_features_have_rows_for_views(viewed, train):
    features = load_features(viewed, select_features(viewed))
    assert len(features) == 20 + 3 * 12
    fitted = features.training()
    assert fitted.digests.tolist() == train * 4
    assert fitted.views.tolist() == [view for view in range(4) for _ in train]
    assert fitted.views.dtype == np.uint16
    assert fitted.labels.tolist() == fitted.labels[:12].tolist() * 4
    assert fitted.weights.tolist() == [1.0] * 48
    for view in (1, 2, 3):
        rows = rows_of(viewed, "standard", train, view).astype(np.float32)
        assert np.array_equal(fitted.X[fitted.views == view], rows)
    for split, count in {"train": 12, "val": 4, "test": 4}.items():
        own = features.split(split)
        assert len(own) == count
        assert not own.views.any()
    plain = load_features(viewed, select_features(viewed, views=0))
    assert np.array_equal(plain.X, features.X[:20])


def test_views_are_read_in_blocks_too(viewed):
    selection = select_features(viewed)
    whole = load_features(viewed, selection)
    blocks = load_features(viewed, selection, memory=LITTLE)
    assert isinstance(blocks.X, StreamedRows)
    assert np.array_equal(np.concatenate(list(blocks.X.blocks())), whole.X)
    rows = np.array([3, 2, 30, 31, 55, 0, 21])
    assert np.array_equal(np.concatenate(list(blocks.X[rows].blocks())), whole.X[rows])
    train, held = blocks.training(), blocks.split("val")
    joined = np.concatenate(list(train.X.joined(held.X).blocks()))
    assert np.array_equal(joined, np.concatenate([whole.training().X, whole.split("val").X]))


@pytest.mark.ci
def test_the_last_matching_extraction_decides(images, lite0):
    cache = Cache("cache")
    extract_features(images, lite0, cache, views=2, augment="flip")
    extract_features(images, lite0, cache)
    assert select_features(cache).views == 0
    found = select_features(cache, augment="flip")
    assert (found.views, found.policy) == (2, "flip")
    assert select_features(cache, views=1).views == 1
    assert str(found).endswith("(2 views flip)")
    assert found.slug.endswith("-2-views-flip")
    with pytest.raises(UnknownNameError, match="no extraction with 3 views in the cache"):
        select_features(cache, views=3)
    with pytest.raises(UnknownNameError, match="augmentation 'flop' in the cache; .*did you mean"):
        select_features(cache, augment="flop")
    with pytest.raises(UsageError, match="`augment` 'flip' needs `views` of at least 1, got 0"):
        select_features(cache, augment="flip", views=0)


def test_a_heads_source_names_its_views(viewed):
    features = load_features(viewed, select_features(viewed))
    source = features.provenance
    assert replace(source, split_digests=None) == features.selection
    assert len(features_of(source, viewed)) == 20  # what is evaluated are plain images
    plain = load_features(viewed, select_features(viewed, views=0)).provenance
    assert "views" not in plain.as_dict()  # as earlier versions wrote it
    assert plain.views == 0


@pytest.mark.parametrize("crowded", [False, True])
def test_folds_hold_out_plain_rows_and_are_those_without_views(crowded):
    """`crowded`: some images have two labels, which needs another splitting method."""
    generator = np.random.default_rng(0)
    groups = np.arange(40) // (2 if crowded else 1)
    y = np.array(["a", "b", "b", "a", "a"] * 8)
    X = generator.normal(size=(40, 5))
    alone = make_problem(X, y, recipe_of("softmax"), groups=groups)
    plain = np.repeat([True, False, False], 40)
    problem = make_problem(
        np.concatenate([X, X + 1, X + 2]),
        np.tile(y, 3),
        recipe_of("softmax"),
        groups=np.tile(groups, 3),
        plain=plain,
    )
    for fold, expected in zip(problem.folds(5), alone.folds(5), strict=True):
        assert np.array_equal(fold.held, np.concatenate([expected.held, np.zeros(80, bool)]))
        assert np.array_equal(fold.fit, np.tile(expected.fit, 3))
    everyone = np.ones(120, bool)
    balanced = make_problem(
        problem.X, np.tile(y, 3), recipe_of("softmax"), TrainingSettings(balanced=True)
    ).sample_weights(everyone)
    assert np.allclose(balanced[:40], balanced[40:80])
    assert np.isclose(balanced.sum(), 120)


def test_views_without_their_image_are_refused():
    X, y = np.zeros((4, 2)), np.array(["a", "b", "a", "b"])
    with pytest.raises(UsageError, match="only 1 of 4 rows are unaugmented; expected at least one"):
        fit_rows(X, y, plain=np.array([True, False, False, False]))


@pytest.mark.parametrize("clf", ["softmax", "svm", "ridge", "knn", "mlp"])
def test_heads_are_fitted_on_views_and_scored_without(viewed, clf):
    features = load_features(viewed, select_features(viewed))
    train = features.training()
    options = {"groups": train.digests, "plain": train.views == 0, "source": features.provenance}
    head = fit_rows(train.X, train.labels, clf, **options)
    assert 0 <= head.scores["accuracy"] <= 1
    assert round(head.scores["accuracy"] * 12, 6) % 1 in {0, 1} or clf == "mlp"
    assert head.source.views == 3


@pytest.mark.ci
def test_heads_in_passes_are_those_in_memory(viewed):
    """With validation images and with folds."""
    selection = select_features(viewed)
    found = []
    for features in (load_features(viewed, selection, memory=size) for size in (None, LITTLE)):
        train, held = features.training(), features.split("val")
        options = {"groups": train.digests, "plain": train.views == 0}
        found += [
            fit_rows(train.X, train.labels, C=0.01, **options),
            fit_rows(train.X, train.labels, validation=(held.X, held.labels), **options),
        ]
    for whole, passes in zip(found[:2], found[2:], strict=True):
        assert whole.hyperparameters == passes.hyperparameters
        assert np.isclose(whole.scores["log_loss"], passes.scores["log_loss"], rtol=1e-3)


def test_a_sweep_distinguishes_views(viewed):
    log = ExperimentLog("log.sqlite")
    sweep = SweepSettings(("ridge",), C=(0.01,), cv=2)
    with_views = run_sweep(viewed, select_layers(viewed), log, sweep, jobs=1)
    without = run_sweep(viewed, select_layers(viewed, views=0), log, sweep, jobs=1)
    (one,), (other,) = with_views, without
    assert one.number != other.number
    assert (one.settings["views"], one.settings["policy"]) == (3, "standard")
    assert "views" not in other.settings
    assert one.settings["images"] == other.settings["images"] == 12
    assert [fold["images"] for fold in one.folds] == [6, 6]


@pytest.mark.ci
def test_a_prediction_over_views_is_their_mean(viewed, images, lite0):
    features = load_features(viewed, select_features(viewed))
    train = features.training()
    head = fit_rows(train.X, train.labels, C=1e-3, source=features.provenance)
    paths = [item.path for item in images.items if item.split == "test"]
    found = ImageSet.from_paths(map(Path, paths))
    plain = list(predict_images(head, found, base=lite0))
    averaged = list(predict_images(head, found, base=lite0, tta=5, augment="standard"))
    (layer,) = lite0.layers
    for item, one, mean in zip(found.items, plain, averaged, strict=True):
        data = Path(item.path).read_bytes()
        pixels = [preprocess(lite0.transform, data, STANDARD, item.digest, k) for k in range(6)]
        rows = np.concatenate(
            [
                lite0(torch.stack([lite0.transform.normalise(each)] * 4))[layer][:1].numpy()
                for each in pixels
            ]
        )
        each = head.predict_proba(rows.astype(np.float16).astype(np.float32))
        assert np.allclose(list(one.probabilities.values()), each[0], atol=1e-6)
        assert np.allclose(list(mean.probabilities.values()), each.mean(axis=0), atol=1e-6)
        assert mean.label == head.classes[int(each.mean(axis=0).argmax())]
    for options, said in (
        ({"tta": 2}, "`tta` is 2, but unaugmented views"),
        ({"tta": 2, "augment": "none"}, "`tta` is 2, but unaugmented views"),
        ({"tta": -1}, "`tta` must be a whole number from 0"),
    ):
        with pytest.raises(UsageError, match=said):
            next(predict_images(head, found, base=lite0, **options))


@pytest.mark.ci
def test_a_forecast_counts_views(images, lite0, viewed, calls):
    told = forecast_extraction(images, lite0, Cache("cache"), views=4, augment="standard")
    assert (told.missing, told.missing_views) == (20, 48)
    told = forecast_extraction(images, lite0, viewed, views=4, augment="standard")
    assert (told.missing, told.missing_views) == (0, 12)
    calls.clear()
    assert count_cached(images, lite0, viewed) == (20, 20)
    assert count_cached(images, lite0, viewed, views=4, augment="standard") == (8, 20)
    assert not calls  # a command that is stopped reports it at once


@pytest.mark.ci
def test_views_are_checked_compacted_and_pruned(images, lite0, train):
    """A deep check computes views again and finds a wrong row; compacting keeps them."""
    cache = Cache("cache")
    extract_features(images, lite0, cache, views=2, augment="standard")
    bank = bank_of(cache, "standard")
    (layer,) = lite0.layers
    (checked,) = recheck_banks(cache, [bank], images=5)
    assert (checked.rows, checked.damage, checked.skipped) == (5, [], None)
    rows = rows_of(cache, "standard", train, 2)
    extract_features(images, lite0, cache, views=3, augment="standard")
    assert compact_bank(bank).parts_after == 1
    assert np.array_equal(rows_of(cache, "standard", train, 2), rows)
    extract_features(images, lite0, cache, views=1, augment="standard")
    used = {each.last_extracted for each in find_prunable(cache, model=lite0.model)}
    assert used == {cache.runs()[-1].time}
    bank.forget_layer(layer)
    for part in bank.parts():
        part.path.unlink()
    extract_features(images, lite0, cache)  # describes nothing of the views
    with bank.writer("float16") as writer:
        writer.append(train, {layer: np.ones((12, 1280))}, views=1)
    extract_features(images, lite0, cache, views=1, augment="standard")
    damaged = recheck_banks(cache, [bank], images=5)[0].damage
    assert len(damaged) == 1


def test_invalid_views_are_refused(images, lite0):
    cache = Cache("cache")
    for options, said in (
        ({"views": 2}, "`views` is 2, but unaugmented views would be copies"),
        ({"views": 2, "augment": "none"}, "`views` is 2, but unaugmented views"),
        ({"augment": "standard"}, "`augment` 'standard' needs `views` of at least 1"),
        (
            {"views": 65536, "augment": "standard"},
            "`views` must be a whole number from 0 to 65535, got 65536",
        ),
    ):
        with pytest.raises(UsageError, match=said):
            extract_features(images, lite0, cache, **options)
    unlabelled = ImageSet.from_paths([Path(images.items[0].path)])
    with pytest.raises(DataError, match="has no train images, and only train images"):
        extract_features(unlabelled, lite0, cache, views=2, augment="standard")
    assert not cache.root.exists()


@pytest.mark.ci
def test_views_on_the_command_line(bottleneck, images):
    """From images to a prediction, and back to unaugmented features."""
    root = Path(images.items[0].path).parents[2]
    extract = ("extract", "--model", "efficientnet_lite0", "--data", root)
    told = bottleneck(*extract, "--views", 2, "--augment", "flip", "--dry-run", "--json")
    assert json.loads(told.out)["missing_views"] == 24
    done = bottleneck(*extract, "--views", 2, "--augment", "flip")
    assert "2 views of each training image by 'flip': 24 computed" in done.out
    assert "flip" in bottleneck("cache", "ls").out
    fitted = bottleneck("fit-head", "--C", 0.01, "--name", "viewed")
    assert "softmax on 12 images, 2 views each of 'pets'" in fitted.out
    assert "softmax on 12 images of" in bottleneck("fit-head", "--C", 0.01, "--views", 0).out
    assert "on 4 test images" in bottleneck("evaluate", "--head", "viewed").out
    swept = bottleneck("sweep", "--clf", "ridge", "--C", 0.1, "--cv", 2, "--jobs", 1)
    assert "fitted on 2 views of each training image" in swept.err
    options = ("--head", "viewed", root / "test/cat", "--tta", 3, "--augment", "standard")
    rows = list(csv.DictReader(bottleneck("predict", *options).out.splitlines()))
    assert len(rows) == 2
    assert all(abs(float(row["p(cat)"]) + float(row["p(dog)"]) - 1) < 1e-5 for row in rows)
    exported = bottleneck("cache", "export", "out.npz")
    assert (exported.code, np.load("out.npz")["features"].shape) == (0, (20, 1280))
    wrong = bottleneck("predict", root / "test/cat", "--head", "viewed", "--tta", 3)
    assert (wrong.code, wrong.out) == (2, "")
    assert re.search("copies of the image; give (`augment=|--augment )standard", wrong.err)
    assert "did you mean 'flip'" in bottleneck(*extract, "--augment", "flop").err


def test_the_preview_draws_images_beside_their_views(bottleneck, images):
    root = Path(images.items[0].path).parents[2]
    options = ("--data", root, "--augment", "flip", "--views", 3, "--images", 2)
    done = bottleneck("augment-preview", *options, "--output", "sheet.png")
    assert (done.code, done.out) == (0, "3 views by 'flip' drawn to sheet.png\n")
    sheet = np.array(Image.open("sheet.png"))
    first = sheet[4:164, 150:310]
    assert sheet.shape == (2 * 164 + 4, 150 + 4 * 164, 3)
    views = [sheet[4:164, 150 + place * 164 :][:, :160] for place in (1, 2, 3)]
    for view in views:
        assert np.array_equal(view, first) or np.array_equal(view, first[:, ::-1])
    assert (sheet[:, :150] < 128).any()  # the names
    assert bottleneck("augment-preview", *options, "--output", "sheet.gif").code == 2
    told = json.loads(bottleneck("augment-preview", *options, "--json").out)
    assert told["picture"] == "augment-preview.png"
    assert told["steps"] == [{"RandomHorizontalFlip": {"p": 0.5}}]


@pytest.mark.ci
def test_the_examples_of_the_page_on_views_run(bottleneck, capsys):
    """Its commands, its Python and its YAML do what they say."""
    write_set(Path("data"), train=3, val=1, test=1)
    page = (Path(__file__).parents[1] / "docs" / "views.md").read_text()
    (commands,) = re.findall(r"^```\n(bottleneck .*?)^```", page, re.MULTILINE | re.DOTALL)
    for line in commands.splitlines():
        finished = bottleneck(*shlex.split(line)[1:])
        assert finished.code == 0, (line, finished.err)
        assert finished.out
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(compile(code, "views.md", "exec"), {})
    assert "(54, 1280)" in capsys.readouterr().out
    (own,) = re.findall(r"^```yaml[^\n]*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    Path("own.yaml").write_text(own)
    assert find_policy("own.yaml").whole
    assert set(POLICIES) <= set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
