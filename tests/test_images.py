"""Image sets: layouts, manifests, splits, formats. About 4 s in the first tier."""

import io
import os
import random
import shutil
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from bottleneck.errors import (
    BadImageError,
    DataError,
    MissingExtraError,
    PathMissingError,
    UsageError,
)
from bottleneck.images import ImageItem, ImageSet, decode, find_near_duplicates, read_size

RED, BLUE = (200, 30, 40), (20, 60, 220)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def halves(mode: str = "RGB", left=RED, right=BLUE) -> Image.Image:
    """A 40 x 20 picture, its left half of one colour and its right half of another."""
    image = Image.new(mode, (40, 20), right)
    image.paste(left, (0, 0, 20, 20))
    return image


def assert_shows(pixels: np.ndarray, left, right, *, tolerance: int = 6) -> None:
    assert pixels.dtype == np.uint8
    height, width, channels = pixels.shape
    assert channels == 3
    for place, expected in ((width // 4, left), (3 * width // 4, right)):
        found = pixels[height // 2, place].astype(int)
        assert np.abs(found - expected).max() <= tolerance, (found, expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_every_format_keeps_its_colours(kind):
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    assert_shows(decode(encoded(halves(), kind, **options)), RED, BLUE)


def test_gif_gives_its_first_frame():
    data = encoded(halves(), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 20))])
    assert_shows(decode(data), RED, BLUE)


def test_animated_webp_gives_its_first_frame():
    frames = {"save_all": True, "append_images": [Image.new("RGB", (40, 20))], "lossless": True}
    assert_shows(decode(encoded(halves(), "WEBP", **frames)), RED, BLUE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_greys_become_rgb(kind):
    assert_shows(decode(encoded(halves("L", 60, 180), kind)), (60,) * 3, (180,) * 3)


def test_black_and_white_become_rgb():
    assert_shows(decode(encoded(halves("1", 0, 1), "PNG")), (0,) * 3, (255,) * 3)


def test_colours_of_a_palette_become_rgb():
    palette = halves().quantize(4)
    assert palette.mode == "P"
    assert_shows(decode(encoded(palette, "PNG")), RED, BLUE)


def test_transparent_pixels_are_laid_on_white():
    """A hidden colour under full transparency must not show."""
    image = halves("RGBA", (*RED, 255), (*BLUE, 0))
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        assert_shows(decode(encoded(image, kind, **options)), RED, (255, 255, 255))
    grey = halves("LA", (60, 255), (180, 0))
    assert_shows(decode(encoded(grey, "PNG")), (60,) * 3, (255,) * 3)


def test_palette_with_a_transparent_colour():
    image = halves().quantize(4)
    transparent = image.getpixel((35, 10))
    data = encoded(image, "PNG", transparency=transparent)
    assert_shows(decode(data), RED, (255, 255, 255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_greys_are_scaled(kind):
    """Pillow's own conversion to RGB would clip everything above 255 to white."""
    pixels = np.full((20, 40), 180 * 257, np.uint16)
    pixels[:, :20] = 60 * 257
    data = encoded(Image.fromarray(pixels), kind)
    assert_shows(decode(data), (60,) * 3, (180,) * 3, tolerance=0)


def test_big_endian_sixteen_bit_tiff():
    pixels = np.full((20, 40), 180 * 257, ">u2")
    image = Image.frombytes("I;16B", (40, 20), pixels.tobytes())
    assert_shows(decode(encoded(image, "TIFF")), (180,) * 3, (180,) * 3, tolerance=0)


def test_cmyk_becomes_rgb():
    data = encoded(halves().convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.mode == "CMYK"
    assert_shows(decode(data), RED, BLUE, tolerance=12)


@pytest.mark.parametrize("orientation", [*range(10), 77])
def test_exif_orientation_is_applied(orientation):
    """Each way of storing the picture comes back upright."""
    transpose = Image.Transpose
    stored_as = {
        1: [],
        2: [transpose.FLIP_LEFT_RIGHT],
        3: [transpose.ROTATE_180],
        4: [transpose.FLIP_TOP_BOTTOM],
        5: [transpose.TRANSPOSE],
        6: [transpose.ROTATE_90],
        7: [transpose.TRANSVERSE],
        8: [transpose.ROTATE_270],
    }
    image = halves()
    for step in stored_as.get(orientation, []):
        image = image.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 95, "subsampling": 0})):
        data = encoded(image, kind, exif=exif, **options)
        upright = decode(data)
        assert upright.shape == (20, 40, 3)
        assert_shows(upright, RED, BLUE)
        by_pillow = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert np.array_equal(upright, np.asarray(by_pillow))
        Path("image").write_bytes(data)
        assert read_size("image") == (20, 40)


def test_float_pixels_are_refused():
    data = encoded(Image.new("F", (4, 4), 0.5), "TIFF")
    with pytest.raises(BadImageError, match="no defined range"):
        decode(data)


def test_lab_becomes_rgb():
    lab = ImageCms.profileToProfile(
        halves(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert_shows(decode(encoded(lab, "TIFF")), RED, BLUE)


def test_bad_bytes_are_bad_images():
    """Cut off at any length, or not an image: a reason, never another exception."""
    whole = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG")
    generator = random.Random(0)
    for _ in range(40):
        with pytest.raises(BadImageError):
            decode(whole[: generator.randrange(len(whole) - 20)])
    for data, reason in ((b"", "empty"), (b"hello", "not an image")):
        with pytest.raises(BadImageError, match=reason):
            decode(data)


@pytest.mark.ci
def test_absurd_sizes_are_refused():
    """A small file that declares 40,000 x 40,000 pixels is not unpacked."""
    bomb = encoded(Image.new("1", (40_000, 40_000)), "PNG")
    with pytest.raises(BadImageError, match="40000 x 40000 pixels are more than the limit"):
        decode(bomb)


def test_class_folders_are_the_labels(make_images):
    folder = make_images(cat=5, dog=5)
    images = ImageSet.from_folder(folder)
    assert images.name == "data"
    assert images.classes == ("cat", "dog")
    assert len(images.items) == 10
    assert {item.split for item in images.items} == {"train", "test"}
    assert all(item.label == Path(item.path).parent.name for item in images.items)


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_split_folders_are_the_splits(make_images, validation):
    for split in ("train", validation, "test"):
        make_images(f"data/{split}", cat=2, dog=1, seed=len(split))
    images = ImageSet.from_folder("data")
    splits = [(item.split, Path(item.path).parts[1]) for item in images.items]
    assert len(splits) == 9
    assert {(split, folder) for split, folder in splits} == {
        ("train", "train"),
        ("val", validation),
        ("test", "test"),
    }


def test_endings_hidden_files_and_strangers(make_images):
    """Upper case counts; hidden files and others are named as left out."""
    folder = make_images(cat=2, dog=2)
    (folder / "cat/000.png").rename(folder / "cat/000.PNG")
    (folder / "cat/.hidden.png").write_bytes(b"")
    (folder / "cat/notes.txt").write_text("no image")
    (folder / "README.md").write_text("no class")
    (folder / "cat/more").mkdir()
    (folder / "dog/000.png").rename(folder / "cat/more/deep.png")
    (folder / "dog/two, three.png").write_bytes((folder / "cat/001.png").read_bytes()[:-1] + b"x")
    images = ImageSet.from_folder(folder)
    assert [Path(item.path).name for item in images.items if item.label == "cat"] == [
        "000.PNG",
        "001.png",
        "deep.png",
    ]
    assert sorted(Path(path).name for path in images.ignored) == [
        ".hidden.png",
        "README.md",
        "notes.txt",
    ]


def test_folders_without_images_are_named(little, make_images, bottleneck):
    """A class or a split without images does not disappear silently."""
    folder = make_images(cat=2, dog=2)
    (folder / "bird").mkdir()
    (folder / "fish").mkdir()
    (folder / "fish/notes.txt").write_text("no image")
    images = ImageSet.from_folder(folder)
    assert images.classes == ("cat", "dog")
    assert sorted(images.ignored) == ["data/bird/", "data/fish/", "data/fish/notes.txt"]
    make_images("splits/train", cat=2, dog=2)
    Path("splits/val").mkdir()
    Path("splits/test/cat").mkdir(parents=True)
    images = ImageSet.from_folder("splits")
    assert sorted(images.ignored) == ["splits/test/cat/", "splits/val/"]
    done = bottleneck("extract", "--model", little, "--weights", "random", "--data", folder)
    err = " ".join(done.err.split())
    assert "2 class or split folders have no images: data/bird/ data/fish/" in err
    assert "1 file was left out, not being an image or having no class: 1 .txt" in err


def test_a_folder_without_class_folders_has_no_labels(make_images):
    make_images("data", flat=3)
    images = ImageSet.from_folder("data/flat")
    assert not images.labelled
    assert {(item.label, item.split) for item in images.items} == {(None, None)}


def test_a_folder_and_a_link_in_the_place_of_an_image(make_images):
    folder = make_images(cat=3, dog=3)
    (folder / "cat/folder.jpg").mkdir()
    (folder / "cat/loop.jpg").symlink_to("loop.jpg")
    (folder / "cat/gone.jpg").symlink_to("nowhere.jpg")
    images = ImageSet.from_folder(folder)
    reasons = {Path(bad.path).name: bad.reason for bad in images.rejected}
    assert set(reasons) == {"folder.jpg", "loop.jpg", "gone.jpg"}
    assert reasons["folder.jpg"] == "a folder"
    assert "symbolic links" in reasons["loop.jpg"]
    assert reasons["gone.jpg"] == "a link to nothing"


def test_pipes_and_devices_do_not_stall(make_images):
    folder = make_images(cat=3, dog=3)
    os.mkfifo(folder / "cat/pipe.jpg")
    (folder / "cat/zeros.jpg").symlink_to("/dev/zero")
    images = ImageSet.from_folder(folder)
    assert [bad.reason for bad in images.rejected] == ["not a regular file"] * 2


def test_a_name_that_is_not_utf8(make_images):
    folder = make_images(cat=3, dog=3)
    shutil.copy(folder / "cat/000.png", os.fsencode(folder) + b"/cat/bad\xff.png")
    (bad,) = ImageSet.from_folder(folder).rejected
    assert bad.path == "data/cat/bad?.png"
    assert "not UTF-8" in bad.reason


def test_a_manifest_has_paths_and_labels(make_images):
    make_images("pictures", cat=3, dog=3)
    Path("pictures/list.csv").write_text(
        "\ufeffpath,label,note\n"
        + "".join(f"cat/00{n}.png,katze,x\n" for n in range(3))
        + "".join(f"dog/00{n}.png,hund,x\n" for n in range(3)),
        encoding="utf-8",
    )
    images = ImageSet.from_manifest("pictures/list.csv")
    assert images.name == "list"
    assert images.classes == ("hund", "katze")
    assert {item.split for item in images.items} == {"train", "test"}


def test_a_manifest_may_have_splits(make_images):
    make_images(cat=2, dog=2)
    Path("list.csv").write_text(
        "path,label,split\n"
        "data/cat/000.png,cat,train\ndata/cat/001.png,cat,validation\n"
        "data/dog/000.png,dog,train\ndata/dog/001.png,dog,Test\n"
    )
    images = ImageSet.open("list.csv")
    assert [item.split for item in images.items] == ["train", "val", "train", "test"]


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("path,species\na.png,x\n", UsageError, "no column label"),
        ("", UsageError, "an empty file"),
        ("path,label\n", DataError, "lists no images"),
        (
            "path,label\nnowhere.png,x\n",
            PathMissingError,
            "lists 1 image, of which none exists, first",
        ),
        (
            "path,label\ndata/cat/000.png,\n",
            UsageError,
            "in line 2: 'label' is '', expected a text that is not empty and has no NUL",
        ),
        ("path,label\ndata/cat/000.png\n", UsageError, "in line 2: 'label' is ''"),
        (
            "path,label,weight\ndata/cat/000.png,x,-1\n",
            UsageError,
            "'weight' is '-1', .*or an empty cell, which means 1; correct it$",
        ),
        (
            "path,label,split\ndata/cat/000.png,,train\n",
            UsageError,
            "in line 2: 'label' is '', .*; correct it$",
        ),
        (
            "path,label,split\ndata/cat/000.png,x,later\n",
            UsageError,
            "in line 2: 'split' is 'later', expected one of 'train', 'val', 'test'",
        ),
        (
            "path,label,split\ndata/cat/000.png,x,train\ndata/cat/001.png,x,\n",
            UsageError,
            "in line 3: 'split' is ''.* in every row or in none",
        ),
    ],
)
def test_invalid_manifests_are_refused(make_images, text, error, sentence):
    make_images(cat=2)
    Path("list.csv").write_text(text)
    with pytest.raises(error, match=sentence):
        ImageSet.from_manifest("list.csv")


def test_folders_without_two_classes_of_images_are_refused(make_images):
    with pytest.raises(PathMissingError, match="no folder 'data'"):
        ImageSet.from_folder("data")
    Path("data").mkdir()
    with pytest.raises(DataError, match="no images in 'data'"):
        ImageSet.from_folder("data")
    make_images(cat=3)
    with pytest.raises(DataError, match="only one class, 'cat'"):
        ImageSet.from_folder("data")
    make_images(dog=1)
    with pytest.raises(DataError, match="class 'dog' has 1 usable image"):
        ImageSet.from_folder("data")
    make_images("data/train", cat=2, dog=2)
    with pytest.raises(DataError, match="mixes the split folder 'train' with the folder 'cat'"):
        ImageSet.from_folder("data")
    make_images("flat", train=2, test=2)
    with pytest.raises(DataError, match="no class folders"):
        ImageSet.from_folder("flat")


def items_of(labels: list[int], digests: list[int]) -> tuple[ImageItem, ...]:
    return tuple(
        ImageItem(f"{place}.png", f"{digest:064x}", str(label))
        for place, (label, digest) in enumerate(zip(labels, digests, strict=True))
    )


@settings(deadline=None)
@given(st.data(), st.integers(0, 3))
def test_the_split_depends_on_digests_and_seed_alone(data, seed):
    """Any order, any paths: the same split; every class on both sides; no image on two."""
    counts = data.draw(st.lists(st.integers(2, 30), min_size=2, max_size=5))
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    items = items_of(labels, list(range(len(labels))))
    shuffled = data.draw(st.permutations(items))
    one = ImageSet("one", items).with_splits(seed=seed)
    other = ImageSet("other", tuple(shuffled)).with_splits(seed=seed)
    assert {i.digest: i.split for i in one.items} == {i.digest: i.split for i in other.items}
    for label, count in enumerate(counts):
        tests = sum(i.split == "test" for i in one.items if i.label == str(label))
        assert tests == max(1, round(0.2 * count))


def test_another_seed_gives_another_split():
    items = items_of([0] * 50 + [1] * 50, list(range(100)))
    one, other = (ImageSet("a", items).with_splits(seed=seed) for seed in (0, 1))
    assert one.items != other.items


def test_identical_images_stay_in_one_split():
    """Also where their labels differ; both are reported."""
    items = items_of([0] * 20 + [1] * 20, [*range(20), *range(10, 30)])
    images = ImageSet("a", items).with_splits()
    assert images.leaks == ()
    assert len(images.conflicts) == 10
    splits: dict[str, set] = {}
    for item in images.items:
        splits.setdefault(item.digest, set()).add(item.split)
    assert all(len(found) == 1 for found in splits.values())


def test_a_class_within_another_cannot_be_split():
    """Its images are identical to another class's, and may all fall into one split."""
    outcomes = set()
    for seed in range(30):
        images = ImageSet("a", items_of([0] * 4 + [1] * 2, [0, 1, 2, 3, 0, 1]))
        try:
            split = images.with_splits(seed=seed)
        except DataError as error:
            assert "class '1' cannot be split" in str(error)  # noqa: PT017 - either may come
            outcomes.add("refused")
        else:
            assert {item.split for item in split.items if item.label == "1"} == {"train", "test"}
            outcomes.add("split")
    assert outcomes == {"refused", "split"}


def test_identical_bytes_in_two_splits_are_a_leak(make_images):
    make_images("data/train", cat=2, dog=2)
    make_images("data/test", cat=2, dog=2, seed=9)
    copied = Path("data/train/cat/000.png").read_bytes()
    Path("data/test/cat/000.png").write_bytes(copied)
    images = ImageSet.from_folder("data")
    assert len(images.leaks) == 1


def test_an_image_set_is_read_back_from_its_csv(make_images):
    images = ImageSet.from_folder(make_images(cat=4, dog=4))
    images.write_csv("sets/data.csv")
    assert ImageSet.read_csv("sets/data.csv").items == images.items
    assert [path.name for path in Path("sets").iterdir()] == ["data.csv"]


@pytest.mark.parametrize("place", ["data/cache", "data", "data/cat", "other/folder"])
def test_a_set_of_relative_paths_is_read_from_other_working_folders(
    make_images, monkeypatch, place
):
    images = ImageSet.from_folder(make_images(cat=2, dog=2))
    Path("data/cache/sets").mkdir(parents=True)
    images.write_csv("data/cache/sets/data.csv")
    digests = [item.digest for item in images.items]
    file = Path("data/cache/sets/data.csv").absolute()
    Path(place).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(place)
    items = ImageSet.read_csv(file).items
    assert [sha256(Path(item.path).read_bytes()).hexdigest() for item in items] == digests
    assert not Path(items[0].path).is_absolute()


@pytest.mark.parametrize(
    ("whole", "damaged"),
    [
        ('"train"', '"dev"'),
        ('"1.5"', '"nan"'),
        ('"1.5"', '"-1"'),
        ('"1.5"', '"1.5","more"'),
        ('"a.png"', '""'),
        ("e" * 64, "e" * 63),
        ("e" * 64, ""),
        ("digest", "digits"),
        ('"a.png"', '"\0'),
    ],
)
def test_a_damaged_set_is_one_sentence(whole, damaged):
    items = (ImageItem("a.png", "e" * 64, "cat", "train", 1.5),)
    ImageSet("data", items).write_csv("data.csv")
    assert ImageSet.read_csv("data.csv").items == items
    Path("data.csv").write_text(Path("data.csv").read_text().replace(whole, damaged))
    with pytest.raises(
        DataError, match=r"^the image set 'data.csv' .*; run 'bottleneck extract' again, or"
    ):
        ImageSet.read_csv("data.csv")


def test_the_sets_digest_ignores_paths_and_order(make_images):
    images = ImageSet.from_folder(make_images(cat=4, dog=4))
    moved = tuple(
        ImageItem(f"elsewhere/{i.path}", i.digest, i.label, i.split) for i in reversed(images.items)
    )
    assert ImageSet("moved", moved).digest_of("train") == images.digest_of("train")
    assert images.digest_of("train") != images.digest_of("test")


def test_near_duplicates_are_pairs_in_different_splits(make_images):
    """Not in the same split, not identical, not of files that changed; the closest come first."""
    make_images("data/train", cat=5, dog=5)
    make_images("data/test", cat=3, dog=3, seed=3)
    with Image.open("data/train/cat/000.png") as image:
        image.resize((60, 60)).save("data/train/dog/same-split.png")
        image.save("data/test/cat/saved-anew.bmp")
        image.resize((40, 40)).save("data/test/dog/small.jpg", quality=50)
    shutil.copy("data/train/dog/001.png", "data/test/dog/identical.png")
    images = ImageSet.from_folder("data")
    found = find_near_duplicates(images)
    assert {(Path(pair.first).name, Path(pair.second).name) for pair in found.pairs} == {
        (first, second)
        for first in ("000.png", "same-split.png")
        for second in ("saved-anew.bmp", "small.jpg")
    }
    assert found.count == 4
    assert [pair.distance for pair in found.pairs] == sorted(p.distance for p in found.pairs)
    assert all(pair.splits == ("train", "test") for pair in found.pairs)
    Path("data/test/dog/small.jpg").write_bytes(b"changed")
    found = find_near_duplicates(images)
    assert [image.reason for image in found.unread] == [
        "the file changed since its digest was taken"
    ]
    assert found.count == 2


def test_many_plain_images_are_counted_and_the_closest_listed():
    for split in ("train", "test"):
        for label in ("a", "b"):
            Path("data", split, label).mkdir(parents=True)
    for number in range(100):
        color = (number, 100, 200)
        split = ("train", "test")[number % 2]
        path = Path("data", split, "ab"[number % 4 // 2], f"{number}.png")
        Image.new("RGB", (20, 20), color).save(path)
    found = find_near_duplicates(ImageSet.from_folder("data"))
    assert found.count == 2500
    assert len(found.pairs) == 1000


def test_near_duplicates_are_those_of_an_image_set():
    with pytest.raises(TypeError, match=r"^`images` must be ImageSet, got 'data' \(str\)"):
        find_near_duplicates("data")


def test_near_duplicates_need_splits_and_imagehash(make_images, monkeypatch):
    make_images(".", flat=3)
    with pytest.raises(DataError, match="has no splits"):
        find_near_duplicates(ImageSet.from_folder("flat"))
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(MissingExtraError, match="run 'pip install imagehash'"):
        find_near_duplicates(ImageSet.from_folder("flat"))
