"""A base of each family, with random weights, equals the unmodified model."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from bottleneck import FrozenBase
from bottleneck.bases import find_model

# The shallowest, a middle and the deepest layer, as modules to hook.
FAMILIES = {
    "alexnet": ("features.0", "features.8", "classifier.6"),
    "vgg11": ("features.0", "features.11", "classifier.6"),
    "vgg11_bn": ("features.0", "features.15", "classifier.6"),
    "googlenet": ("conv1", "inception4a", "fc"),
    "inception_v3": ("Conv2d_1a_3x3", "Mixed_6c", "fc"),
    "resnet18": ("conv1", "layer2", "fc"),
    "resnet50": ("conv1", "layer3.2", "fc"),
    "wide_resnet50_2": ("conv1", "layer2", "fc"),
    "resnext50_32x4d": ("conv1", "layer2", "fc"),
    "densenet121": ("features.conv0", "features.denseblock2", "classifier"),
    "mobilenet_v2": ("features.0", "features.9", "classifier.1"),
    "mobilenet_v3_small": ("features.0", "features.6", "classifier.3"),
    "squeezenet1_1": ("features.0", "features.7", "classifier.3"),
    "shufflenet_v2_x0_5": ("conv1", "stage3", "fc"),
    "mnasnet0_5": ("layers.0", "layers.10", "classifier.1"),
    "efficientnet_b0": ("features.0", "features.4", "classifier.1"),
    "efficientnet_v2_s": ("features.0", "features.3", "classifier.1"),
    "convnext_tiny": ("features.0", "features.3", "classifier.2"),
    "regnet_x_400mf": ("stem", "trunk_output.block3", "fc"),
    "regnet_y_400mf": ("stem", "trunk_output.block3", "fc"),
    "vit_b_32": ("conv_proj", "encoder.layers.encoder_layer_5", "heads.head"),
    "swin_t": ("features.0", "features.3", "head"),
    "swin_v2_t": ("features.0", "features.3", "head"),
    "maxvit_t": ("stem", "blocks.1", "classifier.5"),
    "xception": ("conv1", "block6", "fc"),
    "inception_resnet_v2": ("conv2d_1a", "repeat", "classif"),
    "nasnet_large": ("conv0", "cell_6", "last_linear"),
    "resnet50v2": ("stem.conv", "stages.1", "head.fc"),
    "mobilenet": ("conv_stem", "blocks.2", "classifier"),
    "efficientnet_lite0": ("conv_stem", "blocks.3", "classifier"),
    "timm:vit_tiny_patch16_224": ("patch_embed", "blocks.5", "head"),
    "timm:swin_tiny_patch4_window7_224": ("patch_embed", "layers.1", "head.fc"),
    # These keep values computed from their weights.
    "timm:tiny_vit_5m_224": ("patch_embed", "stages.1", "head.fc"),
    "timm:efficientvit_m1": ("patch_embed", "stages.1", "head.linear"),
    "timm:levit_128s": ("stem", "stages.1", "head.linear"),
    "timm:nfnet_l0": ("stem", "stages.1", "head.fc"),
}
BATCH = 3
OTHER_ORDERS = 1 + 64**0.5
"""How far two orders of summation may lie apart, as a multiple of the rounding error of one.

The k-th of n terms of size s and either sign makes a partial sum of about s sqrt(k), which is
rounded by a share of u = 2**-24: in all by about u s n / sqrt(2), or by sqrt(m) less where m sums
of n / m terms each are added at the end. Kernels have between 1 and 64 of these (4 registers of 16
numbers with AVX-512): the error of one order is up to sqrt(64) times that of another. The weights
of a folded normalisation are rounded, too, which adds u s sqrt(n): little. What s and n are, and
what further layers make of an error, is the same for both, and measured against float64.
"""


@dataclass(frozen=True)
class Subject:
    """A base, and what the unmodified model with the same weights gives for the same images.

    `errors` are the largest that float32 makes there, by layer, for the first image.
    """

    base: FrozenBase
    modules: tuple[str, ...]
    images: torch.Tensor
    expected: dict[str, torch.Tensor]
    errors: dict[str, float]


LARGE = {
    "vgg11_bn",
    "wide_resnet50_2",
    "resnext50_32x4d",
    "efficientnet_v2_s",
    "swin_v2_t",
    "maxvit_t",
    "xception",
    "inception_resnet_v2",
    "nasnet_large",
    "resnet50v2",
    "swin_t",
    "timm:nfnet_l0",
    "timm:swin_tiny_patch4_window7_224",
}
"""They take most of the time."""
ISA = {"alexnet", "inception_v3"}
"""The fewest and the most layers in which an error grows on."""


def marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.full] * (name in LARGE) + [pytest.mark.isa] * (name in ISA)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=marks(name)) for name in FAMILIES],
)
def subject(request, tmp_path_factory) -> Subject:
    model = find_model(request.param)
    torch.manual_seed(0)
    plain = model.build(model.transform.crop)
    for parameter in plain.parameters():
        if not parameter.any():  # biases, and torchvision's classifiers on transformers
            nn.init.normal_(parameter, std=0.02)
        elif parameter.abs().max() < 1e-3:  # ConvNeXt's layer scale, which hides its blocks
            nn.init.uniform_(parameter, 0.5, 1.5)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics with which signals neither die nor grow
            module.momentum = 1.0
    with torch.no_grad():
        plain.train()(torch.randn(2, 3, *model.transform.crop))
    file = tmp_path_factory.mktemp("weights") / "plain.pth"
    torch.save(plain.state_dict(), file)
    base = FrozenBase(request.param, FAMILIES[request.param], weights=str(file), precision="fp32")
    file.unlink()
    images = torch.randn(BATCH, 3, *base.transform.crop)
    modules = FAMILIES[request.param]
    expected = outputs(plain.eval(), modules, images)
    exact = outputs(plain.double(), modules, images[:1].double())
    return Subject(
        base,
        modules,
        images,
        dict(zip(base.layers, expected, strict=True)),
        {
            layer: float((found[:1] - true).abs().max())
            for layer, found, true in zip(base.layers, expected, exact, strict=True)
        },
    )


def outputs(model: nn.Module, modules: Sequence[str], images: torch.Tensor) -> list[torch.Tensor]:
    """Return what some modules of a model give, also where a later operation works in place."""
    found = {}

    def keep(path: str):
        def hook(_module, _inputs, output) -> None:
            found[path] = output.clone()

        return hook

    hooks = [model.get_submodule(path).register_forward_hook(keep(path)) for path in modules]
    with torch.inference_mode():
        model(images)
    for hook in hooks:
        hook.remove()
    return [found[path] for path in modules]


def assert_same(subject: Subject, layer: str, ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Up to another order of summation."""
    allowed = OTHER_ORDERS * subject.errors[layer]
    torch.testing.assert_close(ours, expected, rtol=0, atol=allowed)


def test_features_equal_a_plain_forward_of_the_unmodified_model(subject):
    """Also where a later operation works in place, and with all layers in one pass."""
    features = subject.base(subject.images)
    for layer, expected in subject.expected.items():
        assert subject.base.shapes[layer] == tuple(expected.shape[1:])
        assert float(expected.std()) > 0
        assert_same(subject, layer, features[layer], expected)


def test_the_deepest_layer_depends_on_the_middle_of_the_network(subject):
    """Otherwise the comparison above would prove nothing about it."""
    deepest = subject.base.layers[-1]
    before = subject.base(subject.images)[deepest]
    middle = subject.modules[1]
    other = copy.copy(subject.base)
    other._tensors = dict(subject.base._tensors)
    for name, tensor in subject.base._tensors.items():
        inside = f"{name}.".startswith(f"{middle}.")
        if inside and tensor.is_floating_point() and tensor.dim() > 1:
            other._tensors[name] = 1.5 * tensor
    other._computes = other._cut()
    after = other(subject.images)[deepest]
    with pytest.raises(AssertionError, match="not close"):
        assert_same(subject, deepest, after, before)


def test_a_base_is_frozen(subject):
    """Running statistics do not change, dropout is off, and there are no gradients."""
    (compute,) = subject.base._computes.values()
    before = copy.deepcopy(subject.base._tensors | compute.state_dict())
    first, second = subject.base(subject.images), subject.base(subject.images)
    for layer, values in first.items():
        assert torch.equal(values, second[layer])
        assert not values.requires_grad
    held = subject.base._tensors | compute.state_dict()
    assert all(torch.equal(before[name], held[name]) for name in before)
    assert not any(module.training for module in compute.modules())


def test_bfloat16_is_near(subject):
    """Every family supports it; the error depends on depth and on the (here random) weights."""
    half = copy.copy(subject.base)
    half.precision = "bf16"
    half._computes = half._cut()
    exact, near = subject.base(subject.images), half(subject.images)
    for layer, values in exact.items():
        cosines = torch.cosine_similarity(values.flatten(1), near[layer].flatten(1))
        assert float(cosines.min()) > 0.95, layer


def test_features_depend_neither_on_the_neighbours_nor_on_the_batch_size(subject):
    together = subject.base(subject.images)
    reversed_order = subject.base(subject.images.flip(0))
    alone = [subject.base(image[None]) for image in subject.images]
    for layer, values in together.items():
        assert_same(subject, layer, reversed_order[layer].flip(0), values)
        assert_same(subject, layer, torch.cat([each[layer] for each in alone]), values)
