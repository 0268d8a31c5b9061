"""What features and predictions cost. About 5 s in the first tier."""

import pytest

from bottleneck import FrozenBase, ImageSet, extract_features, join_layers, select_features
from bottleneck.bases import find_model
from bottleneck.bases.network import Network
from bottleneck.cache import Cache
from bottleneck.costs import Cost, HeadShape, comparable_work, costs_of


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (HeadShape("softmax", 3, 100), 3 * 8),
        (HeadShape("knn", 3, 100), 100 * 8),
        (HeadShape("mlp", 3, 100, hidden=5), 5 * 8 + 3 * 5),
    ],
)
def test_multiply_adds_of_heads(head, expected):
    assert head.multiply_adds(8) == expected


def test_costs_are_those_of_the_network_the_runs_and_the_bank(little, make_images, monkeypatch):
    """A pooled map costs as many multiply-adds as the network up to it; passes are counted once."""
    cache, images = Cache("cache"), ImageSet.from_folder(make_images(cat=4, dog=4))
    base = FrozenBase(little, ["second_relu", "last"], weights="random")
    run = extract_features(images, base, cache)
    early = select_features(cache, layer="second_relu", pool="avg")
    late = select_features(cache, layer="last")
    layers = Network(find_model(little)).layers
    head = HeadShape("ridge", 2, 8)
    found = dict(zip((early, late), costs_of(cache, [(early, head), (late, head)]), strict=True))
    for source, width in ((early, 16), (late, 5)):
        work = layers[source.layer].multiply_adds
        assert found[source].multiply_adds_per_image == work
        assert found[source].multiply_adds_per_prediction == work + 2 * width
        seconds = run.seconds / 8
        assert found[source].seconds_per_image == pytest.approx(seconds)
        scaled = seconds * (work + 2 * width) / work
        assert found[source].seconds_per_prediction == pytest.approx(scaled)
        assert found[source].bytes_on_disk == cache.named(source.bank).size > 0
    (joined,) = costs_of(cache, [(join_layers([early, late]), head)])
    assert joined.multiply_adds_per_image == layers["last"].multiply_adds
    assert joined.seconds_per_image == pytest.approx(run.seconds / 8)
    other = FrozenBase(little, ["last"], weights="random:1", image_size=40)
    extract_features(images, other, cache)
    twice = join_layers([late, select_features(cache, layer="last")])
    with monkeypatch.context() as patch:
        read = []
        known = cache.runs(damaged_too=False)
        patch.setattr(Cache, "runs", lambda *_, **__: read.append(1) or known)
        both, again = costs_of(cache, [(twice, head)] * 2)
    assert both == again
    assert read == [1]  # records of extractions are read once, however many features there are
    assert both.multiply_adds_per_image > 2 * joined.multiply_adds_per_image
    own = [each.multiply_adds_per_prediction for each in (joined, both)]
    assert comparable_work([joined, both]) == own


def test_what_is_unknown_of_one_is_not_compared():
    counted = Cost(multiply_adds_per_prediction=5)
    assert comparable_work([counted, counted]) == [5, 5]
    assert comparable_work([Cost(), counted]) is None
