"""What ``benchmarks/verdict.py`` computes of its cases, with exact values. About 2 s."""

import math
from pathlib import Path

import pytest
from test_benchmarks import FOLDER

from bottleneck import Cache, ImageSet
from bottleneck.images.items import ImageItem


@pytest.fixture
def verdict(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import verdict  # noqa: PLC0415 - benchmarks are scripts of a folder of their own

    return verdict


def right(text: str) -> dict[str, bool]:
    return {str(place): each == "1" for place, each in enumerate(text)}


def test_a_gain_has_the_interval_of_its_groups(verdict):
    """Of four images, one is gained: alone, in pairs, and all in one group."""
    before, after = right("1010"), right("1011")

    def half(groups: str) -> float:
        gain, found = verdict.paired(before, after, dict(zip("0123", groups, strict=True)))
        assert gain == 0.25
        return found

    assert half("abcd") == pytest.approx(1.96 * (4 / 3 * 0.75) ** 0.5 / 4)  # 3/4 and three 1/4
    assert half("aabb") == pytest.approx(1.96 * (2 / 1 * 0.5) ** 0.5 / 4)  # 1/2 and -1/2
    assert half("aaaa") == 0
    assert verdict.paired(before, before, right("0000")) == (0, 0)


def test_groups_are_those_of_the_table_or_images_alone(verdict):
    cache = Cache("cache")
    items = tuple(ImageItem(f"{name}.png", name * 64, "x") for name in "abc")
    images = ImageSet("made", items)
    images.write_csv(cache.set_file("made"))
    alone = {name * 64: name * 64 for name in "abc"}
    assert verdict.groups_of(images, cache, Path("none.csv")) == alone
    Path("table.csv").write_text("path,label,group\na.png,x,one\nb.png,x,one\n")
    found = verdict.groups_of(images, cache, Path("table.csv"))
    assert found == alone | {"a" * 64: "one", "b" * 64: "one"}


def test_balanced_accuracy_is_the_mean_over_both_truths(verdict):
    def of(*cases: str) -> float:
        own = [{"gained": each[0] == "+", "claimed": each[1] == "+"} for each in cases]
        return verdict.balanced_accuracy(own)

    assert of("++", "++", "--", "-+") == 0.75
    assert of("++", "+-", "+-", "+-", "--") == 0.625
    assert of("++", "-+") == of("+-", "--") == 0.5
    assert math.isnan(of("++", "+-"))
