"""The choice of a candidate and of a temperature, and their scores on other rows. About 1 s."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottleneck.heads.choosing import Choice, deal_groups
from bottleneck.heads.scoring import fit_temperature, log_losses, score_metrics
from bottleneck.labels import Targets


def candidates(seed: int, number: int = 4) -> tuple[Targets, np.ndarray, list[np.ndarray]]:
    """Labels of 60 rows, the parts of these, and scores that tell a little of the labels."""
    generator = np.random.default_rng(seed)
    codes = generator.permutation(60) % 3
    told = np.eye(3)[codes] * generator.uniform(0, 2, (number, 1, 1))
    scores = told + generator.normal(size=(number, 60, 3))
    return Targets(("a", "b", "c"), codes), np.arange(60) % 5, list(scores)


@pytest.mark.parametrize("margins", [False, True])
def test_each_part_is_scored_by_what_the_others_choose(margins):
    """As a loop over the parts would."""
    for seed in range(5):
        targets, parts, scores = candidates(seed)
        choice = Choice("softmax", targets, parts, margins=margins)
        won = [choice.offer(each) for each in scores]

        def loss(each: np.ndarray, rows: np.ndarray, targets: Targets = targets) -> float:
            own = each[rows], targets.take(rows)
            return float(
                log_losses(
                    "softmax", *own, fit_temperature("softmax", *own) if margins else 1.0
                ).mean()
            )

        everyone = np.ones(60, dtype=bool)
        assert choice.best is min(scores, key=lambda each: loss(each, everyone))
        assert np.flatnonzero(won)[-1] == next(
            number for number, each in enumerate(scores) if each is choice.best
        )
        expected, temperatures = np.empty((60, 3)), np.empty((60, 1))
        for part in range(5):
            others = parts != part
            chosen = min(scores, key=lambda each: loss(each, others))
            expected[~others] = chosen[~others]
            temperatures[~others] = fit_temperature("softmax", chosen[others], targets.take(others))
        temperature, found = choice.calibrated()
        used = 1.0 if temperature == 1 else temperatures
        told = score_metrics("softmax", expected, targets, used)
        assert {name: found[name] for name in told} == pytest.approx(told)
        assert found["selected"] == score_metrics("softmax", choice.best, targets, temperature)


def test_the_temperature_of_a_candidate_is_fitted_once(monkeypatch):
    """On all rows, and without each part; an earlier candidate's metrics are its own, too."""
    targets, parts, (first, second, *_) = candidates(0)
    fits = []

    def counted(*rows) -> float:
        fits.append(len(rows[1]))
        return fit_temperature(*rows)

    monkeypatch.setattr("bottleneck.heads.choosing.fit_temperature", counted)
    choice = Choice("softmax", targets, parts, margins=True)
    for scores in (first, second):
        choice.offer(scores)
        found = choice.metrics(scores)
        own = fit_temperature("softmax", scores, targets)
        expected = score_metrics("softmax", scores, targets, own)
        assert {name: found[name] for name in expected} == expected
    assert fits == [60, *[48] * 5] * 2
    assert choice.metrics(first)["log_loss"] != choice.metrics(second)["log_loss"]
    assert fits[12:] == [60]


@pytest.mark.parametrize(("factor", "rows"), [(1, 20), (1, 400), (0.2, 400), (5, 400)])
def test_a_temperature_is_fitted_only_where_it_helps(factor, rows):
    """Never with a higher calibration error or log loss than without, on rows held out of it."""
    kept = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        scores = generator.normal(size=(rows, 3)) * 1.5
        noise = generator.gumbel(size=scores.shape)  # so that these are the log probabilities
        targets = Targets(("a", "b", "c"), (scores + noise).argmax(axis=1))
        choice = Choice("softmax", targets, np.arange(rows) % 5)
        choice.offer(scores * factor)
        temperature, found = choice.calibrated()
        kept.append(temperature)
        plain = score_metrics("softmax", scores * factor, targets)
        assert found["calibration_error_without_temperature"] == plain["calibration_error"]
        assert found["calibration_error"] <= plain["calibration_error"]
        assert found["log_loss"] <= plain["log_loss"]
        if temperature == 1:
            assert found["selected"] == plain
    if factor == 1:
        assert np.mean(np.array(kept) == 1) > 0.5
    else:
        assert np.allclose(kept, factor, rtol=0.3)


def test_a_known_temperature_is_kept_where_no_other_is_better():
    targets, parts, scores = candidates(0)
    choice = Choice("softmax", targets, parts, temperature=1.7)
    choice.offer(scores[0])
    temperature, found = choice.calibrated(fit=False)
    assert temperature == 1.7
    told = score_metrics("softmax", scores[0], targets, 1.7)
    assert found["selected"] == told
    assert {name: found[name] for name in told} == told


def test_a_choice_goes_on_from_its_state():
    targets, parts, scores = candidates(1)
    whole, first, second = (Choice("softmax", targets, parts) for _ in range(3))
    for each in scores[:2]:
        whole.offer(each)
        first.offer(each)
    second.restore(first.state())
    for each in scores[2:]:
        whole.offer(each)
        second.offer(each)
    assert whole.calibrated() == second.calibrated()
    assert np.array_equal(second.first, scores[0])
    assert np.array_equal(second.unselected(), whole.unselected())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 6), st.booleans())
def test_groups_are_dealt_whole_and_evenly(groups, count, by_class):
    """Copies of an image are in one part, and parts differ by one group, also of a class."""
    codes = np.array(groups) % 3
    targets = Targets(("a", "b", "c"), codes) if by_class else None
    parts = deal_groups(np.array(groups), count, targets)
    of_group = dict(zip(groups, parts.tolist(), strict=True))
    assert [of_group[group] for group in groups] == parts.tolist()
    among = [{group for group in of_group if group % 3 == code} for code in range(3)]
    for some in (set(of_group), *(among if by_class else ())):
        sizes = np.bincount([of_group[group] for group in some] or [0], minlength=count)
        assert sizes.max() - sizes.min() <= 1 or not some


def test_a_single_image_has_no_others_to_choose_on():
    targets = Targets(("a", "b"), np.array([0]))
    choice = Choice("softmax", targets, deal_groups(np.array([7]), targets=targets))
    choice.offer(np.array([[0.0, 3.0]]))
    choice.offer(np.array([[0.0, 1.0]]))
    temperature, found = choice.calibrated()
    assert temperature == 1
    assert found["accuracy"] == found["selected"]["accuracy"] == 0


@pytest.mark.parametrize("margins", [False, True])
def test_a_cautious_choice_keeps_the_first_unless_another_is_shown_to_be_better(margins):
    """By one standard error of the paired difference, on all rows and without each part."""
    kept = 0
    for seed in range(20):
        targets, parts, scores = candidates(seed)
        choice = Choice("softmax", targets, parts, margins=margins, cautious=np.arange(60))
        won = [choice.offer(each) for each in scores]

        def losses(each: np.ndarray, rows: np.ndarray, targets: Targets = targets) -> np.ndarray:
            own = each[rows], targets.take(rows)
            temperature = fit_temperature("softmax", *own) if margins else 1.0
            return log_losses("softmax", *own, temperature)

        def chosen(rows: np.ndarray, scores: list[np.ndarray] = scores) -> np.ndarray:
            first, found = losses(scores[0], rows), [scores[0]]
            for each in scores[1:]:
                gains = first - losses(each, rows)
                if gains.mean() > gains.std(ddof=1) / np.sqrt(len(gains)):
                    found.append(each)
            return min(found, key=lambda each: losses(each, rows).mean())

        assert choice.best is chosen(np.ones(60, dtype=bool))
        assert won[0]
        assert any(won[1:]) == (choice.best is not scores[0])
        kept += choice.best is scores[0]
        for part in range(5):
            own = choice.unselected()[parts == part]
            other = scores[0] if choice.best is scores[0] else chosen(parts != part)
            assert np.array_equal(own, other[parts == part])
        again = Choice("softmax", targets, parts, margins=margins, cautious=np.arange(60))
        again.offer(scores[0])
        resumed = Choice("softmax", targets, parts, margins=margins, cautious=np.arange(60))
        resumed.restore(again.state())
        assert [resumed.offer(each) for each in scores[1:]] == won[1:]
    assert 0 < kept < 20


@pytest.mark.parametrize(("copies", "wins"), [(1, True), (30, False)])
def test_a_cautious_choice_counts_groups(copies, wins):
    """What is better on a few groups of many images each is not shown to be so on others."""
    targets = Targets(("a", "b"), np.zeros(120, int))
    margins = np.repeat([3.0, 3.0, 3.0, -1.2], 30)  # the second candidate, of each group
    first, second = (np.stack([each, -each], axis=1) / 2 for each in (np.zeros(120), margins))
    parts = np.arange(120) // 30
    choice = Choice("softmax", targets, parts, cautious=np.arange(120) // copies)
    assert choice.offer(first)
    assert choice.offer(second) == wins


def test_a_cautious_choice_among_equals_keeps_the_first():
    targets, parts, (scores, *_) = candidates(0)
    choice = Choice("softmax", targets, parts, cautious=np.arange(60))
    assert choice.offer(scores)
    assert not choice.offer(scores.copy())
    assert choice.best is scores
