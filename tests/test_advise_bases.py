"""Advice on several bases: which one to take, and whether joining two pays.

About 15 s in the first tier.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_standings import bases_of

from bottleneck import FrozenBase, ImageSet, advise_on, extract_features, select_layers
from bottleneck.advise import BaseScore, Estimate, JoinedBases
from bottleneck.advise.bases import sentence_on
from bottleneck.costs import Cost
from bottleneck.errors import UsageError

HOW = ("--clf", "lda", "--repeats", 1, "--jobs", 1)


def scored(model: str, value: float, difference: Estimate | None, cost: int | None) -> BaseScore:
    accuracy = Estimate(value, value - 0.1, value + 0.1)
    priced = Cost(multiply_adds_per_prediction=cost)
    return BaseScore(model, "last", "none", 1, accuracy, difference, priced)


def joined(low: float) -> JoinedBases:
    gain = Estimate(low + 0.02, low, low + 0.04)
    return JoinedBases(None, gain, gain, Cost())


WORSE, CLOSE = Estimate(-0.05, -0.08, -0.02), Estimate(-0.01, -0.04, 0.02)


@pytest.mark.parametrize(
    ("others", "taken", "sentence"),
    [
        (
            [("b", WORSE, 10)],
            "a",
            "take a: b is less accurate by 0.050 (0.020 to 0.080); joining a",
        ),
        (
            [("b", CLOSE, 10), ("c", WORSE, 1)],
            "b",
            "take b, the cheapest of these: the intervals do not show that b (-0.010 (-0.040 to",
        ),
        (
            [("b", CLOSE, 90)],
            "a",
            "take a, the cheapest of these: the intervals do not show that b",
        ),
        ([("b", CLOSE, None)], "a", "take a, the most accurate here: the intervals do not show"),
    ],
)
def test_the_best_base_is_taken_unless_a_cheaper_one_is_not_shown_to_be_worse(
    others, taken, sentence
):
    bases = [scored("a", 0.9, None, 50), *(scored(m, 0.8, d, c) for m, d, c in others)]
    found, told = sentence_on(bases, joined(-0.01))
    assert found == taken
    assert told.startswith(sentence)
    assert ("10 multiply-adds per prediction, the others 50;" in told) == (taken == "b")
    assert told.endswith("joining a and b is not shown to pay (+0.010 (-0.010 to +0.030) against "
                         "a alone)")  # fmt: skip
    assert "joining a and b pays (+0.030 (+0.010" in sentence_on(bases, joined(0.01))[1]


def halves(number: int = 120):
    """Two bases that each tell one half of four classes apart, and one that tells nothing."""
    generator = np.random.default_rng(0)
    y = np.arange(number) % 4
    bases = {
        "noise": generator.normal(size=(number, 4)),
        "left": 4.0 * np.eye(4)[y // 2] + generator.normal(size=(number, 4)),
        "right": 4.0 * np.eye(4)[y % 2] + generator.normal(size=(number, 4)),
    }
    return bases_of(bases, np.array(list("abcd"))[y])


def test_joining_two_bases_that_see_different_things_pays(bottleneck):
    halves()
    done = bottleneck("advise", "--model", "all", *HOW, "--json")
    assert done.code == 0, done.err
    advice = json.loads(done.out)
    found = advice["bases"]
    assert [each["model"] for each in found["bases"]][2] == "noise"
    assert found["bases"][2]["difference"]["high"] < 0
    assert found["joined"]["pays"]
    assert found["joined"]["difference"]["low"] > 0
    assert advice["model"] == found["model"] in {"left", "right"}
    assert {"fit-head", "--join", "left", "right", "--set", "made"} <= {*advice["command"]}
    fitted = bottleneck(*advice["command"][1:], "--json")
    assert fitted.code == 0, fitted.err
    assert len(json.loads(fitted.out)["source"]["parts"]) == 2
    again = bottleneck("advise", "--model", "all", *HOW)
    assert "computed by an earlier call" in again.err
    assert "verdict on the bases: take " in again.out
    assert "the first is the best of 3 bases on these images" in again.err


@pytest.mark.ci
def test_all_else_is_about_the_base_that_is_taken():
    cache = halves()
    layers = select_layers(cache, models=("left", "noise"))
    both = advise_on(cache, layers, clf="lda", repeats=1, jobs=1)
    alone = advise_on(cache, layers[:1], clf="lda", repeats=1, jobs=1)
    assert both.bases.model == both.source.model == "left"
    assert replace(both.evidence) == alone.evidence
    assert both.verdict == alone.verdict
    assert both.bases.bases[0].accuracy.value == alone.evidence.accuracy.value
    assert alone.bases is None


def test_networks_are_judged_by_their_deepest_layers(bottleneck, little, make_images):
    """A network has no folds within, so that no layer is chosen; and no score of the choice."""
    images = ImageSet.from_folder(make_images(cat=40, dog=40))
    for model, layers in ((little, ["first_relu", "last"]), ("squeezenet1_1", ["features.3"])):
        base = FrozenBase(model, layers, weights="random", pool="avg")
        extract_features(images, base, "cache")
    for clf, chosen in (("mlp", False), ("centroid", True)):
        how = ("--model", little, "--model", "squeezenet1_1", "--repeats", 1, "--cv", 2)
        done = bottleneck("advise", *how, "--clf", clf, "--jobs", 1, "--json")
        assert done.code == 0, done.err
        found = json.loads(done.out)["bases"]
        assert bool(found["choice"]) == chosen
        (own,) = (each for each in found["bases"] if each["model"] == little)
        assert own["best_of"] == 2
        assert chosen or own["layer"] == "last"
        assert all(each["cost"]["multiply_adds_per_image"] > 0 for each in found["bases"])


@pytest.mark.parametrize("command", ["advise", "sweep"])
@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("resnet18", "the cache has no features of 'resnet18' for 'made', but of left; run "),
        ("resnet18", "'bottleneck extract --set made --model resnet18' first, or leave it out"),
        ("vgg61", "'vgg61'"),
        ("vgg61", "lists them all; did you mean 'vgg"),
    ],
)
def test_a_base_without_features_is_named_with_the_command(bottleneck, command, model, sentence):
    halves(40)
    done = bottleneck(command, "--model", "left", "--model", model, "--clf", "lda")
    assert done.code == 2
    assert sentence in done.err
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")


def test_bases_of_several_image_sets_are_not_compared():
    cache = halves(40)
    (left,) = select_layers(cache, models=("left",))
    bases_of({"other": np.eye(40)}, np.tile(list("ab"), 20), "others")
    (other,) = select_layers(cache, models=("other",))
    with pytest.raises(UsageError, match="only be compared on the same images, but these layers"):
        advise_on(cache, [left, other])
