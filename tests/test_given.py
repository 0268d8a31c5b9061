"""Image sets of Python objects: sequences, torchvision's datasets, dicts of splits. About 4 s."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import crops
from PIL import Image
from torch.utils.data import Subset
from torchvision import datasets

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.errors import BadImageError, DataError, UsageError, WrongTypeError
from bottleneck.images import ImageItem, decode, read_file, read_size

PICTURES = crops(8)
LABELS = ["cat", "dog"] * 4


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


FORMS = {
    "bytes": encoded,
    "Pillow": lambda image: image,
    "an array": np.asarray,
    "grey": lambda image: np.asarray(image)[:, :, 0],
}


@pytest.mark.parametrize("form", FORMS)
def test_pairs_of_images_and_labels_are_read(form):
    pairs = [(FORMS[form](image), label) for image, label in zip(PICTURES, LABELS, strict=True)]
    images = ImageSet.open(pairs)
    assert images.name == "images"
    assert images.classes == ("cat", "dog")
    assert {item.split for item in images.items} == {"train", "test"}
    for item, picture in zip(images.items, PICTURES, strict=True):
        expected = np.asarray(picture)
        if form == "grey":
            expected = np.repeat(expected[:, :, :1], 3, axis=2)
        assert np.array_equal(decode(read_file(item)), expected)
        assert read_size(item.path) == picture.size[::-1]


def test_bytes_have_the_digest_of_their_file_and_pixels_that_of_a_ppm_file(make_images):
    make_images("data", cat=3, dog=3)
    files = sorted(Path("data").rglob("*.png"))
    there = ImageSet.open("data")
    pairs = [(file.read_bytes(), file.parent.name) for file in files]
    assert ImageSet.open(pairs).digest_of() == there.digest_of()
    assert ImageSet.open([(str(f), f.parent.name) for f in files]).digest_of() == there.digest_of()
    for file in files:
        Image.open(file).save(file.with_suffix(".ppm"))
        file.unlink()
    images = ImageSet.open([(Image.open(io.BytesIO(content)), label) for content, label in pairs])
    assert images.digest_of() == ImageSet.open("data").digest_of()


def test_datasets_of_torchvision_are_read(make_images):
    """Those of folders by the paths of their files; others as objects, with names of classes."""
    make_images("data", cat=3, dog=3)
    there, here = ImageSet.open("data"), ImageSet.open(datasets.ImageFolder("data"))
    assert [item.path for item in here.items] == [item.path for item in there.items]
    assert here.digest_of() == there.digest_of()
    fake = datasets.FakeData(8, (3, 20, 20), 2)
    fake.classes = ["cat", "dog"]
    images = ImageSet.open(fake, image_set="mine", min_images=2)
    assert images.items[3].path == "python://mine/000003"
    assert set(images.classes) <= {"cat", "dog"}


def test_a_subset_of_a_dataset_has_its_files_and_classes(make_images):
    make_images("data", cat=3, dog=3)
    there = ImageSet.open("data", complete=False)
    inner = Subset(datasets.ImageFolder("data"), [5, 0, 1, 4, 3])
    images = ImageSet.open(Subset(inner, torch.tensor([0, 1, 2, -1])))
    chosen = [there.items[number] for number in (5, 0, 1, 3)]
    found = [(item.path, item.digest, item.label) for item in images.items]
    assert found == [(item.path, item.digest, item.label) for item in chosen]
    pairs = list(zip(PICTURES, LABELS, strict=True))
    images = ImageSet.open({"train": Subset(pairs, [0, 3, 4, 5]), "test": Subset(pairs, [6, 7])})
    assert [item.label for item in images.items] == ["cat", "dog"] * 3
    for item, number in zip(images.items, (0, 3, 4, 5, 6, 7), strict=True):
        assert np.array_equal(decode(read_file(item)), np.asarray(PICTURES[number]))
    with pytest.raises(UsageError, match="the subset 'subset' has an index beyond the 8 images of"):
        ImageSet.open(Subset(pairs, [8]))


def test_classes_of_several_names_have_the_first_that_is_theirs(make_images):
    """As of ImageNet, of which two are cranes, and one maillot is a tank suit, too."""
    make_images("data", a=2, b=2, c=2, d=2, e=2)
    dataset = datasets.ImageFolder("data")
    dataset.classes = [
        ("tench", "Tinca tinca"),
        ("maillot",),
        ("maillot", "tank suit; swimsuit"),
        ("crane",),
        ("crane",),
    ]
    labels = ["tench", "maillot", "maillot, tank suit, swimsuit", "crane 3", "crane 4"]
    images = ImageSet.open(dataset)
    assert [item.label for item in images.items] == [each for each in labels for _ in range(2)]


@pytest.mark.parametrize("make", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_labels_may_be_arrays(make):
    """Of one number, of the numbers of several classes, or with a one for each class."""
    numbers = [[0, 1], [1], [0], 1.0, [[0]], [0, 1], [1, 2], [0]]
    chosen = [[0, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]] * 2
    for given, expected in {
        "numbers": (numbers, ["0;1", "1", "0", "1", "0", "0;1", "1;2", "0"]),
        "chosen": (chosen, ["1", "0;2", ";", "0;1;2"] * 2),
    }.values():
        rows = [(image, make(each)) for image, each in zip(PICTURES, given, strict=True)]
        images = ImageSet.open(rows, complete=False)
        assert [item.label for item in images.items] == expected
    with pytest.raises(
        WrongTypeError, match=r"a label of 'images' is .*\[\[0, 1\].*; expected a text"
    ):
        ImageSet.open([(PICTURES[0], make([[0, 1], [1, 0]]))])


def test_rows_may_be_mappings_and_splits_the_keys_of_a_dict(little):
    rows = [{"image": image, "label": label} for image, label in zip(PICTURES, LABELS, strict=True)]
    images = ImageSet.open({"train": rows[:4], "validation": rows[4:]}, image_set="mine")
    assert [item.split for item in images.items] == ["train"] * 4 + ["val"] * 4
    base = FrozenBase(little, "flat", weights="random")
    assert extract_features(images, base, Cache("cache")).computed == 8


def test_two_objects_with_one_name_have_different_paths():
    first, second = [list(zip(PICTURES[::order], LABELS, strict=True)) for order in (1, -1)]
    sets = [ImageSet.open(each, image_set="twice") for each in (first, second)]
    for images in sets:
        for item in images.items:
            assert read_file(item)
    assert sets[0].items[0].path != sets[1].items[0].path


def test_what_is_no_image_is_listed_and_what_is_no_pair_is_refused():
    odd = [(np.zeros((4, 4, 3)), "cat"), (np.zeros((4, 4, 2), np.uint8), "cat"), (object(), "dog")]
    images = ImageSet.open([*zip(PICTURES, LABELS, strict=True), *odd])
    assert len(images.items) == 8
    assert [each.reason.partition(" is not an image")[0] for each in images.rejected] == [
        "an array of the type float64 and the shape (4, 4, 3)",
        "an array of the type uint8 and the shape (4, 4, 2)",
        "an object of the type 'object'",
    ]
    for wrong, told in {
        "a generator": (
            (pair for pair in ()),
            "expected a path, a dataset of torchvision, or a se",
        ),
        "no pairs": ([PICTURES[0]], r"^images\[0\] is of the type 'Image'; expected a pair"),
        "no label": ([(PICTURES[0], 1.5)], "a label of 'images' is 1.5; expected a text"),
    }.values():
        with pytest.raises(WrongTypeError, match=told):
            ImageSet.open(wrong)
    with pytest.raises(UsageError, match="no split 'x'; expected train, val or test as keys"):
        ImageSet.open({"x": []})
    with pytest.raises(DataError, match="the sequence 'images' has no images"):
        ImageSet.open([])


def test_a_later_process_is_told_that_it_does_not_have_the_object():
    for path in ("python://never/000000", "python://never/x"):
        with pytest.raises(BadImageError, match="an image of a Python object that this process d"):
            read_file(ImageItem(path, "0" * 64))
