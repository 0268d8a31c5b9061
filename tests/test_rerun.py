"""An experiment of a sweep becomes a head. About 15 s in the first tier."""

import contextlib
import json
import shutil

import pytest

from bottleneck import Cache, FrozenBase, extract_features, run_sweep, select_layers
from bottleneck.heads import find_head

LOG = "experiments.sqlite"


@pytest.fixture(scope="module")
def swept_once(make_images, tmp_path_factory):
    """A folder with seven experiments on two layers; not to be changed."""
    folder = tmp_path_factory.mktemp("swept")
    with contextlib.chdir(folder):
        cache = Cache("cache")
        layers = ["last_conv", "features.3"]
        base = FrozenBase("squeezenet1_1", layers, weights="random", pool="avg")
        extract_features(make_images(cat=10, dog=10), base, cache)
        sources = select_layers(cache)
        run_sweep(cache, sources, LOG, clfs=("softmax", "centroid"), C=(1e-3, 0.5), cv=2)
        run_sweep(cache, sources[:1], LOG, clfs=("mlp",), hidden=(4,), cv=2)
    return folder


@pytest.fixture
def _swept(swept_once, tmp_path):
    """A copy of them in the test's folder."""
    shutil.copytree(swept_once, tmp_path, dirs_exist_ok=True)


@pytest.mark.usefixtures("_swept")
def test_each_experiment_is_fitted_as_it_was_logged(bottleneck):
    ranked = json.loads(bottleneck("leaderboard", "--json").out)
    assert len(ranked) == 7
    for each in ranked:
        done = bottleneck("fit-head", "--experiment", each["number"], "--name", "e", "--json")
        known, head = each["settings"], json.loads(done.out)
        assert f"experiment {each['number']}: {known['clf']} on squeezenet1_1" in done.err
        assert head["clf"] == known["clf"]
        for name in ("C", "hidden"):
            assert head["hyperparameters"].get(name) == known.get(name)
        for name in ("layer", "pool", "fingerprint", "typed", "split_digests"):
            assert head["source"][name] == known[name]
    shown = ranked[0]["settings"]
    done = bottleneck("fit-head", "--best", "--name", "best")
    assert f"experiment {ranked[0]['number']}: " in done.err
    assert "too good as the best of 7; " in done.err
    assert find_head("heads", "best")[1].source.typed == shown["typed"]


@pytest.mark.usefixtures("_swept")
def test_the_score_of_the_winner_of_a_sweep_is_not_stored_as_held_out(bottleneck):
    ranked = json.loads(bottleneck("leaderboard", "--json").out)
    best, last = ranked[0], ranked[-1]
    scores = json.loads(bottleneck("fit-head", "--best", "--json").out)["scores"]
    assert scores["accuracy"] == best["fold_out"] is not None
    known = {"metric": "accuracy", "best_of": 7}
    first = {"number": best["number"], "fold_out": best["fold_out"]} | known
    assert scores["experiment"] == first
    fitted = bottleneck("fit-head", "--best", "--name", "best").out
    assert f"held-out accuracy {best['fold_out']:.4f} (" in fitted
    assert "where one of 7 experiments was selected)" in fitted
    assert find_head("heads", "best")[1].scores["experiment"] == first
    other = ("fit-head", "--experiment", last["number"])
    scores = json.loads(bottleneck(*other, "--json").out)["scores"]
    assert scores["experiment"] == {"number": last["number"], "fold_out": None} | known
    fitted = bottleneck(*other)
    assert "held-out" not in fitted.out
    assert "on images where one of 7 experiments was selected: accuracy " in fitted.out
    assert "too good if it was selected among 7" in fitted.err
    alone = ("fit-head", "--best", "--layer", "features.12", "--clf", "centroid", "--json")
    assert "experiment" not in json.loads(bottleneck(*alone).out)["scores"]


@pytest.mark.usefixtures("_swept")
@pytest.mark.parametrize(
    ("options", "among"),
    [
        (["--clf", "centroid"], 2),
        (["--layer", "features.3"], 4),
        (["--layer", "features.3", "--clf", "softmax"], 2),
        (["--layer", "features.12", "--clf", "centroid"], 1),
        (["--C", 0.5], 2),
        (["--C", "auto"], 7),
        (["--set", "data", "--model", "squeezenet1_1", "--pool", "avg"], 7),
    ],
)
def test_options_narrow_the_choice(bottleneck, options, among):
    told = bottleneck("fit-head", "--best", *options).err
    assert told.startswith("experiment ")
    assert ("too good as the best of" in told) == (among > 1)
    assert f"too good as the best of {among}; " in told or among == 1


@pytest.mark.usefixtures("_swept")
@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--best", "--clf", "ridge"], 1, "none of 7 experiments has all the given options"),
        (["--experiment", 99], 2, "no experiment 99 in"),
        (["--experiment", 1, "--clf", "ridge"], 2, "experiment 1 has another --clf; leave --clf"),
        (["--experiment", 1, "--layer", "logits"], 2, "experiment 1 has another --layer"),
        (["--experiment", 1, "--best"], 2, "--best and --experiment exclude each other"),
        (["--experiment", 1, "--device", "cuda"], 2, "--device applies to mlp only"),
        (["--best", "--log", "nothing.sqlite"], 1, "no experiment log 'nothing.sqlite'"),
    ],
)
def test_a_mistake_is_one_sentence(bottleneck, options, code, sentence):
    finished = bottleneck("fit-head", *options)
    assert finished.code == code
    assert sentence in finished.err


@pytest.mark.usefixtures("_swept")
def test_experiments_on_earlier_images_are_not_fitted(bottleneck, make_images):
    make_images(cow=6, seed=3)
    base = FrozenBase("squeezenet1_1", ["features.3"], weights="random", pool="avg")
    extract_features("data", base, "cache")
    finished = bottleneck("fit-head", "--experiment", 1)
    assert finished.code == 1
    assert "the image set of experiment 1 has changed" in finished.err
    told = "none of 7 matching experiments is on the images that are in the cache now"
    assert told in bottleneck("fit-head", "--best").err


def test_c_is_chosen_for_auto(bottleneck, faces_cache):
    for option in ((), ("--C", "auto")):
        done = bottleneck("fit-head", "--cache", faces_cache.root, *option, "--json")
        head = json.loads(done.out)
        candidates = head["scores"]["candidates"]
        assert len(candidates) > 1
        best = min(candidates, key=lambda each: each["log_loss"])
        assert head["hyperparameters"]["C"] == best["C"]
