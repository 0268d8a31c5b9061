"""Pooling: against torch's own operations, on arrays and tensors, before and after the cache.

About 3 s in the first tier.
"""

import shutil

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional

from bottleneck import (
    Cache,
    FrozenBase,
    ImageSet,
    extract_features,
    load_features,
    predict_images,
    select_features,
)
from bottleneck.errors import UnknownNameError, UsageError
from bottleneck.heads import fit_rows
from bottleneck.pooling import POOLS, check_pool, pool, pooled_shape

MAPS = torch.randn(3, 5, 7, 6, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(1))


def pyramid(maps: torch.Tensor) -> torch.Tensor:
    """Bins one after the other, all channels of each."""
    levels = [functional.adaptive_max_pool2d(maps, count).flatten(2) for count in (1, 2, 4)]
    return torch.cat(levels, dim=2).transpose(1, 2).flatten(1)


EXPECTED = {
    "none": lambda maps: maps,
    "avg": lambda maps: functional.adaptive_avg_pool2d(maps, 1).flatten(1),
    "max": lambda maps: functional.adaptive_max_pool2d(maps, 1).flatten(1),
    "gem": lambda maps: (maps.clamp(min=1e-6) ** 3).mean((2, 3)) ** (1 / 3),
    "spp": pyramid,
}


@pytest.mark.parametrize("how", EXPECTED)
def test_maps_are_pooled_as_by_torch(how):
    expected = EXPECTED[how](MAPS)
    torch.testing.assert_close(pool(MAPS, how, "CHW"), expected)
    np.testing.assert_allclose(pool(MAPS.numpy(), how, "CHW"), expected.numpy(), rtol=1e-5)
    assert tuple(expected.shape[1:]) == pooled_shape((5, 7, 6), how, "CHW")
    if how != "none":
        torch.testing.assert_close(pool(MAPS.permute(0, 2, 3, 1), how, "HWC"), expected)
        assert pooled_shape((7, 6, 5), how, "HWC") == tuple(expected.shape[1:])


def test_maps_smaller_than_the_pyramid():
    """A map of one pixel, as at the end of small images."""
    one = MAPS[:, :, :1, :1]
    assert torch.equal(pool(one, "spp", "CHW"), pyramid(one))


def test_tokens_are_pooled_without_class_tokens():
    patches = TOKENS[:, 2:]
    assert torch.equal(pool(TOKENS, "cls", "2+TC"), TOKENS[:, 0])
    torch.testing.assert_close(pool(TOKENS, "avg", "2+TC"), patches.mean(1))
    torch.testing.assert_close(pool(TOKENS, "max", "2+TC"), patches.amax(1))
    torch.testing.assert_close(pool(TOKENS.numpy(), "avg", "TC"), TOKENS.mean(1).numpy())
    torch.testing.assert_close(pool(TOKENS, "avg", "2-TC"), patches.mean(1))
    both = torch.cat([TOKENS[:, 0], patches.mean(1)], 1)
    torch.testing.assert_close(pool(TOKENS, "cls+avg", "2+TC"), both)
    torch.testing.assert_close(pool(TOKENS.numpy(), "cls+avg", "2+TC"), both.numpy())
    assert pooled_shape((9, 5), "cls+avg", "1+TC") == (10,)
    for how in ("avg", "max", "gem", "cls"):
        assert pooled_shape((9, 5), how, "1+TC") == (5,)


def test_vectors_stay_as_they_are():
    vectors = TOKENS[:, 0]
    assert all(pool(vectors, how, "C") is vectors for how in POOLS)


@pytest.mark.parametrize(
    ("how", "axes", "sentence"),
    [
        ("cls", "CHW", "'x' cannot be pooled by 'cls'; expected one of none, avg, max, gem, spp"),
        (
            "spp",
            "1+TC",
            "'x' cannot be pooled by 'spp'; expected one of none, avg, max, gem, cls, cls\\+avg",
        ),
        ("cls", "TC", "expected one of none, avg, max, gem:"),
        ("cls", "4-TC", "expected one of none, avg, max, gem:"),
        ("avg", "", "expected one of none:"),
        ("map", "1+TC", "only 'bottleneck extract --pool map' can pool it .* one of none, avg"),
        ("avgg", "CHW", "no pooling 'avgg'; .*; did you mean 'avg'"),
    ],
)
def test_unsupported_poolings_are_refused(how, axes, sentence):
    with pytest.raises((UsageError, UnknownNameError), match=sentence):
        check_pool(how, axes, "x")


@pytest.fixture(scope="module")
def stored(faces, tmp_path_factory) -> Cache:
    """Full maps, then the same maps pooled by average, of 20 faces and 20 others."""
    folder = tmp_path_factory.mktemp("pooling")
    for path in faces.glob("*/0[01]?.png"):
        copy = folder / "data" / path.relative_to(faces)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    cache = Cache(folder / "cache")
    images = ImageSet.from_folder(folder / "data")
    for how in ("none", "avg"):
        base = FrozenBase("efficientnet_lite0", ["last_conv"], pool=how, image_size=(96, 96))
        extract_features(images, base, cache)
    return cache


def test_pooled_when_extracted_or_when_fitted(stored):
    """Pooling at fitting reads no images, and differs only by float16 rounding."""
    early = load_features(stored, select_features(stored))
    assert early.selection.stored_pool == "avg"
    maps = load_features(stored, select_features(stored, pool="none"))
    assert maps.X.shape == (40, 1280 * 3 * 3)
    late = load_features(stored, select_features(stored, layer="last_conv", pool="max"))
    expected = maps.X.reshape(40, 1280, 9).max(axis=2)
    np.testing.assert_array_equal(late.X, expected)
    averaged = maps.X.reshape(40, 1280, 9).mean(axis=2)
    np.testing.assert_allclose(early.X, averaged, rtol=2e-3, atol=2e-3)
    assert (early.digests == maps.digests).all()


@pytest.mark.parametrize("how", ["avg", "gem", "spp", "none"])
def test_predictions_from_files_agree_with_cached_features(stored, how):
    """Whether features were pooled before or after caching."""
    features = load_features(stored, select_features(stored, pool=how))
    train, test = features.split("train"), features.split("test")
    head = fit_rows(train.X, train.labels, C=0.01, source=features.provenance)
    head.save("heads/pooled")
    found = list(predict_images(head, sorted(test.paths)))
    order = np.argsort(test.paths)
    scores = np.array([list(each.scores.values()) for each in found])
    np.testing.assert_allclose(scores, head.decision_function(test.X[order]), atol=1e-2)


def test_a_pooling_that_is_neither_stored_nor_possible(stored):
    with pytest.raises(UsageError, match="cannot be pooled by 'cls'"):
        select_features(stored, pool="cls")
    with pytest.raises(UnknownNameError, match="got 'avgg'; did you mean 'avg'"):
        select_features(stored, pool="avgg")


def test_extractions_of_one_layer_are_distinguished(stored):
    """In the output, in the names of heads and in errors."""
    late = select_features(stored, pool="max")
    assert str(late) == "efficientnet_lite0 last_conv (96x96, max)"
    assert late.slug == "efficientnet_lite0-last_conv-96x96-max"
    with pytest.raises(UnknownNameError, match="last_conv \\(96x96\\) of 'data'"):
        select_features(stored, layer="bn1")


@pytest.mark.ci
def test_the_class_token_of_a_transformer():
    """`cls` of the last block, normalised, is what torchvision's own classifier sees."""
    base = FrozenBase("vit_b_32", ["encoder.ln", "penultimate"], weights="random", pool="cls")
    values = base(torch.randn(2, 3, 224, 224))
    assert torch.equal(values["encoder.ln"], values["getitem_5"])
    assert base.pools == {"encoder.ln": "cls", "getitem_5": "none"}
    averaged = FrozenBase("vit_b_32", ["last_conv"], weights="random", pool="avg")
    assert averaged.shapes == {"encoder.ln": (768,)}


def test_pooling_belongs_to_the_fingerprint_except_of_vectors():
    layers, exact = ["layer4", "flatten"], {"weights": "random", "precision": "fp32"}
    plain = FrozenBase("resnet18", layers, **exact)
    pooled = FrozenBase("resnet18", layers, pool="avg", **exact)
    conv, vector = plain.layers
    assert plain.fingerprint(conv) != pooled.fingerprint(conv)
    assert plain.fingerprint(vector) == pooled.fingerprint(vector)
    images = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(pooled(images)[conv], plain(images)[vector])
    model = torchvision.models.resnet18().eval()
    assert tuple(model.avgpool(plain(images)[conv]).shape) == (2, 512, 1, 1)
