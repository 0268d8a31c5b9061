"""Labels at random: every held-out number is at chance, and test images reach only evaluate.

The first tier takes about ten seconds, the second one minute; that of fine-tuning is in
test_finetune.py.
"""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from bottleneck import (
    Cache,
    Head,
    evaluate_head,
    fit_head,
    load_features,
    run_sweep,
    select_features,
)
from bottleneck.advise import advise_on
from bottleneck.advise.curve import Samples
from bottleneck.advise.evidence import gain_of_choice
from bottleneck.cache import Bank
from bottleneck.exchange import import_array
from bottleneck.experiments import Experiment, Ranked, rank, scores, unselected
from bottleneck.heads import MLP, RECIPES, fit_rows
from bottleneck.records import FeatureSource
from bottleneck.standings import rank_bases

DRAWS = 20
CLASSES = np.array(["a", "b"])
CHANCE = 0.5
"""The share of each class among all held-out images is exactly a half.

Folds are stratified, and as many images of each class are drawn as each fold needs: then a fold
has as many images of each class as what is fitted without it, whatever the labels. With other
numbers, a fold has more of the class that the others have less of, and a head that has learnt
nothing but the shares of the classes is below chance.
"""


def at_chance(values: Sequence[float], chance: float = CHANCE) -> bool:
    """Whether the mean lies within two standard errors of chance."""
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return bool(abs(np.mean(values) - chance) <= 2 * error + 1e-12)


def no_better_than_guessing(losses: Sequence[float]) -> bool:
    """Whether no log loss is below that of guessing, which no prediction undercuts on average."""
    return bool(np.mean(losses) >= log(2) - 2 * np.std(losses, ddof=1) / len(losses) ** 0.5)


def drawn(seed: int, count: int, generator: np.random.Generator | None = None) -> np.ndarray:
    """Labels at random, as many of each class."""
    generator = generator or np.random.default_rng([seed, 1])
    return CLASSES[generator.permutation(count) % 2]


@pytest.mark.parametrize(
    "clf", [pytest.param(clf, marks=[pytest.mark.ci] * (clf not in {"lda", "knn", "centroid"}))
            for clf in RECIPES]
)  # fmt: skip
@pytest.mark.parametrize("validation", [False, True])
def test_what_fit_head_prints(clf, validation):
    """With copies and views of every image; in folds, and with images to validate on.

    What was selected is better than chance, so that this test would notice a selection.
    """
    found, selected, losses = [], [], []
    for seed in range(DRAWS):
        generator = np.random.default_rng(seed)
        images = generator.standard_normal((40, 12)).astype(np.float32)
        groups, views = np.tile(np.arange(40), 4), np.repeat([0, 0, 1, 2], 40)
        X = np.tile(images, (4, 1)) + 0.3 * views[:, None].astype(np.float32)
        X[views > 0] += 0.1 * generator.standard_normal((80, 12)).astype(np.float32)
        others = generator.standard_normal((40, 12)).astype(np.float32)
        held = (others, drawn(seed, 40, generator)) if validation else None
        settings = MLP(hidden=8, epochs=15) if clf == "mlp" else clf
        labels = np.tile(drawn(seed, 40), 4)
        plain = views == 0
        head = fit_rows(X, labels, settings, groups=groups, plain=plain, validation=held, seed=seed)
        found.append([head.scores[name] for name in ("accuracy", "balanced_accuracy")])
        losses.append(head.scores["log_loss"])
        selected.append(head.scores["selected"]["accuracy"])
    for values in zip(*found, strict=True):
        assert at_chance(values), values
    assert no_better_than_guessing(losses)
    if clf == "knn":
        assert np.mean(selected) > np.mean(found) + 0.01


ROWS = [*range(40), *range(40), *range(40, 70), *range(10)]
"""Every train image is there twice, and ten of them, with their labels, are in test, too."""


def labels_of_rows(seed: int) -> np.ndarray:
    """Labels at random, the same for all copies of an image."""
    generator = np.random.default_rng([seed, 5])
    labels = [generator.permutation(np.tile(CLASSES, half)) for half in (20, 15)]
    return np.concatenate(labels)[ROWS]


def made(
    cache: Cache, seed: int, layers: Sequence[str] = ("late",), models: Sequence[str] = ()
) -> list[FeatureSource]:
    """Import layers of images with labels at random, of one base or each of its own."""
    splits = ["train"] * 80 + ["test"] * 40
    with Path("table.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split", "digest"])
        for image, label, split in zip(ROWS, labels_of_rows(seed), splits, strict=True):
            digest = hashlib.sha256(bytes([image, seed])).hexdigest()
            table.writerow([f"{image}.png", label, split, digest])
    models = models or ["made"] * len(layers)
    for number, (name, model) in enumerate(zip(layers, models, strict=True)):
        values = np.random.default_rng([seed, number]).standard_normal((70, 12))
        np.save("rows.npy", values.astype(np.float32)[ROWS])
        import_array(
            cache, "rows.npy", "table.csv", model=model, layer=name, image_set=str(seed)
        )  # fmt: skip
    pairs = zip(layers, models, strict=True)
    return [select_features(cache, layer=name, model=model) for name, model in pairs]


def test_what_evaluate_prints():
    """Copies of training images are no test images, whatever split they are in."""
    cache, found = Cache("cache"), []
    (source,) = made(cache, 0)
    features = load_features(cache, source)
    for seed in range(DRAWS):
        drawn = replace(features, y=labels_of_rows(seed))
        head = fit_head(drawn, C=10.0)
        assert evaluate_head(head, drawn, "train").accuracy > CHANCE
        evaluation = evaluate_head(head, drawn)
        assert (evaluation.images, evaluation.leaks) == (30, 10)
        found.append([evaluation.accuracy, evaluation.balanced_accuracy])
    for values in zip(*found, strict=True):
        assert at_chance(values), values


def test_the_choice_among_experiments_is_not_scored_where_it_was_made():
    """Each of twelve experiments is right at random, with ties, in folds and in folds within.

    What was not tried within is never chosen.
    """
    found, selected = [], []
    for seed in range(DRAWS):
        right, within = np.random.default_rng(seed).binomial(20, CHANCE, (2, 12, 5)) / 20
        experiments = [
            Experiment(
                number, "", {"C": number},
                [
                    {"repeat": repeat, "fold": fold, "images": 20, "accuracy": float(value)}
                    | {"inner_accuracy": float(within[number, fold])}
                    for repeat in range(2)
                    for fold, value in enumerate(values)
                ],
                1.0, {},
            )
            for number, values in enumerate(right)
        ]  # fmt: skip
        ranked = rank(experiments, "accuracy")
        number, score = unselected(ranked, "accuracy")
        assert number == 12
        assert score == pytest.approx(right[within.argmax(axis=0), np.arange(5)].mean())
        found.append(score)
        selected.append(ranked[0].mean)
        assert unselected(ranked[:1], "accuracy") == (1, None)
        assert set(scores(experiments[0])) == {"accuracy"}
        older = [{**fold} for fold in experiments[3].folds]
        older[7].pop("inner_accuracy")
        ranked.append(Ranked(0.0, None, replace(experiments[3], folds=older)))
        assert unselected(ranked, "accuracy") == (13, None)
        skipped = [{**fold, "inner_skipped": 1.0} for fold in experiments[3].folds]
        for fold in skipped:
            fold.pop("inner_accuracy")
        never = replace(experiments[3], number=3, folds=skipped)
        ranked = rank([never, *experiments[:3], *experiments[4:]])
        others = np.delete(within, 3, axis=0).argmax(axis=0)
        expected = np.delete(right, 3, axis=0)[others, np.arange(5)].mean()
        assert unselected(ranked, "accuracy") == (12, pytest.approx(expected))
        assert unselected(rank([never, replace(never, number=4)]), "accuracy") == (2, None)
    assert at_chance(found)
    assert not at_chance(selected)


def test_the_gain_of_a_choice_is_not_scored_where_it_was_made():
    """Each of six layers gains at random in five folds of two repetitions."""
    found, selected = [], []
    for seed in range(DRAWS):
        values = np.random.default_rng(seed).normal(size=(6, 2, 5))
        gains = [Samples(each, 0.2, crossed=False) for each in values]
        choice = gain_of_choice(gains)
        expected = [
            values[values[:, repeat, np.arange(5) != block].mean(axis=1).argmax(), repeat, block]
            for repeat in range(2)
            for block in range(5)
        ]
        assert choice.value == pytest.approx(np.mean(expected))
        found.append(choice.value)
        selected.append(max(each.estimate().value for each in gains))
        assert gain_of_choice(gains[:1]) is None
    assert at_chance(found, 0.0)
    assert not at_chance(selected, 0.0)


@pytest.mark.ci
def test_what_sweep_and_leaderboard_print():
    """The rows, and the number beside the best of them, which is not at chance itself."""
    found: dict[str, list[float]] = {}
    clfs, C = ("softmax", "svm", "knn", "lda"), (1e-4, 1e-2, 1.0)
    for seed in range(12):
        layers = made(Cache(f"cache{seed}"), seed)
        log = f"log{seed}.sqlite"
        experiments = run_sweep(f"cache{seed}", layers, log, clfs=clfs, C=C, cv=5, jobs=1)
        ranked = rank(experiments, "accuracy")
        number, score = unselected(ranked, "accuracy")
        assert number == len(experiments)
        numbers = {"unselected": score, "selected": ranked[0].mean}
        for each in experiments:
            own = [each.settings.get(name) for name in ("clf", "C", "n_neighbors")]
            numbers[str(own)] = np.mean([fold["accuracy"] for fold in each.folds])
        for name, value in numbers.items():
            found.setdefault(name, []).append(value)
    assert np.mean(found.pop("selected")) > CHANCE + 0.05
    assert at_chance(found["unselected"])
    assert_all_are_at_chance(found)


@pytest.mark.ci
def test_what_is_printed_of_several_bases():
    """Each base, the choice among them, and the choice of advise; but not the best of the bases.

    And a gain from joining two is not shown more often than its interval allows.
    """
    found: dict[str, list[float]] = {}
    best, joined, paying = [], [], 0
    clfs, C = ("softmax", "knn", "lda"), (1e-2, 1.0)
    for seed in range(12):
        cache = Cache(f"cache{seed}")
        layers = made(cache, seed, ("late",) * 3, ("a", "b", "c"))
        experiments = run_sweep(cache, layers, f"log{seed}.sqlite", clfs=clfs, C=C, cv=5, jobs=1)
        ranked = rank_bases(experiments, cache)
        numbers = {f"sweep {each.model}": each.score for each in ranked.bases}
        numbers["choice of sweep"] = ranked.choice
        best.append(ranked.bases[0].selected)
        choice = advise_on(cache, layers, clf="knn", repeats=1, jobs=1).bases
        numbers |= {f"advise {each.model}": each.accuracy.value for each in choice.bases}
        numbers["choice of advise"] = choice.choice.value
        joined.append(choice.joined.difference.value)
        paying += choice.joined.pays
        for name, value in numbers.items():
            found.setdefault(name, []).append(value)
    assert np.mean(best) > CHANCE + 0.05
    assert np.mean(joined) < 0.03
    assert paying <= 2
    assert_all_are_at_chance(found)


def assert_all_are_at_chance(found: Mapping[str, Sequence[float]]) -> None:
    """Of k numbers, the farthest off may be as far as chance allows (Bonferroni)."""
    for name, values in found.items():
        bound = t.ppf(1 - 0.025 / len(found), len(values) - 1)
        off = abs(np.mean(values) - CHANCE)
        assert off <= bound * np.std(values, ddof=1) / len(values) ** 0.5, (name, off)


@pytest.mark.ci
def test_what_auto_prints(bottleneck, little, make_images):
    """The score of the best of many, on test images that are the same each time."""
    names = sorted(make_images("data", a=30, b=30).rglob("*.png"))
    splits = ["train"] * 40 + ["test"] * 20
    Path("bottleneck.toml").write_text('[extract]\nweights = "random"\n[advise]\nrepeats = 1\n')
    clfs, found, selected = ("softmax", "knn", "lda"), [], []
    for seed in range(12):
        labels = [*drawn(seed, 40), *drawn(seed + 100, 20)]
        rows = map(",".join, zip(map(str, names), labels, splits, strict=True))
        Path(f"{seed}.csv").write_text("\n".join(["path,label,split", *rows]))
        tried = [word for clf in clfs for word in ("--clf", clf)]
        done = bottleneck("auto", f"{seed}.csv", "--model", little, *tried, "--jobs", 1, "--json")
        assert done.code == 0, done.err
        found.append(json.loads(done.out)["evaluation"]["accuracy"])
        selected.append(Head.load(f"heads/auto-{seed}").scores["selected"]["accuracy"])
    assert at_chance(found)
    assert np.mean(selected) > CHANCE + 0.05


@pytest.mark.ci
def test_what_advise_prints():
    """But its forecasts, which are none of held-out images, as they assume that errors fall."""
    found: dict[str, list[float]] = {}
    gains = []
    for seed in range(12):
        cache = Cache(f"cache{seed}")
        layers = made(cache, seed, ("early", "late"))
        evidence = advise_on(cache, layers, clf="knn", repeats=2, jobs=1).evidence
        numbers = {"accuracy": evidence.accuracy, "confident": evidence.confident_error}
        numbers |= {each.clf: each.accuracy for each in evidence.heads}
        numbers |= {each.layer: each.accuracy for each in evidence.layers}
        numbers |= {f"point {n}": each.accuracy for n, each in enumerate(evidence.curve.points)}
        for name, each in numbers.items():
            found.setdefault(name, []).append(each.value)
        assert evidence.layer_choice is None  # as there is a single other layer
        gains.append([evidence.head_choice.value, evidence.joined.gain.value])
    for values in zip(*gains, strict=True):
        assert at_chance(values, 0.0), values
    assert_all_are_at_chance(found)


def test_copies_of_training_images_are_not_validated_on():
    """Neither by fit-head nor by sweep and advise, whose logs and words tell the number."""
    rows = [*range(60), *range(10)]
    np.save("rows.npy", np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)[rows])
    splits = ["train"] * 40 + ["val"] * 30
    lines = [f"{n}.png,{CLASSES[rows[n] % 2]},{split}" for n, split in enumerate(splits)]
    Path("table.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    import_array(Cache("cache"), "rows.npy", "table.csv", model="made", by_row=True)
    features = load_features("cache")
    for clf in ("softmax", "lda"):
        whole, apart = (
            fit_head(each, clf) for each in (features, features.take(np.arange(70) < 60))
        )
        assert whole.scores == apart.scores
        assert whole.scores["held_out"] == "validation images"
    (done,) = run_sweep("cache", [features.selection], "log.sqlite", clfs=("lda",), jobs=1)
    assert (done.folds[0]["images"], done.settings["val_images"]) == (20, 20)
    assert advise_on("cache", [features.selection], clf="lda", jobs=1).held_out == "20 val images"


# Test images reach evaluate alone


@pytest.fixture
def loaded(monkeypatch) -> set[str]:
    """The digests of all images whose rows are read from any bank."""
    seen: set[str] = set()

    def counting(method):
        def wrapped(bank, layer, digests, **options):
            seen.update(digests)
            return method(bank, layer, digests, **options)

        return wrapped

    for name in ("read", "stream"):
        monkeypatch.setattr(Bank, name, counting(getattr(Bank, name)))
    return seen


@pytest.mark.parametrize("validation", [False, True])
def test_test_rows_reach_evaluate_alone(bottleneck, loaded, validation):
    """A call counter on the loading of rows; and a class of test images only disturbs nothing."""
    generator = np.random.default_rng(0)
    splits = np.array(["train"] * 60 + ["test"] * 20 + ["val" if validation else "train"] * 20)
    labels = np.where(splits == "test", "only test", CLASSES[np.arange(100) % 2])
    np.save("rows.npy", generator.standard_normal((100, 8)).astype(np.float32))
    rows = zip(range(100), labels, splits, strict=True)
    lines = [f"{number}.png,{label},{split}" for number, label, split in rows]
    Path("table.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    options = ("--table", "table.csv", "--model", "made", "--by-row")
    assert bottleneck("cache", "import", "rows.npy", *options).code == 0
    items = load_features("cache").images.items
    test = {item.digest for item in items if item.split == "test"}
    loaded.clear()
    for command in (
        ("fit-head", "--name", "head"),
        ("fit-head", "--name", "small", "--memory", "1MB"),
        ("sweep", "--clf", "lda", "--clf", "knn", "--backend", "threading"),
        ("advise", "--clf", "lda", "--repeats", "1", "--jobs", "1"),
    ):
        done = bottleneck(*command)
        assert done.code == 0, done.err
        assert loaded, command
        assert not loaded & test, command
        assert "only test" not in done.out
        assert loaded == {item.digest for item in items} - test
        loaded.clear()
    assert "'only test'" in bottleneck("evaluate", "--head", "head").err
    assert loaded == test
