"""Networks that cannot be traced: layers by forward hooks. About 4 s in the first tier."""

import ctypes
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from bottleneck import FrozenBase
from bottleneck.bases import Model, Transform, find_model, frozen, network
from bottleneck.bases.network import Network
from bottleneck.bases.splitting import split_network, upper_part
from bottleneck.bases.weights import load_weights
from bottleneck.errors import UsageError

SIDE = 32
PIXELS = Transform((SIDE, SIDE), (SIDE, SIDE), "bilinear", (0.5,) * 3, (0.5,) * 3)


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + self.two(self.act(self.norm(self.one(maps))))


class Untraced(nn.Module):
    """A network whose path depends on values, with a constant that no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.scale = nn.Parameter(torch.rand(4))
        self.head = nn.Linear(4, 5)
        self.unused = nn.Linear(4, 5)
        self.register_buffer("table", torch.linspace(0, 1, 8), persistent=False)
        self.calls = 0

    def forward(self, images: torch.Tensor, mask: torch.Tensor | None = None) -> dict:
        maps = self.stem(images) + self.table
        if maps.sum().item() > 1e9 or mask is not None:
            maps = maps / 2
        maps = self.blocks(maps) * self.scale[:, None, None]
        self.calls += 1
        return {"scores": self.head(maps.mean((2, 3)))}


def use(monkeypatch, build, name="untraced") -> Model:
    """Let a network be found by its name."""
    model = Model(name, f"test:{name}", lambda _: build(), PIXELS)
    monkeypatch.setattr(frozen, "find_model", lambda _: model)
    return model


def plain(model: Model) -> nn.Module:
    found = model.build(model.transform.crop)
    found.load_state_dict(load_weights(model, "random")[1].load())
    return found.eval()


def test_layers_are_the_results_of_modules_with_shapes_and_costs(monkeypatch):
    found = Network(use(monkeypatch, Untraced))
    assert "TraceError" in found.untraced
    assert found.aliases == {
        "last_conv": "blocks.2.forward",
        "penultimate": "head.input",
        "logits": "head",
    }
    assert found.blocks == tuple(f"blocks.{number}.forward" for number in range(3))
    assert found.resolve("block.-1") == found.resolve("blocks") == ("blocks.2.forward",)
    layer = found.layers["blocks.0.one"]
    assert (layer.shape, layer.axes) == ((4, 8, 8), "CHW")
    assert layer.multiply_adds == 8 * 8 * 4 * (3 * 16 + 4 * 9)


def test_features_are_those_of_the_network(monkeypatch):
    """Also what an in-place operation overwrites; nothing after the deepest layer is computed."""
    model = use(monkeypatch, Untraced)
    network, images = plain(model), torch.rand(2, 3, SIDE, SIDE)
    maps = network.stem(images)
    normed = network.blocks[0].norm(network.blocks[0].one(maps + network.table))
    layers = ["stem", "blocks.0.norm", "penultimate", "logits"]
    base = FrozenBase("untraced", layers, weights="random", precision="fp32")
    with torch.no_grad():
        expected = network(images)["scores"]
        torch.testing.assert_close(base(images)["stem"], maps)
        torch.testing.assert_close(base(images)["blocks.0.norm"], normed)
        torch.testing.assert_close(base(images)["head"], expected)
    few = base.cut(["blocks.0.norm"])
    assert set(few(images)) == {"blocks.0.norm"}
    (compute,) = few._computes.values()
    assert compute._network.calls == 0
    assert few.canary()["blocks.0.norm"] == base.canary()["blocks.0.norm"]
    assert base.fingerprint("stem") != base.fingerprint("head")


def test_the_fingerprint_covers_the_weights_up_to_the_layer(monkeypatch):
    found = Network(use(monkeypatch, Untraced))
    stem, deep = found.tensors("stem"), found.tensors("head")
    assert {"stem.weight", "table", "scale"} <= set(stem)
    assert not any(name.startswith(("blocks", "head")) for name in stem)
    assert "blocks.2.norm.running_mean" in deep
    assert "blocks.2.norm.num_batches_tracked" not in deep


def test_the_upper_blocks_are_trained_from_images_on(monkeypatch):
    model = use(monkeypatch, Untraced)
    found, images = Network(model), torch.rand(2, 3, SIDE, SIDE)
    split = split_network(found, "blocks.2", found.resolve("penultimate")[0])
    assert split.boundary is None
    assert all(name.startswith("blocks.2.") for name in split.trained)
    upper = upper_part(found, split, load_weights(model, "random")[1].load() | found.constants)
    with torch.no_grad():
        before = plain(model)
        maps = before.blocks(before.stem(images) + before.table) * before.scale[:, None, None]
    result = upper.forward(images)
    torch.testing.assert_close(result, maps.mean((2, 3)))
    result.sum().backward()
    changed = {name for name, each in upper.named_parameters() if each.grad is not None}
    assert changed == set(split.trained)


def test_bfloat16_is_near(monkeypatch):
    use(monkeypatch, Untraced)
    images = torch.rand(2, 3, SIDE, SIDE)
    exact, near = (
        FrozenBase("untraced", weights="random", precision=each)(images)["head.input"]
        for each in ("fp32", "bf16")
    )
    torch.testing.assert_close(near, exact, rtol=0.05, atol=0.05)


class Large(nn.Module):
    """A network of 400 MB whose path depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2000, SIDE)
        self.blocks = nn.Sequential(*(nn.Linear(2000, 2000) for _ in range(25)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stem(images).flatten(1)
        return self.blocks(maps if maps.sum().item() < 1e9 else -maps)


_MMAP_THRESHOLD = -3
"""Number of glibc's option for the size of blocks that have memory of their own."""


def measured_large() -> tuple[float, int]:
    """Bytes that measuring it adds to the most that this process had, and its layers."""
    torch.set_num_threads(1)
    # Freed blocks then return to the system, and do not lie between small ones.
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**20)
    Network(Model("small", "test:small", lambda _: Untraced(), PIXELS))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = Network(Model("large", "test:large", lambda _: Large(), PIXELS))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) * 1024, len(found.layers)


def test_a_large_network_is_measured_without_the_memory_of_its_weights(processes):
    with ProcessPoolExecutor(1, mp_context=processes) as pool:
        added, layers = pool.submit(measured_large).result()
    assert layers > 25
    assert added < 150e6


class Several(nn.Module):
    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        return images + texts


class Nothing(nn.Module):
    def forward(self, images: torch.Tensor) -> str:
        return f"{len(images)} images" if images.shape[0] else ""


class OneNumber(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (Several, "Several takes 2 inputs \\(images, texts\\); expected a network that takes one"),
        (Nothing, "its output has no tensor with a row for each image"),
        (OneNumber, "its output has no tensor with a row for each image"),
    ],
)
def test_networks_that_are_no_bases(monkeypatch, build, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        Network(use(monkeypatch, build))
    assert "\n" not in str(caught.value)


class Masked(nn.Module):
    """A network that masks its maps at random, as masked autoencoders do."""

    def __init__(self, draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.stem, self.head, self.draw = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 5), draw

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stem(images)
        return self.head((maps * self.draw(maps)).mean((2, 3)))


def by_value(maps: torch.Tensor) -> torch.Tensor:
    return torch.randn(4, 1, 1) if maps.sum().item() else torch.ones(1)


def by_numpy(maps: torch.Tensor) -> torch.Tensor:
    if not maps.sum().item():
        return torch.ones(1)
    return torch.from_numpy(np.random.default_rng().normal(size=(4, 1, 1))).float()


@pytest.mark.parametrize("draw", [torch.rand_like, lambda _: torch.rand(8, 8), by_value, by_numpy])
def test_a_network_that_draws_at_random_is_refused(monkeypatch, draw):
    """In its graph, while it is traced, and in code of its own; layers before that can be used."""
    name = use(monkeypatch, lambda: Masked(draw), draw.__name__).name
    with pytest.raises(UsageError, match="two results for the same images, .* layer 'head'"):
        FrozenBase(name, ["head"], weights="random").canary()
    assert FrozenBase(name, ["stem"], weights="random").canary()["stem"]


@pytest.mark.ci
@pytest.mark.parametrize("name", ["resnet18", "timm:convnext_atto", "timm:vit_tiny_patch16_224"])
def test_a_network_gives_the_same_hooked_and_traced(monkeypatch, name):
    layers = ["block.0", "block.-2", "penultimate", "logits"]
    options = {"weights": "random", "precision": "fp32"}
    model = find_model(name)
    images = torch.randn(2, 3, *model.transform.crop)
    expected = FrozenBase(name, layers, **options)
    network.traced.cache_clear()
    monkeypatch.setattr(network, "Traced", None)
    hooked = FrozenBase(name, layers, **options)
    network.traced.cache_clear()
    assert hooked.network.untraced
    pairs = zip(expected(images).values(), hooked(images).values(), strict=True)
    for one, other in pairs:
        assert float((one - other).abs().max()) <= 1e-4 * float(one.abs().max())
