"""Fused networks and precisions compute what the plain network does.

About 8 s in the first tier.
"""

import copy
import os
import subprocess
import sys
from itertools import product

import pytest
import torch
from timm.layers import Conv2dSame
from torch import fx, nn

from bottleneck import FrozenBase
from bottleneck.bases import find_model
from bottleneck.bases.fusing import SHAPE, USERS, fuse
from bottleneck.bases.precision import find_devices
from bottleneck.errors import UnknownNameError, UsageError

CPU = torch.device("cpu")
FULL, ISA = pytest.mark.ci, pytest.mark.isa


def base(model="squeezenet1_1", layers=("features.12",), **options) -> FrozenBase:
    return FrozenBase(model, layers, weights="random", **{"precision": "fp32"} | options)


# Networks with batch normalisation before and after convolutions, activations of each kind,
# convolutions with other paddings, and layers in the middle of what could be put together.
@ISA
@pytest.mark.parametrize(
    ("model", "layer"),
    [
        ("resnet18", "layer1.0.conv1"),
        ("resnet18", "layer1.0.bn1"),
        ("resnet18", "layer1.0.relu"),
        ("densenet121", "features.denseblock1"),
        pytest.param("mobilenet_v3_small", "features.4", marks=FULL),
        ("efficientnet_b0", "features.2"),
        ("efficientnet_lite0", "blocks.1"),
    ],
)
def test_a_fused_network_computes_the_same(model, layer):
    torch.manual_seed(3)
    root = find_model(model).build((96, 96)).eval()
    for module in root.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh ones would hardly do anything
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    torch.save(root.state_dict(), "weights.pth")
    ours = FrozenBase(model, [layer], weights="weights.pth", precision="fp32", image_size=(96, 96))
    plain = ours.network.cut(ours.layers, ours._tensors)
    images = torch.randn(3, 3, 96, 96)
    with torch.inference_mode():
        (expected,) = plain(images).values()
    (found,) = ours(images).values()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=FULL)])
@pytest.mark.parametrize(
    ("model", "layers"),
    [
        pytest.param(
            "resnet18",
            ["conv1", "bn1", "relu", "layer1.0.conv1", "layer1.0.bn1", "layer2.0.bn2"],
            marks=ISA,
        ),
        pytest.param("vgg11", ["features.0", "features.3", "features.6", "features.8"], marks=FULL),
        ("mobilenet_v3_small", ["features.0.0", "features.4.block.0.1", "features.5.block.0.0"]),
        pytest.param(
            "efficientnet_lite0",
            ["conv_stem", "bn1", "blocks.1.0.conv_pw", "blocks.1.0.bn1"],
            marks=FULL,
        ),
        pytest.param(
            "densenet121", ["features.norm0", "features.denseblock1.denselayer1.norm2"], marks=FULL
        ),
        pytest.param(
            "resnet50v2", ["stages.0.blocks.0.conv1", "stages.0.blocks.0.norm2"], marks=FULL
        ),
    ],
)
def test_a_layer_is_the_same_whichever_others_are_computed(model, layers, precision):
    """Inside fused operations and at their end, for networks cut there or later."""
    options = {"precision": precision, "image_size": (64, 64)}
    together = base(model, [*layers, "penultimate"], **options)
    images = torch.randn(4, 3, 64, 64)
    expected = together(images)
    assert len(expected) == len(layers) + 1
    for layer in together.layers:
        (found,) = base(model, [layer], **options)(images).values()
        assert torch.equal(found, expected[layer]), layer


def test_convolutions_take_normalisation_and_activation_along():
    extractor = base("resnet18", ["layer4"])
    (compute,) = extractor._computes.values()
    names = [type(module).__name__ for module in compute.modules()]
    assert "BatchNorm2d" not in names
    called = [
        type(compute.get_submodule(node.target)).__name__
        for node in compute.graph.nodes
        if node.op == "call_module"
    ]
    assert called.count("ReLU") == 8  # behind the additions; the other nine went along
    assert "Conv2d" not in names


@ISA
@pytest.mark.parametrize("groups", [1, 12])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "traced"),
    [
        (3, 2, 1, 16),
        (5, 2, 1, 16),
        (5, 2, 1, 15),
        (3, 1, 1, 16),
        ((3, 5), (2, 1), 1, 16),
        (3, 2, 2, 16),
    ],
)
def test_padding_that_depends_on_the_size_is_the_same(groups, kernel, stride, dilation, traced):
    """As TensorFlow pads, for the size that was traced and for others."""
    torch.manual_seed(0)
    conv = Conv2dSame(12, 24, kernel, stride, dilation=dilation, groups=groups)
    root, graph = nn.Sequential(conv, nn.ReLU6()).eval(), fx.Graph()
    node = graph.placeholder("maps")
    for name in ("0", "1"):
        node.meta = {USERS: 1, SHAPE: (12, traced, traced)}
        node = graph.call_module(name, (node,))
    node.meta = {USERS: 1}
    graph.output(node)
    module = fx.GraphModule(root, graph)
    plain = copy.deepcopy(module)
    fuse(module, torch.float32, CPU)
    assert not any(isinstance(each, Conv2dSame | nn.ReLU6) for each in module.modules())
    for count, *size in [(4, traced, traced), (1, traced, traced), (2, 15, 18), (3, 18, 17)]:
        maps = torch.randn(count, 12, *size).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            torch.testing.assert_close(module(maps), plain(maps), rtol=1e-5, atol=1e-5)


def test_a_module_that_two_nodes_call_stays_as_it_is():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
            self.norms[1].running_mean += 2

        def forward(self, x):
            return self.norms[1](self.conv(self.norms[0](self.conv(x))))

    torch.manual_seed(0)
    module = torch.fx.symbolic_trace(Twice().eval())
    module.requires_grad_(requires_grad=False)
    images = torch.randn(2, 3, 8, 8)
    expected = module(images)
    fuse(module, torch.float32, CPU)
    torch.testing.assert_close(module(images), expected)


@pytest.mark.parametrize(
    ("model", "dense"), [pytest.param("vgg11", True, marks=pytest.mark.ci), ("mobilenet_v2", False)]
)
def test_auto_is_bf16_only_if_native_and_tolerated(monkeypatch, model, dense):
    for native, used in product((True, False), repeat=2):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setattr("bottleneck.bases.precision.onednn_computes", lambda _, used=used: used)
        expected = "bf16" if dense and native and used else "fp32"
        assert FrozenBase(model, weights="random").precision == expected


@pytest.mark.ci
def test_auto_follows_onednn_where_it_is_held_to_fewer_instructions():
    code = (
        "import torch; from bottleneck.bases.precision import choose_precision; "
        "print(choose_precision('auto', torch.device('cpu'), dense=True))"
    )
    command = [sys.executable, "-c", code]
    held = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=held)
    assert result.stdout == "fp32\n"


def test_precision_is_part_of_the_fingerprint():
    prints = {
        base(precision=precision).fingerprint("features.12.cat")
        for precision in ("fp32", "bf16", "fp16")
    }
    assert len(prints) == 3
    with pytest.raises(UnknownNameError, match="got 'bf61'; did you mean 'bf16'"):
        base(precision="bf61")


def test_missing_devices_are_refused():
    assert find_devices("cpu") == (CPU,)
    if not torch.cuda.is_available():
        assert find_devices("auto") == (CPU,)
        with pytest.raises(UsageError, match="no GPU 'cuda:1': PyTorch finds none here"):
            find_devices("cuda:1")
    with pytest.raises(UsageError, match="no device 'gpu'; expected auto, cpu, cuda"):
        find_devices("gpu")
    with pytest.raises(UsageError, match="mixes the CPU with a GPU"):
        find_devices("cpu,cuda:0")


@ISA
def test_one_image_needs_no_other_layout_of_the_weights(capfd):
    """oneDNN's kernels for one image want weights in other layouts than those for several."""
    own = base("resnet18", ("layer3",))
    images = torch.randn(2, 3, 224, 224)
    for count in (1, 2):
        (first,) = own(images[:count]).values()
        capfd.readouterr()
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            (again,) = own(images[:count]).values()
        assert torch.equal(first, again)
        told = [line.split(",") for line in capfd.readouterr().out.splitlines() if "exec" in line]
        assert any("convolution" in line for line in told)
        conversions = [line for line in told if "reorder" in line and "src:f32:p" in ",".join(line)]
        assert not conversions
