"""The last verdict: what `finetune` takes of it, and whether fine-tuning bears it out.

About 5 s in the first tier.
"""

import contextlib
import json
import re
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from test_finetune import fitted, poor, write_images

from bottleneck import Cache, Head, ImageSet, advise_on, select_layers
from bottleneck.advise import keep_advice, last_advice, layer_to_train, next_step, read_advice
from bottleneck.advise.verdict import CEILING, HEAD, PLATEAUED
from bottleneck.bases.finetuned import read_finetuned
from bottleneck.errors import UsageError
from bottleneck.records import known_source
from bottleneck.settings import AdviseSettings

HOW = AdviseSettings(clf="centroid", repeats=1)
ASKED = ("advise", "--clf", "centroid", "--repeats", 1, "--jobs", 1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A head, its cache, and a verdict that the last convolution is to be trained."""
    folder = tmp_path_factory.mktemp("advised")
    with contextlib.chdir(folder):
        images, cache = ImageSet.open(write_images(train=12, val=4, test=3)), Cache("cache")
        fitted(cache, images, "centroid").save("heads/head")
        advice = advise_on(cache, select_layers(cache), HOW, jobs=1)
        told = replace(advice.verdict, kind=PLATEAUED, layer="conv_head", tuning_gains=True)
        keep_advice(cache, select_layers(cache), HOW, replace(advice, verdict=told))
    return folder


@pytest.fixture
def cache(prepared) -> Cache:
    """The prepared cache, in the folder of the test, with its images and head."""
    for name in ("data", "cache", "heads"):
        shutil.copytree(prepared / name, name)
    return Cache("cache")


def keep(cache: Cache, seed: int = 1, **changes) -> None:
    """Keep the advice with some changes as another that was given later."""
    advice = last_advice(cache)
    selections = select_layers(cache)
    keep_advice(cache, selections, replace(HOW, seed=seed), replace(advice, **changes))


@pytest.mark.ci
def test_finetune_trains_what_the_last_verdict_names(bottleneck, cache):
    """Its result stands beside the head's in `finetune`, `advise` and `leaderboard`."""
    step = next_step(last_advice(cache), select_layers(cache), cache, "heads")
    named = ["bottleneck", "finetune", "--head", "head", "--unfreeze", "conv_head"]
    assert step.command[: len(named)] == named
    done = bottleneck("finetune", "--epochs", 1, "--name", "tuned", "--json")
    assert done.code == 0, done.err
    assert "note: training begins at conv_head, as the last verdict says; --unfreeze" in done.err
    record, scores = read_finetuned("heads/tuned"), Head.load("heads/tuned").scores
    assert record.settings["unfreeze"] == "conv_head"
    val = {item.digest for item in ImageSet.open("data").items if item.split == "val"}
    assert {each["image"] for each in record.judged} == val
    for key, accuracy in (("before", "start_val_accuracy"), ("after", "accuracy")):
        right = [each[key] for each in record.judged]
        assert np.mean(right) == pytest.approx(scores[accuracy])
    tuned = json.loads(done.out)["fine_tuned"]
    assert tuned["gain"] == pytest.approx(scores["accuracy"] - scores["start_val_accuracy"])
    (ranked,) = json.loads(bottleneck("leaderboard", "--finetuned", "--json").out)
    assert ranked == {**tuned, "verdict": ranked["verdict"]}
    for more in ((), ("--finetuned",)):
        shown = bottleneck("leaderboard", *more).out
        assert re.search(r"heads/tuned +conv_head +8 ", shown)
        assert f"heads/tuned: {ranked['verdict']}" in shown
    advised = bottleneck(*ASKED, "--json")
    found = json.loads(advised.out)
    assert "computed by an earlier call" in advised.err
    (beside,) = found["fine_tuned"]
    expected = "'advise' expected a gain from fine-tuning"
    unclear = f"{expected}: these images are too few to show whether there is a gain"
    assert beside == ranked
    assert beside["verdict"] == unclear
    assert found["command"][1] in {"evaluate", "extract"}  # not the same again
    text = bottleneck(*ASKED).out
    assert f"heads/tuned: {unclear}" in text
    assert text.splitlines()[-1].startswith("next: bottleneck ")


def test_the_next_command_starts_from_a_head_that_was_not_fine_tuned(cache):
    """Such as one whose network no epoch improved, which is on the same features, and newer."""
    head = Head.load("heads/head")
    replace(head, hyperparameters={"unfreeze": "conv_head"}).save("heads/tuned")
    step = next_step(last_advice(cache), select_layers(cache), cache, "heads")
    assert step.command[:4] == ["bottleneck", "finetune", "--head", "head"]
    shutil.rmtree("heads/head")
    step = next_step(last_advice(cache), select_layers(cache), cache, "heads")
    assert step.command[:4] == ["bottleneck", "finetune", "--head", "tuned"]


def test_what_was_fitted_is_not_the_next_command_again(cache):
    """But the evaluation of that head; without held-out images, its report."""
    advice = last_advice(cache)
    better = next(each for each in advice.evidence.heads if each.clf == "lda")
    told = replace(advice.verdict, kind=HEAD, layer=None, gain=better.difference)
    layers = select_layers(cache)

    def step():
        found = replace(advice, verdict=told)
        return next_step(found, layers, cache, "heads").command[1:]

    assert (step()[0], step()[-1]) == ("fit-head", "lda")
    replace(Head.load("heads/head"), clf="lda").save("heads/better")
    assert step() == ["evaluate", "--head", "better", "--split", "test"]
    images = ImageSet.read_csv(cache.set_file(advice.source.image_set))
    items = tuple(replace(item, split="train") for item in images.items)
    replace(images, items=items).write_csv(cache.set_file(images.name))
    assert step() == ["report", "--head", "better"]
    told = replace(advice.verdict, kind=CEILING, layer=None)
    assert step() == ["report", "--head", "head", "--suspects"]


def test_the_last_of_several_verdicts_counts(cache):
    """Which is the one that was shown last, even if it was computed before."""
    source = known_source(Head.load("heads/head").source)
    assert layer_to_train(cache, source) == "conv_head"
    first = last_advice(cache)
    keep(cache, verdict=replace(first.verdict, layer="blocks.6"))
    assert layer_to_train(cache, source) == "blocks.6"
    shown = read_advice(cache, select_layers(cache), HOW)
    keep_advice(cache, select_layers(cache), HOW, shown)
    assert layer_to_train(cache, source) == "conv_head"
    for file in Path("cache/advice").iterdir():
        file.write_text("{}")
    with pytest.raises(UsageError, match="'cache' has no verdict that names"):
        layer_to_train(cache, source)


def test_the_last_verdict_counts_where_the_clock_was_set_back(cache, monkeypatch):
    class YearsAgo(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2001, 1, 1, tzinfo=tz)

    first = last_advice(cache)
    monkeypatch.setattr("bottleneck.advise.kept.datetime", YearsAgo)
    keep(cache, verdict=replace(first.verdict, layer="blocks.6"))
    last = last_advice(cache)
    assert last.time < first.time
    assert (first.turn, last.turn, last.verdict.layer) == (1, 2, "blocks.6")


def test_a_verdict_that_does_not_fit_is_refused_in_one_sentence(bottleneck, cache):
    """Of other features, other images, or another kind; or none, with the command that helps."""
    source = last_advice(cache).source

    def refused(**changes) -> str:
        for file in Path("cache/advice").glob("*.json"):
            advice = last_advice(cache)
            file.unlink()
        if changes:
            keep_advice(cache, select_layers(cache), HOW, replace(advice, **changes))
        told = bottleneck("finetune", "--epochs", 1)
        assert told.code == 2, told.err
        if not changes:
            keep_advice(cache, select_layers(cache), HOW, advice)
        return told.err

    command = "'bottleneck advise --model efficientnet_lite0 --set data"
    other = replace(source, model="vgg16", layer="features.30", alias="block5_pool", typed=None)
    found = refused(source=other)
    assert "the last verdict is about vgg16 block5_pool" in found
    assert f"; run {command}', or name the first layer to train with --unfreeze" in found
    assert f"{command} --layer " in refused(source=replace(source, layer="blocks.3", typed=None))
    relabelled = replace(source, split_digests={"train": "0" * 64})
    found = refused(source=relabelled)
    assert "is about other images or labels of 'data' than those that the head was fitted" in found
    found = refused(
        source=source, verdict=replace(last_advice(cache).verdict, kind=HEAD, layer=None)
    )
    assert f"is '{HEAD}', which names no layer to train; do what {command}' says" in found
    found = refused()
    assert f"'cache' has no verdict that names the first layer to train; run {command}'" in found
    assert not Path("heads/head-finetuned").exists()


@pytest.mark.ci
def test_a_fine_tuned_network_is_advised_on_again(bottleneck):
    """Judged on the images that it was validated on, as it has seen all others."""
    images, cache = ImageSet.open(write_images(train=15, val=5, clear=True)), Cache("cache")
    poor(fitted(cache, images)).save("heads/head")
    trained = ("--unfreeze", "conv_head", "--epochs", 2, "--name", "tuned")
    assert bottleneck("finetune", *trained).code == 0
    assert read_finetuned("heads/tuned").best_epoch
    layers = ("--layer", "blocks.2", "--layer", "penultimate", "--pool", "avg")
    extracted = bottleneck("extract", "--model", "heads/tuned", *layers)
    assert extracted.code == 0, extracted.err
    found = bottleneck(*ASKED, "--json")
    assert found.code == 0, found.err
    advice = json.loads(found.out)
    assert advice["held_out"] == "10 val images"
    assert advice["model"] == "heads/tuned"
    assert advice["evidence"]["images"] == 30
    assert "used to train or validate 'heads/tuned', so scores on them are too high" in found.err
