"""The zoo: names, shapes, aliases and costs of every model, pinned in ``zoo.json``.

``python tests/test_zoo.py`` writes that file anew, and the package's own table of models first.
Look at their diffs before you commit them. About 6 s in the first tier.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torchvision
from torch import nn

from bottleneck.bases import Model, ModelRow, find_model, list_models, model_names, timm_release
from bottleneck.bases.graphs import module_of
from bottleneck.bases.libraries import TEXTBOOK_NAMES, from_torchvision
from bottleneck.bases.network import Network
from bottleneck.bases.timm_models import from_timm
from bottleneck.bases.zoo import TABLE

SPELLED_OUT = (
    "densenet121",
    "inception_v3",
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "resnet50v2",
    "vgg16",
    "xception",
)
"""One of each family with Keras' names, and their aliases one by one."""
# From results/results-imagenet.csv of timm's repository, for MobileNet from its README (August
# 2024): the images have 224 pixels for MobileNet, 288 for the two ResNets, else what timm uses.
TIMM_TOP1 = {
    "inception_resnet_v2.tf_in1k": 80.462,
    "inception_resnet_v2.tf_ens_adv_in1k": 79.978,
    "legacy_xception.tf_in1k": 79.040,
    "mobilenetv1_100.ra4_e3600_r224_in1k": 75.382,
    "nasnetalarge.tf_in1k": 82.626,
    "resnetv2_50.a1h_in1k": 81.398,
    "resnetv2_101.a1h_in1k": 83.002,
}
"""Published ImageNet accuracies in percent, by timm's names of architecture and weights."""
GOLDEN = Path(__file__).with_name("zoo.json")
PINNED = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


@cache
def traced(name: str) -> Network:
    return Network(find_model(name))


def parameters_of(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.root.parameters())


def top1_of(model: Model, weights: str) -> float | None:
    """The published accuracy, which timm itself does not tell."""
    architecture = model.architecture.removeprefix("timm:")
    known = model.weights.get(weights)
    return TIMM_TOP1.get(f"{architecture}.{weights}", known and known.top1)


def describe(name: str) -> dict:
    """What is pinned of a model; the digest covers all names, shapes, axes, aliases and costs."""
    model, network = find_model(name), traced(name)

    def shown(layer: str) -> str:
        return f"{layer} {'x'.join(map(str, network.layers[layer].shape))}"

    lines = [
        f"{layer.name} {layer.shape} {layer.axes} {layer.aliases} {layer.multiply_adds}"
        for layer in network.layers.values()
    ]
    words = ("last_conv", "penultimate", "logits")
    return {
        "architecture": model.architecture,
        "input": "x".join(map(str, network.image_size)),
        "parameters": parameters_of(network),
        "weights": {weights: top1_of(model, weights) for weights in model.weights},
        "default": [shown(layer) for layer in network.in_order([model.default_layer])],
        "words": {word: shown(network.aliases[word]) for word in words},
        "blocks": [shown(layer) for layer in network.blocks],
        "aliases": {alias: shown(layer) for alias, layer in network.aliases.items()}
        if name in SPELLED_OUT
        else len(network.aliases),
        "layers": len(network.layers),
        "digest": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    }


def row_of_timm(theirs: str, ours: str) -> ModelRow:
    model = from_timm(theirs, ours)
    top1 = top1_of(model, next(iter(model.weights), ""))
    return replace(ModelRow.of(model), parameters=parameters_of(traced(ours)), top1=top1)


def rows_of_the_libraries() -> list[ModelRow]:
    """What torchvision and timm say of their models; the parameters of timm's are counted."""
    rows = [
        *(
            ModelRow.of(from_torchvision(name))
            for name in torchvision.models.list_models(torchvision.models)
        ),
        *(row_of_timm(theirs, ours) for ours, theirs in TEXTBOOK_NAMES.items()),
    ]
    return sorted(rows, key=lambda row: row.name)


def write_table() -> None:
    found = {
        "models": [asdict(row) for row in rows_of_the_libraries()],
        "timm": {"version": timm.__version__, "names": timm.list_models()},
    }
    TABLE.write_text(json.dumps(found, indent=1) + "\n")


@pytest.mark.ci
def test_the_table_is_what_the_libraries_say():
    rows, errors = list_models()
    of_packages = [find_model(name) for name in model_names() if name.startswith("efficientnet_li")]
    assert not errors
    assert len(of_packages) == 3
    assert rows == sorted(
        [*rows_of_the_libraries(), *map(ModelRow.of, of_packages)], key=lambda row: row.name
    )


def test_the_table_names_the_models_of_one_version_of_timm():
    version, names = timm_release()
    assert version != timm.__version__ or names == timm.list_models()
    assert set(TEXTBOOK_NAMES.values()) <= set(names)


def test_every_model_is_pinned():
    assert sorted(PINNED) == sorted(model_names())


FIRST = {
    "alexnet",
    "resnet18",
    "mobilenet_v3_small",
    "squeezenet1_1",
    "vit_b_32",
    "xception",
    "mobilenet",
    "efficientnet_lite0",
}
"""Models of the first tier."""


def in_tiers(names: list[str]) -> pytest.MarkDecorator:
    """Parametrize by model, with the others in the second tier."""
    marks = {name: [] if name in FIRST else [pytest.mark.ci] for name in names}
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=own) for name, own in marks.items()]
    )


@in_tiers(model_names())
def test_a_model_is_as_pinned(name):
    assert describe(name) == PINNED[name]


@in_tiers(torchvision.models.list_models(torchvision.models))
def test_multiply_adds_and_parameters_are_those_that_torchvision_publishes(name):
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    network = traced(name)
    counted = network.layers[network.aliases["logits"]].multiply_adds
    # Published to a thousandth of a giga; its count of shifted windows differs by 0.3%.
    assert counted / 1e9 == pytest.approx(meta["_ops"], rel=0.005, abs=6e-4)
    if name != "googlenet":  # published without its auxiliary classifiers
        assert parameters_of(network) == meta["num_params"]


BIG = ("base", "large", "so400m", "so150m", "xl", "_b_", "_l_")
BIGGEST = ("huge", "giant", "gigant", "_5b_", "_7b_")
"""Parts of the names of networks with many weights; some of billions take them all in memory."""


def are_in(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


def families() -> list[str]:
    """A small network of each family: of each first word of the names in each of timm's modules."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in timm.list_models():
        word = re.match("(tf_|test_|legacy_)?[a-z]+", name)
        found.setdefault((timm.model_entrypoint(name).__module__, word[0]), []).append(name)
    refused = ("deepseek_vit",)  # it pads images with a border
    smallest = (
        min(names, key=lambda each: (*(are_in(each, of) for of in (BIGGEST, BIG)), len(each), each))
        for names in found.values()
    )
    return [name for name in smallest if not name.startswith(refused)]


OF_SEVERAL = {"crossvit_9_240": 256, "efficientvim_m1": 320}
"""Networks with a classifier for each of several vectors, and the width of the last one."""
HIDDEN = {"caformer_b36": 3072, "convformer_b36": 3072}
"""Networks whose classifier has a hidden layer, and its width."""
NO_LAST_CONV = {"coat_mini", "crossvit_9_240", "gemma4_vit_167m"}
"""Networks whose last tokens are those of several grids, or of none."""


@pytest.mark.ci
@pytest.mark.parametrize("name", families())
def test_words_of_timms_families_have_the_shapes_that_timm_tells(name):
    network = Network(find_model(f"timm:{name}"))
    root: Any = network.root
    shapes = {word: network.layers[layer].shape for word, layer in network.aliases.items()}
    told = getattr(root, "head_hidden_size", root.num_features)
    assert math.prod(shapes["penultimate"]) == (OF_SEVERAL | HIDDEN).get(name, told)
    assert shapes["logits"] == (root.num_classes or told,)
    assert ("last_conv" in shapes) == (name not in NO_LAST_CONV)
    costs = [layer.multiply_adds for layer in network.layers.values()]
    assert network.layers[network.aliases["logits"]].multiply_adds == max(costs) > 10**6
    if "last_conv" in shapes:
        last, order = network.aliases["last_conv"], list(network.layers)
        assert network.layers[last].axes.endswith(("CHW", "HWC", "TC"))
        end = next(reversed(network.blocks), last)
        passes = isinstance(module_of(root, network.nodes[end]), nn.MaxPool2d | nn.Identity)
        assert order.index(last) >= order.index(end) - passes


if __name__ == "__main__":
    write_table()
    described = {name: describe(name) for name in model_names()}
    GOLDEN.write_text(json.dumps(described, indent=1) + "\n")
