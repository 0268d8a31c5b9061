"""Preprocessing: that of the weights, and changed settings. About 2 s in the first tier."""

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torchvision.transforms import functional

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.bases import Transform, find_model
from bottleneck.errors import UnknownNameError, UsageError
from bottleneck.settings.values import Interpolation

OWN = Transform(
    resize=(256, 256),
    crop=(224, 224),
    interpolation="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def photograph(width: int = 400, height: int = 300) -> Image.Image:
    return Image.fromarray(data.astronaut()).resize((width, height))


def normalised(image: Image.Image) -> torch.Tensor:
    return functional.normalize(functional.to_tensor(image), list(OWN.mean), list(OWN.std))


def test_another_size_keeps_the_share_of_the_crop():
    assert OWN.adjusted(image_size=(150, 150)).resize == (171, 171)
    wide = OWN.adjusted(image_size=(112, 448))
    assert (wide.resize, wide.crop) == ((128, 512), (112, 448))
    assert OWN.adjusted() == OWN


@pytest.mark.parametrize("size", [(150, 150), (96, 160), (160, 96), (7, 300)])
@pytest.mark.parametrize("image", [(400, 300), (300, 400), (31, 900), (64, 64)])
def test_a_crop_never_leaves_the_image(size, image):
    """No black border: the resized image covers what is cropped, with its proportions."""
    transform = OWN.adjusted(image_size=size)
    white = Image.new("RGB", image, "white")
    tensor = transform(white)
    assert tuple(tensor.shape) == (3, *size)
    assert torch.equal(tensor, tensor[:, :1, :1].expand_as(tensor))


def test_images_too_thin_to_crop_are_rejected_by_name(make_images):
    """Before they are enlarged to gigabytes; with squash they are accepted."""
    folder = make_images(cat=3, dog=3)
    Image.new("RGB", (20_000, 2), "white").save(folder / "cat/thin.png")
    images = ImageSet.from_folder(folder)
    base = FrozenBase("squeezenet1_1", ["features.3"], weights="random")
    (rejected,) = extract_features(images, base, Cache("cache")).rejected
    assert rejected.path == "data/cat/thin.png"
    assert "too thin to keep its proportions" in rejected.reason
    squashing = FrozenBase("squeezenet1_1", ["features.3"], weights="random", squash=True)
    assert not extract_features(images, squashing, Cache("cache")).rejected


def test_squash_sees_the_whole_image():
    squashed = OWN.adjusted(image_size=(150, 100), squash=True)
    image = photograph()
    torch.testing.assert_close(squashed(image), normalised(functional.resize(image, [150, 100])))
    assert squashed.adjusted(squash=True) == squashed
    half = find_model("timm:dm_nfnet_f0").transform  # squashes, and crops of that
    assert half.squash
    assert half.resize > half.crop
    assert half.adjusted(squash=True).resize == half.crop


def test_crop_of_weights_that_squash():
    theirs = find_model("timm:convnext_base.fb_in22k_ft_in1k_384").transform
    assert theirs.squash
    cropping = theirs.adjusted(squash=False)
    image = photograph()
    assert not cropping.squash
    assert not torch.equal(theirs(image), cropping(image))


def test_the_size_of_a_square_crop_is_torchvisions():
    """Bit for bit what its own preset gives."""
    image = photograph(411, 307)
    expected = normalised(functional.center_crop(functional.resize(image, [256]), [224]))
    torch.testing.assert_close(OWN(image), expected, atol=0, rtol=0)


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_interpolations_are_pillows(interpolation):
    transform = OWN.adjusted(interpolation=interpolation)
    resample = Image.Resampling[interpolation.upper()]
    expected = photograph(64, 48).resize((341, 256), resample)
    expected = normalised(functional.center_crop(expected, [224]))
    torch.testing.assert_close(transform(photograph(64, 48)), expected)


def test_invalid_settings_are_refused():
    with pytest.raises(UnknownNameError, match="got 'bicubik'; did you mean 'bicubic'"):
        FrozenBase("squeezenet1_1", interpolation="bicubik")
    for size in ((150, 0), (150, 5_000_000_000)):
        with pytest.raises(UsageError, match="`image_size` must be pixels as SIDE or HEIGHTxWIDTH"):
            FrozenBase("squeezenet1_1", image_size=size)


@pytest.mark.isa
def test_every_setting_is_part_of_the_fingerprint_and_of_the_bank(make_images):
    """And of the run's record, so that a head finds its base again."""
    images = ImageSet.from_folder(make_images(cat=3, dog=3))
    settings = [
        {},
        {"image_size": (96, 96)},
        {"image_size": (96, 96), "interpolation": "nearest"},
        {"image_size": (96, 96), "squash": True},
    ]
    cache = Cache("cache")
    rows = []
    for each in settings:
        base = FrozenBase("squeezenet1_1", ["features.3"], weights="random", **each)
        (found,) = extract_features(images, base, cache).layers
        digests = [item.digest for item in images.items]
        bank = cache.bank(base.model, found.fingerprint)
        rows.append(bank.read("features.3.cat", digests).astype(np.float32))
        assert bank.info.transform.as_dict() == base.transform.as_dict()
        resized_faster = {"exact_resize"} if base.precision == "fp32" else set()  # as auto has it
        assert cache.runs()[-1].adjustments.keys() == each.keys() | resized_faster
    assert len(cache.banks()) == len(settings)
    assert not np.array_equal(rows[1], rows[2])
    again = FrozenBase("squeezenet1_1", ["features.3"], weights="random", **settings[1])
    assert extract_features(images, again, cache).computed == 0
