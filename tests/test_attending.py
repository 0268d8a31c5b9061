"""The attention pooling of networks themselves. About 1 s in the first tier."""

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from bottleneck import FrozenBase
from bottleneck.errors import UsageError

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
OPTIONS = {"pool": "map", "device": "cpu", "precision": "fp32"}


def written(**options) -> torch.nn.Module:
    """Write a network of SigLIP's kind, which may have a class token, into a folder."""
    torch.manual_seed(0)
    own = {**SMALL, "global_pool": "map", "fc_norm": False, **options}
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **own)
    save_for_hf(network, "own", model_config={"model_args": own}, safe_serialization=True)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("options", [{"class_token": False}, {}, {"pool_include_prefix": True}])
def test_tokens_are_pooled_as_the_network_does_it(options):
    theirs, images = written(**options), torch.rand(2, 3, 32, 32)
    base = FrozenBase("local-dir:own", ["block.0", "last_conv"], **OPTIONS)
    first, last = base(images).values()
    assert set(base.shapes.values()) == {(32,)}
    torch.testing.assert_close(last, theirs(images))
    tokens = theirs.forward_intermediates(images, indices=[0], intermediates_only=True)[0]
    skipped = theirs.num_prefix_tokens * bool(options.get("pool_include_prefix"))
    if not skipped:
        expected = theirs.attn_pool(tokens.flatten(2).transpose(1, 2))
        torch.testing.assert_close(first, expected)


def test_the_weights_of_the_pooling_belong_to_the_fingerprint():
    written()
    (layer,) = FrozenBase("local-dir:own", ["block.0"], **OPTIONS).layers
    file = "own/model.safetensors"
    prints = [FrozenBase("local-dir:own", [layer], **OPTIONS).fingerprint(layer)]
    state = load_file(file)
    save_file({**state, "attn_pool.latent": state["attn_pool.latent"] + 1}, file)
    prints.append(FrozenBase("local-dir:own", [layer], **OPTIONS).fingerprint(layer))
    assert prints[0] != prints[1]


def test_a_network_or_layer_without_it_is_refused(little):
    with pytest.raises(UsageError, match="has no attention pooling, which `pool=map` means"):
        FrozenBase(little, weights="random", pool="map")
    written()
    with pytest.raises(UsageError, match="takes no activations of shape .*, which layer 'blocks"):
        FrozenBase("local-dir:own", ["blocks.0.mlp.fc1"], **OPTIONS)
