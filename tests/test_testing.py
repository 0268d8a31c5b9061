"""A base of each family, with random weights, equals the unmodified model.

About 25 s in the first tier.
"""

import copy
import re

import pytest
import timm
import torch
from test_onnx_files import assert_same_features
from torch import nn

from bottleneck import FrozenBase
from bottleneck.bases import find_model
from bottleneck.bases.network import traced
from bottleneck.testing import BaseConformance

# The shallowest, a middle and the deepest layer, as modules to hook.
FAMILIES = {
    "alexnet": ("features.0", "features.8", "classifier.6"),
    "vgg11_bn": ("features.0", "features.15", "classifier.6"),
    "googlenet": ("conv1", "inception4a", "fc"),
    "inception_v3": ("Conv2d_1a_3x3", "Mixed_6c", "fc"),
    "resnet18": ("conv1", "layer2", "fc"),
    "resnet50": ("conv1", "layer3.2", "fc"),
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
    # What people freeze most.
    "timm:vit_small_patch16_dinov3": ("patch_embed", "blocks.5", "norm"),
    "timm:vit_small_patch14_dinov2 at 224": ("patch_embed", "blocks.5", "norm"),
    "timm:hiera_tiny_224": ("patch_embed", "blocks.5", "head.fc"),
    "timm:vit_tiny_patch16_224 at 160": ("patch_embed", "blocks.5", "head"),
}
DEFAULT = {
    "squeezenet1_1",
    "resnet18",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "regnet_y_400mf",
    "timm:vit_tiny_patch16_224",
    "efficientnet_lite0",
    "timm:tiny_vit_5m_224",
}
"""Eight families, about 15 s; the others are in the second tier."""
ONNX = {"squeezenet1_1", "timm:vit_tiny_patch16_224"}
"""Two families that are exported in the first tier, which takes 10 s; the others in the second."""
LONG = {
    "densenet121",
    "inception_resnet_v2",
    "maxvit_t",
    "nasnet_large",
    "swin_t",
    "swin_v2_t",
    "timm:swin_tiny_patch4_window7_224",
}
"""Those that repeat their blocks so often that exporting all takes long: up to a middle layer."""
ISA = {"alexnet", "inception_v3"}
"""The fewest and the most layers in which an error grows on."""


def conformance(name: str) -> type[BaseConformance]:
    """Return the tests of a family, and that no tensor of a base ever changes."""

    family, _, side = name.partition(" at ")

    class Family(BaseConformance):
        model = family
        modules = FAMILIES[name]
        image_size = (int(side), int(side)) if side else None

        def test_no_tensor_changes(self, subject):
            (compute,) = subject.base._computes.values()
            before = copy.deepcopy(subject.base._tensors | compute.state_dict())
            subject.base(subject.images)
            held = subject.base._tensors | compute.state_dict()
            assert all(torch.equal(before[name], held[name]) for name in before)
            assert not any(module.training for module in compute.modules())

        def test_onnx_runtime_computes_the_same(self, subject):
            layer = subject.base.layers[1 if name in LONG else -1]
            assert_same_features(subject.base.cut([layer]))

    if name not in ONNX:
        exported = pytest.mark.ci(Family.test_onnx_runtime_computes_the_same)
        Family.test_onnx_runtime_computes_the_same = exported
    for mark in [pytest.mark.ci] * (name not in DEFAULT) + [pytest.mark.isa] * (name in ISA):
        Family = mark(Family)
    return Family


for each in FAMILIES:
    name = "Test" + "".join(part.title() for part in re.split(r"\W|_", each))
    globals()[name] = conformance(each)


NUMBERS = {
    # What people freeze most.
    "vit_small_patch16_dinov3": 64,
    "convnext_tiny.dinov3_lvd1689m": 64,
    "vit_small_patch14_dinov2": 224,
    "vit_small_patch14_dinov2.lvd142m": 224,
    "vit_small_patch14_reg4_dinov2": 224,
    "vit_small_patch14_reg4_dinov2.lvd142m": 518,
    "vit_base_patch16_siglip_224.v2_webli": 64,
    "vit_base_patch32_clip_224.openai": 64,
    "resnet50_clip.openai": 224,
    "eva02_tiny_patch14_224": 56,
    "hiera_tiny_224": 224,
    "swinv2_tiny_window8_256": 128,
    "mobilenetv4_conv_small": 64,
    "fastvit_t8": 64,
    # One of each of timm's other families.
    "beit_base_patch16_224": 224,
    "cait_xxs24_224": 224,
    "caformer_s18": 64,
    "coat_tiny": 64,
    "convit_tiny": 224,
    "convmixer_768_32": 64,
    "convnextv2_atto": 64,
    "crossvit_9_240": 240,
    "cspresnet50": 64,
    "davit_tiny": 64,
    "deit3_small_patch16_224": 64,
    "densenet121": 64,
    "dla46_c": 64,
    "dpn68": 64,
    "edgenext_xx_small": 64,
    "efficientformer_l1": 224,
    "efficientnet_b0": 64,
    "efficientvit_b0": 64,
    "focalnet_tiny_srf": 64,
    "gcvit_xxtiny": 224,
    "ghostnet_050": 64,
    "hardcorenas_a": 64,
    "hgnetv2_b0": 64,
    "hrnet_w18_small": 64,
    "inception_next_atto": 64,
    "lcnet_050": 64,
    "mixer_s32_224": 224,
    "mobileone_s0": 64,
    "mobilevit_xxs": 64,
    "mvitv2_tiny": 224,
    "nest_tiny": 224,
    "nextvit_small": 64,
    "pit_ti_224": 224,
    "poolformer_s12": 64,
    "pvt_v2_b0": 64,
    "regnety_002": 64,
    "repvgg_a0": 64,
    "repvit_m0_9": 64,
    "resnetv2_50": 64,
    "rexnet_100": 64,
    "seresnext50_32x4d": 64,
    "starnet_s1": 64,
    "tf_mixnet_s": 64,
    "twins_pcpvt_small": 64,
    "visformer_tiny": 224,
    "volo_d1_224": 224,
    "xcit_nano_12_p16_224": 64,
}
"""timm's networks, and the side of the images that they are compared on."""
SHARES = (0.1, 0.5, 1)
"""Of the modules in the order of computation: a shallow one, one in the middle, the deepest."""


def seeded(name: str, side: int) -> nn.Module:
    """Build a network as timm does, with weights that hide none of its blocks."""
    torch.manual_seed(0)
    network = timm.create_model(name)
    if hasattr(network, "set_input_size"):
        network.set_input_size(img_size=side)
    elif network.pretrained_cfg["fixed_input_size"]:
        network = timm.create_model(name, img_size=side)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
        elif parameter.abs().max() < 1e-3:
            nn.init.uniform_(parameter, 0.5, 1.5)
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        network.train()(torch.randn(4, 3, side, side))
    return network.eval()


def outputs(network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What modules return that are called once and return a row for each image."""
    found: dict[str, list] = {}

    def keep(path: str):
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            found.setdefault(path, []).append(
                output.clone() if isinstance(output, torch.Tensor) else None
            )

        return hook

    for path, module in network.named_modules():
        if path:
            module.register_forward_hook(keep(path))
    network(images)
    return {
        path: each[0]
        for path, each in found.items()
        if len(each) == 1 and each[0] is not None and each[0].dim() > 1 and len(each[0]) == 2
    }


@pytest.mark.ci
@torch.no_grad()
@pytest.mark.parametrize("name", NUMBERS)
def test_features_are_those_of_timms_own_forward(name, tmp_path):
    """At a small size, by at most 1e-4 of a layer's largest value."""
    side = NUMBERS[name]
    plain, weights = seeded(name, side), str(tmp_path / "weights.pth")
    torch.save(plain.state_dict(), weights)
    images = torch.randn(2, 3, side, side)
    expected = outputs(plain, images)
    model = find_model(f"timm:{name}")
    network = traced(model, model.transform.crop, (side, side))  # which the base takes, too
    named = {*network.layers, *network.modules}
    known = [path for path in expected if path in named]
    wanted = [known[round(share * (len(known) - 1))] for share in SHARES]
    options = {"precision": "fp32", "device": "cpu", "image_size": (side, side)}
    base = FrozenBase(f"timm:{name}", wanted, weights=weights, **options)
    found = base(images)
    assert len(found) == len(SHARES)
    for path in wanted:
        (layer,) = base.network.resolve(path)
        assert float(expected[path].std()) > 0
        gap = (found[layer] - expected[path]).abs().max()
        assert float(gap) <= 1e-4 * float(expected[path].abs().max()), path
