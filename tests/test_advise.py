"""Advice: curves, intervals and forecasts, and verdicts on sets whose right answer is known.

About 10 s in the first tier.
"""

import csv
import hashlib
import json
import re
import shlex
import shutil
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bottleneck import (
    Cache,
    FinetuneSettings,
    ImageSet,
    advise_on,
    load_features,
    select_layers,
)
from bottleneck.advise import (
    Estimate,
    PowerLaw,
    borne_out,
    decide,
    fit_power_law,
    next_step,
    timing,
)
from bottleneck.advise.advice import grid_sizes
from bottleneck.advise.curve import Samples, forecast_gain
from bottleneck.advise.evidence import Contrast, Depths, FineTuning
from bottleneck.advise.scoring import make_bench, nested_subsets, score_sizes
from bottleneck.advise.verdict import (
    CEILING,
    EARLIER_LAYER,
    HEAD,
    MORE_DATA,
    NOTHING_LEFT,
    PLATEAUED,
    POOLING,
    UNDECIDED,
)
from bottleneck.bases import find_model
from bottleneck.bases.network import Network
from bottleneck.bases.splitting import split_network
from bottleneck.errors import DataError, UnknownNameError, UsageError, WrongTypeError
from bottleneck.exchange import import_array
from bottleneck.heads import cross_validate, stepping
from bottleneck.heads.prepare import make_problem, recipe_of
from bottleneck.heads.problem import Problem
from bottleneck.heads.scoring import fit_temperature, log_losses
from bottleneck.settings import AdviseSettings

ROOT = Path(__file__).parents[1]


def cache_of(layers, y, splits=None, folder="cache", groups=None) -> Cache:
    """A cache with one image set, whose layers are arrays of shape (n, d)."""
    cache = Cache(folder)
    rows = [
        {
            "path": f"{number}.png",
            "label": label,
            "split": "train" if splits is None else splits[number],
            "digest": hashlib.sha256(str(number).encode()).hexdigest(),
            "group": groups[number] if groups else "",
        }
        for number, label in enumerate(y)
    ]
    with Path("table.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    for name, X in layers.items():
        np.save("features.npy", X.astype(np.float32))
        import_array(cache, "features.npy", "table.csv", model="made", layer=name, image_set="made")
    return cache


def advice_on(layers, y, splits=None, *, repeats=2, clf="ridge", **settings):
    cache = cache_of(layers, y, splits)
    selections = select_layers(cache, layers=list(layers))
    return advise_on(cache, selections, repeats=repeats, clf=clf, **settings)


def blobs(generator, n, classes, d, apart):
    means = generator.normal(size=(classes, d))
    means *= apart / np.linalg.norm(means, axis=1, keepdims=True)
    y = np.arange(n) % classes
    return means[y] + generator.normal(size=(n, d)), y


def flipped_labels(generator):
    """Four classes far apart, of which a fifth carries another label: the Bayes error is 0.2."""
    X, y = blobs(generator, 1200, 4, 12, 8)
    flipped = generator.random(len(y)) < 0.2
    return {"last": X}, np.where(flipped, (y + generator.integers(1, 4, len(y))) % 4, y)


def overlapping(generator):
    """Two classes that overlap alike in both layers: the Bayes error is 0.159."""
    n = 1600
    y = np.arange(n) % 2
    signal = 2 * y - 1 + generator.normal(size=n)
    turn = np.linalg.qr(generator.normal(size=(10, 10)))[0]
    return {
        name: np.column_stack([signal, 0.5 * generator.normal(size=(n, 9))]) @ turn
        for name in ("early", "last")
    }, y


def too_few(generator):
    """Six classes that a linear head can tell apart without error, given enough rows."""
    X = generator.normal(size=(400, 60))
    return {"last": X}, (X @ generator.normal(size=(60, 6))).argmax(axis=1)


def early_only(generator):
    """The last layer is little more than noise around what an earlier one has."""
    X, y = blobs(generator, 400, 4, 12, 4)
    return {"early": X, "last": 0.35 * X + generator.normal(size=X.shape)}, y


def rings(generator):
    """One class around the other: no linear head tells them apart, and others do."""
    n = 400
    y = np.arange(n) % 2
    radius = np.where(y, 3, 1) + 0.3 * generator.normal(size=n)
    angle = generator.uniform(0, 2 * np.pi, n)
    noise = 0.3 * generator.normal(size=(n, 4))
    return {"last": np.column_stack([radius * np.cos(angle), radius * np.sin(angle), noise])}, y


def lost_on_the_way(generator):
    """A class is two bits; the last layer has one of them clearly and has lost much of the other.

    What an earlier layer has of that is noise of its own.
    """
    n = 1200
    first, second = 2 * generator.integers(0, 2, (2, n)) - 1
    early = [first + 1.3 * generator.normal(size=n), second + 1.2 * generator.normal(size=n)]
    last = [3 * first + 0.5 * generator.normal(size=n), second + generator.normal(size=n)]
    layers = {
        name: np.column_stack([*bits, generator.normal(size=(n, 6))])
        for name, bits in (("early", early), ("last", last))
    }
    return layers, 2 * (first > 0) + (second > 0)


def apart(generator):
    """Three classes that anything tells apart."""
    X, y = blobs(generator, 120, 3, 12, 9)
    return {"last": X}, y


def overlapping_in_one_layer(generator):
    """Nothing here says whether the labels or the network limit it."""
    layers, y = overlapping(generator)
    return {"last": layers["last"][:800]}, y[:800]


RIGHT = [
    (flipped_labels, CEILING),
    (overlapping, CEILING),
    (too_few, MORE_DATA),
    (early_only, EARLIER_LAYER),
    (rings, HEAD),
    (lost_on_the_way, PLATEAUED),
    (apart, NOTHING_LEFT),
    (overlapping_in_one_layer, UNDECIDED),
]
QUICK = {flipped_labels}
"""What the first tier tries."""


@pytest.fixture(scope="module")
def advice_of(tmp_path_factory):
    """Advice on a constructed set, which is computed once: ``advice_of(rings, seed)``."""

    @cache
    def advice(make, seed):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("made"))
            return advice_on(*make(np.random.default_rng(seed)))

    return advice


@pytest.mark.parametrize(
    ("make", "right", "seeds"),
    [
        *(pytest.param(*each, 1, id=each[0].__name__) for each in RIGHT if each[0] in QUICK),
        *(
            pytest.param(*each, 3, id=f"{each[0].__name__}, 3 seeds", marks=pytest.mark.ci)
            for each in RIGHT
        ),
    ],
)
def test_the_verdict_is_right_where_the_answer_is_known(make, right, seeds, advice_of):
    """For some seeds the verdict may be undecided, but it is never another one."""
    found = [advice_of(make, seed).verdict.kind for seed in range(seeds)]
    assert set(found) <= {right, UNDECIDED}
    assert found.count(right) > len(found) / 2


def test_subsets_are_nested_and_have_the_classes_shares():
    """Rows of a group stay together, and every subset has three groups of each class."""
    y, groups = np.repeat(["a", "b", "c"], [300, 90, 10]), np.arange(400) // 2
    problem = make_problem(np.zeros((400, 3)), y, recipe_of("lda"), groups=groups)
    fit = groups % 7 < 6
    sizes = grid_sizes(int(fit.sum()), 3)
    subsets = nested_subsets(problem, fit, sizes, repeat=1)
    assert sizes == [10, 21, 43, 86, 172, 344]
    assert np.array_equal(subsets[-1], fit)
    for smaller, larger in pairwise(subsets):
        assert not (smaller & ~larger).any()
    for subset, size in zip(subsets, sizes, strict=True):
        assert subset.sum() == max(18, size - size % 2)
        assert (subset[::2] == subset[1::2]).all()
        assert all(subset[y == label].sum() >= 6 for label in "abc")
    assert [int(subsets[3][y == label].sum()) for label in "abc"] == pytest.approx(
        [62, 18, 6], abs=4
    )
    again, other = (nested_subsets(problem, fit, sizes, repeat=number) for number in (1, 2))
    assert all(map(np.array_equal, subsets, again))
    assert not np.array_equal(subsets[0], other[0])


@pytest.mark.parametrize(
    "law",
    [
        PowerLaw(0.1, 2.0, 0.7),
        PowerLaw(0.0, 1.5, 0.3),
        PowerLaw(0.05, 8.0, 1.2),
        PowerLaw(0, 4, 0.5),
    ],
)
def test_a_power_law_is_found_again(law):
    sizes = 40 * 2.0 ** np.arange(6)
    found = fit_power_law(sizes, np.array([law.error(size) for size in sizes]), np.ones(6))
    assert found.asymptote == pytest.approx(law.asymptote, abs=2e-3)
    assert found.exponent == pytest.approx(law.exponent, rel=0.02)
    assert found.error(1e4) == pytest.approx(law.error(1e4), abs=1e-3)


@pytest.mark.ci
def test_a_forecasts_interval_holds_the_truth():
    """For nearly all of many simulated curves, whose folds are correlated like real folds."""
    law, sizes = PowerLaw(0.1, 2.0, 0.6), 40 * 2.0 ** np.arange(6)
    true_gain = law.error(1600) - law.error(3200)
    held = []
    for seed in range(25):
        generator = np.random.default_rng(seed)
        level = 0.01 * generator.normal()
        curves = [
            Samples(
                1 - (law.error(n) + level + 0.02 * generator.normal(size=(5, 5))),
                0.25,
                crossed=False,
            )
            for n in sizes
        ]
        _, (double, _) = forecast_gain(sizes, curves, 1600, seed)
        gain = double.gain
        assert gain.high - gain.low < 0.1
        held.append(gain.low <= true_gain <= gain.high)
    assert sum(held) >= 23


def test_nothing_is_forecast_where_no_group_can_be_left_out():
    """As with three groups: all subsets are the same."""
    alike = [Samples(np.full((2, 3), 0.75), 0.5, crossed=False, least=1.0)] * 3
    law, (double, more) = forecast_gain(np.full(3, 60.0), alike, 60, 0)
    assert law.error(120) == law.error(60) == 0.25
    assert (double.images, more.images) == (120, 240)
    assert double.gain == more.gain == Estimate(0.0, -0.75, 0.25)
    assert double.accuracy == Estimate(0.75, 0.0, 1.0)


def test_three_patients_leave_all_undecided(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = blobs(np.random.default_rng(0), 180, 3, 12, 2)
    groups = [f"p{number // 3 % 3}" for number in range(180)]
    cache = cache_of({"early": X[:, :6], "last": X}, y, groups=groups)
    asked = select_layers(cache, layers=["early", "last"])
    advice = advise_on(cache, asked, repeats=2, clf="lda")
    assert [point.images for point in advice.evidence.curve.points] == [120]
    assert advice.verdict.kind == UNDECIDED
    assert advice.verdict.sentence.endswith("; images of more groups would narrow them")
    for each in advice.verdict.options:
        assert each.state == "open"
        assert -1 <= each.gain.low <= each.gain.high <= 1
    (apart,) = [each.difference for each in advice.evidence.layers if each.difference]
    assert apart.low == -1 < apart.high < 1  # only what is impossible is cut off


def test_intervals_are_those_of_the_corrected_resampled_t():
    values = np.random.default_rng(0).normal(0.8, 0.02, size=(3, 5))
    found = Samples(values, 0.25, crossed=False).estimate()
    half = 2.144787 * values.std(ddof=1) * np.sqrt(1 / 15 + 0.25)
    assert (found.value, found.high - found.value) == pytest.approx((values.mean(), half))
    # The same val images again and again are no more of them.
    once, thrice = (
        Samples(np.repeat(values[:1], count, axis=0), 0.25, crossed=True).estimate()
        for count in (1, 3)
    )
    assert once.low == pytest.approx(thrice.low)
    assert Samples(values, 0.25, crossed=False).estimate(4).high > found.high


@pytest.mark.ci
def test_whole_sets_are_scored_as_cross_validation_does(faces_cache):
    (selection,) = select_layers(faces_cache)
    features = load_features(faces_cache, selection)
    bench = make_bench(features, recipe_of("centroid"), AdviseSettings(cv=4, repeats=2, seed=3))
    scored = score_sizes(bench, recipe_of("centroid"), [20, 160], jobs=1, advance=lambda: None)
    problem = bench.problem
    for repeat in range(2):
        (own,) = cross_validate(
            problem, recipe_of("centroid"), problem.folds(4, repeat=repeat), [None]
        )
        theirs = [fold["accuracy"] for fold in own]
        assert bench.accuracy(scored[1]).values[repeat].tolist() == pytest.approx(theirs)
    assert scored[0].trained.tolist() == [[20] * 4] * 2
    assert (scored[1].trained == 120).all()


@pytest.mark.parametrize(
    "clf", ["softmax", "ridge", "knn", pytest.param("mlp", marks=pytest.mark.ci)]
)
def test_held_out_labels_do_not_influence_heads(clf):
    """Heads give the same scores if the labels of held-out rows change."""
    X, y = blobs(np.random.default_rng(1), 120, 3, 6, 2)
    cache = cache_of({"last": X}, y)
    features = load_features(cache, *select_layers(cache))
    recipe = recipe_of(clf)
    bench = make_bench(features, recipe, AdviseSettings(cv=3, repeats=1))
    fold = bench.repeats[0][0]
    codes = bench.problem.targets.codes.copy()
    codes[fold.held] = (codes[fold.held] + 1) % 3
    targets = replace(bench.problem.targets, codes=codes)
    bench = replace(bench, repeats=[[fold]])
    other = replace(bench, problem=replace(bench.problem, targets=targets))
    first, second = (
        score_sizes(each, recipe, [40, 120], jobs=1, advance=lambda: None)
        for each in (bench, other)
    )
    held = fold.held[bench.judged]
    for one, another in zip(first, second, strict=True):
        assert np.array_equal(one.log_probabilities[0, held], another.log_probabilities[0, held])


def test_val_images_judge_and_test_images_do_not():
    generator = np.random.default_rng(2)
    X, y = blobs(generator, 400, 2, 5, 1.5)
    splits = np.repeat(["train", "val", "test"], [200, 150, 50])
    counts = []

    def tell(_stage, done, total):
        counts.append((done, total))

    found = advice_on({"early": X, "last": X}, y, splits, repeats=3, clf="lda", progress=tell)
    assert found.held_out == "150 val images"
    assert [point.images for point in found.evidence.curve.points] == [6, 12, 25, 50, 100, 200]
    assert [each.images for each in found.evidence.curve.forecasts] == [400, 800]
    assert [done for done, _ in counts] == list(range(counts[-1][1] + 1))
    other = X.copy()
    other[350:] += 100
    changed = np.where(splits == "test", 1 - y, y)
    cache = cache_of({"early": other, "last": other}, changed, splits, folder="other")
    again = advise_on(cache, select_layers(cache, layers=["early", "last"]), repeats=3, clf="lda")
    same = {name: getattr(found, name) for name in ("time", "source", "fit_seconds")}
    assert replace(again, **same).as_dict() == found.as_dict()


def test_too_few_val_images_are_an_error():
    X, y = blobs(np.random.default_rng(2), 100, 2, 5, 1.5)
    splits = np.repeat(["train", "val"], [97, 3])
    with pytest.raises(DataError, match="has 3 val images, but `cv` needs at least 5"):
        advice_on({"last": X}, y, splits)


def test_val_images_of_one_group_are_one_sample():
    """Groups lie in one block, and the least interval counts groups; as without, if each is one."""
    y = np.tile([0, 1], 70)
    splits = np.repeat(["train", "val"], [80, 60])
    cache = cache_of({"last": np.eye(140)}, y, splits)
    features = load_features(cache, *select_layers(cache))

    def blocks(names, cv=4):
        items = zip(features.images.items, names, strict=True)
        grouped = tuple(replace(item, group=name) for item, name in items)
        images = replace(features.images, items=grouped)
        own = replace(features, images=images)
        return make_bench(own, recipe_of("lda"), AdviseSettings(cv=cv, repeats=1))

    names = [None] * 80 + [f"{place // 6}" for place in range(60)]
    bench = blocks(names)
    groups = bench.problem.groups[bench.judged]
    found = [set(groups[own].tolist()) for own in bench.blocks[0]]
    assert [len(each) for each in found] == [3, 3, 2, 2]
    assert sum(map(len, found)) == len(set().union(*found)) == 10
    scored = SimpleNamespace(log_probabilities=np.zeros((1, 60, 2)))
    assert bench.accuracy(scored).least == 3 / 10
    assert blocks([None] * 140).accuracy(scored).least == 3 / 60
    with pytest.raises(DataError, match="has 10 groups of val images, but `cv` needs at least 11"):
        blocks(names, cv=11)


def test_identical_blocks_still_give_an_interval():
    """An event not seen in 100 images may have a rate of up to 3 in 100."""
    alike = Samples(np.ones((2, 5)), 0.25, crossed=False, least=0.03)
    assert (alike.estimate().low, alike.estimate().high) == (0.97, 1.03)
    assert (alike - alike).estimate().high == 0.03


@pytest.fixture
def evidence(advice_of):
    """That of two layers."""
    return advice_of(overlapping, 0).evidence


def with_gain(evidence, gain):
    forecast = replace(evidence.curve.forecasts[0], gain=gain)
    return replace(evidence, curve=replace(evidence.curve, forecasts=[forecast]))


def contrast(*gain, layer="blocks.2"):
    """That of a layer, of which training all that follows costs a million multiply-adds."""
    tuning = FineTuning(f"after {layer}", 1_000_000, 2.0, 100.0)
    return Contrast(layer, Estimate(*gain), tuning)


def test_each_rule_holds_on_its_side_of_the_threshold(evidence):
    """Each rule on both sides of its threshold; with an error of 0.1, a gain of 0.01 is useful."""
    flat = replace(
        evidence,
        accuracy=Estimate(0.9, 0.89, 0.91),
        heads=[replace(evidence.heads[0], difference=Estimate(0.0, -0.01, 0.01))],
        layers=[each for each in evidence.layers if not each.difference],
        joined=None,
        rise=None,
        confident_error=Estimate(0.01, 0.0, 0.02),
    )
    flat = with_gain(flat, Estimate(0.0, -0.001, 0.001))
    none = contrast(0.0, -0.001, 0.001)

    def kind(**changes):
        return decide(replace(flat, **changes)).kind

    assert kind() == UNDECIDED
    assert decide(with_gain(flat, Estimate(0.011, 0.001, 0.03))).kind == MORE_DATA
    assert decide(with_gain(flat, Estimate(0.009, 0.001, 0.015))).kind == UNDECIDED
    assert decide(with_gain(flat, Estimate(0.03, -0.001, 0.07))).options[0].state == "open"
    assert decide(with_gain(flat, Estimate(0.0, -0.01, 0.019))).options[0].state == "ruled out"
    assert decide(with_gain(flat, Estimate(0.0, -0.01, 0.021))).options[0].state == "open"
    assert kind(accuracy=Estimate(0.981, 0.97, 0.99)) == NOTHING_LEFT
    assert kind(confident_error=Estimate(0.08, 0.051, 0.11)) == CEILING
    assert kind(confident_error=Estimate(0.08, 0.049, 0.11)) == UNDECIDED
    assert kind(joined=contrast(0.02, 0.001, 0.04)) == PLATEAUED
    rise = contrast(0.1, 0.05, 0.15)
    assert kind(rise=rise) == PLATEAUED
    unclear = Estimate(0.03, 0.0, 0.06)
    assert kind(rise=rise, confident_error=unclear) == UNDECIDED
    early = replace(evidence.layers[0], difference=Estimate(0.0, -0.019, 0.019))
    layers = [early, *flat.layers]
    assert kind(layers=layers, joined=none) == CEILING
    assert kind(layers=[replace(early, depth=0.6), *flat.layers], joined=none) == UNDECIDED
    weak = replace(flat, accuracy=Estimate(0.7, 0.6, 0.8), confident_error=Estimate(0.3, 0.2, 0.4))
    assert decide(weak).kind == UNDECIDED


def test_enough_errors_to_learn_from_make_fine_tuning_gain(evidence):
    """Whatever the verdict, unless labels or images are what limits accuracy."""
    tuning = FineTuning("blocks.5", 1_000_000, 2.0, 100.0)
    wrong = Estimate(0.76, 0.75, 0.77)
    many = replace(evidence, accuracy=wrong, images=834, tuning=tuning)
    few = replace(many, images=833)
    more = Estimate(0.1, 0.05, 0.15)
    for each, gains in ((many, True), (few, False)):
        found = decide(with_gain(each, more))
        assert (found.kind, found.tuning_gains) == (MORE_DATA, gains)
        assert found.layer == ("blocks.5" if gains else None)
        assert ("wrong about 200 of the training images" in found.sentence) == gains
        assert found.expectation is (True if gains else None)
    unknown = decide(with_gain(replace(many, tuning=None), more))
    assert (unknown.tuning_gains, unknown.layer) == (True, None)
    flat = {"heads": [], "layers": [], "joined": None, "rise": None}
    noisy = replace(many, confident_error=Estimate(0.2, 0.15, 0.25), **flat)
    found = decide(with_gain(noisy, Estimate(0.0, -0.001, 0.001)))
    assert (found.kind, found.expectation, found.layer) == (CEILING, False, None)
    good = replace(many, accuracy=Estimate(0.985, 0.98, 0.99), images=100_000)
    assert decide(good).kind == NOTHING_LEFT
    assert decide(good).expectation is False


def test_training_starts_after_the_layer_of_the_evidence(evidence):
    """A gain from joining layers takes precedence over a gain with depth."""
    flat = replace(
        with_gain(evidence, Estimate(0.0, -0.001, 0.001)),
        accuracy=Estimate(0.9, 0.89, 0.91),
        heads=[],
        layers=[],
        joined=contrast(0.02, 0.001, 0.04, layer="blocks.1"),
        rise=contrast(0.1, 0.05, 0.15),
        confident_error=Estimate(0.01, 0.0, 0.02),
    )
    found = decide(flat)
    assert (found.layer, found.gain) == ("after blocks.1", Estimate(0.02, 0.001, 0.04))
    assert "fine-tune from after blocks.1: " in found.sentence
    assert "but blocks.1 has information that the last layer lacks" in found.sentence
    assert "; expected gain: +0.020 (+0.001 to +0.040); cost: " in found.sentence
    found = decide(replace(flat, joined=contrast(0.0, -0.001, 0.001, layer="blocks.1")))
    assert (found.layer, found.gain) == ("after blocks.2", None)
    assert "+0.100 (+0.050 to +0.150) above the best early one, blocks.2" in found.sentence
    unknown = decide(replace(flat, joined=None, rise=replace(flat.rise, tuning=None)))
    assert unknown.layer is None
    assert "fine-tune the layers after that one" in unknown.sentence


def test_the_largest_gain_is_named_and_the_others_kept(evidence):
    layers = [
        replace(each, difference=Estimate(0.2, 0.1, 0.3)) if each.difference else each
        for each in evidence.layers
    ]
    found = decide(with_gain(replace(evidence, layers=layers), Estimate(0.05, 0.04, 0.06)))
    assert found.kind == EARLIER_LAYER
    assert found.gain == Estimate(0.2, 0.1, 0.3)
    assert [(each.kind, each.state) for each in found.options][:2] == [
        (MORE_DATA, "shown"),
        (EARLIER_LAYER, "shown"),
    ]


def layers_of(cache, model, *names):
    """A network, and selections as those of the cache but of its layers."""
    network = Network(find_model(model))
    (made,) = select_layers(cache)
    layers = [layer for name in names for (layer,) in [network.resolve(name)]]
    return network, *(replace(made, model=model, layer=each, adjustments={}) for each in layers)


@pytest.mark.parametrize(
    ("model", "layer", "start"),
    [
        *(
            pytest.param("vgg16", layer, "features.17", marks=pytest.mark.ci)
            for layer in ("block5_pool", "block5_conv2")
        ),
        ("resnet18", "penultimate", "conv4_block2_1_conv"),
        ("efficientnet_lite0", "penultimate", "blocks.5.0.conv_pw"),
        ("efficientnet_lite0", "blocks.1", "blocks.1.1.conv_pw"),
    ],
)
def test_the_last_blocks_are_what_to_fine_tune(faces_cache, model, layer, start):
    """Its cost is a forward and a backward pass, that of lower layers only a forward pass."""
    network, selection = layers_of(faces_cache, model, layer)
    found = Depths([selection]).fine_tuning(selection, 1280, 2)
    assert found.layer == start
    (first,) = network.resolve(start)
    names = list(network.layers)
    place = names.index(first)
    lower = network.layers[names[place - 1]].multiply_adds if place else 0
    total = network.layers[selection.layer].multiply_adds
    assert lower < total
    assert found.multiply_adds == lower + 3 * (total - lower)
    assert found.extractions == pytest.approx(found.multiply_adds / total)


def test_another_pooling_is_no_earlier_layer(evidence):
    early, last = evidence.layers
    pooled = replace(early, layer=last.layer, pool="max", difference=Estimate(0.2, 0.1, 0.3))
    found = decide(replace(evidence, layers=[pooled, last]))
    assert found.kind == POOLING
    assert (
        "another pooling helps: a head on last (max) is expected to gain +0.200" in found.sentence
    )


@pytest.mark.ci
def test_a_simpler_head_can_help():
    """Neighbours fail among many irrelevant features; class means do not."""
    generator = np.random.default_rng(0)
    y = np.arange(240) % 2
    X = generator.normal(size=(240, 60))
    X[:, :6] += 0.8 * (2 * y[:, None] - 1)
    found = advice_on({"last": X}, y, clf="knn")
    assert found.verdict.kind == HEAD
    assert re.search(r"head: a simpler head \((lda|centroid|softmax)\)", found.verdict.sentence)
    assert {each.clf for each in found.evidence.heads} == {"softmax", "lda", "centroid"}


def test_depths_of_several_models_are_refused(faces_cache):
    (made,) = select_layers(faces_cache)
    with pytest.raises(UsageError, match=r"from several models \(efficientnet_lite0, vgg16\); ch"):
        Depths([made, replace(made, model="vgg16")])


@pytest.mark.parametrize(
    ("model", "after", "start"),
    [
        ("efficientnet_lite0", "last_conv", "blocks.5.0.conv_pw"),
        ("resnet18", "layer4", "conv4_block2_1_conv"),
        ("resnet18", "layer3", "conv5_block1_1_conv"),
    ],
)
def test_the_named_layer_can_be_trained(faces_cache, model, after, start):
    """If no weights follow the last maps, it is that of the last blocks."""
    network, last, below = layers_of(faces_cache, model, "penultimate", after)
    found = Depths([below, last]).fine_tuning(below, 1280, 2)
    assert found.layer == start
    assert split_network(network, found.layer, last.layer).trained


def test_training_can_start_after_an_early_layer(faces_cache):
    network, last, early = layers_of(faces_cache, "efficientnet_lite0", "penultimate", "blocks.2")
    found = Depths([early, last]).fine_tuning(early, 1280, 2)
    assert found.layer == "blocks.3.0.conv_pw"
    lower, total = (network.layers[each.layer].multiply_adds for each in (early, last))
    assert found.multiply_adds == lower + 3 * (total - lower)


@pytest.mark.ci
def test_the_commands_of_the_page_on_advice_run(bottleneck, faces_cache):
    """The commands of docs/advise.md, as text with a picture and as JSON."""
    page = (ROOT / "docs" / "advise.md").read_text()
    commands, *_ = re.findall(r"^```\n(bottleneck .*?)^```", page, re.MULTILINE | re.DOTALL)
    asked = ("--cache", faces_cache.root, "--jobs", 1, "--repeats", 1, "--clf", "lda")
    lines = [line for line in commands.splitlines() if line.startswith("bottleneck advise")]
    text, as_json = (bottleneck(*shlex.split(line)[1:], *asked) for line in lines)
    assert text.code == as_json.code == 0, text.err + as_json.err
    assert re.search(r"^verdict: (undecided|nothing left to gain): .*0\.\d", text.out, re.MULTILINE)
    assert Path("advice.png").stat().st_size > 20_000
    found = json.loads(as_json.out)
    assert found["verdict"]["kind"] in {NOTHING_LEFT, UNDECIDED}
    assert found["evidence"]["tuning"]["layer"] == "blocks.5.0.conv_pw"
    assert len(found["evidence"]["curve"]["points"]) == 5
    assert found["evidence"]["layers"][-1]["curve"] == found["evidence"]["curve"]


@pytest.mark.parametrize(
    ("rows", "labels", "error", "sentence"),
    [
        (61, ["a"], DataError, "have 1 class; a classifier needs at least two: add images"),
        (21, ["a", "b"], DataError, "only 16 training images of 2 classes .* sizes needs 24; add"),
        (61, ["a", "b;c"], UsageError, "has images with several classes, but advise needs one"),
        (5, ["a", "b"], DataError, "'a': 2, 'b': 2.*, but 3 folds need 3; add images$"),
    ],
)
def test_invalid_arguments_are_one_sentence(rows, labels, error, sentence):
    y = [labels[number % len(labels)] for number in range(rows - 1)]
    X = np.random.default_rng(0).normal(size=(rows, 4))
    cache = cache_of({"last": X}, [*y, "z"], ["train"] * (rows - 1) + ["test"])
    with pytest.raises(error, match=sentence):
        advise_on(cache, select_layers(cache))


def test_images_without_labels_are_refused(bottleneck, make_images):
    images = make_images(cat=6) / "cat"
    tiny = ("--model", "squeezenet1_1", "--weights", "random", "--layer", "features.12")
    assert bottleneck("extract", *tiny, "--data", images, "--pool", "avg").code == 0
    refused = bottleneck("advise", "--jobs", 1)
    assert refused.code == 1
    assert "image set 'cat' has no labels to fit a classifier on; put its images" in refused.err
    assert bottleneck("advise", "--jobs", 0).code == 2
    assert bottleneck("advise", "--picture", "advice.doc").code == 2


def test_mistakes_are_reported_before_anything_is_computed(faces_cache):
    selections = select_layers(faces_cache)
    for wrong, sentence in (
        ({"cv": 1}, "`cv` must be a whole number of at least 2, got 1"),
        ({"repeats": 0}, "`repeats` must be a whole number of at least 1, got 0"),
        ({"memory": 1000}, "needs [0-9]+ MB with copies, but the limit is 0 MB; give a `pool`"),
    ):
        with pytest.raises(UsageError, match=sentence):
            advise_on(faces_cache, selections, **wrong)
    with pytest.raises(UnknownNameError, match="got 'softmex'; did you mean 'softmax'"):
        advise_on(faces_cache, selections, clf="softmex")
    with pytest.raises(UsageError, match="no layers to advise on"):
        advise_on(str(faces_cache.root), [])
    for other in (None, selections):
        with pytest.raises(WrongTypeError, match="^`cache` must be Cache, str or Path, got "):
            advise_on(other, selections)
    with pytest.raises(
        WrongTypeError, match=r"^`selections` must be the result of .*select_layers"
    ):
        advise_on(faces_cache, "penultimate")


def test_an_imported_layer_of_another_name_has_no_network():
    """The model's name is known, but the model does not have the layer."""
    cache = Cache("cache")
    X, y = blobs(np.random.default_rng(0), 60, 2, 4, 4)
    cache_of({"layer4": X}, y)
    (source,) = select_layers(cache)
    found = Depths([replace(source, model="resnet18")])
    assert found.fine_tuning(source, 4, 2) is None
    assert found.share(source) == 1


@pytest.mark.parametrize("clf", ["softmax", "svm", "ridge", "knn"])
@pytest.mark.parametrize("apart", [0.0, 1.0, 4.0])
def test_the_search_for_a_value_finds_that_of_the_whole_grid(clf, apart, monkeypatch):
    """With labels at random, overlapping classes and separate ones; and in fewer fits."""
    X, y = blobs(np.random.default_rng(3), 90, 3, 40, 1)
    X += apart * np.eye(3, 40)[y]
    recipe, link = recipe_of(clf), "softmax"
    problem = replace(make_problem(X, y, recipe), standardize=False)
    folds, tried, whole = problem.folds(3), [], stepping.held_out

    def counted(*given):
        for scores in whole(*given):
            tried.append(scores)
            yield scores

    every = [np.concatenate(each) for each in whole(recipe, problem, folds, recipe.grid)]
    held = problem.targets.take(np.concatenate([np.flatnonzero(fold.held) for fold in folds]))
    losses = [
        log_losses(
            link, own, held, fit_temperature(link, own, held) if recipe.margins else 1
        ).mean()
        for own in every
    ]
    monkeypatch.setattr(stepping, "held_out", counted)
    value, scores = stepping.choose_stepwise(recipe, link, problem, folds, recipe.grid)
    found = log_losses(
        link, scores, held, fit_temperature(link, scores, held) if recipe.margins else 1
    ).mean()
    assert found == pytest.approx(min(losses), rel=1e-3)
    if clf == "softmax":
        assert value == recipe.grid[int(np.argmin(losses))]
        assert len(tried) < len(recipe.grid)


@pytest.mark.ci
def test_what_was_computed_is_kept(bottleneck):
    """For JSON after text; other settings, labels or features, and damage, compute again."""
    X, y = blobs(np.random.default_rng(0), 60, 2, 6, 2)
    cache_of({"last": X}, y)
    asked = ("advise", "--clf", "lda", "--repeats", 1, "--jobs", 1)

    def called(*more):
        """Return the printed JSON, and whether an earlier call computed it."""
        found = bottleneck(*asked, *more, "--json")
        assert found.code == 0, found.err
        kept = "computed by an earlier call" in found.err
        assert kept == (not re.search(r"^advise: \d+ fits, about 0:00:", found.err, re.MULTILINE))
        measured = ("time", "fit_seconds", "minutes")
        return {k: v for k, v in json.loads(found.out).items() if k not in measured}, kept

    assert "verdict: " in bottleneck(*asked).out
    first, kept = called()
    assert kept
    assert called() == (first, True)
    assert called("--again") == (first, False)
    assert not called("--seed", 1)[1]
    (file, *_) = Path("cache/advice").iterdir()
    for content in ("", "{}", file.read_text().replace("made", "mode")):
        for each in Path("cache/advice").iterdir():
            each.write_text(content)
        assert called() == (first, False)
    for other in ({"last": X[:, :5]}, {"last": X + 1}):
        cache_of(other, y)
        assert not called()[1]
    Path("cache").rename("before")
    cache_of({"last": X}, 1 - y)
    shutil.copytree("before/advice", "cache/advice")
    assert not called()[1]


def test_features_added_or_a_read_only_cache_do_not_stop_it(bottleneck):
    """A file in the way of the kept advice is left alone."""
    cache_of({"last": blobs(np.random.default_rng(0), 60, 2, 6, 2)[0]}, np.arange(60) % 2)
    Path("cache/advice").write_text("mine")
    for _ in range(2):
        found = bottleneck("advise", "--clf", "lda", "--repeats", 1, "--jobs", 1)
        assert found.code == 0
        assert "earlier call" not in found.err
    assert Path("cache/advice").read_text() == "mine"


# The printed commands, 10 s
@pytest.mark.ci
@pytest.mark.parametrize(
    ("kind", "tuned", "ran"),
    [
        (NOTHING_LEFT, False, ["fit-head", "evaluate"]),
        (CEILING, False, ["fit-head", "evaluate"]),
        (HEAD, False, ["fit-head", "evaluate"]),
        (EARLIER_LAYER, False, ["fit-head", "evaluate"]),
        (MORE_DATA, False, ["extract"]),
        (MORE_DATA, True, ["fit-head", "finetune"]),
        (UNDECIDED, False, ["extract"]),
        (PLATEAUED, True, ["fit-head", "finetune"]),
    ],
)
def test_the_commands_to_type_next_run_as_printed(kind, tuned, ran, bottleneck):
    """After each verdict, on a small set with two layers of a network with random weights."""
    generator, layers = np.random.default_rng(0), ("blocks.2", "penultimate")
    for number in range(24):
        Path(f"photos/{'ab'[number % 2]}").mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{'ab'[number % 2]}/{number}.png")
    chosen = [part for layer in layers for part in ("--layer", layer)]
    base = ("--model", "efficientnet_lite0", "--weights", "random", "--image-size", 32)
    assert bottleneck("extract", "--data", "photos", *base, *chosen, "--pool", "avg").code == 0
    gains = [Estimate(each, 0.0, 1.0) for each in (0.1, 0.2)]
    depths, cache = Depths(select_layers("cache")), Cache("cache")
    scores = [
        SimpleNamespace(layer=each.layer_name, pool=each.pool, difference=gain)
        for each, gain in zip(depths.layers, (gains[0], None), strict=True)
    ]
    tuning = depths.fine_tuning(depths.last, 1280, 2)
    advice = SimpleNamespace(
        source=depths.last,
        clf="softmax",
        fit_seconds={"softmax": 90.0},
        trial={},
        bases=None,
        evidence=SimpleNamespace(
            layers=scores, heads=[SimpleNamespace(clf="lda", difference=gains[1])]
        ),
        verdict=SimpleNamespace(
            kind=kind,
            gain=gains[kind == HEAD],
            layer=tuning.layer if tuned else None,
            options=[SimpleNamespace(state="open")],
        ),
    )
    for name in ran:
        step = next_step(advice, depths.layers, cache, "heads")
        command = step.command
        assert command[1] == name
        assert shlex.split(shlex.join(command)) == command
        quickly = ["--epochs", "1"] if name == "finetune" else []
        found = bottleneck(*command[1:], *quickly)
        assert found.code == 0, found.err
        if name == "extract":
            assert " 0 computed, 24 found in the cache" in found.out
            assert step.minutes > 0
        if name == "fit-head" and kind == PLATEAUED:
            assert (step.minutes, step.estimate[:17]) == (6.0, "from a fit of sof")


def test_the_time_of_fine_tuning_is_estimated_from_a_trial(faces_cache):
    """The time of a longer training from the cache, and from images; none without the images."""
    (source,) = select_layers(faces_cache)
    items = ImageSet.read_csv(faces_cache.set_file(source.image_set)).items
    trial = timing.try_training(source, "blocks.6", items)
    assert trial["images"] == 8
    assert trial["bytes"] == 2 * 192 * 7 * 7
    assert trial["trained"] > trial["passed"] > 0
    assert trial["frozen"] > 0
    gone = [replace(item, path="nowhere.png") for item in items[:8]]
    assert timing.try_training(source, "blocks.6", gone) == {}
    assert timing.try_training(replace(source, model="made"), "blocks.6", items) == {}


def test_the_estimate_counts_epochs_and_images(faces_cache, monkeypatch):
    """200 images, of which a fifth is held out; activations that take much space are not cached."""
    (source,) = select_layers(faces_cache)
    trial = {"frozen": 1.0, "trained": 3.0, "passed": 2.0, "bytes": 100.0, "images": 8.0}
    verdict = SimpleNamespace(kind=PLATEAUED, gain=None, layer="blocks.6", options=[])
    told = {"clf": "softmax", "evidence": None, "verdict": verdict, "fit_seconds": {"softmax": 5.0}}
    advice = SimpleNamespace(source=source, trial=trial, bases=None, **told)
    monkeypatch.setattr("bottleneck.advise.commands._head_on", lambda *_: "mine")

    def step(**changes):
        advice.trial = {**trial, **changes}
        return next_step(advice, [source], faces_cache, "heads")

    images = ImageSet.read_csv(faces_cache.set_file(source.image_set)).items
    train = sum(item.split == "train" for item in images)
    val = round(0.2 * train)
    epochs = FinetuneSettings("blocks.6").epochs
    cached, every = step(), step(bytes=1e10)
    once, epoch, refit = train, 3 * (train - val) + 2 * val, 4 * 5
    assert cached.minutes == pytest.approx((once + epochs * epoch + refit) / 60)
    assert every.minutes == pytest.approx((epochs * (once + epoch) + refit) / 60)
    named = ["--head", "mine", "--unfreeze", "blocks.6", "--val-share", "0.2"]
    assert cached.command[2:] == [*named, "--from-cache", "--cache", str(faces_cache.root)]
    assert "--from-cache" not in every.command
    assert step(bytes=0.0).command == every.command
    advice.trial = {}
    assert next_step(advice, [source], faces_cache, "heads").minutes is None


def test_whether_a_verdict_is_borne_out(evidence):
    """By the rules for gains: with an error of 0.1, a gain of 0.01 is useful."""
    evidence = replace(evidence, accuracy=Estimate(0.9, 0.89, 0.91))

    expectations = {
        "expected a gain from fine-tuning": True,
        "expected no gain from fine-tuning": False,
        "did not say whether fine-tuning gains": None,
    }
    yes, no, neither = expectations

    def told(words, *gain, unchanged=False):
        verdict = SimpleNamespace(expectation=expectations[words])
        value, *interval = gain
        tuned = SimpleNamespace(gain=value, interval=interval, unchanged=unchanged)
        return borne_out(verdict, evidence, tuned).removeprefix(f"'advise' {words}")

    gained, none, unclear = (0.03, 0.01, 0.05), (0.0, -0.01, 0.01), (0.02, -0.01, 0.05)
    assert told(yes, *gained) == told(no, *none) == ", which is borne out"
    assert told(yes, *none) == told(no, *gained) == ", which is not borne out"
    assert told(neither, *gained) == "; a gain is shown"
    assert told(neither, *none) == "; a gain is ruled out"
    few = ": these images are too few to show whether there is a gain"
    kept = "; no epoch was better than the head by more than a standard error"
    for words, expected in expectations.items():
        assert told(words, *unclear) == few
        borne = {True: ", which is not borne out", False: ", which is borne out", None: ""}
        assert told(words, *none, unchanged=True) == borne[expected] + kept


class Told(Exception):  # noqa: N818 - ends a call that has said what it costs
    pass


def test_the_cost_told_first_grows_with_what_is_computed(monkeypatch):
    """On a machine where a fit takes a second for each row, and its reduction for each number."""
    clock = SimpleNamespace(seconds=0.0)
    whole, reduced = timing.fit_fold, Problem.reduction

    def fit(problem, recipe, fold):
        clock.seconds += int(fold.fit.sum())
        return whole(problem, recipe, fold)

    def reduce(problem, *given):
        clock.seconds += problem.X.size
        return reduced(problem, *given)

    def tell(fits, seconds):
        raise Told(fits, seconds)

    monkeypatch.setattr(timing, "fit_fold", fit)
    monkeypatch.setattr(Problem, "reduction", reduce)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.seconds))
    generator = np.random.default_rng(0)

    def cost(rows=60, widths=(4,), **settings):
        shutil.rmtree("cache", ignore_errors=True)
        y = np.arange(rows) % 2
        layers = {f"{place}": generator.normal(size=(rows, d)) for place, d in enumerate(widths)}
        with pytest.raises(Told) as told:
            advice_on(layers, y, jobs=1, announce=tell, **{"repeats": 1, "clf": "knn"} | settings)
        return told.value.args

    fits, seconds = cost()
    assert cost(repeats=2) == (2 * fits, pytest.approx(2 * seconds, rel=0.2))
    layer = cost(widths=(4, 4))[1] - seconds
    assert cost(widths=(4, 4, 4))[1] == pytest.approx(seconds + 2 * layer)
    assert seconds + layer < cost(widths=(40, 4))[1] < seconds + 10 * layer
    assert 1.5 * seconds < cost(rows=120)[1] < 6 * seconds
    assert cost(cv=4)[1] < seconds
