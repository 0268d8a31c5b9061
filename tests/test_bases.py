"""Frozen bases: models, layers, transforms, weights, fingerprints. About 25 s in the first tier."""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from bottleneck import FrozenBase
from bottleneck.bases import Transform, find_model, model_names
from bottleneck.bases.network import Network
from bottleneck.bases.weights import load_weights
from bottleneck.errors import PathMissingError, UnknownNameError, UsageError, WeightsError


def seeded(name: str, seed: int = 0) -> nn.Module:
    model = find_model(name)
    torch.manual_seed(seed)
    return model.build(model.transform.crop)


def saved(model: nn.Module, file: str) -> str:
    torch.save(model.state_dict(), file)
    return file


@pytest.mark.ci
def test_nothing_after_the_deepest_layer_is_computed_or_kept():
    base = FrozenBase("vgg16", ["block3_pool"], weights="random")
    (compute,) = base._computes.values()
    for names in (base._tensors, [name for name, _ in compute.named_modules() if "." in name]):
        assert max(int(name.split(".")[1]) for name in names) in {14, 16}
    assert sum(tensor.numel() for tensor in base._tensors.values()) < 2e6


@pytest.mark.parametrize(("name", "blocks"), [("vgg16", 3), ("vgg19", 4), ("vgg16_bn", 3)])
def test_layers_of_vgg_have_keras_names(name, blocks):
    """In Keras, an activation is part of its convolution."""
    network = Network(find_model(name))
    convolutions = {1: 2, 2: 2, 3: blocks, 4: blocks, 5: blocks}
    expected = [
        alias
        for block, count in convolutions.items()
        for alias in (*(f"block{block}_conv{n + 1}" for n in range(count)), f"block{block}_pool")
    ]
    assert [alias for alias in network.aliases if alias.startswith("block")] == expected
    for alias, layer in network.aliases.items():
        module = network.root.get_submodule(layer)
        if alias.endswith("_pool"):
            assert isinstance(module, nn.MaxPool2d)
        elif alias not in {"predictions", "logits"}:
            assert isinstance(module, nn.ReLU)


def test_layers_by_alias_by_name_and_by_module():
    network = Network(find_model("resnet50"))
    assert network.resolve("layer4") == ("layer4.2.relu_2",)
    assert network.resolve("layer4.2.relu_2") == ("layer4.2.relu_2",)
    vgg = Network(find_model("vgg16"))
    assert vgg.in_order(["block5_pool", "features.4", "block1_pool"]) == (
        "features.4",
        "features.30",
    )


@pytest.mark.parametrize(
    ("name", "default", "shape"),
    [
        ("vgg16", "features.30", (512, 7, 7)),
        ("resnet50", "flatten", (2048,)),
        ("efficientnet_lite0", "global_pool.flatten", (1280,)),
        ("mobilenet_v2", "flatten", (1280,)),
        ("timm:mobilenetv3_small_100", "flatten", (1024,)),
    ],
)
def test_default_layers_have_their_shapes(name, default, shape):
    network = Network(find_model(name))
    assert network.in_order([find_model(name).default_layer]) == (default,)
    assert network.layers[default].shape == shape


def test_misspelled_names_come_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="no model 'resnet5'; .*; did you mean 'resnet50'"):
        FrozenBase("resnet5")
    Path("heads/svm").mkdir(parents=True)
    with pytest.raises(UnknownNameError, match="'heads/svm': this folder has no model.json, which"):
        FrozenBase("heads/svm")
    with pytest.raises(UnknownNameError, match="no model 'resnet50dd' in timm; .*; did you mean"):
        FrozenBase("timm:resnet50dd")
    with pytest.raises(UnknownNameError, match="'block5_pol' in vgg16; .*; did you mean 'block5_p"):
        FrozenBase("vgg16", ["block5_pol"], weights="random")
    with pytest.raises(UnknownNameError, match="did you mean 'IMAGENET1K_V1'"):
        FrozenBase("vgg16", weights="IMAGENET1K_V11")


def test_every_torchvision_classifier_is_offered():
    offered = set(model_names())
    assert set(torchvision.models.list_models(torchvision.models)) <= offered
    assert len(offered) > 80


@pytest.mark.parametrize("name", ["vgg16", "inception_v3", "efficientnet_b3", "vit_b_16"])
def test_the_transform_is_that_of_the_weights(name):
    """Its pixels equal those of torchvision's own preset."""
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    transform = find_model(name).transform
    for photograph in (data.chelsea(), data.rocket(), data.lfw_subset()[0]):
        pixels = photograph if photograph.dtype == np.uint8 else np.uint8(photograph * 255)
        image = Image.fromarray(pixels).convert("RGB")
        assert torch.equal(transform(image), preset(image))


@pytest.mark.parametrize("name", ["resnet50d", "vit_base_patch16_224", "convnextv2_atto"])
def test_timms_transform_is_timms(name):
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**config)
    image = Image.fromarray(data.chelsea())
    assert torch.allclose(find_model(f"timm:{name}").transform(image), theirs(image), atol=1e-6)


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
@pytest.mark.parametrize(
    ("photograph", "classes"),
    [
        ("chelsea", {"tabby", "tiger cat", "Egyptian cat"}),
        ("coffee", {"espresso", "cup"}),
        ("rocket", {"missile", "projectile"}),
    ],
)
def test_real_weights_know_what_imagenet_taught_them(name, photograph, classes):
    """The classes of the photograph are among the top five predictions."""
    base = FrozenBase(f"efficientnet_{name}", ["logits"])
    categories = torchvision.models.EfficientNet_B0_Weights.DEFAULT.meta["categories"]
    image = Image.fromarray(getattr(data, photograph)())
    (scores,) = base(base.transform(image)[None])["classifier"]
    assert classes <= {categories[place] for place in scores.topk(5).indices}


def test_weights_from_files_of_either_kind():
    model = seeded("resnet18", seed=3)
    torch.save(model.state_dict(), "plain.pth")
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, "wrapped.pth")
    parallel = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(parallel, "parallel.pth")
    torch.save({"n_averaged": torch.tensor(3), **parallel}, "averaged.pth")
    lightning = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": lightning, "epoch": 3}, "lightning.pth")
    save_file(model.state_dict(), "plain.safetensors")
    files = ("plain", "wrapped", "parallel", "averaged", "lightning")
    names = [*(f"{file}.pth" for file in files), "plain.safetensors"]
    prints = {FrozenBase("resnet18", weights=name).fingerprint("flatten") for name in names}
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("wrappers", "prefix"),
    [
        (("state_dict",), ""),
        (("model",), ""),
        (("model", "state_dict"), ""),
        (("model_state_dict",), "module."),
        (("model_ema",), "module."),
        (("net",), ""),
        (("net", "state_dict"), "_orig_mod."),
        (("teacher",), "backbone."),
        (("student",), "module.backbone."),
        (("state_dict",), "module.encoder_q."),
        (("state_dict",), "module.base_encoder."),
        (("state_dict",), "model.net.backbone."),
        (("state_dict", "model", "teacher"), "module._orig_mod.model."),
        ((), "teacher.backbone."),
        ((), "student.encoder."),
    ],
)
def test_weights_are_found_in_what_training_scripts_save(wrappers, prefix):
    """Also beside the tensors of a training method, which are not those of the base."""
    plain = seeded("squeezenet1_1").state_dict()
    torch.save(plain, "plain.pth")
    others = {"module.queue": torch.ones(2, 3), "head.mlp.0.weight": torch.ones(2), "epoch": 3}
    named = {f"{prefix}{name}": tensor for name, tensor in plain.items()}
    content = {"optimizer": {"state": {}}, **others, **named}
    for wrapper in wrappers:
        content = {"args": None, "epoch": 3, wrapper: content}
    torch.save(content, "wrapped.pth")
    assert fingerprint_of("plain.pth") == fingerprint_of("wrapped.pth")


def fingerprint_of(weights: str) -> str:
    return FrozenBase("squeezenet1_1", weights=weights).fingerprint("features.12.cat")


def test_the_averaged_network_is_chosen_of_several():
    """An average before what it averages; the complete one before one that lacks tensors."""
    first, second = (seeded("squeezenet1_1", seed=seed).state_dict() for seed in (1, 2))
    for name, content in {
        "first.pth": first,
        "teacher.pth": {"student": second, "teacher": first},
        "average.pth": {"model": second, "model_ema": first},
        "timm.pth": {"arch": "x", "state_dict": second, "state_dict_ema": first},
        "query.pth": {
            f"module.{encoder}.{name}": tensor
            for encoder, state in (("encoder_k", second), ("encoder_q", first))
            for name, tensor in state.items()
        },
        "both.pth": {
            f"{network}.backbone.{name}": tensor
            for network, state in (("student", second), ("teacher", first))
            for name, tensor in state.items()
        },
        "complete.pth": {"model_ema": {"decay": torch.ones(1)}, "net": first},
    }.items():
        torch.save(content, name)
        assert fingerprint_of(name) == fingerprint_of("first.pth"), name


def test_a_misfit_shows_missing_and_unknown_names_side_by_side():
    state = seeded("squeezenet1_1").state_dict()
    other = {f"stem.{name}": tensor for name, tensor in state.items()}
    sentences = {
        "renamed.pth": (
            other,
            (
                r"missing: features.0.bias \(64,\), features.0.weight \(64, 3, 3, 3\), .* 47 more; "
                r"unknown: stem.features.0.weight \(64, 3, 3, 3\), .* 49 more; give a state dict"
            ),
        ),
        "some.pth": (
            {**state, "features.3.extra": torch.ones(2), "queue": torch.ones(3)},
            r"do not fit squeezenet1_1: unknown: features.3.extra \(2,\); give",
        ),
        "one.pth": (
            {name: each for name, each in state.items() if name != "features.3.squeeze.bias"},
            r"do not fit squeezenet1_1: missing: features.3.squeeze.bias \(16,\); give",
        ),
        "shape.pth": (
            {**state, "features.0.bias": torch.ones(3)},
            r"of another shape: features.0.bias \(3,\), expected \(64,\); give",
        ),
        "odd.pth": (
            {**state, "features.\n": torch.ones(3)},
            r"unknown: 'features.\\n' \(3,\); give",
        ),
    }
    for file, (content, sentence) in sentences.items():
        torch.save(content, file)
        with pytest.raises(WeightsError, match=sentence):
            FrozenBase("squeezenet1_1", weights=file)


def test_half_precision_weights_are_computed_in_float32():
    model = seeded("resnet18").half()
    base = FrozenBase("resnet18", weights=saved(model, "half.pth"))
    assert base(torch.zeros(1, 3, 224, 224))["flatten"].dtype == torch.float32


def test_a_network_with_another_classifier_is_accepted():
    """Only the tensors that the cut uses have to fit."""
    model = seeded("resnet18")
    model.fc = nn.Linear(512, 7)
    whole = FrozenBase("resnet18", weights=saved(model, "seven.pth"))
    bare = {name: tensor for name, tensor in model.state_dict().items() if "fc." not in name}
    torch.save(bare, "bare.pth")
    assert whole.fingerprint("flatten") == FrozenBase("resnet18", weights="bare.pth").fingerprint(
        "flatten"
    )
    with pytest.raises(
        WeightsError, match=r"of another shape: .*fc.weight \(7, 512\), expected \(1000, 512\)"
    ):
        FrozenBase("resnet18", ["fc"], weights="seven.pth")


@pytest.mark.parametrize(
    ("model", "other", "sentence"),
    [
        ("resnet18", "resnet34", "unknown: layer1.2.conv1.weight (64, 64, 3, 3), "),
        ("resnet50", "resnet101", "unknown: layer3.6.conv1.weight (256, 1024, 1, 1), "),
        ("vgg16", "resnet18", "missing: features.0.bias (64,), "),
    ],
)
def test_weights_of_another_architecture(model, other, sentence):
    """Even if all needed tensors exist and fit, as with resnet101 for resnet50."""
    file = saved(seeded(other), "other.pth")
    with pytest.raises(WeightsError, match=f"do not fit {model}: .*") as caught:
        FrozenBase(model, weights=file)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("model", "layer", "other"),
    [("resnet101", "layer2", "resnet50"), ("resnet34", "layer1.1", "resnet18")],
)
def test_weights_of_another_architecture_for_a_shallow_layer(model, layer, other):
    """The tensors of the layer exist; missing later ones show the other architecture."""
    with pytest.raises(WeightsError, match=f"do not fit {model}: missing: "):
        FrozenBase(model, [layer], weights=saved(seeded(other), "other.pth"))


@pytest.mark.parametrize(
    ("model", "today", "published"),
    [
        ("densenet121", r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2."),
        pytest.param("vit_b_32", r"\.mlp\.0\.", ".mlp.linear_1.", marks=pytest.mark.ci),
        pytest.param("vit_b_32", r"\.mlp\.3\.", ".mlp.linear_2.", marks=pytest.mark.ci),
        ("resnet18", r"^", "_orig_mod.module."),
        ("resnet18", r"^", "module._orig_mod.model."),
    ],
)
def test_names_as_in_published_files(model, today, published):
    """torchvision renames tensors of its own files while loading them."""
    state = seeded(model).state_dict()
    renamed = {re.sub(today, published, name): tensor for name, tensor in state.items()}
    assert renamed.keys() != state.keys()
    torch.save(renamed, "published.pth")
    torch.save(state, "today.pth")
    one, other = (FrozenBase(model, weights=f"{name}.pth") for name in ("published", "today"))
    assert one.fingerprint(one.layers[0]) == other.fingerprint(other.layers[0])


@pytest.mark.parametrize("model", ["inception_v3", "googlenet"])
def test_inputs_are_transformed_as_torchvision_does_for_its_weights(model):
    """Its own builder sets `transform_input` wherever it loads trained weights."""
    torch.manual_seed(0)
    plain = torchvision.models.get_model(
        model, weights=None, init_weights=False, transform_input=True
    )
    base = FrozenBase(model, weights=saved(plain, "weights.pth"))
    batch = torch.randn(2, 3, *base.transform.crop)
    extractor = create_feature_extractor(
        plain.eval(), ["flatten"], suppress_diff_warning=True
    ).eval()
    with torch.inference_mode():
        expected = extractor(batch)["flatten"]
    torch.testing.assert_close(base(batch)["flatten"], expected, rtol=1e-3, atol=1e-4)


def test_a_file_under_its_published_name_gets_its_own_transform():
    state = seeded("resnet50").state_dict()
    for file, size in (("resnet50-0676ba61.pth", 256), ("mine.pth", 232)):
        torch.save(state, file)
        assert FrozenBase("resnet50", weights=file).transform.resize == (size, size)


@pytest.mark.ci
def test_networks_are_built_for_the_size_of_their_weights():
    """vit_h_14's default weights want 518 pixels, and vit_b_16 has weights for 224 and for 384."""
    assert Network(find_model("vit_h_14")).image_size == (518, 518)
    model = find_model("vit_b_16")
    larger = model.weights["IMAGENET1K_SWAG_E2E_V1"]
    torch.save(model.build(larger.transform.crop).state_dict(), larger.file)
    base = FrozenBase("vit_b_16", weights=larger.file)
    assert base.transform.crop == (384, 384)
    assert base(torch.zeros(1, 3, 384, 384))[base.layers[0]].shape == (1, 768)


@pytest.mark.ci
def test_operations_on_weights_alone_are_no_layers():
    """Their first dimension is not the number of images."""
    layer = "blocks.0.layers.1.layers.window_attention.attn_layer.1.contiguous"
    with pytest.raises(UsageError, match="does not give one row of activations for each image"):
        FrozenBase("maxvit_t", [layer], weights="random")


def test_files_without_weights_are_refused():
    Path("text.pth").write_text("hello")
    Path("empty.safetensors").write_bytes(b"")
    torch.save([1, 2], "list.pth")
    torch.save(nn.Linear(2, 2), "module.pth")
    for file in ("text.pth", "empty.safetensors", "module.pth"):
        with pytest.raises(WeightsError, match="cannot be read as plain tensors"):
            FrozenBase("resnet18", weights=file)
    with pytest.raises(WeightsError, match="holds a list"):
        FrozenBase("resnet18", weights="list.pth")
    with pytest.raises(PathMissingError, match=r"no weights file 'gone.pth'"):
        FrozenBase("resnet18", weights="gone.pth")


def test_running_out_of_memory_is_not_taken_for_a_damaged_file(monkeypatch):
    def short(*_, **_options):
        raise MemoryError

    Path("good.pth").touch()
    monkeypatch.setattr(torch, "load", short)
    with pytest.raises(MemoryError):
        FrozenBase("resnet18", weights="good.pth")


class Exploit:
    """Pickled code, which loading must not run."""

    def __reduce__(self):
        return (Path("exploited").touch, ())


def test_loading_weights_runs_no_code():
    torch.save({"conv1.weight": Exploit()}, "evil.pth")
    with pytest.raises(WeightsError, match="cannot be read as plain tensors"):
        FrozenBase("resnet18", weights="evil.pth")
    assert not Path("exploited").exists()


@pytest.mark.ci
def test_nan_in_used_weights_is_refused():
    """As in torchvision's VGG16 weights for features, whose classifier is nan."""
    model = seeded("vgg11")
    model.classifier[0].weight.data[:] = float("nan")
    file = saved(model, "features.pth")
    assert FrozenBase("vgg11", ["block5_pool"], weights=file).layers == ("features.20",)
    with pytest.raises(
        WeightsError, match="contain nan or inf in classifier.0.weight; choose a laye"
    ):
        FrozenBase("vgg11", ["fc1"], weights=file)


@pytest.mark.ci
def test_vgg16_has_the_weights_that_were_trained_for_features_only():
    """They have another preprocessing than the default weights."""
    model = find_model("vgg16")
    assert model.weights["IMAGENET1K_FEATURES"].top1 is None
    state = {
        name: torch.zeros_like(tensor) for name, tensor in seeded("vgg16").state_dict().items()
    }
    torch.save(state, "vgg16_features-amdegroot-88682ab5.pth")
    base = FrozenBase("vgg16", weights="vgg16_features-amdegroot-88682ab5.pth", precision="fp32")
    assert base.transform == model.weights["IMAGENET1K_FEATURES"].transform
    assert base.transform.std == pytest.approx((1 / 255,) * 3)


def test_a_model_without_published_weights():
    with pytest.raises(WeightsError, match="timm has no weights for resnet152v2; give them with"):
        FrozenBase("resnet152v2")
    with pytest.raises(UnknownNameError, match="no weights 'a1h' .* one of random, random:SEED"):
        FrozenBase("resnet152v2", weights="a1h")
    assert FrozenBase("resnet152v2", ["stem.pool"], weights="random").weights_random


def test_missing_weights_are_one_sentence():
    """The sentence says where they were looked for, and what to do."""
    for model, place in (("vgg16", "checkpoints"), ("resnet18", "checkpoints")):
        with pytest.raises(WeightsError) as caught:
            FrozenBase(model)
        sentence = str(caught.value)
        for part in (place, "cannot be downloaded", "`weights=FILE`", "`weights=random`"):
            assert part in sentence


def test_random_weights_are_seeded_and_marked():
    one, same, other = (
        FrozenBase("resnet18", weights=choice) for choice in ("random", "random:0", "random:1")
    )
    assert one.fingerprint("flatten") == same.fingerprint("flatten")
    assert one.fingerprint("flatten") != other.fingerprint("flatten")
    assert one.weights_random
    assert one.weights_name == "random:0"


def test_seeds_of_random_weights():
    model = find_model("squeezenet1_1")
    assert (
        load_weights(model, f"random:{'9' * 19}")[1].load().keys()
        == load_weights(model, "random")[1].load().keys()
    )
    for seed in ("-1", "x", "9" * 20):
        with pytest.raises(UnknownNameError, match=f"no weights 'random:{seed}'"):
            load_weights(model, f"random:{seed}")


def test_mistakes_are_reported_before_weights_are_loaded():
    """There are no weights here and no network connection."""
    with pytest.raises(UnknownNameError, match="no layer 'block5_pol'"):
        FrozenBase("vgg16", ["block5_pol"])
    with pytest.raises(UsageError, match="cannot be pooled by 'cls'"):
        FrozenBase("vgg16", pool="cls")


def test_the_fingerprint_covers_what_decides_a_value():
    """Weights up to the layer, transform, storage and architecture; no later weights."""
    model = seeded("resnet18")
    base = FrozenBase("resnet18", weights=saved(model, "a.pth"))
    original = base.fingerprint("flatten")
    assert base.fingerprint("flatten", "float32") != original
    model.fc.weight.data += 1
    assert FrozenBase("resnet18", weights=saved(model, "b.pth")).fingerprint("flatten") == original
    model.layer4[1].bn2.running_mean += 1e-3
    changed = FrozenBase("resnet18", ["layer3", "flatten"], weights=saved(model, "c.pth"))
    assert changed.fingerprint("flatten") != original
    shallow = FrozenBase("resnet18", ["layer3"], weights="a.pth")
    assert changed.fingerprint(changed.layers[0]) == shallow.fingerprint(shallow.layers[0])
    base.transform = Transform(
        (256, 256), (224, 224), "bicubic", base.transform.mean, base.transform.std
    )
    assert base.fingerprint("flatten") != original


def test_a_node_without_activation_is_refused():
    with pytest.raises(UsageError, match="'getitem' of vit_b_32 does not give one row of"):
        FrozenBase("vit_b_32", ["getitem"], weights="random")


def test_a_base_cut_again_keeps_its_weights():
    base = FrozenBase("resnet18", ["layer2", "layer4"], weights="random")
    batch = torch.randn(1, 3, 224, 224)
    shallow = base.cut(["layer2"])
    assert shallow.layers == base.layers[:1]
    assert torch.equal(shallow(batch)[shallow.layers[0]], base(batch)[shallow.layers[0]])
    assert base.cut(base.layers) is base
