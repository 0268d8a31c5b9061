"""Bases ranked by their best heads: paired intervals, costs and a picture.

About 10 s in the first tier.
"""

import csv
import hashlib
import io
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from PIL import Image

from bottleneck import (
    Cache,
    ExperimentLog,
    FrozenBase,
    ImageSet,
    extract_features,
    run_sweep,
    select_layers,
)
from bottleneck.costs import Cost
from bottleneck.errors import DataError, UsageError
from bottleneck.exchange import import_array
from bottleneck.experiments import compare, half_width, held_out_ratio
from bottleneck.pictures import draw_pareto
from bottleneck.standings import Standing, Standings, _with_front, rank_bases

LOG = "experiments.sqlite"


def bases_of(bases: Mapping[str, np.ndarray], y: np.ndarray, name: str = "made") -> Cache:
    """A cache with one layer of each base, of the same images."""
    cache = Cache("cache")
    with Path("table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split", "digest"])
        for number, label in enumerate(y):
            digest = hashlib.sha256(f"{name}{number}".encode()).hexdigest()
            table.writerow([f"{number}.png", label, "train", digest])
    for model, X in bases.items():
        np.save("rows.npy", X.astype(np.float32))
        import_array(cache, "rows.npy", "table.csv", model=model, layer="last", image_set=name)
    return cache


def some(number: int = 90) -> Cache:
    """Three bases: one tells classes apart, one less so, and one not at all."""
    generator = np.random.default_rng(0)
    y = np.arange(number) % 3
    bases = {
        model: apart * np.eye(3)[y] + generator.normal(size=(number, 3))
        for model, apart in (("none", 0.0), ("good", 4.0), ("fair", 1.5))
    }
    return bases_of(bases, np.array(list("abc"))[y])


def swept(cache: Cache, *models: str, **options):
    options = {"clfs": ("lda",), "cv": 5, **options}
    return run_sweep(cache, select_layers(cache, models=models), LOG, jobs=1, **options)


def test_differences_are_paired_over_the_folds_and_corrected_for_all_pairs():
    cache = some()
    two = swept(cache, "good", "fair")
    found = rank_bases(two, cache)
    assert [each.model for each in found.bases] == ["good", "fair"]
    fair = found.bases[1]
    expected = compare(two[1], two[0])
    assert fair.difference == pytest.approx(expected.difference)
    assert fair.difference_interval == pytest.approx(expected.interval)
    assert fair.difference_interval[1] < 0
    three = swept(cache, "none", "good", "fair")
    bases = rank_bases(three, cache).bases
    assert [each.model for each in bases] == ["good", "fair", "none"]
    apart = [
        one["accuracy"] - other["accuracy"]
        for one, other in zip(two[1].folds, two[0].folds, strict=True)
    ]
    half = half_width(apart, held_out_ratio(two[0]), 3)
    assert bases[1].difference_interval[1] - bases[1].difference == pytest.approx(half)


def test_a_base_is_scored_by_what_is_best_within_each_fold():
    cache = some()
    experiments = swept(cache, "good", "fair", clfs=("lda", "knn"), n_neighbors=(1, 5))
    found = rank_bases(experiments, cache)
    assert found.best_of == 6
    for each in found.bases:
        own = [one for one in experiments if one.settings["model"] == each.model]
        picked = [
            max((one.folds[fold] for one in own), key=lambda one: one["inner_accuracy"])["accuracy"]
            for fold in range(5)
        ]
        assert (each.best_of, each.held_out) == (3, True)
        assert each.score == pytest.approx(mean(picked))
        assert each.selected == max(mean(f["accuracy"] for f in one.folds) for one in own)
        low, high = each.interval
        assert 0 <= low <= each.score <= high <= 1


def test_the_folds_of_most_bases_count():
    cache = some()
    experiments = swept(cache, "good", "fair") + swept(cache, "good", "none", "fair", cv=3)
    assert rank_bases(experiments, cache).folds == 3
    experiments = swept(cache, "good", "fair") + swept(cache, "none", cv=3)
    found = rank_bases(experiments, cache)
    assert (found.folds, found.left_out) == (5, ["none"])


def test_only_experiments_on_the_images_in_the_cache_count():
    cache = some()
    experiments = swept(cache, "good", "fair")
    changed = [
        replace(each, settings={**each.settings, "split_digests": {"train": "ab" * 32}})
        for each in experiments
    ]
    with pytest.raises(DataError, match="^none of 2 experiments is on the images that are in the"):
        rank_bases(changed, cache)
    bases_of({"good": np.eye(30)}, np.tile(list("abc"), 10), "other")
    others = select_layers(cache, image_set="other")
    both = experiments + run_sweep(cache, others, LOG, clfs=("lda",), cv=5, jobs=1)
    with pytest.raises(UsageError, match=r"image sets made, other, .* with `where=image_set=made`"):
        rank_bases(both, cache)


@pytest.mark.ci
def test_the_commands_of_the_page_on_bases_run(bottleneck, faces):
    """Those of "Which base" in docs/bases.md; all is on the demo's faces."""
    Path("data").symlink_to(faces)
    page = (Path(__file__).parents[1] / "docs" / "bases.md").read_text()
    section = page.partition("## Which base\n")[2]
    commands = re.search(r"^```\n(bottleneck .*?)^```", section, re.MULTILINE | re.DOTALL)[1]
    for line in commands.splitlines():
        done = bottleneck(*shlex.split(line)[1:])
        assert done.code == 0, (line, done.err)
    assert Path("front.png").exists()
    assert "verdict on the bases: take efficientnet_lite0" in done.out
    assert re.search(r"^next: bottleneck .*(efficientnet_lite0|--head)", done.out, re.MULTILINE)


def standing(model: str, score: float, cost: int | None) -> Standing:
    priced = Cost(multiply_adds_per_prediction=cost)
    return Standing(
        model=model,
        experiment=None,
        selected=score,
        best_of=1,
        held_out=True,
        score=score,
        interval=(score - 0.1, score),
        difference=None,
        difference_interval=None,
        cost=priced,
    )


def test_the_front_has_what_no_other_base_beats():
    bases = [
        standing("best", 0.9, 400),
        standing("same, dearer", 0.9, 500),
        standing("cheap", 0.7, 10),
        standing("worse, dearer", 0.6, 20),
    ]
    assert [each.on_front for each in _with_front(bases, "accuracy")] == [True, False, True, False]
    lower = _with_front(bases, "log_loss")
    assert [each.on_front for each in lower] == [False, False, True, True]
    unknown = [*bases, standing("imported", 0.5, None)]
    assert {each.on_front for each in _with_front(unknown, "accuracy")} == {None}


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_scores_are_drawn_against_costs(metric):
    bases = [standing(f"base {n} of $x", 0.5 + n / 30, 10**n) for n in range(4, 11)]
    bases = _with_front(bases, metric)
    found = Standings(metric, "data", bases, 5, 7, None, [])
    with Image.open(draw_pareto(found, "front.png")) as image:
        assert image.width > 900
    with pytest.raises(UsageError, match="costs, as those of mine are unknown"):
        unknown = [*bases, standing("mine", 0.5, None)]
        draw_pareto(replace(found, bases=unknown), "front.png")


def test_the_command_prints_all_forms(bottleneck, little, make_images):
    images = ImageSet.from_folder(make_images(cat=12, dog=12))
    for name, layer in ((little, "last"), ("squeezenet1_1", "features.3")):
        base = FrozenBase(name, [layer], weights="random", pool="avg")
        extract_features(images, base, "cache")
    how = ("--model", "little", "--model", "squeezenet1_1", "--cv", 2, "--jobs", 1)
    done = bottleneck("sweep", *how, "--clf", "lda", "--clf", "centroid")
    assert done.code == 0, done.err
    assert "squeez" in done.out
    assert "see 'bottleneck leaderboard --by model'" in done.err
    done = bottleneck("leaderboard", "--by", "model", "--pareto", "front.svg")
    assert done.code == 0, done.err
    assert Path("front.svg").stat().st_size > 1000
    assert "Pareto" in done.out
    assert "the first is the best of 2 bases" in done.err
    found = json.loads(bottleneck("leaderboard", "--by", "model", "--json").out)
    assert {each["model"] for each in found["bases"]} == {"little", "squeezenet1_1"}
    for each in found["bases"]:
        assert set(each["cost"]) == set(Cost.__dataclass_fields__)
        assert all(each["cost"].values())
    out = bottleneck("leaderboard", "--by", "model", "--csv", "--top", 1).out
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["model"] == found["bases"][0]["model"]
    assert float(row["score"]) == found["bases"][0]["score"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--pareto", "x.png"), "--pareto has no effect without --by; give --by, or leave"),
        (("--by", "model", "--pareto", "x.jpg"), "a picture cannot be written as 'x.jpg'"),
        (("--by", "base"), "--by must be model, got 'base'"),
        (("--by", "model", "--compare", "1", "2"), "--by and --compare exclude each other"),
        (("--by", "model", "--finetuned"), "--by and --finetuned exclude each other"),
        (("--by", "model", "--cache", "none"), "none of 1 experiment is on the images that are"),
        (("--by", "model", "--pareto", "x.png"), "are unknown: imported features have none"),
    ],
)
def test_a_mistake_is_one_sentence(bottleneck, arguments, sentence):
    swept(some(), "good")
    finished = bottleneck("leaderboard", *arguments)
    assert finished.code in {1, 2}
    assert sentence in finished.err
    assert not Path("x.png").exists()


def test_experiments_of_one_fold_have_no_interval(bottleneck, make_images, little):
    """With val images, the note names the command that makes folds."""
    for split, count in (("train", 8), ("val", 4)):
        make_images(f"data/{split}", seed=count, cat=count, dog=count)
    images = ImageSet.from_folder("data")
    for number in (0, 1):
        base = FrozenBase(little, ["last", "first"][: number + 1], weights=f"random:{number}")
        extract_features(images, base, "cache")
    run_sweep("cache", select_layers("cache"), ExperimentLog(LOG), clfs=("centroid",), jobs=1)
    found = json.loads(bottleneck("leaderboard", "--by", "model", "--json").out)
    (only,) = found["bases"]
    assert (found["folds"], only["interval"], only["best_of"]) == (1, None, 2)
    assert bottleneck("leaderboard", "--by", "model").code == 0
