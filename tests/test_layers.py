"""Layers by name, Keras' alias, word and pattern; supported image sizes.

About 20 s in the first tier.
"""

import numpy as np
import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.models.xception import SeparableConv2d
from torch import nn

from bottleneck import FrozenBase
from bottleneck.bases import find_model
from bottleneck.bases.layers import WORDS
from bottleneck.bases.network import Network
from bottleneck.bases.weights import load_weights
from bottleneck.errors import UnknownNameError, UsageError


def network(name: str) -> Network:
    return Network(find_model(name))


# Shapes as keras.applications documents them for its own default sizes, here as C, H, W.
KERAS = {
    "vgg16": {"block1_conv1": (64, 224, 224), "block5_pool": (512, 7, 7), "fc2": (4096,)},
    "vgg19": {"block5_conv4": (512, 14, 14), "block4_pool": (512, 14, 14)},
    "resnet50": {
        "conv1_conv": (64, 112, 112),
        "pool1_pool": (64, 56, 56),
        "conv2_block1_0_conv": (256, 56, 56),
        "conv2_block1_1_relu": (64, 56, 56),
        "conv2_block1_out": (256, 56, 56),
        "conv3_block4_out": (512, 28, 28),
        "conv4_block6_2_relu": (256, 14, 14),
        "conv4_block6_out": (1024, 14, 14),
        "conv5_block3_3_bn": (2048, 7, 7),
        "conv5_block3_add": (2048, 7, 7),
        "conv5_block3_out": (2048, 7, 7),
        "avg_pool": (2048,),
    },
    "resnet50v2": {
        "conv2_block1_out": (256, 56, 56),
        "conv4_block5_out": (1024, 14, 14),
        "conv5_block3_out": (2048, 7, 7),
        "post_relu": (2048, 7, 7),
    },
    "resnet152": {"conv4_block36_out": (1024, 14, 14), "conv3_block8_out": (512, 28, 28)},
    "inception_v3": {
        "mixed0": (256, 35, 35),
        "mixed2": (288, 35, 35),
        "mixed3": (768, 17, 17),
        "mixed7": (768, 17, 17),
        "mixed8": (1280, 8, 8),
        "mixed10": (2048, 8, 8),
        "avg_pool": (2048,),
    },
    "densenet121": {
        "conv1_relu": (64, 112, 112),
        "pool1": (64, 56, 56),
        "conv2_block1_concat": (96, 56, 56),
        "conv2_block6_concat": (256, 56, 56),
        "pool2_conv": (128, 56, 56),
        "pool2_pool": (128, 28, 28),
        "conv3_block12_concat": (512, 28, 28),
        "conv4_block24_concat": (1024, 14, 14),
        "conv5_block16_concat": (1024, 7, 7),
        "conv5_block16_2_conv": (32, 7, 7),
        "relu": (1024, 7, 7),
        "avg_pool": (1024,),
    },
    "mobilenet_v2": {
        "Conv1": (32, 112, 112),
        "Conv1_relu": (32, 112, 112),
        "expanded_conv_depthwise_relu": (32, 112, 112),
        "expanded_conv_project_BN": (16, 112, 112),
        "block_1_expand": (96, 112, 112),
        "block_1_expand_relu": (96, 112, 112),
        "block_1_depthwise": (96, 56, 56),
        "block_2_add": (24, 56, 56),
        "block_13_expand_relu": (576, 14, 14),
        "block_16_project": (320, 7, 7),
        "out_relu": (1280, 7, 7),
    },
    "xception": {
        "block1_conv1_act": (32, 149, 149),
        "block2_sepconv2": (128, 147, 147),
        "block2_pool": (128, 74, 74),
        "block3_sepconv1_act": (128, 74, 74),
        "block4_sepconv2_bn": (728, 37, 37),
        "block8_sepconv3_bn": (728, 19, 19),
        "block13_pool": (1024, 10, 10),
        "block14_sepconv1_act": (1536, 10, 10),
        "block14_sepconv2_act": (2048, 10, 10),
    },
}


@pytest.mark.parametrize("name", KERAS)
def test_keras_names_have_the_shapes_that_keras_documents(name):
    found = network(name)
    assert {alias: found.layers[found.aliases[alias]].shape for alias in KERAS[name]} == KERAS[name]


KINDS = {
    "_conv": nn.Conv2d,
    "_bn": nn.BatchNorm2d,
    "_relu": nn.ReLU,
    "_act": nn.ReLU,
    "_expand": nn.Conv2d,
    "_BN": nn.BatchNorm2d,
    "_depthwise": nn.Conv2d,
    "_project": nn.Conv2d,
    "_pool": (nn.MaxPool2d, nn.AvgPool2d),
}


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet169", "mobilenet_v2"])
def test_a_keras_name_ends_in_what_the_layer_is(name):
    """All aliases with a type in their name, not only a sample."""
    found = network(name)
    checked = 0
    for alias, layer in found.aliases.items():
        node = found.nodes[layer]
        if alias in WORDS:
            continue
        kind = next((kind for end, kind in KINDS.items() if alias.endswith(end)), None)
        if kind and node.op == "call_module":
            module = found.root.get_submodule(node.target)
            relu = (nn.ReLU, nn.ReLU6) if kind is nn.ReLU else kind
            assert isinstance(module, relu), alias
            checked += 1
    assert checked > 40


def test_xceptions_separable_convolutions_are_counted_as_in_keras():
    found = network("xception")
    ends = [a for a in found.aliases if a.startswith("block") and a[-1].isdigit() and "sep" in a]
    assert len(ends) == 34  # as many as Keras' SeparableConv2D layers
    for alias in ends:
        path = found.aliases[alias].rpartition(".")[0]
        assert isinstance(found.root.get_submodule(path), SeparableConv2d)


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("vgg16", 5, "features.4", "features.30"),
        ("alexnet", 3, "features.2", "features.12"),
        ("resnet50", 16, "layer1.0.relu_2", "layer4.2.relu_2"),
        ("inception_v3", 11, "Mixed_5b.cat", "Mixed_7c.cat_2"),
        ("densenet121", 4, "features.denseblock1.cat", "features.denseblock4.cat"),
        ("mobilenet_v2", 17, "features.1.conv.2", "features.17.conv.3"),
        ("vit_b_16", 12, "encoder.layers.encoder_layer_0.add_1", None),
        ("swin_t", 12, "features.1.0.add_1", "features.7.1.add_1"),
        ("timm:vit_tiny_patch16_224", 12, "blocks.0.add_1", "blocks.11.add_1"),
    ],
)
def test_all_blocks_are_the_ends_of_all_blocks(name, count, first, last):
    blocks = network(name).in_order(["all-blocks"])
    assert len(blocks) == count
    assert blocks[0] == first
    assert last in {None, blocks[-1]}


def test_a_pattern_means_all_layers_that_match():
    vgg = network("vgg16")
    pools = ("features.4", "features.9", "features.16", "features.23", "features.30")
    assert vgg.resolve("block*_pool") == pools
    assert vgg.in_order(["block[45]_pool", "block5_*", "fc2"]) == (
        "features.23",
        "features.25",
        "features.27",
        "features.29",
        "features.30",
        "classifier.4",
    )
    resnet = network("resnet50")
    outs = [f"conv{stage}_block{n}_out" for stage, n in ((2, 3), (3, 4), (4, 6), (5, 3))]
    assert resnet.resolve("layer?") == resnet.in_order(outs)
    with pytest.raises(
        UnknownNameError, match="no layer 'block\\*_pol' in vgg16; .*; did you mean"
    ):
        vgg.resolve("block*_pol")


def test_blocks_have_numbers_and_ranges():
    resnet = network("resnet18")
    ends = resnet.blocks
    assert resnet.named(["block.-1", "block.0"]) == {ends[0]: "block.0", ends[7]: "block.-1"}
    assert resnet.resolve("block.-4:") == ends[-4:]
    assert resnet.resolve("block.2:-4") == ends[2:-4]
    assert resnet.resolve("block.:2") == resnet.resolve("block.0:2") == ends[:2]
    assert "block.-1" in resnet.names_of(ends[-1])
    with pytest.raises(UnknownNameError, match="no layer 'block.8' in resnet18"):
        resnet.resolve("block.8")


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "embedding"),
    [
        ("resnet18", "flatten"),
        ("timm:vit_small_patch16_dinov3", "class_token"),  # whose patches timm averages
        ("timm:vit_base_patch32_clip_224.openai", "head"),  # the projection
        ("timm:vit_base_patch32_clip_224.laion2b_ft_in1k", "getitem_1"),
        ("timm:vit_base_patch16_siglip_224", "head"),
    ],
)
def test_the_embedding_is_what_authors_compare(name, embedding):
    assert network(name).resolve("embedding") == (embedding,)


def test_a_vision_transformer_takes_another_size_as_in_timm():
    """Position embeddings are resampled, and belong to the fingerprint."""
    name, size = "vit_tiny_patch16_224", (96, 160)
    options = {"weights": "random", "precision": "fp32"}
    base = FrozenBase(f"timm:{name}", ["block.3", "logits"], image_size=size, **options)
    plain = timm.create_model(name)
    plain.load_state_dict(load_weights(find_model(f"timm:{name}"), "random")[1].load())
    plain.set_input_size(img_size=size)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = plain.eval()(images)
    torch.testing.assert_close(base(images)["head"], expected, rtol=1e-4, atol=1e-5)
    assert base.shapes["blocks.3.add_1"] == (6 * 10 + 1, 192)
    assert base.network.layers["blocks.3.add_1"].axes == "1+TC"
    assert base.network.aliases["last_conv"] == "norm.layer_norm"
    usual = FrozenBase(f"timm:{name}", ["logits"], **options)
    assert (
        base.provenance("head", "float16")["weights"]
        != usual.provenance("head", "float16")["weights"]
    )


@pytest.mark.ci
def test_a_network_without_set_input_size_takes_another_size_as_in_timm():
    """Hiera with absolute windows interpolates its position embeddings itself."""
    name, size = "hiera_small_abswin_256", (224, 288)
    options = {"weights": "random", "precision": "fp32"}
    base = FrozenBase(f"timm:{name}", ["last_conv", "logits"], image_size=size, **options)
    plain = timm.create_model(name, img_size=size)
    plain.load_state_dict(load_weights(find_model(f"timm:{name}"), "random")[1].load())
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        tokens = plain.eval().forward_intermediates(images, intermediates_only=True)[-1]
        expected = plain(images)
    found = base(images)
    torch.testing.assert_close(found["head.fc"], expected, rtol=1e-4, atol=1e-5)
    last = found[base.network.aliases["last_conv"]]
    torch.testing.assert_close(last.mean(1), tokens.mean((2, 3)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "naflexvit_base_patch16_gap"])
def test_images_of_any_proportions_are_computed_as_in_timm(name):
    """Their sides are rounded to whole patches."""
    torch.manual_seed(0)
    own = {"embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}
    theirs = timm.create_model(name, **own).eval()
    save_for_hf(theirs, "own", model_config={"model_args": own}, safe_serialization=True)
    options = {"pool": "avg", "precision": "fp32", "device": "cpu", "image_size": (64, 64)}
    layers = ["block.0", "block.1", "penultimate"]
    base = FrozenBase("local-dir:own", layers, keep_aspect=True, **options)
    for shape, size in {
        (90, 150): (64, 112), (300, 97): (192, 64), (60, 170): (64, 176), (50, 50): (64, 64)
    }.items():  # fmt: skip
        photograph = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
        pixels = base.transform(photograph)[None]
        assert pixels.shape[2:] == size
        maps = theirs.forward_intermediates(pixels, indices=[0, 1], intermediates_only=True)
        output = theirs.forward_head(theirs.forward_features(pixels), pre_logits=True)
        expected = [*(each.mean((2, 3)) for each in maps), output]
        for found, true in zip(base(pixels).values(), expected, strict=True):
            assert float((found - true).abs().max()) <= 1e-4 * float(true.abs().max())


def test_many_layers_in_one_pass():
    """The base computes all of them together, with the same results as separately."""
    base = FrozenBase("efficientnet_lite0", ["all-blocks", "last_conv", "logits"])
    assert len(base.layers) == 18
    images = torch.randn(2, 3, 224, 224)
    together = base(images)
    for layer in (base.layers[0], base.layers[9], base.layers[-1]):
        alone = FrozenBase("efficientnet_lite0", [layer])(images)[layer]
        torch.testing.assert_close(together[layer], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("model", "layer", "size", "shape"),
    [
        ("vgg16", "block5_pool", (150, 150), (512, 4, 4)),
        ("vgg16", "block5_pool", (64, 160), (512, 2, 5)),
        ("resnet18", "last_conv", (97, 161), (512, 4, 6)),
        ("mobilenet_v2", "out_relu", (96, 96), (1280, 3, 3)),
        ("inception_v3", "mixed10", (75, 75), (2048, 1, 1)),
        ("swin_t", "last_conv", (224, 320), (768, 7, 10)),
        ("vgg16", "block1_pool", (20, 20), (64, 10, 10)),
    ],
)
def test_other_image_sizes_where_the_base_is_convolutional(model, layer, size, shape):
    """The announced shape is the computed shape."""
    base = FrozenBase(model, [layer], weights="random", image_size=size)
    ((name, values),) = base(torch.randn(1, 3, *size)).items()
    assert base.shapes[name] == shape
    assert tuple(values.shape) == (1, *shape)


@pytest.mark.parametrize(
    ("model", "layer", "size", "sentence"),
    [
        pytest.param(
            "inception_v3", "mixed10", (74, 74), "'mixed10' for .* of 74 x 74 .* 75 x 75 pixels",
            marks=pytest.mark.ci,
        ),
        ("vgg16", "block5_pool", (31, 31), "32 x 32 pixels or more"),
        ("vit_b_16", "penultimate", (150, 150), "it takes images of 224 x 224 pixels: leave out"),
        ("timm:vit_tiny_patch16_224", "cls", (96, 96), "no layer 'cls'"),
        ("timm:vit_tiny_patch16_224", "logits", (96, 97), "97 pixels .* 16 x 16; .* as 96x96"),
        ("vgg16", "block5_pool", (0, 150), "`image_size` must be pixels as SIDE or"),
        pytest.param(
            "timm:hrnet_w18_small", "logits", (117, 117), "such as 160 x 160, 192 x 192, .* pixels",
            marks=pytest.mark.ci,
        ),
        ("timm:hiera_tiny_224", "logits", (256, 256), "of 224 x 224 .* cannot resample pos_embed"),
        pytest.param(
            *("timm:hiera_small_abswin_256", "logits", (250, 250), "on images of 250 x 250 pixels"),
            marks=pytest.mark.ci,
        ),
    ],
)  # fmt: skip
def test_image_sizes_that_a_base_does_not_accept(model, layer, size, sentence):
    with pytest.raises(UsageError, match=sentence):
        FrozenBase(model, [layer], weights="random", image_size=size)


def test_the_cost_of_a_cut_is_that_of_the_layers_before_it():
    """Parallel branches that a layer does not need are not counted."""
    found = network("inception_v3")
    cost = {name: layer.multiply_adds for name, layer in found.layers.items()}
    branch = cost["Mixed_7c.branch1x1.conv"] - cost["Mixed_7b.cat_2"]
    assert branch == 320 * 8 * 8 * 2048
    assert cost["Mixed_7c.cat_2"] > cost["Mixed_7b.cat_2"] + branch
    assert cost["fc"] == max(cost.values())
    vgg = network("vgg16").layers
    assert vgg["features.1"].multiply_adds == 224 * 224 * 64 * 27


def test_keras_names_of_a_residual_block_are_in_keras_order():
    """Each names another layer, in the same order as in Keras."""
    found = network("resnet50")
    steps = ("1_conv", "1_bn", "1_relu", "2_conv", "2_bn", "2_relu", "3_conv", "3_bn")
    steps += ("0_conv", "0_bn", "add", "out")
    order = list(found.layers)
    for stage in range(2, 6):
        layers = [found.aliases[f"conv{stage}_block1_{step}"] for step in steps]
        places = [order.index(layer) for layer in layers]
        assert places == list(range(places[0], places[0] + len(steps)))
    dense = network("densenet121")
    steps = ("0_bn", "0_relu", "1_conv", "1_bn", "1_relu", "2_conv", "concat")
    order = list(dense.layers)
    for block in (1, 5, 6):
        places = [order.index(dense.aliases[f"conv2_block{block}_{step}"]) for step in steps]
        assert places == list(range(places[0], places[0] + len(steps)))


def test_a_network_without_blocks_has_none():
    with pytest.raises(UnknownNameError, match="no layer 'all-blocks' in timm:convmixer_768_32"):
        network("timm:convmixer_768_32").resolve("all-blocks")


@pytest.mark.parametrize(
    ("name", "last_conv", "penultimate"),
    [
        ("vit_small_patch16_224.dino", "norm.layer_norm", "head"),  # no classifier
        ("eva02_tiny_patch14_224", "getitem_1", "head"),
        ("beit_base_patch16_224", "getitem_1", "fc_norm.layer_norm"),
        ("deit_tiny_distilled_patch16_224", "norm.layer_norm", "getitem_2"),  # two classifiers
        ("mixer_s32_224", "norm", "mean"),
        ("volo_d1_224", "norm", "getitem_7"),  # an auxiliary classifier
        ("resnet50", "layer4.2.act3", "global_pool.flatten"),
        ("vgg16", "features.29", "head.global_pool.flatten"),
        ("hiera_tiny_224", "blocks.11.add_1", "head.norm.layer_norm"),  # pools tokens thrice
        ("convnext_tiny", "stages.3.blocks.2.add", "head.flatten"),
    ],
)
def test_words_mean_the_right_layers_of_timms_models(name, last_conv, penultimate):
    aliases = network(f"timm:{name}").aliases
    assert (aliases["last_conv"], aliases["penultimate"]) == (last_conv, penultimate)


def test_a_word_that_would_be_wrong_is_absent():
    """The last tokens of CoaT and CrossViT are those of several grids."""
    found = network("timm:crossvit_9_240")
    assert found.layers[found.blocks[-1]].axes == ""
    assert set(WORDS) & found.aliases.keys() == {"penultimate", "logits"}


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        ("nfnet_l0", 12, "stages.3.2"),  # each block one layer
        ("inception_next_tiny", 18, "stages.3.blocks.2.add"),  # and no head
        ("repvgg_a2", 21, "stages.3.0.act"),  # and no stem
        ("pvt_v2_b0", 8, "stages.3.blocks.1.add_1"),  # not its four stages
        ("swin_tiny_patch4_window7_224", 12, "layers.3.blocks.1.reshape_1"),
        ("vit_small_patch16_224.dino", 12, "blocks.11.add_1"),
    ],
)
def test_all_blocks_of_timms_models(name, count, last):
    blocks = network(f"timm:{name}").blocks
    assert (len(blocks), blocks[-1]) == (count, last)


@pytest.mark.ci
def test_axes_of_activations_tell_maps_tokens_and_vectors_apart():
    vit = network("vit_b_16").layers
    assert vit["conv_proj"].axes == "CHW"
    assert vit["reshape"].axes == ""  # channels before tokens
    assert vit["permute"].axes == "TC"  # no class token yet
    assert vit["encoder.ln"].axes == "1+TC"
    assert vit["heads.head"].axes == "C"
    swin = network("swin_t").layers
    assert swin["norm"].axes == "HWC"
    assert swin["permute"].axes == "CHW"
    distilled = network("timm:deit_tiny_distilled_patch16_224").layers
    assert distilled["blocks.3.add_1"].axes == "2+TC"
    registers = network("timm:vit_medium_patch16_reg4_gap_256").layers
    assert registers["blocks.3.add_1"].axes == "4-TC"
    late = network("timm:cait_xxs24_224").layers  # the class token comes in late
    assert (late["blocks.3.add_1"].axes, late["norm"].axes) == ("TC", "1+TC")
    beit = network("timm:beit_base_patch16_224").layers
    assert (beit["blocks.3.add_1"].axes, beit["getitem_1"].axes) == ("1+TC", "TC")
    assert network("timm:vit_base_patch16_gap_224").layers["blocks.3.add_1"].axes == "TC"
