"""The transformer: scikit-learn's conventions, and features computed once.

About 10 s in the first tier.
"""

import inspect
import os
import shutil
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import estimator_checks, get_tags

from bottleneck import (
    BottleneckFeatures,
    Cache,
    FrozenBase,
    HeadClassifier,
    ImageSet,
    extract_features,
    fit_head,
    join_layers,
    load_features,
    select_features,
)
from bottleneck.bases import find_model
from bottleneck.errors import (
    CacheError,
    DataError,
    PathMissingError,
    UnknownNameError,
    UsageError,
    WeightsError,
)
from bottleneck.records import write_record

LITE0 = "efficientnet_lite0"
SMALL = {"model": "squeezenet1_1", "weights": "random", "layer": "features.3"}


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The model of each base that is built."""
    counted: list[str] = []
    build = FrozenBase.__init__

    def counting(self, model, *arguments, **options):
        counted.append(getattr(model, "model", model))
        build(self, model, *arguments, **options)

    monkeypatch.setattr(FrozenBase, "__init__", counting)
    return counted


@pytest.fixture
def paths(make_images) -> list[str]:
    """Twelve images, the same number of each class."""
    return [path.as_posix() for path in sorted(make_images(cat=6, dog=6).rglob("*.png"))]


def labels_of(paths) -> list[str]:
    return [Path(path).parent.name for path in paths]


def rows_in(cache: Cache) -> int:
    """Rows of all parts, doubled ones counted twice."""
    return sum(part.rows for bank in cache.banks() for part in bank.parts())


def test_rows_are_those_of_an_extraction(faces_cache):
    """In any order and as often as asked for; nothing is written."""
    features = load_features(faces_cache, select_features(faces_cache))
    before = sorted(faces_cache.root.rglob("*"))
    order = np.random.default_rng(0).integers(len(features), size=300)
    found = BottleneckFeatures(LITE0, cache=faces_cache.root).transform(features.paths[order])
    assert found.dtype == np.float32
    assert (found == features.X[order]).all()
    assert sorted(faces_cache.root.rglob("*")) == before


@pytest.mark.parametrize("pool", [None, "none", "avg", "max", "gem", "spp"])
def test_an_extraction_finds_its_rows_and_agrees(paths, pool):
    BottleneckFeatures(**SMALL).fit_transform(paths)
    cache = Cache()
    base = FrozenBase("squeezenet1_1", "features.3", weights="random")
    assert extract_features(ImageSet.from_paths(paths), base, cache).computed == 0
    expected = load_features(cache, select_features(cache, pool=pool)).X
    assert (BottleneckFeatures(**SMALL, pool=pool).transform(paths) == expected).all()


def test_listed_layers_are_joined(paths, calls):
    """Side by side in the given order, computed in one pass; an extraction finds the same rows."""
    layers = ["features.12", "logits", "features.3"]
    own = SMALL | {"layer": layers, "pool": "avg"}
    transformer = BottleneckFeatures(**own).fit(paths)
    found = transformer.transform(paths)
    assert sum(calls) == len(paths) + len(layers)  # and each layer's canary
    each = [BottleneckFeatures(**own | {"layer": name}).transform(paths) for name in layers]
    assert (found == np.hstack(each)).all()
    assert found.shape[1] == len(transformer.get_feature_names_out())
    assert transformer.widths == (512, 1000, 128)
    head = HeadClassifier("ridge", C=1e-3).fit(found, labels_of(paths))
    joined = make_pipeline(BottleneckFeatures(**own), HeadClassifier("ridge", C=1e-3))
    scores = joined.fit(paths, labels_of(paths)).decision_function(paths)
    assert (scores == head.decision_function(found)).all()


@pytest.mark.ci
def test_layers_are_scaled_apart_as_by_fit_head(faces):
    own = {"model": "squeezenet1_1", "weights": "random", "layer": ["features.3", "features.12"]}
    base = FrozenBase("squeezenet1_1", own["layer"], weights="random")
    cache, images = Cache(), ImageSet.from_folder(faces)
    extract_features(images, base, cache)
    both = [select_features(cache, layer=each, pool="avg") for each in own["layer"]]
    joined = load_features(cache, join_layers(both)).split("train")
    head = fit_head(joined, C=1.0, normalize="l2")
    features = BottleneckFeatures(**own, pool="avg")
    found = features.transform(joined.paths)
    assert (found == joined.X).all()
    apart = HeadClassifier(C=1.0, normalize="l2", widths=features.widths)
    apart.fit(found, joined.labels)
    assert np.allclose(apart.predict_proba(found), head.predict_proba(found), atol=1e-4)
    together = HeadClassifier(C=1.0, normalize="l2").fit(found, joined.labels)
    assert not np.allclose(together.predict_proba(found), head.predict_proba(found), atol=1e-3)


def test_stored_features_are_not_computed_again(paths, calls, loads):
    """The base is loaded to find its bank, and again only if features are missing."""
    transformer = BottleneckFeatures(LITE0, layer="last_conv", pool="avg")
    first = transformer.fit_transform(paths[:8])
    for counted in (calls, loads):
        counted.clear()
    for pool in ("avg", "max"):
        again = BottleneckFeatures(LITE0, layer="last_conv", pool=pool)
        found = again.fit_transform(paths[:8][::-1])
        assert (found == first[::-1]).all() == (pool == "avg")
    assert (calls, loads) == ([], [])
    assert (transformer.transform(paths)[:8] == first).all()
    assert loads == [LITE0]
    assert rows_in(Cache()) == 12


@pytest.mark.ci
def test_neither_image_set_nor_record_is_saved(paths, faces, lite0):
    """The commands' last extraction does not change."""
    cache = Cache()
    extract_features(ImageSet.from_folder(faces), lite0, cache)
    kept = [path for name in ("sets", "runs") for path in (cache.root / name).iterdir()]
    BottleneckFeatures(**SMALL).fit_transform(paths)
    assert [path for name in ("sets", "runs") for path in (cache.root / name).iterdir()] == kept
    assert select_features(cache).model == LITE0
    assert len(cache.banks()) == 2
    assert not any(bank.view_file_is_old for bank in cache.banks())


def test_rewritten_weights_are_loaded_again(paths):
    def features(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        torch.save(find_model("squeezenet1_1").build((224, 224)).state_dict(), "weights.pth")
        return BottleneckFeatures(**SMALL | {"weights": Path("weights.pth")}).fit_transform(paths)

    first, second, third = map(features, (0, 1, 0))
    assert (first == third).all()
    assert not np.allclose(first, second)


@pytest.mark.parametrize(
    "given",
    [
        lambda paths: paths,
        lambda paths: tuple(map(Path, paths)),
        np.array,
        lambda paths: np.array(paths).reshape(-1, 1),
        lambda paths: np.array(list(map(Path, paths)), dtype=object),
        lambda paths: pd.Series(paths, index=range(7, 7 + len(paths))),
        lambda paths: pd.DataFrame({"path": paths}),
        lambda paths: [f"./{path}" for path in paths],
    ],
    ids=["list", "Path", "array", "column", "objects", "Series", "DataFrame", "dotted"],
)
def test_paths_come_in_many_forms(faces_cache, faces, given):
    paths = [os.path.relpath(path) for path in sorted(faces.rglob("*.png"))[:5]]
    transformer = BottleneckFeatures(LITE0, cache=faces_cache.root)
    assert (transformer.transform(given(paths)) == transformer.transform(paths)).all()


def some_faces(faces) -> list[str]:
    """Ten photographs with a face and ten without."""
    return [
        str(path)
        for label in ("face", "no_face")
        for path in sorted((faces / label).iterdir())[:10]
    ]


def test_a_cross_validation_computes_each_image_once(faces):
    """Including a copy of an image; the features classify faces."""
    paths = some_faces(faces)
    copy = Path("face/copy.png")
    copy.parent.mkdir()
    shutil.copy(paths[0], copy)
    every = [*paths, copy]
    features = BottleneckFeatures(LITE0, cache=Path("elsewhere"))
    pipeline = Pipeline([("features", features), ("clf", LogisticRegression(C=0.01))])
    scores = cross_val_score(pipeline, every, labels_of(every), cv=3, error_score="raise")
    assert (scores >= 0.9).all()
    assert rows_in(Cache("elsewhere")) == 20


@pytest.mark.ci
def test_processes_that_search_together_compute_each_image_once(faces, tmp_path):
    """Over layer, pooling and penalty; the best is as good, and predicts, as by hand."""
    features = BottleneckFeatures(LITE0, cache=tmp_path)  # workers stay in the folder of a test
    paths = some_faces(faces)
    labels = labels_of(paths)
    clf = LogisticRegression(max_iter=500)
    pipeline = Pipeline([("features", features), ("clf", clf)])
    grid = {
        "features__layer": ["blocks.2", "last_conv"],
        "features__pool": ["avg", "max"],
        "clf__C": [0.001, 1.0],
    }
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, error_score="raise")
    search.fit(pd.Series(paths), labels)
    assert rows_in(Cache(tmp_path)) == 2 * 20
    assert search.best_score_ >= 0.9
    layer, pool, C = (search.best_params_[key] for key in grid)
    X = features.set_params(layer=layer, pool=pool).transform(paths)
    clf = LogisticRegression(C=C, max_iter=500)
    assert cross_val_score(clf, X, labels, cv=2).mean() == pytest.approx(search.best_score_)
    assert list(search.predict(paths)) == list(clf.fit(X, labels).predict(X))


@pytest.mark.ci
@pytest.mark.parametrize("prefer", ["threads", "processes"])
def test_concurrent_processes_wait_for_the_first(faces, tmp_path, prefer):
    """With nothing in the cache, one computes and the other reads."""
    paths = some_faces(faces)
    shallow = BottleneckFeatures(LITE0, cache=tmp_path)
    deep = BottleneckFeatures(LITE0, cache=tmp_path, layer="last_conv", pool="max")
    with joblib.Parallel(n_jobs=2, prefer=prefer) as workers:
        workers(joblib.delayed(shallow.transform)(paths[:1]) for _ in range(4))
        first, second = workers(joblib.delayed(deep.transform)(paths) for _ in range(2))
    assert rows_in(Cache(tmp_path)) == 1 + 20
    assert (first == second).all()


def test_a_pickled_pipeline_goes_on(paths):
    """It is small, because it contains neither a network nor features."""
    features = BottleneckFeatures(LITE0, layer="last_conv", pool="max")
    pipeline = Pipeline([("features", features), ("clf", LogisticRegression())])
    pipeline.fit(paths, labels_of(paths))
    joblib.dump(pipeline, "pipeline.joblib")
    joblib.dump(features, "features.joblib")
    assert Path("features.joblib").stat().st_size < 1000
    restored = joblib.load("pipeline.joblib")
    assert (restored.predict_proba(paths) == pipeline.predict_proba(paths)).all()


def test_a_clone_has_the_same_parameters():
    given = {
        "model": "resnet18",
        "layer": "layer4",
        "pool": "gem",
        "weights": Path("weights.pth"),
        "image_size": [160, 192],
        "precision": "fp32",
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 8,
        "cache": Path("elsewhere"),
    }
    transformer = BottleneckFeatures(**given)
    assert transformer.get_params() == given
    assert all(value is given[key] for key, value in transformer.get_params().items())
    assert clone(transformer).get_params() == given
    assert set(inspect.signature(BottleneckFeatures).parameters) == set(given)
    assert transformer.set_params(pool=None).pool is None


def test_the_parameters_are_those_of_the_base(paths):
    options = {"image_size": (96, 128), "precision": "bf16", "dtype": "float32", "batch_size": 3}
    found = BottleneckFeatures(**SMALL, **options).transform(paths)
    base = FrozenBase(
        SMALL["model"], SMALL["layer"], weights="random", image_size=(96, 128), precision="bf16"
    )
    (bank,) = Cache().banks()
    assert bank.info.fingerprint == base.fingerprint("features.3.cat", "float32")
    assert found.shape == (12, np.prod(base.shapes["features.3.cat"]))


# `check_estimator` as a whole feeds arrays of numbers, which are no paths: our tags say so, and it
# then runs `check_estimator_cloneable` alone. These are its checks that feed nothing.
CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
)


@pytest.mark.parametrize("check", CHECKS)
def test_scikit_learns_own_checks(check):
    getattr(estimator_checks, check)("BottleneckFeatures", BottleneckFeatures())


@pytest.mark.filterwarnings("ignore:Can't test estimator BottleneckFeatures")
def test_the_whole_of_its_checks_leaves_out_those_that_feed_numbers():
    results = estimator_checks.check_estimator(BottleneckFeatures(LITE0))
    assert {result["status"] for result in results} == {"passed"}
    tags = get_tags(BottleneckFeatures())
    assert (tags.requires_fit, tags.input_tags.string, tags.input_tags.two_d_array) == (
        False,
        True,
        False,
    )


def test_features_have_names(faces_cache, faces):
    """Before a fit, too; a data frame keeps its index."""
    paths = pd.DataFrame({"path": sorted(map(str, faces.rglob("*.png")))[:3]}, index=[5, 6, 7])
    transformer = BottleneckFeatures(LITE0, cache=faces_cache.root)
    names = transformer.get_feature_names_out()
    assert list(names) == [f"bottleneckfeatures{number}" for number in range(1280)]
    framed = transformer.set_output(transform="pandas").transform(paths)
    assert list(framed.columns) == list(names)
    assert list(framed.index) == [5, 6, 7]
    assert (framed.dtypes == np.float32).all()


@pytest.mark.parametrize(
    ("layer", "pool", "width"),
    [("features.3", None, 128 * 55 * 55), ("features.3", "spp", 21 * 128), ("logits", "spp", 1000)],
)
def test_as_many_names_as_features(paths, layer, pool, width):
    transformer = BottleneckFeatures(**SMALL | {"layer": layer}, pool=pool)
    assert len(transformer.get_feature_names_out()) == width
    assert transformer.transform(paths[:1]).shape == (1, width)


def test_bad_images_are_counted_and_the_others_kept(paths):
    """A copy counts as well; without the bad images, everything is in the cache."""
    Path("data/cat/bad.png").write_bytes(b"no image")
    shutil.copy("data/cat/bad.png", "data/dog/bad.png")
    bad = ["data/cat/bad.png", "data/dog/bad.png"]
    transformer = BottleneckFeatures(**SMALL)
    sentence = (
        r"2 of 14 images cannot be used, first 'data/cat/bad.png' \(.+\); remove them from the "
        r"paths, because a transformer returns a row for each$"
    )
    for _ in range(2):
        with pytest.raises(DataError, match=sentence):
            transformer.fit_transform([bad[0], *paths, bad[1], bad[0]])
    assert rows_in(Cache()) == 12
    with pytest.raises(DataError, match="2 of 2 images cannot be used"):
        transformer.transform(bad)


def test_images_that_cannot_be_read_are_named_before_anything_is_computed(paths, calls):
    Path("data/cat/link.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"1 of 13 images .+/link.png' \(a link to nothing"):
        BottleneckFeatures(**SMALL).transform([*paths, "data/cat/link.png"])
    assert not calls
    assert not Path("cache").exists()


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ([], UsageError, "no images were given; give the path of at least one"),
        (["data/cat", "no.png"], PathMissingError, "1 of 2 images do not exist, first 'no.png'"),
        (["data/cat"], UsageError, "'data/cat' is a folder, expected an image"),
        ("data/cat/000.png", UsageError, r"of shape \(\); expected paths of shape \(n,\)"),
        ([["a.png", "b.png"]], UsageError, r"of shape \(1, 2\); expected paths"),
        (np.zeros((3, 1)), UsageError, "3 of 3 images are not given as a path, first 0.0, of type"),
        (["a\0.png"], PathMissingError, "1 of 1 image does not exist"),
        (pd.Series(["a.png", None]), UsageError, "1 of 2 images are not given as a path"),
    ],
)
def test_invalid_image_paths_are_refused(paths, given, error, sentence):
    assert paths
    with pytest.raises(error, match=sentence):
        BottleneckFeatures(**SMALL).transform(given)
    assert not Path("cache").exists()


@pytest.mark.parametrize(
    ("wrong", "error", "sentence"),
    [
        ({"model": "squeezenet1_2"}, UnknownNameError, "did you mean 'squeezenet1_1'"),
        ({"layer": "feature.3"}, UnknownNameError, "no layer 'feature.3'"),
        ({"layer": "all-blocks"}, UsageError, "'all-blocks' of squeezenet1_1 means .+; expec"),
        ({"layer": [3]}, UsageError, r"^layer \[3\] is not a string; expected the name of one, or"),
        ({"layer": []}, UsageError, "is not a string; expected the name of one, or a list"),
        ({"layer": ["features.3", "gone"]}, UnknownNameError, "no layer 'gone'"),
        (
            {"layer": ["features.12", "last_conv"]},
            UsageError,
            "layer 'last_conv' is given twice, but joined layers must differ; name each once",
        ),
        ({"pool": "mean"}, UnknownNameError, "no pooling 'mean'"),
        ({"pool": "cls"}, UsageError, "layer 'features.3' cannot be pooled by 'cls'"),
        ({"weights": "default"}, WeightsError, "cannot be downloaded"),
        ({"weights": "gone.pth"}, PathMissingError, "no weights file 'gone.pth'"),
        ({"precision": "fp8"}, UnknownNameError, "`precision` must be auto, fp32, bf16 or fp16"),
        ({"device": "tpu"}, UsageError, "no device 'tpu'"),
        ({"dtype": "int8"}, UnknownNameError, "`dtype` must be float16 or float32, got 'int8'"),
        (
            {"batch_size": 0},
            UsageError,
            "`batch_size` must be auto or a whole number from 1 to 99999",
        ),
    ],
)
def test_fit_refuses_wrong_parameters(wrong, error, sentence):
    with pytest.raises(error, match=sentence):
        BottleneckFeatures(**SMALL | wrong).fit([])


def test_a_cache_that_cannot_be_written(paths):
    Path("cache").write_text("a file")
    with pytest.raises(CacheError, match="cannot write to the cache folder 'cache'"):
        BottleneckFeatures(**SMALL).transform(paths)


def test_nothing_is_added_to_features_of_another_library(paths):
    """The canary is checked before anything is computed, as at an extraction."""
    transformer = BottleneckFeatures(**SMALL)
    transformer.transform(paths[:6])
    (bank,) = Cache().banks()
    info = bank.info
    info.layers["features.3.cat"].canary[0][0] *= 1.5
    write_record(bank.info_file, info)
    assert len(transformer.transform(paths[:6])) == 6
    with pytest.raises(CacheError, match="differ from those computed now"):
        transformer.transform(paths)
