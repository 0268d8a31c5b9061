"""Choosing an extraction, and labels joined to rows by digest. About 15 s in the first tier."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import source_record

from bottleneck import (
    Cache,
    FrozenBase,
    Head,
    ImageSet,
    evaluate_head,
    extract_features,
    fit_head,
    load_features,
    select_features,
    select_layers,
)
from bottleneck.cache import find_prunable
from bottleneck.cache.parts import Part
from bottleneck.errors import BottleneckError, DataError, UnknownNameError, UsageError
from bottleneck.exchange import import_array
from bottleneck.features import features_of, matching_layers, vectors
from bottleneck.heads import calibration_error, cross_validate, find_head, fit_rows, head_names
from bottleneck.settings import FeatureSettings, SweepFeatures


def extracted(folder, *layers, model="squeezenet1_1", name=None) -> Cache:
    cache = Cache("cache")
    base = FrozenBase(model, layers, weights="random")
    extract_features(ImageSet.from_folder(folder, name=name), base, cache)
    return cache


def test_rows_and_labels_belong_together(make_images):
    """Each row is what the base gives for the image at that row's path."""
    folder = make_images(cat=7, dog=5)
    cache = extracted(folder, "features.12")
    features = load_features(cache)
    base = FrozenBase("squeezenet1_1", ["features.12"], weights="random")
    for row, path, label in zip(features.X, features.paths, features.labels, strict=True):
        assert path.split("/")[1] == label
        alone = Cache("alone")
        extract_features(ImageSet.from_paths([path]), base, alone)
        own = load_features(alone, select_features(alone)).X[0]
        assert np.allclose(row, own, rtol=2e-3, atol=1e-4)


def test_splits_share_no_image(faces_cache):
    features = load_features(faces_cache, select_features(faces_cache))
    train, test = features.split("train"), features.split("test")
    assert (len(train), len(test)) == (160, 40)
    assert features.X.dtype == np.float32
    assert not set(train.digests) & set(test.digests)
    assert len(features.split("val")) == 0


def test_the_last_extraction_is_chosen(make_images):
    cache = extracted(make_images(cat=3, dog=3), "features.3")
    assert select_features(cache).layer == "features.3.cat"
    extracted("data", "features.12")
    assert select_features(cache).layer == "features.12.cat"
    assert select_features(cache, layer="features.3").layer == "features.3.cat"


def test_the_deepest_of_several_layers_is_taken(make_images):
    cache = extracted(make_images(cat=3, dog=3), "features.12", "features.3")
    assert select_features(cache).layer == "features.12.cat"
    assert [each.layer_name for each in matching_layers(cache)] == ["features.3", "features.12"]
    assert select_features(cache, layer="features.3").layer == "features.3.cat"


@pytest.mark.parametrize(
    ("extracted_as", "asked", "shown"),
    [
        ("features.12", None, "features.12"),
        ("features.12", "last_conv", "last_conv"),
        ("last_conv", None, "last_conv"),
        ("last_conv", "features.12", "features.12"),
        ("last_conv", "features.12.cat", "features.12.cat"),
        ("features.12.c*", None, "features.12.cat"),
        ("last_*", None, "last_conv"),
    ],
)
def test_a_layer_has_the_name_that_was_typed(make_images, extracted_as, asked, shown):
    cache = extracted(make_images(cat=2, dog=2), extracted_as)
    found = select_features(cache, layer=asked)
    assert (found.layer, found.layer_name) == ("features.12.cat", shown)
    assert found == select_features(cache)
    (bank,) = cache.banks()
    for name in ("last_conv", "penultimate", "features.12", "features.12.cat"):
        (prunable,) = find_prunable(cache, layer=name)
        assert prunable.layer == "features.12.cat"
    with h5py.File(bank.view_file) as file:
        for kind in ("features", "digest", "view"):
            for name in ("last_conv", "penultimate", "features.12"):
                assert file[kind][name] == file[kind]["features.12.cat"]
                assert isinstance(file[kind].get(name, getlink=True), h5py.SoftLink)


def test_a_module_whose_last_layer_was_not_extracted_is_not_shown(make_images):
    cache = extracted(make_images(cat=2, dog=2), "features.3.expand1x1")
    found = select_features(cache, layer="features.3")
    assert (found.layer, found.layer_name) == ("features.3.expand1x1",) * 2


def test_no_matching_extraction_is_an_error(make_images):
    with pytest.raises(DataError, match="no extraction in the cache folder 'cache'"):
        select_features(Cache("cache"))
    cache = extracted(make_images(cat=3, dog=3), "features.12")
    with pytest.raises(UnknownNameError, match="did you mean 'squeezenet1_1'"):
        select_features(cache, model="squeezenet1_0")
    with pytest.raises(UnknownNameError, match="there are squeezenet1_1 features.12 of 'data'"):
        select_features(cache, image_set="other")
    for name in "abcdefghi":
        cache.record_run(
            replace(cache.runs()[0], image_set=name, time=datetime.now(UTC).isoformat())
        )
    with pytest.raises(UnknownNameError, match="of 'a'; .* of 'g'; 2 more: choose one of them"):
        select_features(cache, image_set="other")


def test_an_unlabelled_set_has_features_but_no_labels(make_images):
    make_images(flat=3)
    cache = extracted("data/flat", "features.12")
    features = load_features(cache)
    assert len(features) == 3
    with pytest.raises(DataError, match="image set 'flat' has no labels"):
        _ = features.labels


@pytest.mark.ci
def test_another_set_of_the_same_name_is_noticed(little, make_images):
    """Features of one model, after the image set was extracted with another."""
    cache = extracted(make_images(cat=3, dog=3), "features.12")
    make_images(cow=3, seed=4)
    extracted("data", model=little)
    with pytest.raises(DataError, match="'data' was extracted with other images or labels"):
        select_features(cache, model="squeezenet1_1")


def test_features_of_a_heads_source(make_images):
    """An error if the training images or their labels have changed."""
    folder = make_images(cat=6, dog=6)
    cache = extracted(folder, "features.12")
    source = load_features(cache).provenance
    assert len(features_of(source, cache)) == 12
    with pytest.raises(DataError, match="no image set 'data' in the cache folder 'other'"):
        features_of(source, Cache("other"))
    (folder / "cat/000.png").rename(folder / "dog/new.png")
    extracted(folder, "features.12")
    with pytest.raises(DataError, match="training images of 'data' have changed"):
        features_of(source, cache)


def test_a_cache_is_named_by_its_folder_as_well(faces_cache):
    root = faces_cache.root
    source = load_features(faces_cache).provenance
    for cache in (root, str(root), Cache(faces_cache)):
        assert select_features(cache) == select_features(faces_cache)
        assert select_layers(cache) == select_layers(faces_cache)
        assert len(features_of(source, cache)) == len(load_features(cache)) == 200


@pytest.mark.parametrize("wrong", [None, 3, ["cache"], source_record])
@pytest.mark.parametrize(
    ("function", "more", "name", "expected"),
    [
        (load_features, (), "cache", "Cache, str or Path"),
        (select_features, (), "cache", "Cache, str or Path"),
        (select_layers, (), "cache", "Cache, str or Path"),
        (features_of, ("cache",), "source", "FeatureSource, JoinedSource or None"),
        (vectors, (np.ones((1, 2)),), "source", "FeatureSource"),
        (fit_head, (), "features", "Features"),
        (fit_rows, (["a", "b"],), "X", "ndarray or StreamedRows"),
        (cross_validate, (None, [], []), "problem", "Problem"),
        (calibration_error, (None,), "probabilities", "ndarray"),
        (find_head, (), "folder", "str or Path"),
        (head_names, (), "folder", "str or Path"),
        (Head.load, (), "folder", "str or Path"),
    ],
)
def test_a_first_argument_of_another_type_is_refused(function, more, name, expected, wrong):
    """One sentence says what was given and what was expected."""
    if wrong is None and "None" in expected:
        pytest.skip("it may be None")
    with pytest.raises(BottleneckError) as caught:
        function(wrong, *more)
    assert isinstance(caught.value, TypeError)
    assert f"`{name}` must be {expected}, got " in str(caught.value)
    assert f"({type(wrong).__name__})" in str(caught.value)


def test_features_are_not_confused_with_a_folder_or_a_head(faces_cache):
    features = load_features(faces_cache)
    with pytest.raises(TypeError, match=r"`features` must be Features, got 'cache' \(str\)"):
        fit_head("cache")
    head = fit_head(features, "centroid")
    with pytest.raises(
        TypeError, match=r"`cache` must be Cache, str or Path, got Head\(.*\(Head\)"
    ):
        select_features(head)
    with pytest.raises(TypeError, match="`folder` must be str or Path, got None"):
        head.save(None)
    with pytest.raises(TypeError, match="`cache` must be Cache, str or Path, got 3"):
        load_features(cache=3)


@pytest.mark.parametrize(
    ("function", "kind", "given"),
    [
        (load_features, "FeatureSettings", FeatureSettings()),
        (select_features, "FeatureSettings", FeatureSettings()),
        (select_layers, "LayerSettings", SweepFeatures()),
    ],
)
def test_settings_are_those_of_the_function(faces_cache, function, kind, given):
    with pytest.raises(TypeError, match=rf"the settings must be {kind}, got 'pool' \(str\)"):
        function(faces_cache, "pool")
    with pytest.raises(UsageError, match="`model` was given together with .*; give it as a"):
        function(faces_cache, given, model="x")


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (np.ones(3, bool), r"got bool of shape \(3,\): \[True, True, True\]"),
        ([0, 200], r"got int64 of shape \(2,\): \[0, 200\]"),
        ([-1, 0], r"got int64 of shape \(2,\): \[-1, 0\]"),
        (np.ones(200), r"got float64 of shape \(200,\)"),
        (np.ones((200, 1), bool), r"got bool of shape \(200, 1\)"),
        ("train", r"got <U5 of shape \(\): 'train'"),
    ],
)
def test_rows_to_fit_on_are_a_mask_or_indices(faces_cache, rows, found):
    features = load_features(faces_cache)
    with pytest.raises(
        UsageError, match=r"`rows` must be a boolean mask of shape \(200,\) or .*" + found
    ):
        fit_head(features, "centroid", rows=rows)


def test_a_mask_and_its_indices_select_the_same_rows(faces_cache):
    features = load_features(faces_cache)
    mask = np.arange(200) % 3 > 0
    heads = [
        fit_head(features, "ridge", rows=rows, C=0.1)
        for rows in (mask, np.flatnonzero(mask), np.flatnonzero(mask).tolist())
    ]
    for head in heads[1:]:
        assert np.array_equal(head.model.weight, heads[0].model.weight)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("memory", [None, 1])
def test_features_that_are_not_finite_are_never_used(bottleneck, monkeypatch, wrong, memory):
    """A part that another program wrote with right checksums, in memory and in passes."""
    values = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.save("rows.npy", values)
    lines = [f"{number}.png,{'ab'[number % 2]},train" for number in range(20)]
    Path("table.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    import_array(Cache("cache"), "rows.npy", "table.csv", model="made", by_row=True)
    head = fit_head(load_features("cache"), C=1.0)
    read = Part.read

    def spoilt(part, layer, rows):
        for block, piece in read(part, layer, rows):
            yield np.where(block == 7, np.float32(wrong), block), piece

    monkeypatch.setattr(Part, "read", spoilt)
    message = "the features of 'features' in bank made-.* contain nan or inf"
    with pytest.raises(DataError, match=message):
        fit_head(load_features("cache", memory=memory))
    with pytest.raises(DataError, match=message):
        evaluate_head(head, features_of(head.source, "cache", memory=memory), "train")
    for command in (("fit-head",), ("sweep", "--clf", "lda", "--backend", "threading")):
        done = bottleneck(*command, *(["--memory", "1MB"] if memory else []))
        assert done.code == 1
        assert done.err.count("\n") == 1
        assert "contain nan or inf" in done.err
