"""Bases from other packages: real distributions with real entry points. About 2 s."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.bases import find_model, model_names
from bottleneck.errors import PluginError, UsageError, WeightsError

MODULE = """
from torch import nn
from bottleneck.bases import Model, PretrainedWeights, Transform

TRANSFORM = Transform((36, 36), (32, 32), "bilinear", (0.5,) * 3, (0.25,) * 3)

def network(_):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )

def weights():
    return {name: tensor * 0 + 0.5 for name, tensor in network(None).state_dict().items()}

def tiny():
    trained = PretrainedWeights(weights, TRANSFORM, "the package tiny-bases", top1=12.5)
    return Model("tiny", "tiny:tiny", network, TRANSFORM, {"halves": trained}, default_layer="3")

def raising():
    raise OSError("no such file")

def unbuildable():
    return Model("unbuildable", "tiny:x", lambda _: {}["x"], TRANSFORM)

def weightless():
    flat = nn.Sequential(nn.ReLU(), nn.Flatten())
    return Model("weightless", "tiny:x", lambda _: flat, TRANSFORM)

def unloadable():
    broken = {name: PretrainedWeights(load, TRANSFORM, "tiny-bases") for name, load in LOADERS}
    return Model("unloadable", "tiny:tiny", network, TRANSFORM, broken, default_layer="3")

def no_module():
    import no_such_module

class Derived(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.doubled = self.conv.weight * 2

    def forward(self, images):
        return nn.functional.conv2d(images, self.doubled)

def derived():
    return Model("derived", "tiny:x", lambda _: Derived(), TRANSFORM)

LOADERS = [("import", no_module), ("module", lambda: network(None))]

def no_model():
    return "tiny"

def misnamed():
    return tiny()

def resnet18():
    return tiny()
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a distribution that brings models: ``installed(tiny="tiny_bases:tiny")``."""

    def install(distribution: str = "tiny-bases", **points: str) -> None:
        site = tmp_path / "site"
        folder = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        folder.mkdir(parents=True)
        (site / "tiny_bases.py").write_text(MODULE)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[bottleneck.bases]", *lines]))
        monkeypatch.syspath_prepend(str(site))

    yield install
    sys.modules.pop("tiny_bases", None)


def test_a_package_provides_a_base(installed, bottleneck, make_images):
    installed(tiny="tiny_bases:tiny")
    assert "tiny" in model_names()
    base = FrozenBase("tiny")
    assert base.weights_name == "halves"
    assert base(torch.zeros(1, 3, 32, 32))["3"].tolist() == [[0.5] * 8]
    make_images(cat=6, dog=6)
    finished = bottleneck("extract", "--model", "tiny", "--layer", "penultimate")
    assert finished.code == 0, finished.err
    finished = bottleneck("fit-head")
    assert "8 features of tiny penultimate" in finished.out
    assert bottleneck("predict", "data").code == 0
    printed = bottleneck("models", "--wide").out
    (row,) = (line.split() for line in printed.splitlines() if line.startswith("tiny "))
    assert row == ["tiny", "tiny", "-", "32", "x", "32", "halves", "3", "12.5"]
    images = ImageSet.from_folder(Path("data"))
    assert extract_features(images, base, Cache("cache")).computed == 0


def test_packages_that_are_installed_or_removed_meanwhile_are_noticed(installed):
    """Although their metadata are read once."""
    installed(tiny="tiny_bases:tiny")
    assert "tiny" in model_names()
    folder = Path("site/other-1.0.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\n")
    (folder / "entry_points.txt").write_text("[bottleneck.bases]\nsmall = tiny_bases:tiny\n")
    assert {"tiny", "small"} <= set(model_names())
    shutil.rmtree(folder)
    assert "small" not in model_names()


def test_the_embedded_models_use_the_same_door():
    assert find_model("efficientnet_lite2").architecture == "timm:tf_efficientnet_lite2"
    assert {f"efficientnet_lite{number}" for number in range(3)} <= set(model_names())


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("raising", "tiny_bases:raising", "cannot be loaded \\(OSError: no such file\\); expected"),
        ("absent", "tiny_bases:absent", "cannot be loaded \\(AttributeError"),
        ("absent", "no_such_module:x", "cannot be loaded \\(ModuleNotFoundError"),
        ("no_model", "tiny_bases:no_model", "is str; expected a callable"),
        ("misnamed", "tiny_bases:misnamed", "is a model 'tiny'; expected"),
        ("resnet18", "tiny_bases:resnet18", "provided by torchvision or timm and by tiny-bases"),
    ],
)
def test_a_broken_package_is_reported_and_breaks_nothing_else(
    installed, bottleneck, name, value, sentence
):
    installed(**{name: value})
    with pytest.raises(PluginError, match=sentence):
        find_model(name)
    finished = bottleneck("models")
    assert finished.code == 0
    assert f"note: model '{name}'" in finished.err
    assert "resnet50 " in finished.out
    assert find_model("resnet50").name == "resnet50"


def test_networks_and_weights_that_break(installed):
    """What a package's own code raises later is one sentence, too."""
    names = ("unbuildable", "weightless", "unloadable", "derived")
    installed(**{name: f"tiny_bases:{name}" for name in names})
    with pytest.raises(UsageError, match=r"unbuildable cannot be run on .* \(KeyError: 'x'\)"):
        FrozenBase("unbuildable", weights="random")
    with pytest.raises(UsageError, match="it stores doubled, which is computed from weights"):
        FrozenBase("derived", weights="random")
    base = FrozenBase("weightless", weights="random")
    assert base.shapes == {"1": (3 * 32 * 32,)}
    for weights in ("import", "module"):
        with pytest.raises(WeightsError, match=f"weights {weights} of unloadable in tiny-bases"):
            FrozenBase("unloadable", weights=weights)


def test_two_packages_with_a_model_of_one_name(installed):
    installed(tiny="tiny_bases:tiny")
    installed("other-bases", tiny="tiny_bases:tiny")
    with pytest.raises(PluginError, match="by (tiny|other)-bases and by .*; uninstall all but one"):
        find_model("tiny")
