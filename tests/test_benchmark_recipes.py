"""Variants of fine-tuning that are tried by ``benchmarks/recipes.py``, on one small network.

About 10 s.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from test_benchmarks import FOLDER
from torch import nn

from bottleneck import FinetuneSettings
from bottleneck.bases import find_model
from bottleneck.bases.network import Network
from bottleneck.bases.splitting import split_network, upper_part
from bottleneck.bases.weights import load_weights
from bottleneck.finetune.loop import Training
from bottleneck.finetune.network import TunedNetwork

CLASSES = ("a", "b", "c")
SETTINGS = FinetuneSettings("blocks.5.3", epochs=4, batch_size=4, learning_rate=1e-2)


class Maps:
    """Random activations of twelve images."""

    items = tuple(
        SimpleNamespace(digest=f"{number:064x}", label=CLASSES[number % 3], weight=1.0, group=None)
        for number in range(12)
    )
    maps = torch.rand(12, 192, 3, 3, generator=torch.Generator().manual_seed(0))

    def batches(self, batches, view):
        assert view == 0
        for rows in batches:
            yield rows, self.maps[rows]


@pytest.fixture(scope="module")
def network() -> TunedNetwork:
    """The last blocks of EfficientNet-Lite0 and a linear head, with random weights."""
    model = find_model("efficientnet_lite0")
    base = Network(model)
    split = split_network(base, SETTINGS.unfreeze, base.resolve("penultimate")[0])
    upper = upper_part(base, split, load_weights(model, "random")[1].load())
    return TunedNetwork(
        upper, nn.Linear(1280, 3), split, how="none", axes="C", freeze_batch_norm=True
    )


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import recipes  # noqa: PLC0415 - benchmarks are scripts of a folder of their own

    return recipes


@pytest.fixture
def train(network):
    """Train with a variant's class for some epochs, from the same start."""
    start = network.tuned_state()

    def make(kind, **changes) -> Training:
        network.load_tuned(start)
        settings = FinetuneSettings(**SETTINGS.as_dict() | {"clip": 1.0} | changes)
        head = SimpleNamespace(link="softmax", classes=CLASSES, multilabel=False, temperature=1.0)
        fabric = Fabric(accelerator="cpu", devices=1)
        return kind(fabric, network, settings, train=Maps(), val=Maps(), head=head)

    with torch.random.fork_rng():
        yield make
    network.load_tuned(start)


def moved(training: Training, start: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: each - start[name] for name, each in training.weights().items()}


def trained_names(training: Training, *, head: bool) -> list[str]:
    named = training.network.named_parameters()
    return [name for name, own in named if own.requires_grad and name.startswith("head") == head]


def test_a_moving_average_is_that_of_all_steps(recipes, train):
    training = train(recipes.changed(recipes.MovingAverage, decay=0.5))
    expected, ends = training.weights(), []
    training.optimizer.register_step_post_hook(
        lambda *_: ends.append(training.network.tuned_state())
    )
    before = training.scores()
    training.step_through(1)
    assert len(ends) == 3
    for end in ends:
        expected = {
            name: each.float().lerp(end[name].float(), 0.5) for name, each in expected.items()
        }
    found = training.weights()
    for name in trained_names(training, head=True) + trained_names(training, head=False):
        torch.testing.assert_close(found[name], expected[name])
    after = training.scores()
    assert not np.allclose(before, after)
    training.network.load_tuned(found)
    assert np.array_equal(Training.scores(training), after)


def test_averaged_epochs_are_those_of_the_second_half(recipes, train):
    training = train(recipes.EpochAverage)
    ends = []
    for epoch in (1, 2, 3, 4):
        training.step_through(epoch)
        ends.append(training.network.tuned_state())
        name = trained_names(training, head=True)[0]
        mean = torch.stack([end[name] for end in ends[2:] or ends[-1:]]).mean(dim=0)
        torch.testing.assert_close(training.weights()[name], mean)


def test_a_pull_towards_the_start_keeps_the_base(recipes, train):
    rate = SETTINGS.learning_rate * SETTINGS.backbone_lr_factor
    changes = {"layer_decay": 1.0, "schedule": "constant", "warm_up": 0.0}
    training = train(recipes.changed(recipes.TowardsStart, strength=1 / rate), **changes)
    start = training.weights()
    training.step_through(1)
    shifts = moved(training, start)
    assert all(shifts[name].abs().max() < 1e-6 for name in trained_names(training, head=False))
    assert all(shifts[name].any() for name in trained_names(training, head=True))


def test_dropped_paths_are_dropped_in_training_only(recipes, train, network):
    upper = network.upper
    place = next(name for name, _ in upper.named_modules() if name.endswith(".drop_path"))
    plain = upper.get_submodule(place)
    expected = train(Training).scores()
    try:
        training = train(recipes.changed(recipes.DroppedPaths, rate=0.5))
        assert np.array_equal(training.scores(), expected)
        network.train()
        torch.manual_seed(0)
        found = {tuple(network(Maps.maps[:1]).flatten().tolist()) for _ in range(20)}
        assert len(found) == 2
    finally:
        upper.set_submodule(place, plain)


def test_low_rank_updates_have_a_low_rank(recipes, train):
    training = train(recipes.changed(recipes.LowRank, rank=2), layer_decay=1.0)
    start = training.weights()
    for epoch in (1, 2):
        training.step_through(epoch)
    shifts = moved(training, start)
    low = 0
    for name in trained_names(training, head=False):
        assert shifts[name].any(), name
        if shifts[name].dim() > 1 and "conv_dw" not in name:
            assert torch.linalg.matrix_rank(shifts[name].flatten(1), rtol=1e-3) <= 2
            low += 1
    assert low >= 4
    assert all(shifts[name].any() for name in trained_names(training, head=True))


def test_averages_of_the_last_epoch_are_scored(recipes, train):
    training = train(recipes.Screened, epochs=2)
    start = training.weights()
    training.step_through(1)
    assert not training.others
    training.step_through(2)
    end = training.weights()
    assert not np.array_equal(end["head.weight"], start["head.weight"])
    for name, share in (("half way", 0.5), ("mean of epochs", 1.0)):
        expected = {key: each.float().lerp(end[key].float(), share) for key, each in start.items()}
        training.network.load_tuned(expected)
        found = training.choice.metrics(training.scores())
        assert training.others[name] == pytest.approx(
            {key: found[key] for key in ("accuracy", "log_loss")}, rel=1e-5
        )


def test_averages_count_as_variants(recipes):
    scores = {"accuracy": 0.5, "log_loss": 1.0}
    found = recipes.averages({"variant": "x", "others": {"half way": scores}})
    assert found == {"x": {}, "x, half way": {"fine-tuned": scores}}
    assert recipes.averages({"variant": "x"}) == {"x": {}}


def test_a_fresh_head_is_drawn_by_the_seed(recipes, train, network):
    start = network.tuned_state()
    drawn = [train(recipes.FreshHead, seed=seed).weights()["head.weight"] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], start["head.weight"])


def test_gains_are_paired_by_seed(recipes):
    def row(variant, seed, head, tuned):
        scores = [{"accuracy": each, "log_loss": -each} for each in (head, tuned)]
        both = dict(zip(("head", "fine-tuned"), scores, strict=True))
        return both | {"variant": variant, "seed": seed, "seconds": 3.0}

    rows = [row("default", 0, 0.5, 0.6), row("default", 1, 0.7, 0.9), row("x", 1, 0.7, 0.8)]
    found = recipes.compared(rows)
    mean, low, high = found["default"]["accuracy over the head"]
    assert (mean, low + high) == (pytest.approx(0.15), pytest.approx(0.3))
    assert found["default"]["accuracy over default"][0] == 0
    assert found["x"]["accuracy over default"][0] == pytest.approx(-0.1)
    assert found["x"]["log_loss over default"][0] == pytest.approx(0.1)
    assert (found["x"]["seeds"], found["default"]["seeds"]) == (1, 2)
