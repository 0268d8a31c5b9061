"""Fine-tuning from a head, on images or from the cache, and the resulting model.

About 25 s in the first tier.
"""

import contextlib
import hashlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import crops
from safetensors.torch import load_file, save_file
from torch import nn

from bottleneck import (
    Cache,
    FinetuneSettings,
    FrozenBase,
    Head,
    ImageSet,
    extract_features,
    features_of,
    fit_head,
    load_base,
    load_features,
)
from bottleneck.bases import find_model
from bottleneck.bases.finetuned import digests_of_network, read_finetuned, seen_digests
from bottleneck.bases.network import Network
from bottleneck.bases.splitting import Split, split_network, upper_part
from bottleneck.bases.weights import load_weights
from bottleneck.cli.command import COMMANDS
from bottleneck.errors import (
    BottleneckError,
    DataError,
    MemoryShortError,
    UnknownNameError,
    UsageError,
    WeightsError,
    WrongTypeError,
)
from bottleneck.files import read_json, write_json
from bottleneck.finetune import default_images, finetune_head
from bottleneck.finetune.checkpoints import Checkpoint
from bottleneck.finetune.images import head_without
from bottleneck.finetune.loop import Training, rate_factor
from bottleneck.finetune.network import TunedNetwork, make_optimizer
from bottleneck.finetune.run import _memory_watched
from bottleneck.heads import fit_rows
from bottleneck.heads.adjust import Adjust
from bottleneck.heads.choosing import Choice
from bottleneck.heads.models import Affine
from bottleneck.heads.modules import module_of
from bottleneck.heads.scoring import fit_temperature, log_losses
from bottleneck.heads.training import losses, sample_weights
from bottleneck.labels import Targets
from bottleneck.pictures import draw_history
from bottleneck.records import write_record
from bottleneck.records.banks import FINETUNED
from bottleneck.settings.heads import RECIPES

PAGE = (Path(__file__).parents[1] / "docs/finetune.md").read_text()
UNFREEZE = "blocks.6"
SMALL = {"unfreeze": UNFREEZE, "epochs": 3, "batch_size": 8, "learning_rate": 1e-3}


def write_images(folder: str = "data", *, clear: bool = False, **counts: int) -> Path:
    """Write ``folder/SPLIT/CLASS`` with crops, of which a class is brightened, clearly or not."""
    images = iter(crops(2 * sum(counts.values())))
    share, most = (0.25, 190) if clear else (0.75, 40)
    for split, count in counts.items():
        for label in ("dark", "light"):
            place = Path(folder) / split / label
            place.mkdir(parents=True)
            for number in range(count):
                shade = most if label == "light" else 0
                next(images).point(lambda value, shade=shade: int(value * share) + shade).save(
                    place / f"{number}.png"
                )
    return Path(folder)


def finetuning_commands() -> list[str]:
    """Return the blocks of commands on the page, for a head of that name."""
    page = PAGE.replace("HEAD", "demo-softmax")
    return re.findall(r"^```\n(bottleneck .*?)^```", page, re.MULTILINE | re.DOTALL)


def fitted(
    cache: Cache,
    images: ImageSet,
    clf: str = "softmax",
    *,
    layer: str = "penultimate",
    pool: str = "none",
    **settings,
) -> Head:
    """Extract small images and fit a head."""
    options = {"image_size": (64, 64), "precision": "fp32", **settings}
    base = FrozenBase("efficientnet_lite0", [layer], pool=pool, **options)
    extract_features(images, base, cache)
    features = load_features(cache)
    train = features.training()
    multilabel = images.multilabel
    return fit_rows(train.X, train.labels, clf, source=features.provenance, multilabel=multilabel)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """On one thread, sums have one order, and small images do not wait for busy cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def prepared(made_once) -> Path:
    """A folder with images and their features, not to be changed: 24 to train on, 8 to validate."""
    return made_once("fine-tuning", partial(prepare, clear=False))


@pytest.fixture(scope="session")
def prepared_clear(made_once) -> Path:
    """As `prepared`, with classes so clear that a few steps are shown to help."""
    return made_once("fine-tuning-clear", partial(prepare, clear=True))


def prepare(folder: Path, *, clear: bool) -> None:
    with contextlib.chdir(folder):
        images = ImageSet.open(write_images(train=12, val=4, test=3, clear=clear))
        fitted(Cache("cache"), images).save("heads/head")


@pytest.fixture
def started(prepared) -> tuple[Head, ImageSet, Cache]:
    """A head, its images and cache, in the folder of the test."""
    return copied(prepared)


@pytest.fixture
def started_clear(prepared_clear) -> tuple[Head, ImageSet, Cache]:
    """As `started`, with clear classes."""
    return copied(prepared_clear)


def copied(prepared: Path) -> tuple[Head, ImageSet, Cache]:
    for name in ("data", "cache"):
        shutil.copytree(prepared / name, name)
    cache = Cache("cache")
    head = Head.load(prepared / "heads/head")
    return head, default_images(head, cache), cache


def lowest_loss(head: Head) -> float:
    """Return the lowest validation loss of the training that ended in a head."""
    scores = head.scores
    return min([scores["start_val_loss"], *(each["val_loss"] for each in scores["history"])])


def validation_losses(head: Head, cache: Cache, *temperatures: float | None) -> list[float]:
    """Return the log loss of the validation images at each temperature; None is the best one."""
    val = features_of(head.source, cache).split("val")
    targets = Targets.among(val.labels, head.classes, multilabel=False)
    scored = "softmax", head.decision_function(val.X), targets
    at = (temperature or fit_temperature(*scored) for temperature in temperatures)
    return [float(log_losses(*scored, temperature).mean()) for temperature in at]


def poor(head: Head) -> Head:
    """Return the head without what it has learnt, so that training improves on it."""
    nothing = {name: np.zeros_like(each) for name, each in head.model.arrays.items()}
    return replace(head, model=replace(head.model, **nothing))


def curve(result) -> list[float]:
    history = result.head.scores["history"]
    return [value for row in history for value in (row["loss"], row["val_loss"])]


# Where a network is divided


@pytest.mark.parametrize(
    ("model", "unfreeze", "layer", "boundary", "first"),
    [
        ("vgg16", "block5_conv1", "block5_pool", "features.23", "features.24.weight"),
        ("vgg16", "features.25", "block5_pool", "features.24", "features.26.weight"),
        ("vgg16", "fc2", "penultimate", "classifier.2", "classifier.3.weight"),
        ("resnet18", "layer4", "penultimate", "layer3.1.relu_1", "layer4.0.conv1.weight"),
        ("resnet18", "layer4.1.conv2", "penultimate", "layer4.0.relu_1", "layer4.1.conv2.weight"),
        pytest.param("densenet121", "features.denseblock4.denselayer3", "penultimate",
         "features.transition3.pool", "features.denseblock4.denselayer3.norm1.weight",
         marks=pytest.mark.ci),
        ("mobilenet_v2", "all", "penultimate", None, "features.0.0.weight"),
    ],
)  # fmt: skip
def test_where_a_network_is_divided(model, unfreeze, layer, boundary, first):
    """At the boundary there is one activation; the named layer and later ones are trained."""
    network = Network(find_model(model))
    split = split_network(network, unfreeze, network.resolve(layer)[0])
    assert split.boundary == boundary
    assert next(iter(split.trained)) == first


def test_the_two_parts_are_the_whole():
    for model, unfreeze in (("resnet18", "layer4.0.conv2"), ("mobilenet_v2", "features.16")):
        known = find_model(model)
        network = Network(known)
        (end,) = network.resolve("penultimate")
        tensors = load_weights(known, "random")[1].load()
        split = split_network(network, unfreeze, end)
        images = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            below = network.cut([split.boundary], tensors)(images)[split.boundary]
            whole = network.cut([end], tensors)(images)[end]
            assert torch.equal(upper_part(network, split, tensors)(below), whole)


def tuned(*, freeze_batch_norm: bool, model="resnet18", unfreeze="layer4.1.conv2") -> TunedNetwork:
    known = find_model(model)
    network = Network(known)
    split = split_network(network, unfreeze, network.resolve("penultimate")[0])
    upper = upper_part(network, split, load_weights(known, "random")[1].load())
    head = torch.nn.Linear(512, 2)
    return TunedNetwork(
        upper, head, split, how="none", axes="C", freeze_batch_norm=freeze_batch_norm
    )


@pytest.mark.parametrize("freeze_batch_norm", [False, True])
def test_which_statistics_training_moves(freeze_batch_norm):
    """Never those of frozen layers; those of trained ones only on request."""
    network = tuned(freeze_batch_norm=freeze_batch_norm)
    assert not any(name.startswith("upper.layer4.1.bn1") for name, _ in network.tuned())
    names = ("upper.layer4.1.bn1.running_mean", "upper.layer4.1.bn2.running_mean")
    before = {name: network.state_dict()[name].clone() for name in names}
    network.train()(torch.rand(4, 512, 7, 7))
    after = network.state_dict()
    assert torch.equal(before[names[0]], after[names[0]])
    assert torch.equal(before[names[1]], after[names[1]]) == freeze_batch_norm


@pytest.mark.parametrize(
    ("model", "unfreeze", "rates", "normalization"),
    [
        (
            "resnet18",
            "layer3.1",
            {"layer4.1.conv1": 0.1, "layer4.0.conv1": 0.05, "layer3.1.conv2": 0.025},
            "layer4.1.bn2",
        ),
        (  # which a plug-in brings
            "efficientnet_lite0",
            "blocks.5.2",
            {"conv_head": 0.1, "blocks.6.0.conv_pw": 0.1, "blocks.5.3.conv_pw": 0.05,
             "blocks.5.2.conv_pw": 0.025},
            "blocks.6.0.bn2",
        ),
    ],
)  # fmt: skip
def test_learning_rates_are_halved_from_block_to_block(model, unfreeze, rates, normalization):
    """A tenth of the head's in the last block, half below, and so on; no decay of biases."""
    network = tuned(freeze_batch_norm=True, model=model, unfreeze=unfreeze)
    settings = FinetuneSettings(
        unfreeze, learning_rate=1.0, backbone_lr_factor=0.1, layer_decay=0.5
    )
    optimizer = make_optimizer(network, settings)
    groups = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    found = {
        name: groups[id(each)] for name, each in network.named_parameters() if id(each) in groups
    }
    assert found["head.weight"] == (1.0, 0.01)
    assert found["head.bias"] == (1.0, 0.0)
    for name, rate in rates.items():
        assert found[f"upper.{name}.weight"] == pytest.approx((rate, 0.01))
    assert found[f"upper.{normalization}.weight"] == pytest.approx((0.1, 0.0))
    assert len(found) == len(list(network.rates()))


def test_the_schedule_rises_and_falls():
    cosine = FinetuneSettings("all", warm_up=0.2)
    factors = [rate_factor(cosine, step, 10) for step in range(10)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert factors[6] == pytest.approx(0.5)
    constant = FinetuneSettings("all", warm_up=0.0, schedule="constant")
    assert {rate_factor(constant, step, 10) for step in range(10)} == {1.0}


def test_losses_are_those_of_the_link():
    scores, codes = torch.tensor([[2.0, -1.0]]), torch.tensor([0])
    own = torch.nn.functional.logsigmoid
    softmax = -torch.log_softmax(scores, 1)[0, 0]
    assert losses("softmax", scores, codes, 0.0).item() == pytest.approx(softmax.item())
    each = losses("one_vs_rest", scores, codes, 0.0)
    assert torch.allclose(each, -torch.stack([own(scores[:, 0]), own(-scores[:, 1])], 1))
    smooth = losses("independent", scores, torch.tensor([[True, False]]), 0.2)
    expected = -(0.9 * own(scores[0, 0]) + 0.1 * own(-scores[0, 0]))
    assert smooth[0, 0].item() == pytest.approx(expected.item())
    of_both = -torch.log_softmax(scores, 1)[0]
    expected = 0.8 * of_both[0] + 0.2 * of_both.mean()
    assert losses("softmax", scores, codes, 0.2).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("balanced", [False, True])
def test_sample_weights_in_the_loss(balanced):
    """Its sample weight; with balanced classes, class weights add up to the same total."""
    targets = Targets.among(np.repeat(["a", "b"], [6, 2]), ("a", "b"), multilabel=False)
    counts = sample_weights(targets, np.repeat([1.0, 2.0], 4), balanced=balanced).numpy()[:, 0]
    assert counts.mean() == pytest.approx(1)
    assert counts[4] == pytest.approx(2 * counts[0])
    if balanced:
        assert counts[:6].sum() == pytest.approx(counts[6:].sum())
    else:
        assert counts[6] == counts[5]


# The trajectory


@pytest.mark.ci
def test_training_from_the_cache_equals_training_on_images(started):
    """Same seed, three epochs: losses within 1e-3, and no image or frozen layer is touched."""
    head, images, cache = started
    plain = finetune_head(head, images, cache, "heads/plain", FinetuneSettings(**SMALL))
    cached = FinetuneSettings(**SMALL, from_cache=True)
    first = finetune_head(head, images, cache, "heads/first", cached)
    assert len(curve(plain)) == 6
    assert curve(first) == pytest.approx(curve(plain), abs=1e-3)
    assert curve(plain)[-2] < curve(plain)[0]
    shutil.rmtree("data")
    assert curve(finetune_head(head, images, cache, "heads/again", cached)) == curve(first)


@pytest.mark.ci
def test_views_in_the_cache_are_those_made_on_the_fly(started):
    head, images, cache = started
    settings = {**SMALL, "augment": "standard", "epochs": 2}
    fly = finetune_head(head, images, cache, "heads/fly", FinetuneSettings(**settings))
    stored = FinetuneSettings(**settings, views=2, from_cache=True, dtype="float32")
    assert curve(finetune_head(head, images, cache, "heads/stored", stored)) == pytest.approx(
        curve(fly), abs=1e-4
    )
    plain = finetune_head(head, images, cache, "heads/plain", FinetuneSettings(**SMALL))
    assert curve(plain)[0] != pytest.approx(curve(fly)[0], abs=1e-4)


@pytest.mark.ci
def test_pieces_do_not_change_a_step(started):
    head, images, cache = started
    whole = finetune_head(head, images, cache, "heads/whole", FinetuneSettings(**SMALL))
    pieces = FinetuneSettings(**SMALL, accumulate=3)
    found = finetune_head(head, images, cache, "heads/pieces", pieces)
    assert curve(found) == pytest.approx(curve(whole), abs=1e-4)


@pytest.mark.ci
@pytest.mark.parametrize(
    "settings",
    [{"mix": "mixup", "from_cache": True}, {"mix": "cutmix", "unfreeze": "all", "epochs": 2}],
    ids=["activations", "pixels"],
)
def test_mixtures_are_the_same_in_a_resumed_run(started, settings):
    head, images, cache = started
    settings = {**SMALL, **settings}

    def stop(_):
        raise KeyboardInterrupt

    whole = curve(finetune_head(head, images, cache, "heads/whole", **settings))
    with pytest.raises(KeyboardInterrupt):
        finetune_head(head, images, cache, "heads/x", **settings, watch=stop)
    assert curve(finetune_head(head, images, cache, "heads/x", **settings, resume=True)) == whole
    plain = finetune_head(head, images, cache, "heads/plain", **{**settings, "mix": "none"})
    assert curve(plain) != whole


@pytest.mark.ci
def test_gradients_are_clipped(started, monkeypatch):
    """A step of plain gradient descent has the length learning rate times maximum norm."""
    bold = {"cautious": None}  # as one short step is not shown to help
    choice = lambda *own, **options: Choice(*own, **(options | bold))  # noqa: E731
    monkeypatch.setattr("bottleneck.finetune.loop.Choice", choice)
    head, images, cache = started
    head = poor(head)
    settings = FinetuneSettings(
        UNFREEZE, epochs=1, batch_size=24, optimizer="sgd", learning_rate=1.0,
        backbone_lr_factor=1.0, layer_decay=1.0, schedule="constant", warm_up=0.0, weight_decay=0.0,
        clip=1e-3, from_cache=True,
    )  # fmt: skip
    done = finetune_head(head, images, cache, "heads/tuned", settings)
    assert done.head.scores["best_epoch"] == 1
    old = load_weights(find_model("efficientnet_lite0"), "default")[1].load()
    new = load_file("heads/tuned/model.safetensors")
    apart = [float((new[name] - old[name]).double().square().sum()) for name in old]
    for name in ("weight", "bias"):
        change = getattr(done.head.model, name) - getattr(head.model, name)
        apart.append(float(np.square(change, dtype=np.float64).sum()))
    assert sum(apart) ** 0.5 == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.ci
def test_activations_that_memory_does_not_hold_are_read_batch_by_batch(started, monkeypatch):
    head, images, cache = started
    settings = FinetuneSettings(**{**SMALL, "epochs": 2}, from_cache=True)
    held = finetune_head(head, images, cache, "heads/held", settings)
    monkeypatch.setattr("bottleneck.finetune.data.free_memory", lambda: 1000)
    assert curve(finetune_head(head, images, cache, "heads/read", settings)) == curve(held)


@pytest.mark.ci
@pytest.mark.parametrize("clf", ["mlp", "svm", "logreg"])
def test_heads_of_all_kinds_are_saved_as_the_network_scores(started, clf):
    """Trained by each optimizer; the saved head scores as the network did."""
    _, images, cache = started
    layer, pool = {
        "mlp": ("last_conv", "none"),
        "svm": ("last_conv", "avg"),
        "logreg": ("penultimate", "none"),
    }[clf]
    head = fitted(cache, images, clf, layer=layer, pool=pool)
    optimizer = {"mlp": "adamw", "svm": "sgd", "logreg": "rmsprop"}[clf]
    settings = FinetuneSettings(**{**SMALL, "optimizer": optimizer, "epochs": 1}, balanced=True)
    result = finetune_head(head, images, cache, f"heads/{clf}", settings)
    base = load_base(result.head)
    extract_features(images, base, cache)
    val = features_of(result.head.source, cache).split("val")
    right = float((result.head.predict(val.X) == val.labels).mean())
    assert right == result.head.scores["selected"]["accuracy"]
    assert result.head.clf == clf


@pytest.mark.ci
def test_the_recipe_of_chollet(bottleneck):
    """The page's commands, with random weights and one epoch; and from an earlier block."""
    write_images(train=5, test=1)
    (block,) = (each for each in finetuning_commands() if "--recipe chollet" in each)
    extract, fit, tune = block.splitlines()
    earlier = tune.replace("block5_conv1", "block3_conv1") + " --name earlier"
    for line in (f"{extract} --weights random", fit, f"{tune} --epochs 1", f"{earlier} --epochs 1"):
        done = bottleneck(*shlex.split(line)[1:])
        assert done.code == 0, (line, done.err)
    assert read_finetuned("heads/earlier").boundary == "features.9"
    settings = [
        Head.load(f"heads/{name}").hyperparameters for name in ("earlier", "dense-finetuned")
    ]
    assert settings[0] | {"unfreeze": "block5_conv1"} == settings[1]
    head = Head.load("heads/dense-finetuned")
    assert head.hyperparameters | RECIPES["chollet"] | {"clip": None, "epochs": 1} == (
        head.hyperparameters
    )
    layers = list(head.to_module())
    assert [type(each) for each in layers] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert (layers[0].in_features, layers[0].out_features, layers[2].p) == (512 * 4 * 4, 256, 0.5)
    optimizer = make_optimizer(
        tuned(freeze_batch_norm=True), FinetuneSettings("x", **RECIPES["chollet"])
    )
    (group,) = optimizer.param_groups
    assert (type(optimizer), group["lr"]) == (torch.optim.RMSprop, 1e-5)


@pytest.mark.ci
def test_several_classes_per_image():
    """With groups of two images, whose numbers are recorded."""
    folder = write_images(train=10, val=3)
    rows = ["path,label,split,group"]
    for path in sorted(folder.rglob("*.png")):
        label = f"{path.parent.name};{'even' if int(path.stem) % 2 == 0 else ''}"
        split = path.parent.parent.name
        rows.append(f"{path.relative_to(folder)},{label},{split},{split}-{path.stem}")
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    images, cache = ImageSet.open(folder / "list.csv"), Cache("cache")
    head = fitted(cache, images, "logreg")
    assert head.multilabel
    result = finetune_head(head, images, cache, "heads/several", FinetuneSettings(**SMALL))
    assert curve(result)[-2] < curve(result)[0]
    judged = read_finetuned("heads/several").judged
    assert [each["group"] for each in judged] == [0, 1, 2, 0, 1, 2]


@pytest.mark.ci
def test_head_images_and_settings_by_their_names(started):
    """A head's name or folder, an image folder or the head's own images, settings as keywords."""
    head, images, cache = started
    head.save("heads/head")
    settings = {**SMALL, "epochs": 1}
    whole = finetune_head(head, images, cache, "heads/a", FinetuneSettings(**settings))
    named = finetune_head("head", None, "cache", "heads/b", **settings)
    found = finetune_head(Path("heads/head"), Path("data"), "cache", "heads/c", **settings)
    assert curve(whole) == curve(named) == curve(found)
    assert found.head.source.image_set == "data"


@pytest.mark.parametrize("wrong", [None, 3, ["head"]])
def test_an_invalid_head_is_refused_in_one_sentence(wrong):
    with pytest.raises(TypeError, match="^`head` must be a Head, or a head's name or folder, got "):
        finetune_head(wrong, None, "cache", "heads/x", unfreeze=UNFREEZE)
    with pytest.raises(UnknownNameError, match="no head 'gone'"):
        finetune_head("gone", None, "cache", "heads/x", unfreeze=UNFREEZE)
    assert issubclass(WrongTypeError, BottleneckError)


# What comes of it


def test_the_result_is_a_head_and_a_base(bottleneck, started_clear):
    """`evaluate`, `predict`, `layers`, `extract --model`, and an SVM on the new features."""
    head, *_ = started_clear
    poor(head).save("heads/head")
    done = bottleneck(
        *("finetune", "--head", "head", "--unfreeze", UNFREEZE, "--epochs", "2", "--name", "tuned"),
        *("--batch-size", "8", "--learning-rate", "1e-3"),
        *("--picture", "epochs.png", "--tensorboard", "logs"),
    )
    assert done.code == 0, done.err
    assert "saved as heads/tuned, which is both a head and a model" in done.out
    assert Path("epochs.png").stat().st_size > 5000
    assert list(Path("logs/tuned").iterdir())
    assert re.search(
        r"^epoch 2 of 2: loss \d.*validation loss \d.*accuracy", done.err, re.MULTILINE
    )
    names = {path.name for path in Path("heads/tuned").iterdir()}
    assert names == {
        "head.json", "head.safetensors", "history.csv",
        "model.json", "model.safetensors", "head-seen.txt", "seen.txt",
    }  # fmt: skip
    columns = "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,seconds"
    assert Path("heads/tuned/history.csv").read_text().splitlines()[0] == columns
    evaluated = bottleneck("evaluate", "--head", "tuned", "--json")
    assert evaluated.code == 0, evaluated.err
    assert json.loads(evaluated.out)["images"] == 6
    predicted = bottleneck("predict", "--head", "tuned", "data/test/light/0.png")
    assert predicted.code == 0, predicted.err
    assert predicted.out.splitlines()[0].endswith('"novelty"')
    old = load_base(Head.load("heads/head"))
    new = FrozenBase("heads/tuned", precision="fp32")
    assert new.layers == old.layers
    assert new.transform == old.transform
    assert new.fingerprint(*new.layers) != old.fingerprint(*old.layers)
    extracted = bottleneck("extract", "--model", "heads/tuned")
    assert extracted.code == 0, extracted.err
    svm = bottleneck("fit-head", "--clf", "svm", "--name", "svm")
    assert svm.code == 0, svm.err
    assert "32 of 32 train and val images used to train or validate" in svm.err
    assert "so scores on them are too high" not in evaluated.err
    assert Head.load("heads/svm").source.model == "heads/tuned"
    assert bottleneck("evaluate", "--head", "svm").code == 0
    shutil.move("heads/tuned", "elsewhere")
    again = bottleneck("extract", "--model", "elsewhere", "--json")
    assert json.loads(again.out)["computed"] == 0
    assert bottleneck("evaluate", "--head", "elsewhere", "--heads", ".").code == 0
    banks = [bank.info for bank in Cache().banks() if bank.info.weights_name == FINETUNED]
    assert [info.model for info in banks] == ["elsewhere"] * 2  # in two precisions
    assert bottleneck("cache", "verify", "--deep").code == 0
    shutil.rmtree("cache")
    moved = bottleneck("predict", "--head", "elsewhere", "--heads", ".", "data/test/light/0.png")
    assert moved.out == predicted.out


@pytest.mark.ci
def test_what_a_network_was_trained_on_belongs_to_its_features(bottleneck, started_clear):
    """It is known after the model's folder is gone, and never scored as a test image."""
    head, images, cache = started_clear
    finetune_head(poor(head), images, cache, "heads/tuned", FinetuneSettings(**SMALL))
    Path("data/train/light/0.png").rename("data/test/light/trained_on.png")
    assert bottleneck("extract", "--model", "heads/tuned").code == 0
    shutil.move("heads/tuned", "elsewhere")
    fit = ("fit-head", "--C", "1", "--name", "new")
    warned = "31 of 31 train and val images used to train or validate 'heads/tuned'"
    assert warned in bottleneck(*fit).err
    evaluated = bottleneck("evaluate", "--head", "new", "--json")
    assert json.loads(evaluated.out)["images"] == 6
    assert "1 of 7 test images left out, being used to train or validate" in evaluated.err
    (bank,) = [each for each in cache.banks() if each.info.weights_name == "finetuned"]
    write_record(bank.info_file, replace(bank.info, seen=None))  # as earlier versions wrote it
    for command in (fit, ("evaluate", "--head", "new")):
        told = bottleneck(*command)
        assert told.code == 0
        assert "warning: the fine-tuned model 'heads/tuned' is not there" in told.err
    shutil.move("elsewhere", "heads/tuned")
    assert warned in bottleneck(*fit).err
    assert bottleneck("extract", "--model", "heads/tuned").code == 0
    assert len(bank.info.seen) == 32


def test_an_unchanged_network_was_trained_on_nothing(started_clear):
    """No epoch was better than the start, but the head has seen its training images."""
    head, images, cache = started_clear
    finetune_head(poor(head), images, cache, "heads/tuned", FinetuneSettings(**SMALL))
    assert digests_of_network("heads/tuned") == seen_digests("heads/tuned") != frozenset()
    record = read_finetuned("heads/tuned")
    write_record(Path("heads/tuned/model.json"), replace(record, best_epoch=0))
    assert digests_of_network("heads/tuned") == frozenset() != seen_digests("heads/tuned")


def test_only_trained_layers_change(started_clear):
    """And a fine-tuned model can be fine-tuned again."""
    head, images, cache = started_clear
    once = {**SMALL, "epochs": 2}
    first = finetune_head(poor(head), images, cache, "heads/first", FinetuneSettings(**once))
    before = load_weights(find_model("efficientnet_lite0"), "default")[1].load()
    after = load_file("heads/first/model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"blocks", "conv_head", "bn2"}
    assert {name.split(".")[1] for name in changed if name.startswith("blocks")} == {"6"}
    again = {**once, "unfreeze": "conv_head"}
    second = finetune_head(first.head, images, cache, "heads/second", FinetuneSettings(**again))
    assert find_model("heads/second").architecture == "timm:tf_efficientnet_lite0"
    assert json.loads(Path("heads/second/model.json").read_text())["base"] == "efficientnet_lite0"
    best = lowest_loss(first.head)
    assert second.head.scores["start_val_loss"] == pytest.approx(best, abs=1e-3)


@pytest.mark.ci
def test_the_page_on_fine_tuning(bottleneck):
    """Its commands and its Python run unchanged, on a head of that name."""
    images, cache = ImageSet.open(write_images(train=12, test=2)), Cache("cache")
    fitted(cache, images).save("heads/demo-softmax")
    for block in finetuning_commands():
        for line in block.splitlines() if "chollet" not in block else ():
            finished = bottleneck(*shlex.split(line)[1:])
            assert finished.code == 0, (line, finished.err)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(code, "finetune.md", "exec"), {})
    assert Path("heads/tuned/model.safetensors").exists()


@pytest.mark.ci
def test_spoilt_weights_are_noticed(started):
    head, images, cache = started
    finetune_head(head, images, cache, "heads/tuned", FinetuneSettings(**{**SMALL, "epochs": 1}))
    path = Path("heads/tuned/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="do not belong together"):
        FrozenBase("heads/tuned")
    content[-1] ^= 1
    path.write_bytes(content)
    weights = load_file(path)
    weights["conv_head.weight"].view(-1)[0] = float("nan")
    save_file(weights, path)
    record = read_json(Path("heads/tuned/model.json"))
    record["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_json(Path("heads/tuned/model.json"), record)
    with pytest.raises(WeightsError, match="contain nan or inf in conv_head.weight"):
        load_base(Head.load("heads/tuned"))
    Path("heads/tuned/model.json").write_text("{}")
    with pytest.raises(WeightsError, match="cannot be read"):
        FrozenBase("heads/tuned")


def test_the_test_images_are_never_touched(started):
    head, images, cache = started
    shutil.rmtree("data/test")
    result = finetune_head(head, images, cache, "heads/tuned", FinetuneSettings(**SMALL))
    assert (result.train, result.val, result.rejected) == (24, 8, ())


@pytest.mark.ci
def test_images_are_held_out_where_there_are_none(bottleneck):
    """Identical images stay together, and the choice is the same each time."""
    folder = write_images(train=12)
    shutil.copy(folder / "train/dark/0.png", folder / "train/dark/copy.png")
    images, cache = ImageSet.open(folder), Cache("cache")
    fitted(cache, images).save("heads/head")
    command = ("finetune", "--head", "head", "--unfreeze", "conv_head", "--epochs", "1")
    refused = bottleneck(*command)
    assert refused.code == 1
    assert "no validation images, which early stopping needs" in refused.err
    assert "--val-share 0.2" in refused.err
    done = bottleneck(*command, "--val-share", "0.25", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["scores"]["held_out"] == "validation images"
    result = finetune_head(
        Head.load("heads/head"), images, cache, "heads/x",
        FinetuneSettings("conv_head", epochs=1, val_share=0.25),
    )  # fmt: skip
    assert result.train + result.val == 25
    assert result.val in {6, 7}


@pytest.mark.ci
def test_bad_images_are_listed_and_left_out(bottleneck, started):
    head, _, _ = started
    head.save("heads/head")
    shutil.copytree("data", "more")
    Path("more/train/dark/0.png").write_bytes(b"no image")
    Path("more/val/light/0.png").write_bytes(Path("data/val/light/0.png").read_bytes()[:200])
    command = ("finetune", "--head", "head", "--unfreeze", "conv_head", "--epochs", "1")
    done = bottleneck(*command, "--data", "more", "--name", "tuned")
    assert done.code == 1
    assert "2 images could not be used" in done.err
    assert "trained on 23 images, validated on 7" in done.out
    assert bottleneck("evaluate", "--head", "tuned").code == 0


# The start has not seen the validation images


@pytest.fixture
def random_labels() -> Callable[[int], ImageSet]:
    """Return image sets of the same files, which are all train images, with labels at random.

    Six images are there twice.
    """
    files = []
    for number, image in enumerate(crops(40)):
        Path("files").mkdir(exist_ok=True)
        image.save(f"files/{number}.png")
        files.append(f"{number}.png")

    def draw(seed: int) -> ImageSet:
        labels = np.random.default_rng(seed).permutation(np.repeat(["a", "b"], 20))
        rows = [f"{name},{label},train" for name, label in zip(files, labels, strict=True)]
        for number in range(6):
            shutil.copy(f"files/{number}.png", f"files/copy{number}.png")
            rows.append(f"copy{number}.png,{labels[number]},train")
        table = Path(f"files/random{seed}.csv")
        table.write_text("\n".join(["path,label,split", *rows]) + "\n")
        return ImageSet.open(table)

    return draw


def head_on(images: ImageSet, cache: Cache, views: int = 0, **settings) -> Head:
    """Fit a head on all train images, with their augmented views."""
    base = FrozenBase("efficientnet_lite0", ["penultimate"], image_size=(64, 64), precision="fp32")
    augment = {"augment": "flip"} if views else {}
    extract_features(images, base, cache, views=views, **augment)
    return fit_head(load_features(cache), **settings)


HOLDING_OUT = {"unfreeze": "conv_head", "epochs": 1, "batch_size": 16, "val_share": 0.3}


@pytest.mark.ci
def test_random_labels_are_at_chance(random_labels):
    """From images and from the cache, with and without views and duplicates, before and after.

    Before, the head is fitted again without the validation images. After, the epoch was selected
    on them, but not for the number that is called accuracy.
    """
    cache, found, selected = Cache("cache"), [], []
    for seed in range(12):
        images, of_views, cached = random_labels(seed), seed % 2, seed % 4 < 2
        if seed % 8 > 3:
            items = tuple(item for item in images.items if "copy" not in item.path)
            images = replace(images, items=items)
        head = head_on(images, cache, views=of_views, C=10.0)
        rows = load_features(cache).split("train")
        assert (head.predict(rows.X) == rows.labels).all()
        augment = {"augment": "flip", "views": 1} if of_views else {}
        how = {**HOLDING_OUT, "epochs": 2, "from_cache": cached, **augment}
        done = finetune_head(head, images, cache, f"heads/{seed}", **how)
        scores = done.head.scores
        assert scores["start_head"] == "fitted again without the validation images"
        found.append([scores["start_val_accuracy"], scores["accuracy"]])
        best = [scores["start_val_accuracy"]]
        best += [epoch["val_accuracy"] for epoch in scores["history"]]
        assert scores["selected"]["accuracy"] == pytest.approx(best[scores["best_epoch"]])
        selected.append(max(best))
    assert max(map(max, found)) < 1
    for values in zip(*found, strict=True):
        assert abs(np.mean(values) - 0.5) <= 2 * np.std(values, ddof=1) / len(found) ** 0.5
    assert np.mean(selected) > np.mean(found, axis=0)[1]


@pytest.mark.ci
def test_views_and_duplicates_of_a_held_out_image_are_held_out(random_labels, monkeypatch):
    """The settings of the fit stay; only training images, and all of them, are fitted on."""
    cache, images, seen = Cache("cache"), random_labels(0), []
    settings = {"clf": "logreg", "balanced": True, "standardize": False, "seed": 3}
    head = head_on(images, cache, 2, **settings)

    def fit(features, asked, **options):
        seen.append((features, asked))
        return fit_head(features, asked, **options)

    def begin(checkpoint, plan, chosen, refitted):
        seen.append((chosen, refitted))
        return original(checkpoint, plan, chosen, refitted)

    original = Checkpoint.begin
    monkeypatch.setattr("bottleneck.finetune.images.fit_head", fit)
    monkeypatch.setattr(Checkpoint, "begin", begin)
    finetune_head(head, images, cache, "heads/x", **HOLDING_OUT)
    (features, asked), (chosen, _) = seen
    train, val = (
        {item.digest for item in chosen.items if item.split == split} for split in ("train", "val")
    )
    assert not train & val
    assert len(train | val) == 40
    assert set(features.digests) == train
    assert len(set(np.bincount(features.views))) == 1  # as many of each view
    assert {name: getattr(asked, name) for name in settings} == settings
    assert asked.C is None

    def refuse(_, asked, **_options):
        raise DataError(f"fitted on {asked.device}")

    how, network = FinetuneSettings("conv_head", val_share=0.3), replace(head, clf="mlp")
    monkeypatch.setattr("bottleneck.finetune.images.fit_head", refuse)
    with pytest.raises(DataError, match=r"without them \(fitted on cpu\)"):
        head_without(network, images, chosen, cache, how, device="cpu")


@pytest.mark.ci
def test_what_the_result_is_compared_with(started, bottleneck, make_images):
    """Only a head that has seen validation or test images is fitted again; the output says so."""
    head, images, cache = started
    head.save("heads/head")
    command = ("finetune", "--unfreeze", "conv_head", "--epochs", "1", "--head")
    unseen = bottleneck(*command, "head")
    assert "the head as given " in unseen.out
    fit_head(load_features(cache)).save("heads/selected")
    selected = bottleneck(*command, "selected", "--learning-rate", "1")
    assert "the head fitted again without the validation images" in selected.out
    kept = "than the head fitted again without the validation images by more than a standard error"
    assert f"{kept}, so it was sa" in selected.err
    train = {item.digest for item in images.items if item.split == "train"}
    others = ImageSet.open(make_images("others", dark=5, light=5))
    done = finetune_head(head, others, cache, "heads/x", **HOLDING_OUT)
    assert done.head.scores["start_head"] == "as given"
    assert train < seen_digests("heads/x")
    with pytest.raises(UsageError, match="validation images were used to train 'heads/x'; give"):
        finetune_head(done.head, only_train(images), cache, "heads/y", **HOLDING_OUT)
    splits = {"0.png": "val", "1.png": "val", "2.png": "test"}
    items = tuple(
        replace(item, split=splits.get(item.path[-5:], "train"))
        for item in only_train(images).items
    )
    other_split = replace(images, name="other", items=items)
    done = finetune_head(head, other_split, cache, "heads/y", unfreeze="conv_head", epochs=1)
    assert done.head.scores["start_head"] == "fitted again without the validation images"
    assert seen_digests("heads/y") == {item.digest for item in items if item.split != "test"}


def only_train(images: ImageSet) -> ImageSet:
    """Return a set of the train images alone."""
    items = tuple(item for item in images.items if item.split == "train")
    return replace(images, name="train", items=items)


def test_a_head_selected_on_validation_images_is_fitted_again(started):
    """Whatever split they are in now, and if there are others beside them."""
    head, images, cache = started
    settings = FinetuneSettings("conv_head")

    def again(head: Head, images: ImageSet) -> bool:
        chosen = replace(images, items=tuple(each for each in images.items if each.split != "test"))
        return head_without(head, images, chosen, cache, settings, device="cpu") is not None

    features = load_features(cache)
    selected, all_rows = fit_head(features), fit_head(features, rows=np.arange(len(features)))
    train, test = (
        tuple(item for item in images.items if item.split == split) for split in ("train", "test")
    )
    val = tuple(item for item in images.items if item.split == "val")
    more = replace(images, name="more", items=(*train, *val, replace(test[0], split="val")))
    new = replace(
        images, name="new", items=(*train, *(replace(item, split="val") for item in test))
    )
    assert [again(each, more) for each in (head, selected, all_rows)] == [False, True, True]
    assert [again(each, new) for each in (head, selected, all_rows)] == [False, False, True]
    with pytest.raises(
        DataError, match="or it was fitted on others, too; run 'bottleneck fit-head' again"
    ):
        features_of(all_rows.source, cache)
    some = fit_head(features, rows=np.flatnonzero(features.splits == "train")[::2])
    assert some.source == selected.source


def test_a_network_that_is_fitted_again_shows_its_progress(started):
    _, images, cache = started
    chosen, stages = replace(images, items=images.items), []
    fitted = fit_head(load_features(cache), "mlp", hidden=4, epochs=2)
    settings = FinetuneSettings("conv_head")
    again = head_without(
        fitted, images, chosen, cache, settings, device="cpu",
        progress=lambda *told: stages.append(told),
    )  # fmt: skip
    assert again.clf == "mlp"
    assert stages == [("mlp", 1, 2), ("mlp", 2, 2)]


@pytest.mark.ci
def test_a_resumed_run_lists_the_images_that_were_left_out(started):
    head, _, cache = started
    shutil.copy("data/val/dark/0.png", "data/train/dark/val.png")
    images, settings = ImageSet.open("data", name="copies"), {"unfreeze": "conv_head", "epochs": 2}

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune_head(head, images, cache, "heads/x", **settings, watch=stop)
    (left_out,) = finetune_head(head, images, cache, "heads/x", **settings, resume=True).rejected
    assert left_out.reason == "identical to the val image data/val/dark/0.png"


def test_copies_of_held_out_images_are_not_trained_on(started):
    head, _, cache = started
    shutil.copy("data/val/dark/0.png", "data/train/dark/val.png")
    shutil.copy("data/test/light/1.png", "data/train/light/test.png")
    images = ImageSet.open("data", name="copies")
    done = finetune_head(head, images, cache, "heads/x", unfreeze="conv_head", epochs=1)
    assert (done.train, done.val) == (24, 8)
    assert {Path(each.path).name: each.reason for each in done.rejected} == {
        "val.png": "identical to the val image data/val/dark/0.png",
        "test.png": "identical to the test image data/test/light/1.png",
    }
    test = {item.digest for item in images.items if item.split == "test"}
    assert not test & seen_digests("heads/x")


@pytest.mark.ci
def test_a_head_that_cannot_be_fitted_again_is_refused(started, calls):
    """One sentence with what helps, before any image is computed; nothing is left behind."""
    head, images, cache = started
    train = only_train(images)
    items = tuple(
        item if item.path.endswith("/0.png") else replace(item, split="val") for item in train.items
    )
    few = replace(train, name="few", items=items)
    with pytest.raises(DataError, match="but 2 folds need 2.; hold out fewer images"):
        finetune_head(head, few, cache, "heads/x", unfreeze="conv_head")
    bank = cache.named(head.source.bank)
    bank.path.rename("elsewhere")
    with pytest.raises(DataError, match="without them .*; run 'bottleneck extract --model effi"):
        finetune_head(head, train, cache, "heads/x", **HOLDING_OUT, from_cache=True)
    assert calls == [1, 1]  # the check of the base, for each call
    assert not Path("heads").exists()
    Path("elsewhere").rename(bank.path)
    tuned = finetune_head(head, images, cache, "heads/x", unfreeze="conv_head", epochs=1).head
    with pytest.raises(UsageError, match="some of the validation images were used to train 'heads"):
        finetune_head(tuned, train, cache, "heads/y", **HOLDING_OUT)


@pytest.mark.ci
def test_a_second_stage_holds_out_the_same_images(random_labels, make_images):
    """And no others, as the network has been trained on those."""
    cache, images = Cache("cache"), random_labels(0)
    first = finetune_head(head_on(images, cache), images, cache, "heads/x", **HOLDING_OUT)
    second = finetune_head(first.head, images, cache, "heads/y", **HOLDING_OUT)
    assert second.head.scores["start_val_loss"] == pytest.approx(lowest_loss(first.head))
    assert second.head.scores["start_head"] == "selected on the validation images"
    others = ImageSet.open(make_images("others", seed=1, a=5, b=5))
    other = finetune_head(first.head, others, cache, "heads/other", **HOLDING_OUT)
    assert other.head.scores["start_head"] == "as given"
    with pytest.raises(UsageError, match="give the images, `val_share` and `seed` that it was"):
        finetune_head(first.head, images, cache, "heads/z", **{**HOLDING_OUT, "val_share": 0.2})


@pytest.mark.ci
def test_a_resumed_run_starts_from_the_same_head(random_labels, monkeypatch):
    """Even if the features that it was fitted on have gone since; none is resumed without it."""
    cache, images = Cache("cache"), random_labels(0)
    head, settings = head_on(images, cache), {**HOLDING_OUT, "epochs": 2}
    whole = finetune_head(head, images, cache, "heads/whole", **settings)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune_head(head, images, cache, "heads/x", **settings, watch=stop)
    shutil.rmtree(cache.named(head.source.bank).path)
    shutil.copytree("heads/x", "heads/killed")
    resumed = finetune_head(head, images, cache, "heads/x", **settings, resume=True)
    assert curve(resumed) == curve(whole)
    assert resumed.head.scores["start_head"] == whole.head.scores["start_head"]
    assert not Path("heads/x/checkpoint").exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bottleneck.finetune.checkpoints.rmtree", lambda *_, **__: stop(_))
        Checkpoint(Path("heads/killed")).remove()
    with pytest.raises(UsageError, match="no unfinished run in 'heads/killed'"):
        finetune_head(head, images, cache, "heads/killed", **settings, resume=True)


# What goes wrong


def command_of(name: str, *others: object) -> list[str]:
    given = (
        "finetune",
        "--head",
        "head",
        "--unfreeze",
        UNFREEZE,
        "--batch-size",
        8,
        "--name",
        name,
    )
    return [sys.executable, "-m", "bottleneck", *map(str, (*given, *others))]


@pytest.mark.ci
def test_a_killed_run_is_resumed_to_the_same_weights(started):
    """A real kill after the first epoch; the resumed run gives bitwise equal weights."""
    head, images, cache = started
    head.save("heads/head")
    settings = FinetuneSettings(UNFREEZE, batch_size=8, epochs=6)
    state = Path("heads/killed/checkpoint/state.safetensors")
    process = subprocess.Popen(command_of("killed", "--epochs", 6))
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert state.exists()
    head = Head.load("heads/head")
    with pytest.raises(
        UsageError, match="an unfinished run is in 'heads/killed'; continue it with `re"
    ):
        finetune_head(head, images, cache, "heads/killed", settings)
    other = FinetuneSettings(UNFREEZE, batch_size=8, epochs=6, learning_rate=1e-4)
    with pytest.raises(
        UsageError, match="with `learning_rate=0.0005`, not with `learning_rate=0.0001`; give"
    ):
        finetune_head(head, images, cache, "heads/killed", other, resume=True)
    finetune_head(head, images, cache, "heads/killed", settings, resume=True)
    finetune_head(head, images, cache, "heads/whole", settings)
    for name in ("model.safetensors", "head.safetensors"):
        assert Path("heads/killed", name).read_bytes() == Path("heads/whole", name).read_bytes()
    assert not state.parent.exists()
    with pytest.raises(UsageError, match="no unfinished run in 'heads/killed'"):
        finetune_head(head, images, cache, "heads/killed", settings, resume=True)


@pytest.mark.ci
def test_two_processes_equal_one(started):
    """Real processes over gloo: the same losses for the same batch size."""
    head, images, cache = started
    head.save("heads/head")
    done = subprocess.run(
        command_of(
            "two", "--epochs", 3, "--learning-rate", 1e-3, "--devices", 2, "--device", "cpu"
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("saved as heads/two") == 1
    one = finetune_head(head, images, cache, "heads/one", FinetuneSettings(**SMALL))
    two = Head.load("heads/two").scores["history"]
    found = [value for row in two for value in (row["loss"], row["val_loss"])]
    assert found == pytest.approx(curve(one), abs=1e-4)


@pytest.mark.ci
def test_a_training_that_diverges(bottleneck, started):
    """It stops, reports it, and saves the best epoch."""
    head, *_ = started
    head.save("heads/head")
    done = bottleneck(
        *("finetune", "--head", "head", "--unfreeze", UNFREEZE, "--learning-rate", "1e30"),
        *("--clip", "inf", "--name", "tuned", "--warm-up", "0"),
    )
    assert done.code == 1
    assert "the training diverged in epoch 1" in done.err
    assert "give a lower --learning-rate, such as 0.0005" in done.err
    assert "curves: rate too high: the loss is no longer finite in epoch 1; a lower" in done.out
    weight = Head.load("heads/tuned").model.weight
    assert np.array_equal(weight, head.model.weight)
    assert bottleneck("evaluate", "--head", "tuned").code == 0


MEMORY = """
import resource, sys
from pathlib import Path
from bottleneck.cli import main
import bottleneck.finetune, timm
kilobytes = int(Path("/proc/self/status").read_text().partition("VmSize:")[2].split()[0])
limit = 1024 * kilobytes + 700 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
main(sys.argv[1:])
"""


@pytest.mark.ci
@pytest.mark.isa
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and limits a process' memory")
def test_out_of_memory_is_reported_with_the_options_that_help(started, monkeypatch):
    """A step that does not fit into memory: one sentence with the options that help."""
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")  # many cores' threads alone would not fit
    _, images, cache = started
    fitted(cache, images, image_size=(448, 448)).save("heads/head")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, "finetune", "--head", "head", "--unfreeze", "blocks.1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for option in ("--accumulate", "--batch-size", "--precision", "--from-cache"):
        assert option in done.stderr
    assert not Path("heads/head-finetuned").exists()  # so that the next try meets nothing


@pytest.mark.parametrize(
    ("boundary", "settings", "options"),
    [
        ("blocks.5", {"batch_size": 1}, ["`precision=bf16`", "`from_cache`"]),
        (None, {"accumulate": 32}, ["a smaller `batch_size`", "`precision=bf16`"]),
        (
            "blocks.5",
            {"precision": "bf16", "augment": "flip", "accumulate": 32},
            ["a smaller `batch_size`", "`from_cache` `views=8`"],
        ),
        (
            "blocks.5",
            {"precision": "bf16", "augment": "flip", "from_cache": True, "views": 2},
            ["more pieces with `accumulate`", "a smaller `batch_size`"],
        ),
    ],
)
def test_advice_on_memory_names_available_options(boundary, settings, options):
    chosen = FinetuneSettings("blocks.6", **settings)
    split = Split(boundary, "penultimate", {}, ())
    with (
        pytest.raises(MemoryShortError, match=f"give {', or '.join(options)}, or a later"),
        _memory_watched(torch.device("cpu"), chosen, split),
    ):
        raise MemoryError


def test_out_of_memory_quotes_the_library():
    """As oneDNN's message may mean something else; other errors are unchanged."""
    settings, split = FinetuneSettings("blocks.6"), Split(None, "penultimate", {}, ())
    cpu = torch.device("cpu")
    for words, error, said in (
        ("could not create a primitive", MemoryShortError, r"of cpu \(could .* primitive\); give "),
        ("could not execute a primitive", RuntimeError, "^could not execute a primitive$"),
    ):
        with pytest.raises(error, match=said), _memory_watched(cpu, settings, split):
            raise RuntimeError(words)


def test_it_stops_when_patience_is_over(started):
    """With too high rates, the best epoch is kept, which may be the original network."""
    head, images, cache = started
    wild = {**SMALL, "learning_rate": 0.3, "backbone_lr_factor": 1.0, "epochs": 9, "patience": 2}
    done = finetune_head(head, images, cache, "heads/tuned", FinetuneSettings(**wild))
    scores = done.head.scores
    history = [row["val_loss"] for row in scores["history"]]
    seen = [scores["start_val_loss"], *history]
    assert len(history) == scores["best_epoch"] + 2 < 9
    kept = seen[scores["best_epoch"]]
    assert kept == min(seen) or not scores["best_epoch"]  # or too little better than the head
    extract_features(images, load_base(done.head), cache)
    (found,) = validation_losses(done.head, cache, None)
    assert found == pytest.approx(kept, abs=1e-3)


@pytest.mark.ci
def test_probabilities_never_get_worse(started):
    """The temperature is fitted again only if that lowers the validation log loss."""
    head, images, cache = started
    for name, rate in (("better", 1e-3), ("unchanged", 1e-9)):
        settings = FinetuneSettings(**{**SMALL, "learning_rate": rate})
        tuned = finetune_head(head, images, cache, f"heads/{name}", settings).head
        extract_features(images, load_base(tuned), cache)
        after, before = validation_losses(tuned, cache, tuned.temperature, head.temperature)
        assert after <= before + 1e-6


@pytest.mark.ci
@pytest.mark.isa
def test_mixed_precision_starts_from_the_same_scores(started):
    head, images, cache = started
    settings = FinetuneSettings(**{**SMALL, "epochs": 1, "precision": "bf16"})
    done = finetune_head(head, images, cache, "heads/bf16", settings)
    exact = finetune_head(
        head, images, cache, "heads/exact", FinetuneSettings(**{**SMALL, "epochs": 1})
    )
    assert curve(done) != curve(exact)
    assert curve(done) == pytest.approx(curve(exact), abs=0.05)


def test_nonfinite_scores_are_reported(started, monkeypatch):
    head, images, cache = started
    monkeypatch.setattr(Training, "scores", lambda _: np.full((8, 2), np.nan))
    with pytest.raises(DataError, match="are not finite in fp32; give `precision"):
        finetune_head(head, images, cache, "heads/x", FinetuneSettings(**SMALL))
    assert not Path("heads/x").exists()


@pytest.mark.ci
def test_an_image_lost_during_training_is_an_error(started):
    """One sentence; once it is restored, the resumed run equals an uninterrupted one."""
    head, images, cache = started
    settings = FinetuneSettings(**{**SMALL, "epochs": 2})
    lost = Path("data/train/dark/3.png")
    with pytest.raises(DataError, match=r"3.png' can no longer be read .* continue with `resume"):
        finetune_head(head, images, cache, "heads/x", settings, watch=lambda _: lost.rename("kept"))
    Path("kept").rename(lost)
    resumed = finetune_head(head, images, cache, "heads/x", settings, resume=True)
    assert curve(resumed) == curve(finetune_head(head, images, cache, "heads/y", settings))


@pytest.mark.ci
def test_a_changed_policy_is_not_resumed(started):
    head, images, cache = started
    policy = Path("own.yaml")
    policy.write_text("- RandomHorizontalFlip: {p: 0.5}\n")
    settings = FinetuneSettings(**{**SMALL, "epochs": 2}, augment=str(policy))

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune_head(head, images, cache, "heads/x", settings, watch=stop)
    policy.write_text("- RandomHorizontalFlip: {p: 0.9}\n")
    with pytest.raises(UsageError, match="started from another augmentation; give the same"):
        finetune_head(head, images, cache, "heads/x", settings, resume=True)
    policy.write_text("- RandomHorizontalFlip: {p: 0.5}\n")
    finetune_head(head, images, cache, "heads/x", settings, resume=True)
    record = json.loads(Path("heads/x/model.json").read_text())
    assert record["augmentation"]["steps"] == [{"RandomHorizontalFlip": {"p": 0.5}}]


@pytest.mark.ci
def test_a_damaged_checkpoint_is_refused_in_a_sentence(started):
    """Bytes that are not tensors, an incomplete state, and a plan that lacks a key."""
    head, images, cache = started
    settings = FinetuneSettings(**{**SMALL, "epochs": 2})

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune_head(head, images, cache, "heads/x", settings, watch=stop)
    folder = Path("heads/x/checkpoint")
    state, plan = folder / "state.safetensors", folder / "plan.json"
    content, tensors = state.read_bytes(), load_file(state)
    save_file(tensors, state)
    with pytest.raises(DataError, match="state.safetensors' cannot be read .*; remove 'heads/x/ch"):
        finetune_head(head, images, cache, "heads/x", settings, resume=True)
    state.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="state.safetensors' cannot be read .*; remove 'heads/x/ch"):
        finetune_head(head, images, cache, "heads/x", settings, resume=True)
    state.write_bytes(content)
    noted = read_json(plan)
    write_json(plan, {name: noted[name] for name in ("schema", "settings")})
    with pytest.raises(DataError, match=r"plan.json' cannot be read \(it has no 'start'\); remove"):
        finetune_head(head, images, cache, "heads/x", settings, resume=True)
    write_json(plan, {name: noted[name] for name in ("settings", "start")})  # of an older version
    with pytest.raises(
        DataError, match=r"plan.json' cannot be read \('schema' is None, expected 2"
    ):
        finetune_head(head, images, cache, "heads/x", settings, resume=True)
    write_json(plan, noted)
    finetune_head(head, images, cache, "heads/x", settings, resume=True)
    assert not folder.exists()


def test_images_of_a_new_set_are_read_once(started, make_images):
    head, _, cache = started
    images = ImageSet.open(make_images("new", dark=5, light=5))
    seen = []

    def tell(stage, done, total, **_):
        seen.append((stage, done, total))

    settings = FinetuneSettings(**{**SMALL, "epochs": 1}, val_share=0.3)
    finetune_head(head, images, cache, "heads/x", settings, progress=tell)
    checks = [(done, total) for stage, done, total in seen if stage == "check"]
    assert checks == [(number, 10) for number in range(11)]


def test_the_command_has_the_defaults_of_the_settings():
    values = COMMANDS["finetune"].values
    for field in fields(FinetuneSettings):
        assert values[field.name].default == field.default, field.name


@pytest.mark.parametrize(("kept", "lines"), [(2, ["kept: epoch 2"]), (0, [])])
def test_the_picture_marks_what_was_kept(monkeypatch, kept, lines):
    figures = []
    save = "matplotlib.figure.Figure.savefig"
    monkeypatch.setattr(save, lambda figure, *_, **__: figures.append(figure))
    history = [
        {"epoch": epoch, "loss": 1, "accuracy": 0.5, "val_loss": 1 / epoch, "val_accuracy": 0.5}
        for epoch in (1, 2, 3)
    ]
    draw_history(history, kept, "title", "epochs.png")
    labels = [line.get_label() for line in figures[0].axes[1].lines]
    assert labels == ["training images", "held-out images", *lines]


def test_the_start_is_not_replaced(bottleneck, started):
    started[0].save("heads/head")
    done = bottleneck("finetune", "--head", "head", "--unfreeze", UNFREEZE, "--name", "head")
    assert done.code == 2
    assert "--name must differ from the name of --head, got 'head'" in done.err


@pytest.mark.ci
def test_a_network_with_other_scores_is_not_trained(started, monkeypatch):
    """Its head's scores may differ by one thousandth of the largest, for another order of sums."""
    head, images, cache = started
    settings = FinetuneSettings(**{**SMALL, "epochs": 1})

    def start_with(factor: float) -> None:
        other = Affine(*(each * np.float32(factor) for each in head.model.arrays.values()))
        monkeypatch.setattr(Head, "to_module", lambda _: module_of(other, Adjust()))
        finetune_head(head, images, cache, "heads/x", settings)

    start_with(1.0001)
    with pytest.raises(BottleneckError, match="this is a bug in this package"):
        start_with(1.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unfreeze": "blocks.99"}, "no layer 'blocks.99' in efficientnet_lite0"),
        ({"unfreeze": "classifier"}, "'classifier' of efficientnet_lite0 lies above the head's"),
        (
            {"unfreeze": "global_pool"},
            "nothing to train between itself and the head's layer 'penultimate'",
        ),
        ({"unfreeze": "all", "from_cache": True}, "leaves no frozen activations to cache"),
        ({"learning_rate": 0.0}, "`learning_rate` must be a number above 0, got 0.0"),
        ({"epochs": 0}, "`epochs` must be a whole number of at least 1, got 0"),
        (
            {"optimizer": "adam"},
            "`optimizer` must be adamw, sgd or rmsprop, got 'adam'; did you mean 'adamw'?",
        ),
        ({"precision": "16-mixed"}, "`precision` must be fp32, bf16 or fp16, got '16-mixed'"),
        ({"precision": "fp16"}, "`precision=fp16` needs a GPU"),
        ({"augment": "flop"}, "path of a .yaml file; did you mean 'flip'"),
        ({"augment": "flip", "from_cache": True}, "give `views=8` for 8 views of each image"),
        ({"views": 3}, "would all be the same; give `augment`"),
        ({"mix": "mixed"}, "`mix` must be none, mixup or cutmix, got 'mixed'"),
        ({"mix_alpha": 1.0}, "`mix_alpha` has no effect without `mix`; give `mix=mixup` or"),
        ({"val_share": 0.2}, "has 8 validation images already; leave `val_share` out"),
    ],
)
def test_mistakes_are_reported_in_one_sentence(started, settings, message):
    head, images, cache = started
    with pytest.raises(BottleneckError) as told:
        finetune_head(
            head, images, cache, "heads/x", FinetuneSettings(**{**SMALL, **settings}), device="cpu"
        )
    assert message in str(told.value)
    assert not Path("heads").exists()


@pytest.mark.ci
def test_mismatched_heads_and_images_are_refused(started, make_images):
    head, images, cache = started
    settings = FinetuneSettings(**SMALL)
    with pytest.raises(UsageError, match="a knn head has no weights to train"):
        finetune_head(fitted(cache, images, "knn"), images, cache, "heads/x", settings)
    others = ImageSet.open(make_images("others", cat=4, dog=4))
    with pytest.raises(DataError, match="have the classes cat, dog; expected those of the head"):
        finetune_head(head, others, cache, "heads/x", FinetuneSettings(**SMALL, val_share=0.5))
    copied = next(i for i in images.items if (i.split, i.label) == ("val", "light"))
    unbalanced = tuple(
        replace(copied, split="train") if (i.split, i.label) == ("train", "light") else i
        for i in images.items
    )
    with pytest.raises(DataError, match="'some' has no usable train image of light; expected some"):
        some = replace(images, name="some", items=unbalanced)
        finetune_head(head, some, cache, "heads/x", settings)
    kept = {item.label: item for item in images.items if item.split == "train"}
    lone = tuple(kept[label] for label in kept)
    remedy = "'bottleneck extract --min-images 2', and run 'bottleneck fit-head' again"
    with pytest.raises(DataError, match=rf"one to hold out; add images, or .* with {remedy}"):
        few = replace(images, name="few", items=lone)
        finetune_head(head, few, cache, "heads/x", FinetuneSettings(**SMALL, val_share=0.5))
    Path("heads/x").mkdir(parents=True)
    Path("heads/x/letter.txt").touch()
    with pytest.raises(UsageError, match="'heads/x' already exists and is not a head"):
        finetune_head(head, images, cache, "heads/x", settings)
    renamed = ImageSet.open(make_images("renamed", dark=4, light=4), name=images.name)
    with pytest.raises(UsageError, match="has an image set 'data' with other images"):
        finetune_head(head, renamed, cache, "heads/y", settings)
    plain = tuple(replace(item, label=None, split=None) for item in images.items)
    with pytest.raises(DataError, match="'bare' has no labelled train images; expected some of"):
        finetune_head(head, replace(images, name="bare", items=plain), cache, "heads/y", settings)
    with pytest.raises(DataError, match="no image set 'data' in the cache folder 'nowhere'"):
        default_images(head, Cache("nowhere"))
    with pytest.raises(WeightsError, match="is not the base that computed these features"):
        finetune_head(head, images, cache, "heads/z", settings, weights="random:1")
    imported = replace(head, source=replace(head.source, weights="imported"))
    with pytest.raises(UsageError, match="imported features of 'efficientnet_lite0'"):
        finetune_head(imported, images, cache, "heads/z", settings)
    wide = replace(head, source=replace(head.source, adjustments={"keep_aspect": True}))
    with pytest.raises(
        UsageError, match="with `keep_aspect`, on images of any proportions.*; extract without it"
    ):
        finetune_head(wide, images, cache, "heads/z", settings)
    assert not Path("heads/z").exists()
