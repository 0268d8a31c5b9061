"""Names of classes: which are the same, which look the same, and their order. About 1 s."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottleneck.labels import Targets, known_labels, unknown_classes
from bottleneck.names import natural_key, normal_name, similar_names

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "2", "1"], ["1", "2", "10"]),
        (["day 10", "day 2", "day"], ["day", "day 2", "day 10"]),
        (["a10b2", "a10b10", "a9"], ["a9", "a10b2", "a10b10"]),
        (["02", "1", "2", "01"], ["01", "1", "02", "2"]),
        (["b", "B", "a", "é"], ["B", "a", "b", "é"]),
        (["9" * 5000, "1"], ["1", "9" * 5000]),
        (["²", "1"], ["1", "²"]),
    ],
)
def test_numbered_names_are_in_natural_order(names, expected):
    assert sorted(names, key=natural_key) == expected
    found = Targets.of(np.array([*names, *names]))
    assert found.classes == tuple(expected)
    assert [found.classes[code] for code in found.codes] == [*names, *names]
    several = Targets.of(np.array([f"{name};{names[0]}" for name in names]), multilabel=True)
    assert several.classes == tuple(expected)


@given(st.lists(st.text(st.characters(blacklist_categories=["Nd"]))))
def test_names_without_digits_keep_their_order(names):
    assert sorted(names, key=natural_key) == sorted(names)


@given(st.lists(st.text(), unique=True))
def test_the_order_is_total(names):
    assert len({natural_key(name) for name in names}) == len(names)


def test_numbers_keep_their_order():
    """Labels that are numbers, and not text, are sorted as numbers."""
    assert Targets.of(np.array([10, -2, 9])).classes == ("-2", "9", "10")


@pytest.mark.parametrize(
    "name", [DECOMPOSED, f" {COMPOSED}", f"{COMPOSED}\t", f"\u00a0{COMPOSED} "]
)
def test_names_that_are_the_same(name):
    assert normal_name(name) == COMPOSED
    found = Targets.among(np.array([name, "x"]), ["x", COMPOSED], multilabel=False)
    assert found.codes.tolist() == [1, 0]
    old_head = Targets.among(np.array([COMPOSED, "x"]), ["x", name], multilabel=False)
    assert old_head.classes == ("x", name)
    assert old_head.codes.tolist() == [1, 0]


@pytest.mark.parametrize(
    "names",
    [
        ("Cat", "cat"),
        ("1", "1.0"),
        ("1", "01"),
        ("0", "0.0"),
        ("-1", "-1.0"),
        ("New York", "new york"),
        ("New_York", "newyork"),
        ("cat", "cat\u200b"),
        ("\uff43at", "cat"),
    ],
)
def test_names_that_may_be_the_same(names):
    assert similar_names(["other", *names, "last"]) == [tuple(sorted(names))]


def test_names_that_differ_are_not_similar():
    assert not similar_names(["cat", "cats", "1", "10", "-1", "1.5", "1.05", "a1", "a2", "", "_"])


def test_labels_of_known_classes():
    labels = np.array(["a", "b", "c;a", "c", ";"])
    kept, known = known_labels(labels, ["a", "b"], multilabel=True)
    assert kept.tolist() == ["a", "b", "a", ";"]
    assert known.tolist() == [True, True, True, False, True]
    assert unknown_classes(labels, ["a", "b"], multilabel=True) == {"c": 2}
    kept, known = known_labels(labels, ["c;a"], multilabel=False)
    assert kept.tolist() == ["c;a"]
    kept, known = known_labels(labels, ["z"], multilabel=False)
    assert kept is labels
    assert known.all()
