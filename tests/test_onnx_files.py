"""Networks give the same features in ONNX Runtime; test_testing.py tries each family.

About 5 s in the first tier.
"""

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import source_record
from test_hooking import Untraced, use
from torch import nn

from bottleneck import FrozenBase, Head
from bottleneck.errors import ExportError
from bottleneck.export.networks import Parts
from bottleneck.export.onnx_files import made_onnx
from bottleneck.heads.models import Affine
from bottleneck.settings import ExportSettings


def parts_of(base: FrozenBase) -> Parts:
    """The base, and a head on its last layer whose scores are of moderate size."""
    layer = base.layers[-1]
    source = source_record(
        model=base.model, layer=layer, axes=base.axes[layer], pool="none", stored_pool="none"
    )
    width = int(np.prod(base.shapes[layer]))
    weight = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32) / width**0.5
    model = Affine(weight, np.zeros(3, np.float32))
    return Parts(Head(clf="softmax", classes=("a", "b", "c"), model=model, source=source), base)


def assert_same_features(base: FrozenBase, tolerance: float = 1e-3) -> None:
    """For batches of one and of three images."""
    model, _ = made_onnx(parts_of(base), ExportSettings())
    session = onnxruntime.InferenceSession(model.SerializeToString())
    images = torch.randn(3, 3, *base.transform.crop)
    expected = base(images)[base.layers[-1]].flatten(1).numpy()
    assert expected.std() > 0
    for count in (1, 3):
        (given,) = session.run(None, {"pixels": images[:count].numpy()})
        gap = np.abs(given - expected[:count]).max()
        assert gap <= tolerance * np.abs(expected).max()


@pytest.mark.ci
def test_a_network_that_cannot_be_traced_as_a_graph_is_exported():
    """It runs as it is, and its layers are taken by hooks."""
    base = FrozenBase("timm:test_vit", ["penultimate"], weights="random", precision="fp32")
    assert base.network.untraced
    assert_same_features(base)


def test_a_path_that_depends_on_values_cannot_be_exported(monkeypatch):
    class Branches(Untraced):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images)["scores"]

    use(monkeypatch, Branches)
    base = FrozenBase("untraced", ["logits"], weights="random", precision="fp32")
    with pytest.raises(ExportError, match=r"cannot trace untraced .*; export a \.zip"):
        made_onnx(parts_of(base), ExportSettings())


@pytest.mark.ci
def test_a_base_whose_images_keep_their_proportions_takes_images_of_any_size():
    base = FrozenBase(
        "resnet18", ["layer4"], pool="avg", keep_aspect=True, weights="random", precision="fp32"
    )
    parts = parts_of(base)
    model, _ = made_onnx(parts, ExportSettings())
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for size in ((224, 224), (224, 300), (400, 224)):
        images = torch.randn(2, 3, *size)
        (expected,) = base(images).values()
        (given,) = session.run(None, {"pixels": images.numpy()})
        assert np.abs(given - expected.numpy()).max() <= 1e-3 * float(expected.max())


@pytest.mark.ci
def test_the_networks_own_attention_pooling_is_exported():
    base = FrozenBase(
        "timm:vit_base_patch16_siglip_224",
        ["block.0"],
        pool="map",
        weights="random",
        precision="fp32",
    )
    assert isinstance(base.to_module().pooler, nn.Module)
    assert_same_features(base)
