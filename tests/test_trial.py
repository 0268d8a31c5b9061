"""Time and memory of fine-tuning are measured before the first epoch, and epochs planned to fit.

About 3 s in the first tier.
"""

import json
import re
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_finetune import SMALL, UNFREEZE, curve, fitted, write_images

from bottleneck import Cache, FinetuneSettings, Head, ImageSet
from bottleneck.errors import UsageError
from bottleneck.finetune import finetune_head
from bottleneck.finetune.loop import Training
from bottleneck.finetune.trial import EpochForecast, forecast_epochs


@pytest.fixture
def started() -> tuple[Head, ImageSet, Cache]:
    images, cache = ImageSet.open(write_images(train=8, val=3)), Cache("cache")
    return fitted(cache, images), images, cache


@pytest.fixture
def _a_second_each(monkeypatch):
    """A step takes one second, as far as plans know."""
    monkeypatch.setattr("bottleneck.finetune.trial._seconds_per_step", lambda *_: 1.0)


def everything(training: Training) -> list[torch.Tensor]:
    """Return copies of all that a step changes."""
    state = training.optimizer.state_dict()
    kept = [each for own in state["state"].values() for each in own.values()]
    rates = torch.tensor([group["lr"] for group in state["param_groups"]])
    weights = [*training.network.parameters(), *training.network.buffers()]
    random = torch.random.get_rng_state()
    return deepcopy([*(each.detach() for each in weights), *kept, rates, random])


@pytest.mark.parametrize(
    ("optimizer", "epochs_before"),
    [("adamw", 0), pytest.param("adamw", 1, marks=pytest.mark.ci),
     *(pytest.param(each, 1, marks=pytest.mark.ci) for each in ("sgd", "rmsprop"))],
)  # fmt: skip
def test_a_trial_leaves_everything_as_it_was(started, monkeypatch, optimizer, epochs_before):
    """Weights, statistics of batch normalization, optimizer, random state; and so the result."""
    head, images, cache = started
    made = []

    def stop(_):
        if epochs_before:
            raise KeyboardInterrupt

    def watched(training, state, checkpoint):
        before, step, steps = everything(training), training._step, []
        assert len(state.history) == epochs_before
        training._step = lambda *given: (steps.append(1), step(*given))
        found = forecast_epochs(training, state, checkpoint)
        training._step = step
        after = everything(training)
        assert len(steps) > 1
        assert len(before) == len(after)
        assert all(map(torch.equal, before, after))
        assert not any(each.grad is not None for each in training.network.parameters())
        made.append(found)
        return found

    monkeypatch.setattr("bottleneck.finetune.run.forecast_epochs", watched)
    changes = {
        "epochs": 1 + epochs_before,
        "freeze_batch_norm": False,
        "augment": "flip",
        "optimizer": optimizer,
    }
    settings = FinetuneSettings(**{**SMALL, **changes})
    plain = finetune_head(head, images, cache, "heads/plain", settings)
    if epochs_before:
        with pytest.raises(KeyboardInterrupt):
            finetune_head(head, images, cache, "heads/tried", settings, watch=stop)
    told = []
    tried = finetune_head(
        *(head, images, cache, "heads/tried", settings),
        announce=told.append,
        resume=bool(epochs_before),
    )
    assert curve(tried) == curve(plain)
    for name in ("model.safetensors", "head.safetensors"):
        assert Path("heads/tried", name).read_bytes() == Path("heads/plain", name).read_bytes()
    assert told == made
    assert plain.head.scores["forecast"] is None
    assert tried.head.scores["forecast"] == told[0].as_dict()
    assert (told[0].epochs, told[0].done, told[0].steps) == (1 + epochs_before, epochs_before, 2)
    assert told[0].seconds == told[0].seconds_per_epoch > 0
    assert told[0].peak_memory > 10**8


@pytest.mark.ci
@pytest.mark.usefixtures("_a_second_each")
def test_epochs_are_planned_to_fit(bottleneck, started):
    """The schedule has the planned length; the record has the minutes and the plan."""
    head, images, cache = started
    head.save("heads/head")
    command = ("finetune", "--head", "head", "--unfreeze", UNFREEZE, "--batch-size", "8")
    done = bottleneck(*command, "--minutes", "0.1", "--name", "planned")
    assert done.code == 0, done.err
    scores = Head.load("heads/planned").scores
    planned = int(6 / scores["forecast"]["seconds_per_epoch"])
    assert scores["planned_epochs"] == len(scores["history"]) == planned
    assert 1 <= planned < 3
    assert re.search(
        rf"^finetune: {planned} of 20 epochs planned, \d\S* s each, (0:00:0\d|\d\S* s) in all, "
        r"\d\.\d GB of memory$",
        done.err,
        re.MULTILINE,
    )
    assert f"epoch {planned} of {planned}: " in done.err
    assert "curves: too few epochs to read the curves" in done.out
    record = json.loads(Path("heads/planned/model.json").read_text())
    assert (record["settings"]["minutes"], record["settings"]["epochs"]) == (0.1, 20)
    whole = finetune_head(
        head, images, cache, "heads/whole", unfreeze=UNFREEZE, batch_size=8, epochs=planned
    )
    assert [each["loss"] for each in scores["history"]] == curve(whole)[::2]
    refused = bottleneck(*command, "--minutes", "0.01", "--name", "short")
    assert refused.code == 2
    assert re.search(
        r"^error: --minutes 0.01 is too short for one epoch, whose 2 steps and validation take "
        r"about \d\S* seconds here; give --minutes 0.1 or more, or a later layer with --unfreeze$",
        refused.err,
        re.MULTILINE,
    )
    assert not Path("heads/short").exists()


@pytest.mark.ci
def test_a_resumed_run_keeps_its_plan(started, monkeypatch):
    """Even if the machine is faster or slower by then; other minutes are refused."""
    head, images, cache = started
    settings = FinetuneSettings(**{**SMALL, "epochs": 9}, minutes=0.15)

    def stop(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bottleneck.finetune.trial._seconds_per_step", lambda *_: 1.0)
        finetune_head(head, images, cache, "heads/x", settings, watch=stop)
    shutil.copytree("heads/x", "heads/y")
    with pytest.raises(
        UsageError,
        match="'heads/x' was started with `minutes=0.15`, not with `minutes=0.2`; give the same",
    ):
        finetune_head(head, images, cache, "heads/x", replace(settings, minutes=0.2), resume=True)
    done = {}
    for name, seconds in (("x", 1e-6), ("y", 1000.0)):
        patched = monkeypatch.setattr
        patched("bottleneck.finetune.trial._seconds_per_step", lambda *_, each=seconds: each)
        done[name] = finetune_head(head, images, cache, f"heads/{name}", settings, resume=True)
    planned = done["x"].head.scores["planned_epochs"]
    assert 2 <= planned < 5
    assert planned == done["y"].head.scores["planned_epochs"]
    assert curve(done["x"]) == curve(done["y"])
    assert len(done["x"].head.scores["history"]) == planned


@pytest.mark.ci
def test_views_that_will_be_held_count_as_memory(started, monkeypatch):
    """Activations of the views that no epoch has read yet."""
    head, images, cache = started
    monkeypatch.setattr("bottleneck.finetune.trial.peak_memory", lambda: 1000)
    told = []
    finetune_head(
        head, images, cache, "heads/x", **{**SMALL, "epochs": 1}, from_cache=True, augment="flip",
        views=3, announce=told.append,
    )  # fmt: skip
    row = 192 * 2 * 2 * 2  # blocks.5 of 64 x 64 pixels, in float16
    assert told[0].peak_memory == 1000 + 2 * 16 * row


def test_what_is_left_is_told():
    found = EpochForecast(
        epochs=10, done=4, steps=5, seconds_per_step=2.0, seconds_per_validation=1.0,
        seconds_per_checkpoint=0.5, peak_memory=None, on_gpu=False,
    )  # fmt: skip
    assert found.seconds_per_epoch == 11.5
    assert found.seconds == 69
    assert found.as_dict()["seconds_per_epoch"] == 11.5
