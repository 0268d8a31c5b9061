"""A base of each family, with random weights, equals the unmodified model.

About 15 s in the first tier.
"""

import copy
import re

import pytest
import torch

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
    "timm:convnext_tiny.dinov3_lvd1689m": ("stem", "stages.2", "head.norm"),
    "timm:vit_small_patch14_dinov2 at 224": ("patch_embed", "blocks.5", "norm"),
    "timm:vit_small_patch14_dinov2 at 518": ("patch_embed", "blocks.5", "norm"),
    "timm:vit_small_patch14_reg4_dinov2 at 224": ("patch_embed", "blocks.5", "norm"),
    "timm:vit_base_patch16_siglip_224.v2_webli": ("patch_embed", "blocks.5", "attn_pool"),
    "timm:vit_base_patch32_clip_224.openai": ("patch_embed", "blocks.5", "head"),
    "timm:eva02_tiny_patch14_224": ("patch_embed", "blocks.5", "norm"),
    "timm:hiera_tiny_224": ("patch_embed", "blocks.5", "head.fc"),
    "timm:swinv2_tiny_window8_256": ("patch_embed", "layers.1", "head.fc"),
    "timm:mobilenetv4_conv_small": ("conv_stem", "blocks.2", "classifier"),
    "timm:fastvit_t8": ("stem", "stages.1", "head.fc"),
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

    for mark in [pytest.mark.ci] * (name not in DEFAULT) + [pytest.mark.isa] * (name in ISA):
        Family = mark(Family)
    return Family


for each in FAMILIES:
    name = "Test" + "".join(part.title() for part in re.split(r"\W|_", each))
    globals()[name] = conformance(each)
