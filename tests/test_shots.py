"""Sweeps on a few images of each class. About 5 s in the first tier."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bottleneck import Cache, SweepSettings, fit_head, load_features, run_sweep, select_layers
from bottleneck.errors import UsageError
from bottleneck.exchange import import_array
from bottleneck.experiments import compare, interval_of
from bottleneck.heads.prepare import recipe_of
from bottleneck.heads.shots import draw_images, folded_rows

COUNTS = (1, 2, 4)


def layers(cache: str = "cache", *, val: bool = False, groups: bool = False, few: int = 3):
    """Import two layers of 90 images, of which only a few have the last class."""
    generator = np.random.default_rng(0)
    labels = np.array(["a", "b"])[np.arange(90) % 2]
    labels[90 - few :] = "c"
    codes = np.unique(labels, return_inverse=True)[1]
    centres = generator.standard_normal((3, 12))
    splits = np.where(np.arange(90) % 6 == 0, "val", "train") if val else np.full(90, "train")
    lines = [
        f"{n}.png,{label},{split},{f'g{n % 30}' if groups else ''},{n:064x}"
        for n, (label, split) in enumerate(zip(labels, splits, strict=True))
    ]
    Path("table.csv").write_text("\n".join(["path,label,split,group,digest", *lines]) + "\n")
    for name in ("early", "late"):
        X = 0.7 * centres[codes] + generator.standard_normal((90, 12))
        np.save("rows.npy", X.astype(np.float32))
        import_array(
            Cache(cache), "rows.npy", "table.csv", model="made", layer=name, image_set="s"
        )  # fmt: skip
    return [load_features(cache, layer=name).selection for name in ("early", "late")]


def test_draws_have_so_many_images_of_each_class_whatever_their_order():
    generator = np.random.default_rng(1)
    images = np.array([f"{n}" for n in [*range(40), *range(10)]])  # ten are there twice
    codes = np.array([*np.arange(40) % 3, *np.arange(10) % 3])
    groups = np.array([f"g{int(name) // 4}" for name in images])
    smaller = np.zeros(50, bool)
    for count in (1, 2, 5, 99):
        drawn = draw_images(images, codes, groups, count, [0, 1, 2])
        for code in range(3):
            own = set(images[drawn & (codes == code)])
            assert len(own) == min(count, len(set(images[codes == code])))
            assert len({int(name) // 4 for name in own}) == min(count, 10)
        assert (drawn | ~smaller).all()
        smaller = drawn
        order = generator.permutation(50)
        shuffled = draw_images(images[order], codes[order], groups[order], count, [0, 1, 2])
        assert (shuffled == drawn[order]).all()
    others = draw_images(images, codes, groups, 5, [0, 1, 3])
    assert (others != draw_images(images, codes, groups, 5, [0, 1, 2])).any()


@pytest.mark.parametrize("val", [False, True])
def test_held_out_images_are_in_no_draw_and_draws_are_the_same_for_all(val):
    settings = SweepSettings(shots=COUNTS, repeats=2)
    features = [load_features("cache", each) for each in layers(val=val, groups=not val)]
    for shots in COUNTS:
        several = [folded_rows(settings, each, recipe_of(clf), shots)
                   for each in features for clf in ("softmax", "knn")]  # fmt: skip
        first = several[0]
        held = [fold.held for folds in first.repeats for fold in folds]
        draws = [fold.fit for folds in first.repeats for fold in folds]
        assert len(draws) == len({each.tobytes() for each in draws}) == (10 if val else 6)
        for other in several[1:]:
            folds = [fold for own in other.repeats for fold in own]
            assert all((fold.fit == own).all() for fold, own in zip(folds, draws, strict=True))
        groups, codes = first.problem.groups, first.problem.targets.codes
        for drawn, kept in zip(draws, held, strict=True):
            assert not {*groups[drawn]} & {*groups[kept]}
            counts = np.bincount(codes[drawn], minlength=3).tolist()
            assert counts[:2] == [shots, shots]
            assert counts[2] == min(shots, counts[2]) > 0
        if val:
            assert not any((drawn & np.any(held, axis=0)).any() for drawn in draws)
        assert (first.fewer == {}) == (shots <= 2)


def test_more_images_are_logged_as_a_curve_and_all_is_the_plain_sweep(bottleneck):
    selections = layers()
    asked = {"clfs": ("softmax", "lda"), "C": (0.1,), "jobs": 1}
    found = run_sweep("cache", selections, "experiments.sqlite", shots=(*COUNTS, "all"), **asked)
    assert len(found) == 16
    of_late = [each for each in found if each.layer == "late" and each.settings["clf"] == "softmax"]
    curve = [np.mean([fold["accuracy"] for fold in each.folds]) for each in of_late]
    assert curve[0] < curve[2] < curve[3]
    plain = run_sweep("cache", selections, "experiments.sqlite", **asked)
    whole = [each.number for each in found if "shots" not in each.settings]
    assert [each.number for each in plain] == whole
    assert len(plain) == 4
    few = next(each for each in found if each.settings.get("shots") == 4)
    assert few.settings["fewer_images"] == {"c": 2}
    low, high = interval_of(few, "accuracy")
    assert 0 <= low < np.mean([fold["accuracy"] for fold in few.folds]) < high <= 1
    assert compare(few, plain[0]).folds == len(few.folds)  # more images against fewer

    told = bottleneck("sweep", "--clf", "softmax", "--clf", "lda", "--C", 0.1,
                      "--shots", "1,2,4,all", "--jobs", 1, "--wide")  # fmt: skip
    assert told.code == 0, told.err
    assert "8 experiments, 0 of them new" in told.err
    assert "1 class has fewer than 4 training images in a fold" in told.err
    assert "c (2)" in told.err
    heading, *rows = told.out.splitlines()
    assert " ".join(heading.split()).endswith("1 ± 1 2 ± 2 4 ± 4 all ± all")
    assert len(rows) == 2
    listed = json.loads(bottleneck("leaderboard", "--where", "shots=4", "--json").out)
    assert {each["settings"]["shots"] for each in listed} == {4}
    assert listed[0]["best_of"] == 4
    assert len(listed[0]["scores"]["accuracy"]["interval"]) == 2
    whole = json.loads(bottleneck("leaderboard", "--where", "shots=all", "--json").out)
    assert len(whole) == 4
    assert "shots" in bottleneck("leaderboard", "--wide").out.splitlines()[0]


def test_fit_head_takes_experiments_on_all_images_only(bottleneck):
    selections = layers()
    asked = {"clfs": ("centroid",), "jobs": 1}
    first, *_ = run_sweep("cache", selections, "experiments.sqlite", shots=(2,), **asked)
    refused = bottleneck("fit-head", "--experiment", first.number)
    assert refused.code == 2
    assert "was fitted on 2 images of each class, but fit-head fits on all" in refused.err
    assert bottleneck("fit-head", "--best").code == 1
    run_sweep("cache", selections, "experiments.sqlite", **asked)
    assert "too good as the best of 2" in bottleneck("fit-head", "--best").err


def test_what_cannot_be_drawn_is_told_before_anything_is_fitted(bottleneck):
    layers()
    refused = bottleneck("sweep", "--clf", "mlp", "--shots", "1,2")
    assert "mlp cannot be fitted on 1 image of each class, as it holds some of them" in refused.err
    wrong = bottleneck("sweep", "--shots", "0")
    assert "--shots must be all or numbers of at least 1, such as 1,2,4,all, got" in wrong.err
    assert not Path("experiments.sqlite").exists()
    assert SweepSettings(shots="1,2,all").shots == SweepSettings(shots=[1, "2", "all", 2]).shots
    features = load_features("cache")
    items = [replace(each, label=f"{each.label};{'xy'[number % 3 > 0]}")
             for number, each in enumerate(features.images.items)]  # fmt: skip
    several = replace(features, y=np.array([each.label for each in items]),
                      images=replace(features.images, items=tuple(items)))  # fmt: skip
    with pytest.raises(UsageError, match="`shots` counts the images of each class, but the labels"):
        folded_rows(SweepSettings(shots=(1,)), several, recipe_of("svm"), 1)


def test_labels_at_random_are_not_predicted_from_few_images():
    """With groups that have a label each, and features that tell the group."""
    generator, found = np.random.default_rng(0), []
    for seed in range(6):
        group = np.repeat(np.arange(20), 4)
        labels = np.array(["a", "b"])[generator.permutation(20) % 2][group]
        X = 4 * generator.standard_normal((20, 8))[group] + generator.standard_normal((80, 8))
        np.save("rows.npy", X.astype(np.float32))
        lines = [f"{n}.png,{labels[n]},g{group[n]},{seed * 100 + n:064x}" for n in range(80)]
        Path("table.csv").write_text("\n".join(["path,label,group,digest", *lines]) + "\n")
        cache = Cache(f"cache{seed}")
        import_array(cache, "rows.npy", "table.csv", model="made", image_set="s")
        own = run_sweep(cache, select_layers(cache), f"{seed}.sqlite", clfs=("knn",),
                        n_neighbors=(1,), shots=(2, 8), jobs=1)  # fmt: skip
        found.append([np.mean([fold["accuracy"] for fold in each.folds]) for each in own])
    error = np.std(found, axis=0, ddof=1) / len(found) ** 0.5
    assert (np.abs(np.mean(found, axis=0) - 0.5) < 3 * error + 0.03).all(), found
    assert fit_head(load_features(cache), "knn").scores["accuracy"] < 0.9
