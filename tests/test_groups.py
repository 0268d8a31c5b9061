"""Groups of images: how they are given and kept, and that no split and no fold parts one.

About 8 s.
"""

import csv
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bottleneck import (
    Cache,
    ImageSet,
    evaluate_head,
    features_of,
    fit_head,
    load_features,
    run_sweep,
    select_features,
)
from bottleneck.advise import advise_on
from bottleneck.advise.scoring import make_bench, nested_subsets
from bottleneck.errors import DataError, UsageError
from bottleneck.exchange import export_features, import_array, import_features
from bottleneck.finetune.images import head_without, images_to_train
from bottleneck.heads.prepare import problem_of, recipe_of, validation_rows
from bottleneck.images import ImageItem, groups_of, summarize
from bottleneck.settings import AdviseSettings, FinetuneSettings, TrainingSettings

DRAWS = 8


def item(name: str, label: str = "a", group: str | None = None, **facts) -> ImageItem:
    digest = hashlib.sha256(facts.pop("content", name).encode()).hexdigest()
    return ImageItem(name, digest, label, group=group, **facts)


def patients(count: int, images: int, *, classes: int = 2, seed: int = 0) -> ImageSet:
    """As many images of each patient, all with one label at random."""
    labels = np.random.default_rng([seed, 7]).permutation(np.arange(count) % classes)
    items = [
        item(f"{seed}-{patient}-{number}", f"class{labels[patient]}", f"patient{patient}")
        for patient in range(count)
        for number in range(images)
    ]
    return ImageSet("patients", tuple(items))


def of_patients(images: ImageSet, cache: Cache, seed: int = 0, *, name: str | None = None):
    """Import features that tell the patient, and nothing else, and load them."""
    name = name or images.name
    generator = np.random.default_rng([seed, 3])
    patients = sorted({each.path.split("-")[1] for each in images.items})
    centres = dict(zip(patients, 4 * generator.standard_normal((len(patients), 8)), strict=True))
    rows = [centres[each.path.split("-")[1]] for each in images.items]
    rows += generator.standard_normal((len(rows), 8))
    np.save("rows.npy", np.asarray(rows, np.float32))
    with Path("table.csv").open("w") as file:
        table = csv.writer(file)
        given = any(each.split for each in images.items)
        columns = ["path", "label", "digest", "group", *["split"] * given]
        table.writerow(columns)
        table.writerows([getattr(each, column) for column in columns] for each in images.items)
    import_array(cache, "rows.npy", "table.csv", model="made", image_set=name)
    return load_features(cache, select_features(cache, image_set=name))


def parted(groups: np.ndarray, splits: np.ndarray) -> set[str]:
    """The groups that are in several splits."""
    return {group for group in set(groups) if len(set(splits[groups == group])) > 1}


# How groups are given and kept


def test_a_column_of_a_table_gives_groups_and_the_cache_keeps_them(make_images):
    folder = make_images("data", cat=8, dog=8)
    lines = [f"{path.relative_to(folder)},{path.parent.name},{int(path.stem) // 2}"
             for path in sorted(folder.rglob("*.png"))]  # fmt: skip
    lines[0] = lines[0].rpartition(",")[0] + ","
    (folder / "table.csv").write_text("\n".join(["path,label,Group", *lines]) + "\n")
    images = ImageSet.from_manifest(folder / "table.csv")
    assert [each.group for each in images.items[:3]] == [None, "0", "1"]
    images.write_csv("sets.csv")
    assert ImageSet.read_csv("sets.csv").items == images.items
    without = replace(images, items=tuple(replace(each, group=None) for each in images.items))
    assert without.digest_of() != images.digest_of()  # folds differ, and so must their experiments
    assert not images.leaks


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (r"00[0-3]", {"000", "001", "002", "003"}),
        (r"(?:cat|dog)/00(.)", {"0", "1", "2", "3"}),
        (r"^([^/]+)/", {"cat", "dog"}),
    ],
)
def test_a_pattern_finds_groups_in_paths_below_the_folder(make_images, pattern, groups):
    folder = make_images("cat/data", cat=4, dog=4)
    images = ImageSet.from_folder(folder, group_by=pattern, complete=False)
    assert {each.group for each in images.items} == groups


def test_bad_patterns_are_refused_in_one_sentence(bottleneck, make_images):
    folder = make_images("data", cat=4, dog=4)
    wrong = bottleneck("extract", "--data", folder, "--model", "vgg16", "--group-by", "(cat")
    assert wrong.code == 2
    assert "--group-by '(cat' is not a regular expression (missing )" in wrong.err
    with pytest.raises(UsageError, match=r"'cat/\(\.\+\)' finds no group in 4 of 8 paths, first "
                                         r"'dog/000.png'; expected a column of a table, or a "
                                         r"regular expression that matches every path, "
                                         r"relative to 'data'$"):  # fmt: skip
        ImageSet.from_folder(folder, group_by="cat/(.+)")
    (folder / "t.csv").write_text("path,label,group\ncat/000.png,a,x\ndog/000.png,b,y\n")
    with pytest.raises(UsageError, match="has a column group already; leave `group_by` out"):
        ImageSet.from_manifest(folder / "t.csv", group_by="cat")


def test_a_pattern_may_be_the_name_of_a_column(make_images):
    folder = make_images("data", cat=3, dog=3)
    lines = [f"{c}/00{n}.png,{c},p {n},{n % 2}" for c in ("cat", "dog") for n in range(3)]
    (folder / "t.csv").write_text("\n".join(["path,label,Patient,group", *lines]))
    images = ImageSet.from_manifest(folder / "t.csv", group_by="Patient", complete=False)
    assert [each.group for each in images.items] == ["p 0", "p 1", "p 2"] * 2
    (folder / "t.csv").write_text((folder / "t.csv").read_text().replace("group", "size"))
    (told,) = ImageSet.from_manifest(folder / "t.csv", complete=False).notes
    assert told.startswith("the column patient looks like groups: give --group-by patient to")


def test_identical_images_of_two_groups_join_these():
    items = [item("1", group="c"), item("2", group="b"), item("3", group="a"), item("4"),
             item("5", content="1", group="b"), item("6", content="3"),
             item("7", content="2", group="d"), item("8", group="d")]  # fmt: skip
    found = groups_of(items)
    assert [found.get(each.digest) for each in items] == [*"bba", None, *"babb"]
    assert groups_of([item("1"), item("2")]) == {}


@pytest.mark.parametrize("ending", ["h5", "npz"])
def test_groups_are_exported_and_imported(ending):
    features = of_patients(patients(6, 2).with_splits(), Cache("cache"))
    export_features(Cache("cache"), features.selection, f"out.{ending}")
    import_features(Cache("other"), f"out.{ending}")
    assert load_features("other").images.items == features.images.items


# Splits


def test_a_split_parts_no_group_and_balances_classes():
    generator = np.random.default_rng(0)
    for seed in range(20):
        items = []
        for group in range(24):
            label = generator.integers(3)
            for number in range(generator.integers(1, 12)):
                own = generator.integers(3) if generator.random() < 0.2 else label
                items.append(item(f"{seed} {group} {number}", f"{own}", f"g{group}"))
        images = ImageSet("data", tuple(items)).with_splits(seed=seed)
        assert not images.leaks
        counts = Counter((each.label, each.split) for each in images.items)
        for label in images.classes:
            assert counts[label, "train"] > 0 < counts[label, "test"]
        test = sum(each.split == "test" for each in images.items) / len(items)
        assert 0.1 < test < 0.3
        backwards = ImageSet("data", tuple(items[::-1])).with_splits(seed=seed)
        assert backwards.items[::-1] == images.items  # names and bytes decide, not the order


def test_too_few_groups_for_a_split_are_told():
    few = [item(f"{n}", "ab"[n > 5], ["x", "y", "z"][n % 3 if n < 6 else 0]) for n in range(9)]
    with pytest.raises(DataError, match="^class 'b' is in 1 group only; at least 2 are needed"):
        ImageSet("data", tuple(few)).with_splits()


def test_the_summary_tells_groups_and_those_that_a_given_split_parts(bottleneck, make_images):
    folder = make_images("data", cat=6, dog=6)
    lines = ["path,label,split,group"]
    for path in sorted(folder.rglob("*.png")):
        label, number = path.parent.name, int(path.stem)
        group = "" if (label, number) == ("dog", 5) else f"{label}{number // 2}"
        split = "test" if number == 5 else "train"
        lines.append(f"{path.relative_to(folder)},{label},{split},{group}")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    images = ImageSet.from_manifest(folder / "t.csv")
    found = summarize(images).groups
    assert (found.groups, found.largest, found.largest_images, found.alone) == (6, "cat0", 2, 1)
    assert (found.parted, found.splits) == (1, {"train": 6, "test": 1})
    assert len(images.leaks) == 2
    done = bottleneck(
        "extract", "--data", folder / "t.csv", "--model", "vgg16", "--weights", "no.pth"
    )
    assert (
        "6 groups, the largest 'cat0' of 2 images: train 6, test 1; 1 image has no group"
        in done.err
    )
    assert "warning: leak: 1 group is in more than one split, and scores leave out" in done.err
    assert "cat2: train 1, test 1" in done.err


# Folds, hold-outs and scores


def test_no_fold_and_no_hold_out_parts_a_group():
    images = patients(20, 5, seed=1).with_splits()
    mixed = [replace(each, label=f"class{number % 2}") if number % 7 == 0 else each
             for number, each in enumerate(images.items)]  # fmt: skip
    features = of_patients(replace(images, items=tuple(mixed)), Cache("cache"))
    assert parted(features.groups, features.splits) == set()
    problem = problem_of(features, recipe_of("lda"), TrainingSettings())
    for repeat in range(3):
        for fold in problem.folds(5, repeat=repeat):
            assert not {*problem.groups[fold.held]} & {*problem.groups[fold.fit]}
            assert 0.1 < fold.held.mean() < 0.35
            for inner in problem.folds_within(fold, 3):
                assert not {*problem.groups[inner.held]} & {*problem.groups[inner.fit]}
    bench = make_bench(features, recipe_of("lda"), AdviseSettings(clf="lda"))
    fit = bench.repeats[0][0].fit
    for subset in nested_subsets(bench.problem, fit, [12, 30], 0):
        drawn = {*bench.problem.groups[subset]}
        assert not drawn & {*bench.problem.groups[fit & ~subset]}
        assert len({*bench.problem.targets.codes[subset]}) == 2


def test_too_few_groups_for_folds_are_told():
    images = patients(3, 6)
    train = replace(images, items=tuple(replace(each, split="train") for each in images.items))
    features = of_patients(train, Cache("cache"))
    told = r"1 class is in too few groups of training images \('class1': 1\), but 2 folds need 2"
    with pytest.raises(DataError, match=told):
        fit_head(features)


def test_finetune_holds_out_whole_groups_and_starts_from_a_head_that_has_seen_none():
    features = of_patients(patients(20, 5).with_splits(), Cache("cache"))
    head = fit_head(features, C=1.0)
    how = FinetuneSettings(unfreeze="all", val_share=0.3)
    chosen = images_to_train(features.images, head, how)
    assert chosen.leaks == ()
    assert {each.split for each in chosen.items} == {"train", "val"}
    given = patients(20, 5).items
    given = [replace(each, split=("train", "val")[n % 5 == 0]) for n, each in enumerate(given)]
    parting = of_patients(replace(features.images, items=tuple(given)), Cache("other"))
    with pytest.raises(DataError, match="no labelled train images"):
        images_to_train(parting.images, head, how)
    some = [each for n, each in enumerate(given) if each.split == "val" or n < 95]
    some = [replace(each, split="val" if n < 10 else "train") for n, each in enumerate(some)]
    images = replace(parting.images, items=tuple(some))
    half = [replace(each, split="val") if n < 3 else each for n, each in enumerate(some[5:], 0)]
    own = of_patients(replace(images, items=tuple(half)), Cache("third"), name="half")
    head = fit_head(own, C=1.0)
    chosen = images_to_train(own.images, head, FinetuneSettings(unfreeze="all"))
    refitted = head_without(head, own.images, chosen, Cache("third"), how, device="cpu")
    mates = own.digests[np.isin(own.groups, own.groups[own.splits == "val"])]
    assert refitted is not None
    assert not refitted.seen & {*mates.tolist()}


def test_validation_and_test_images_of_groups_to_train_on_are_left_out():
    given = [replace(each, split=("train", "val", "test", "train", "train")[n % 5])
             for n, each in enumerate(patients(12, 5).items)]  # fmt: skip
    alone = [replace(item(f"0-{n}-9", f"class{n % 2}"), split=("val", "test")[n % 4 > 1])
             for n in range(8)]  # fmt: skip
    images = ImageSet("patients", (*given, *alone))
    features = of_patients(images, Cache("cache"))
    problem = problem_of(features, recipe_of("lda"), TrainingSettings())
    assert len(validation_rows(features, problem)) == 4
    head = fit_head(features, "lda")
    assert head.scores["held_out"] == "validation images"
    found = evaluate_head(head, features)
    assert (found.images, found.leaks) == (4, 12)


def test_a_head_is_evaluated_on_no_group_that_it_has_seen():
    """Where images have moved between splits since it was fitted."""
    cache, images = Cache("cache"), patients(20, 5).with_splits()
    features = of_patients(images, cache)
    head = fit_head(features, "lda")
    moved = [replace(each, split="test" if each.group in {"patient1", "patient2"} else each.split)
             for each in images.items]  # fmt: skip
    was = {each.group for each in images.items if each.split == "train"}
    cache.set_file("patients").unlink()
    of_patients(replace(images, items=tuple(moved)), cache)
    found = features_of(head.source, cache, split="test", seen=head.seen)
    assert len(found)
    assert not {*found.groups} & was


# Labels at random


def scores_of(seed: int, *, grouped: bool) -> dict[str, float]:
    """What fit-head, sweep and evaluate hold out, where features tell the patient alone."""
    images = patients(24, 6, seed=seed)
    if not grouped:
        images = replace(images, items=tuple(replace(each, group=None) for each in images.items))
    cache = Cache(f"cache{seed}{grouped}")
    features = of_patients(images.with_splits(seed=seed), cache, seed)
    head = fit_head(features, "knn", n_neighbors=3)
    (experiment,) = run_sweep(
        cache,
        [features.selection],
        f"{seed}{grouped}.sqlite",
        clfs=("knn",),
        n_neighbors=(3,),
        jobs=1,
    )
    return {
        "fit-head": head.scores["accuracy"],
        "evaluate": evaluate_head(head, features).accuracy,
        "sweep": float(np.mean([fold["accuracy"] for fold in experiment.folds])),
    }


@pytest.mark.ci
def test_labels_at_random_inside_groups_are_not_predicted_on_other_groups():
    """Each patient has a label at random: at chance with groups, and far above without."""
    for grouped, expected in ((True, 0.5), (False, 0.95)):
        drawn = [scores_of(seed, grouped=grouped) for seed in range(DRAWS)]
        for name in drawn[0]:
            values = [each[name] for each in drawn]
            error = np.std(values, ddof=1) / DRAWS**0.5
            if grouped:
                assert abs(np.mean(values) - expected) < 3 * error + 0.02, (name, values)
            else:
                assert np.mean(values) > 0.9, (name, values)


@pytest.mark.ci
def test_advise_is_at_chance_on_labels_at_random_inside_groups():
    found = {True: [], False: []}
    for grouped, values in found.items():
        for seed in range(6):
            images = patients(24, 6, seed=seed).with_splits(seed=seed)
            if not grouped:
                items = tuple(replace(each, group=None) for each in images.items)
                images = replace(images, items=items)
            features = of_patients(images, Cache(f"cache{seed}{grouped}"), seed)
            advice = advise_on(
                Cache(f"cache{seed}{grouped}"), [features.selection], clf="knn", repeats=1, jobs=1
            )
            values.append(advice.evidence.accuracy.value)
    error = np.std(found[True], ddof=1) / len(found[True]) ** 0.5
    assert abs(np.mean(found[True]) - 0.5) < 3 * error + 0.02
    assert np.mean(found[False]) > 0.9


def test_fit_settings_of_grouped_images_survive_the_command_line(bottleneck):
    """fit-head tells the leaks of groups that a given split parts."""
    given = [replace(each, split=("train", "test")[n % 5 == 0])
             for n, each in enumerate(patients(12, 5).items)]  # fmt: skip
    of_patients(ImageSet("patients", tuple(given)), Cache("cache"))
    done = bottleneck("fit-head", "--clf", "lda", "--name", "x")
    assert "12 groups are in more than one split" in done.err
    done = bottleneck("evaluate", "--head", "x")
    assert done.code == 1
    assert "identical to, or in a group with, images of other splits" in done.err
