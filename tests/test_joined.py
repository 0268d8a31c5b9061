"""Heads on joined features: rows side by side, exact fits, and predictions by several bases.

About 15 s in the first tier.
"""

import contextlib
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import source_record
from scaled import LeastScaler
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from test_advise import cache_of

from bottleneck import (
    Cache,
    FrozenBase,
    Head,
    ImageSet,
    extract_features,
    fit_head,
    join_layers,
    load_base,
    load_bases,
    load_features,
    predict_images,
    run_sweep,
    select_features,
    select_layers,
)
from bottleneck.errors import (
    CacheError,
    DataError,
    UnknownNameError,
    UsageError,
)
from bottleneck.features import StreamedRows
from bottleneck.files import read_json, write_json
from bottleneck.images import RejectedImage
from bottleneck.records import FeatureSource, JoinedSource

WIDTHS = {"early": 40, "middle": 50, "last": 30}
OTHER = "squeezenet1_1"


def made(number: int, *, wide: int = 1, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Layers of different scales with some columns that tell three classes apart."""
    generator = np.random.default_rng(seed)
    y = np.arange(number) % 3
    layers = {}
    for scale, (name, width) in enumerate(WIDTHS.items()):
        X = generator.normal(size=(number, wide * width))
        X[:, :6] += generator.normal(size=(3, 6))[y]
        layers[name] = 10.0**scale * X + generator.normal(size=X.shape[1])
    return layers, np.array(["a", "b", "c"])[y]


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize(
    ("number", "wide", "memory", "how"),
    [
        (60, 1, None, "Gram matrix"),
        (240, 1, None, "columns"),
        (60, 10, 600_000, "one layer after the other"),
        (240, 1, 1000, "streamed"),
    ],
)
def test_scores_are_those_of_scikit_learn_on_the_concatenation(parts, number, wide, memory, how):
    layers, y = made(number, wide=wide)
    names = list(layers)[:parts]
    X = np.hstack([layers[name].astype(np.float32) for name in names])
    cache = cache_of(layers, y)
    joined = select_layers(cache, layers=names, join=True)[-1]
    features = load_features(cache, joined, memory=memory)
    if memory:
        assert isinstance(features.X, StreamedRows)
        assert features.X.fits_by_part == (how == "one layer after the other")
    else:
        assert (features.X == X).all()
        assert (number < X.shape[1]) == (how == "Gram matrix")
    head = fit_head(features, "softmax", C=0.01)
    reference = make_pipeline(
        LeastScaler(widths=[layers[name].shape[1] for name in names]),
        LogisticRegression(C=0.01, max_iter=10_000, tol=1e-9),
    ).fit(X.astype(np.float64), y)
    ours, theirs = head.decision_function(X), reference.decision_function(X)
    # A constant that is the same for all classes changes no probability.
    gap = (ours - ours.mean(axis=1, keepdims=True)) - (theirs - theirs.mean(axis=1, keepdims=True))
    assert np.abs(gap).max() < 1e-3


@pytest.mark.parametrize("memory", [None, 1000])
def test_each_layer_is_divided_by_its_own_norm(memory):
    """In memory and streamed, as a pipeline on the parts, also after loading and as a module."""
    layers, y = made(90)
    cache = cache_of(layers, y)
    joined = select_layers(cache, layers=list(layers), join=True)[-1]
    features = load_features(cache, joined, memory=memory)
    fit_head(features, "softmax", C=0.01, normalize="l2").save("head")
    head, X = Head.load("head"), load_features(cache, joined).X
    assert head.widths == tuple(WIDTHS.values())
    ends = np.cumsum(head.widths)[:-1]
    parts = [
        Normalizer().fit_transform(part.astype(np.float64)) for part in np.split(X, ends, axis=1)
    ]
    steps = LeastScaler(widths=head.widths), LogisticRegression(C=0.01, max_iter=9999, tol=1e-9)
    theirs = make_pipeline(*steps).fit(np.hstack(parts), y).decision_function(np.hstack(parts))
    ours = head.decision_function(X)
    gap = (ours - ours.mean(axis=1, keepdims=True)) - (theirs - theirs.mean(axis=1, keepdims=True))
    assert np.abs(gap).max() < 1e-3
    module = head.to_module()(torch.from_numpy(X)).detach().numpy()
    assert np.abs(module - ours).max() < 1e-4
    (single,) = joined.parts[:1]
    assert fit_head(load_features(cache, single), C=1.0, normalize="l2").widths == ()


def test_closed_forms_need_only_one_layer_in_memory_at_a_time():
    layers, y = made(60, wide=10)
    cache = cache_of(layers, y)
    joined = join_layers([select_features(cache, layer=name) for name in layers])
    whole, parted = (load_features(cache, joined, memory=size) for size in (None, 600_000))
    for clf in ("ridge", "lda", "centroid"):
        ours, theirs = (fit_head(each, clf).decision_function(whole.X) for each in (parted, whole))
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    with pytest.raises(UsageError, match="knn needs all features in memory"):
        fit_head(parted, "knn")
    with pytest.raises(UsageError, match="lda needs all features in memory"):
        fit_head(load_features(cache, joined, memory=1000), "lda")


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A folder for the extractions of `both`."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def both(little, kept, make_images, tmp_path) -> Cache:
    """Views of 30 images in two layers of a small base and in two of another, stored unpooled."""
    if not (kept / "cache").exists():
        with contextlib.chdir(kept):
            images = ImageSet.from_folder(make_images(cat=15, dog=15))
            for model, *layers in ((little, "first_relu", "last"), (OTHER, "features.3", "logits")):
                base = FrozenBase(model, layers, weights="random", device="cpu")
                extract_features(images, base, Cache("cache"), views=2, augment="flip")
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return Cache("cache")


def everything(cache: Cache, **options) -> JoinedSource:
    chosen = {"models": ["little", OTHER], "pools": ["avg"], **options}
    return select_layers(cache, join=True, **chosen)[-1]


def test_rows_are_joined_by_digest_and_view(both):
    source = everything(both)
    features = load_features(both, source)
    each = [load_features(both, part) for part in source.parts]
    assert source.layer_name == "first_relu + last + features.3 + logits"
    assert (np.hstack([part.X for part in each]) == features.X).all()
    assert features.views.max() == 2
    for part in each:
        assert (part.digests == features.digests).all()
        assert (part.views == features.views).all()
    streamed = load_features(both, source, memory=1000)
    assert (np.concatenate(list(streamed.X.blocks())) == features.X).all()
    chosen = np.flatnonzero(features.views == 1)[::-1]
    assert (streamed.take(chosen).X.read() == features.X[chosen]).all()


@pytest.mark.parametrize("clf", ["softmax", "knn"])
def test_several_bases_predict_from_image_files_what_the_cache_gives(both, clf):
    features = load_features(both, everything(both, views=0))
    head = fit_head(features, clf)
    head.save("heads/joined")
    head, test = Head.load("heads/joined"), features.split("test")
    assert head.source == features.provenance
    assert [base.model for base in load_bases(head)] == ["little", OTHER]
    expected = head.decision_function(test.X)
    for cache in (None, both):
        found = list(predict_images(head, list(test.paths), cache=cache))
        scores = np.array([list(each.scores.values()) for each in found])
        assert np.abs(scores - expected).max() < 1e-2
        assert [each.label for each in found] == list(head.predict(test.X))
    with pytest.raises(UsageError, match=r"features of 2 bases \(little first_relu \(avg\) \+ "):
        load_base(head)
    with pytest.raises(
        UsageError, match="^`weights` are those of one base, but the features are of 2"
    ):
        load_bases(head, weights="moved.pth")


@pytest.mark.ci
def test_a_bad_image_and_views_of_the_others(both):
    """Both bases see the same views; an image that cannot be read is reported once."""
    head = fit_head(load_features(both, everything(both, views=0)), "softmax")
    paths = list(load_features(both).split("test").paths)
    Path("bad.png").write_bytes(Path(paths[0]).read_bytes()[:200])
    how = {"tta": 2, "augment": "flip"}
    bases = load_bases(head)
    bad, *found = predict_images(head, ["bad.png", *paths], base=bases, **how)
    assert isinstance(bad, RejectedImage)
    features = load_features(both, everything(both))
    for each in found:
        place = next(i for i, path in enumerate(features.paths) if path == each.path)
        own = features.X[features.digests == features.digests[place]]
        assert len(own) == 1  # views of test images are not stored
    assert len(found) == len(paths)
    with pytest.raises(UsageError, match="`base` has 1 base, but the features are of 2"):
        list(predict_images(head, paths, base=bases[:1]))


def test_layers_of_one_base_are_computed_in_one_pass(both, calls):
    layers = select_layers(both, models=["little"], pools=["avg", "max"], join=True)
    assert [str(each) for each in layers[-1].parts] == [
        "little first_relu (avg, 2 views flip)",
        "little last (2 views flip)",
        "little first_relu (max, 2 views flip)",
    ]
    features = load_features(both, layers[-1].with_views(0))
    head = fit_head(features, "ridge")
    test = features.split("test")
    found = list(predict_images(head, list(test.paths)))
    assert sum(calls) < 2 * len(found)  # batches are filled up
    scores = np.array([list(each.scores.values()) for each in found])
    assert np.abs(scores - head.decision_function(test.X)).max() < 1e-2
    assert load_base(head).layers == ("first_relu", "last")


JOIN = ["--model", "little", "--model", OTHER, "--pool", "avg", "--join", "--views", 0]


@pytest.mark.usefixtures("both")
def test_every_command_takes_joined_features(bottleneck):
    fitted = bottleneck("fit-head", *JOIN, "--clf", "ridge", "--json")
    assert fitted.code == 0, fitted.err
    head = json.loads(fitted.out)
    assert len(head["source"]["parts"]) == 4
    done = bottleneck("evaluate", "--json")
    assert json.loads(done.out)["images"] == 6
    done = bottleneck("predict", "data/cat/000.png", "--json")
    assert json.loads(done.out)["path"] == "data/cat/000.png"
    swept = bottleneck("sweep", *JOIN, "--clf", "ridge", "--C", 0.01, "--cv", 2, "--jobs", 1)
    assert swept.code == 0, swept.err
    ranked = json.loads(bottleneck("leaderboard", "--json").out)
    assert len(ranked) == 5
    (joined,) = (each for each in ranked if "parts" in each["settings"])
    assert joined["settings"]["model"] == f"little + {OTHER}"
    shown = "first_relu + last + features.3 + logits"
    assert joined["settings"]["typed"] == shown
    assert shown in bottleneck("leaderboard", "--wide").out
    again = bottleneck("sweep", *JOIN, "--clf", "ridge", "--C", 0.01, "--cv", 2, "--jobs", 1)
    assert "0 of them new" in again.err
    layers = [option for name in shown.split(" + ") for option in ("--layer", name)]
    for chosen in (("--experiment", joined["number"]), ("--best", *JOIN, *layers)):
        done = bottleneck("fit-head", *chosen, "--json")
        assert json.loads(done.out)["source"]["parts"] == head["source"]["parts"], done.err
    refused = bottleneck("finetune", "--unfreeze", "all", "--val-share", 0.2)
    assert refused.code == 2
    assert "but fine-tuning trains a head behind one layer; fit one with 'bottleneck" in refused.err


@pytest.mark.ci
def test_advice_compares_joined_layers_with_the_last(bottleneck):
    """Each layer tells one half of the classes apart, so only both together tell all."""
    generator = np.random.default_rng(0)
    y = np.arange(160) % 4
    layers = {
        "early": 4.0 * np.eye(4)[y // 2] + generator.normal(size=(160, 4)),
        "last": 4.0 * np.eye(4)[y % 2] + generator.normal(size=(160, 4)),
    }
    cache_of(layers, np.array(list("abcd"))[y])
    how = ("--layer", "early", "--layer", "last", "--join", "--repeats", 1, "--jobs", 1)
    done = bottleneck("advise", *how, "--clf", "ridge", "--json")
    assert done.code == 0, done.err
    advice = json.loads(done.out)
    *_, joined = advice["evidence"]["layers"]
    assert (joined["layer"], joined["joined"]) == ("early + last", True)
    assert joined["difference"]["low"] > 0
    assert advice["verdict"]["kind"] == "joined layers help"
    assert advice["command"][-6:-4] == ["--layer", "early"] or "--join" in advice["command"]
    fitted = bottleneck(*advice["command"][1:], "--json")
    assert fitted.code == 0, fitted.err
    assert len(json.loads(fitted.out)["source"]["parts"]) == 2
    assert "computed by an earlier call" in bottleneck("advise", *how, "--clf", "ridge").err


@pytest.mark.ci
def test_missing_rows_are_named_with_the_command_that_computes_them(both, bottleneck):
    source = everything(both)
    part = source.parts[2]
    for bank in both.banks_of(part):
        for file in bank.part_files():
            file.unlink()
    with pytest.raises(CacheError) as caught:
        load_features(both, source)
    told = str(caught.value)
    assert "no features of layer 'features.3.cat'" in told
    command = shlex.split(told.partition("run ")[2].partition(" for them")[0].strip("'\""))
    assert command[:2] == ["bottleneck", "extract"]
    done = bottleneck(*command[1:])
    assert done.code == 0, done.err
    assert load_features(both, source).X.shape[1] > 0


def test_images_that_changed_since_are_named_with_the_command(both, little, make_images):
    make_images(cow=3, seed=5)
    extract_features("data", FrozenBase(little, ["last"], weights="random"), both)
    with pytest.raises(DataError, match=f"run '?\"?bottleneck extract .*--model {OTHER}"):
        everything(both)


def test_several_classes_and_one_class_per_image_are_not_joined(both, little):
    """Image sets of different names, and then of the same name with other labels."""
    images = ImageSet.from_folder("data")
    items = [replace(item, label="cat;dog") for item in images.items[:3]]
    several = replace(images, items=(*items, *images.items[3:]), name="several")
    base = FrozenBase(little, ["last"], weights="random")
    extract_features(several, base, both)
    with pytest.raises(UsageError, match="come from several image sets: data, several; choose one"):
        everything(both, views=0)
    assert everything(both, views=0, image_set="data").image_set == "data"
    extract_features(replace(several, name="data"), base, both)
    with pytest.raises(DataError, match="'data' was extracted with other images or labels since"):
        everything(both, views=0, image_set="data")


def sources() -> tuple[FeatureSource, FeatureSource]:
    one = source_record(layer="one")
    return one, replace(one, layer="two")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layer": "one"}, "^m one is given twice, but joined layers must differ; name each"),
        (
            {"image_set": "other"},
            "^layers of different image sets cannot be joined, got 'data', ",
        ),
        (
            {"views": 3, "policy": "flip", "view_bank": "m-cdcdcdcdcdcd"},
            "^joined layers must have the same augmented views, got none and 3 views of flip; give",
        ),
    ],
)
def test_layers_that_cannot_be_joined(change, sentence):
    one, two = sources()
    with pytest.raises(UsageError, match=sentence):
        join_layers([one, replace(two, **change)])
    with pytest.raises(UsageError, match="^joined features need at least two layers, got m one;"):
        join_layers([one])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--layer", "last", "--join"], "error: joined features need at least two layers, got lit"),
        (["--layer", "last", "--layer", "last", "--join"], "is given twice, but joined layers"),
        (["--layer", "last", "--layer", "lost", "--join"], "no extraction with layer 'lost'"),
        (
            ["--layer", "last", "--layer", "logits"],
            "--layer is given 2 times (last, logits), but",
        ),
        (["--model", "little", "--model", OTHER], "--model is given 2 times (little, squeez"),
        (["--set", "other", *JOIN], "no extraction with model 'little', set 'other'"),
        (["--layer", "last", *JOIN], "has 'last'; name a layer of it with --layer, or leave it"),
        (["--clf", "softmax", "--join", "--best"], "no experiment log"),
    ],
)
def test_a_mistake_is_one_sentence(both, bottleneck, options, sentence):
    assert both.runs()
    finished = bottleneck("fit-head", *options)
    assert finished.code in {1, 2}
    assert sentence in finished.err
    assert finished.err.strip().count("\n") == 0


def test_a_damaged_record_of_joined_features_is_one_sentence(both):
    fit_head(load_features(both, everything(both)), "centroid").save("heads/joined")
    file = Path("heads/joined/head.json")
    content = read_json(file)
    del content["source"]["parts"][1]["bank"]
    write_json(file, content)
    with pytest.raises(DataError, match=r"cannot be read \(it has no 'source\.parts\.1\.bank'\)"):
        Head.load("heads/joined")


def test_unknown_layers_of_several_models_are_named(both):
    with pytest.raises(UnknownNameError, match="no extraction with model 'little', layer 'lost'"):
        everything(both, layers=["lost"])
    found = everything(both, layers=["first_relu", "features.3"])
    assert [part.model for part in found.parts] == ["little", OTHER]
    log = run_sweep(both, [found.with_views(0)], "log.sqlite", clfs=("centroid",), cv=2, jobs=1)
    assert log[0].layer == "first_relu + features.3"
