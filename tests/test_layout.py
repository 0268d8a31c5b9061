"""How folders of images are read: classes, splits, links, and what is left out.

About 6 s; most files are empty, as only their names matter.
"""

import itertools
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bottleneck.errors import DataError, PathMissingError
from bottleneck.images import ImageSet, summarize
from bottleneck.images.layout import find_files
from bottleneck.images.splits import split_in, split_of
from bottleneck.images.walking import existing, walk
from bottleneck.names import normal_name

TRAIN = ("train", "Train", "TRAINING", "Training", "train_set", "trainset", "TrainImages", "trn")
VAL = ("val", "Valid", "validation", "VALIDATION", "dev", "Dev", "val2017", "development", "valset")
TEST = ("test", "Testing", "TEST", "eval", "Evaluation", "holdout", "hold-out", "held_out", "tst")
WORDS = dict.fromkeys(TRAIN, "train") | dict.fromkeys(VAL, "val") | dict.fromkeys(TEST, "test")
NOT_WORDS = ("cat", "trains", "fittest", "vals", "1", "", "tested", "trainer", "set", "data", "ev")
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def make(root: str, *paths: str) -> Path:
    """Make empty files, and folders for paths that end with a slash."""
    for path in paths:
        place = Path(root, path)
        (place if path.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            place.touch()
    return Path(root)


def counted(root: Path, **how) -> Counter:
    """Return the number of images by label and split."""
    return Counter((item.label, item.split) for item in find_files(root, **how).items)


def in_classes(*folders: str) -> list[str]:
    return [f"{folder}/{label}/1.png" for folder in folders for label in ("cat", "dog")]


EVERY_SPLIT = {(label, split): 1 for label in ("cat", "dog") for split in ("train", "test")}
LAYOUTS = {
    "classes": (["cat/1.png", "dog/2.png"], {("cat", None): 1, ("dog", None): 1}),
    "nested classes": (["cat/a/1.png", "cat/b/2.png", "dog/3.png"], {("cat", None): 2}),
    "one subfolder each": (["cat/images/1.png", "dog/images/1.png"], {("cat", None): 1}),
    "a class named train": (["train/1.png", "bus/2.png"], {("train", None): 1, ("bus", None): 1}),
    "flat": (["1.png", "2.png"], {(None, None): 2}),
    "flat with other folders": (["1.png", "notes/a.txt", "x/"], {(None, None): 1}),
    "splits": (in_classes("train", "test"), EVERY_SPLIT),
    "loud splits": (in_classes("TRAIN", "Test"), EVERY_SPLIT),
    "long splits": (in_classes("Training", "Testing"), EVERY_SPLIT),
    "mixed splits": (in_classes("train", "testing"), EVERY_SPLIT),
    "parts of names": (in_classes("seg_train", "seg_test"), EVERY_SPLIT),
    "twice the same": (in_classes("seg_train/seg_train", "seg_test/seg_test"), EVERY_SPLIT),
    "wrapper": (in_classes("data/train", "data/test"), EVERY_SPLIT),
    "two wrappers": (in_classes("a/b/train", "a/b/test"), EVERY_SPLIT),
    "classes above": (["cat/train/1.png", "cat/test/1.png", "dog/Train/1.png", "dog/eval/1.png"],
                      EVERY_SPLIT),
    "junk beside splits": (
        [*in_classes("train", "test"), "__MACOSX/train/._1.png", ".ipynb_checkpoints/1.png"],
        EVERY_SPLIT,
    ),
    "text beside splits": ([*in_classes("train", "test"), "labels/1.txt", "new/"], EVERY_SPLIT),
    "checkpoints in a class": (
        [*in_classes("train", "test"), "train/cat/.ipynb_checkpoints/1.png", "train/@eaDir/1.png"],
        EVERY_SPLIT,
    ),
    "two words for a split": (
        [*in_classes("train", "test"), "eval/cat/1.png"],
        EVERY_SPLIT | {("cat", "test"): 2},
    ),
    "a split without classes": ([*in_classes("train"), "test/1.png"], {("cat", "train"): 1}),
    "tiny-imagenet": (
        ["train/cat/images/1.png", "train/dog/images/2.png", "val/images/1.png", "test/x/1.png"],
        {("cat", "train"): 1, ("images", "val"): 1},
    ),
    "unicode": ([f"{COMPOSED}/1.png", f"{DECOMPOSED}/2.png", "x/1.png"], {(COMPOSED, None): 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_known_layouts_are_read(name):
    paths, expected = LAYOUTS[name]
    found = counted(make("root", *paths))
    assert expected.items() <= found.items()


REFUSED = {
    "parts": (in_classes("part1", "part2"), "part1, part2 of 'root' .* subfolders, cat, dog, so"),
    "parts in a split": (in_classes("train/a", "train/b"), "a, b of 'root/train' all have"),
    "masks": (["cat/images/1.png", "cat/masks/1.png", "dog/images/1.png", "dog/masks/1.png"],
              "cat, dog of 'root' all have the same subfolders, images, masks"),
    "a folder beside splits": ([*in_classes("train", "test"), "more/1.png"],
                               "mixes the split folder 'test' with the folder 'more'; move 'more'"),
    "no classes": (["Train/1.png", "Test/2.png"], "has the splits Test, Train but no class"),
    "a wrapper of classes": (["pets/cat/1.png", "pets/dog/1.png"],
                             "only the folder 'pets'; if cat, dog in .* give `data=root/pets`"),
    "a wrapper of splits": (in_classes("ds/train", "ds/test", "ds/extra"),
                            "extra, test, train in 'root/ds' are classes or splits, give"),
    "splits without classes": (["train/1.png", "test/1.png", "extra/1.png"],
                               "mixes the split folders 'test' and 'train' with the folder 'ex"),
    "a part beside splits": ([f"{label}/{split}/1.png" for label in ("cat", "dog")
                              for split in ("train", "test")] + ["dog/extra/1.png"],
                             "'root/cat' has split folders, but 'root/dog' has extra beside them"),
    "an image beside splits": ([f"{label}/{split}/1.png" for label in ("cat", "dog")
                                for split in ("train", "test")] + ["dog/1.png"],
                               "'root/cat' has split folders, but 'root/dog' has images beside"),
    "some classes above": (["cat/train/1.png", "cat/test/1.png", "dog/1.png"],
                           "'root/cat' has split folders, but 'root/dog' has none"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_looks_like_something_else_is_refused(name):
    """The error says what to do, and `nested` reads every folder as a class."""
    paths, sentence = REFUSED[name]
    root = make("root", *paths)
    with pytest.raises(DataError, match=sentence):
        find_files(root)
    tops = {path.split("/")[0] for path in paths}
    assert {label for label, _ in counted(root, nested=True)} == tops


def test_a_class_with_the_name_of_a_split_is_noted():
    """Such as trains among vehicles."""
    found = find_files(make("root", "bus/1.png", "train/1.png"))
    assert {each.label for each in found.items} == {"bus", "train"}
    assert found.notes == ["the folder train was read as a class, not as a split"]


def test_classes_with_some_subfolders_in_common_are_noted():
    root = make("root", *in_classes("part1", "part2"), "part1/bird/1.png")
    found = find_files(root)
    assert "part1, part2 were read as classes, but have the same subfolders" in found.notes[0]


@pytest.mark.parametrize("word", WORDS)
def test_words_for_splits_are_known(word):
    assert split_of(word) == split_in(word) == split_in(f"my_{word}") == WORDS[word]


@pytest.mark.parametrize("word", NOT_WORDS)
def test_other_words_are_no_splits(word):
    assert split_of(word) is None
    assert split_in("train_or_test") is None


def test_a_split_folder_without_class_folders_is_told(make_images):
    """As where a competition keeps its labels."""
    make_images("data/train", cat=2, dog=2)
    make_images("images", all=2, seed=1)
    Path("images/all").rename("data/test")
    images = ImageSet.from_folder("data")
    assert len(images.items) == 4
    assert images.notes[0].startswith("the split folder test has no class folders, so its images")


def test_folders_read_as_splits_are_reported():
    make("data/dataset", *in_classes("Training", "dev", "val"))
    notes = find_files(Path("data")).notes
    assert notes == [
        "the split folders are in data/dataset",
        "the folders were read as splits: Training is train, dev is val",
    ]


counter = itertools.count()
NAMES = st.sampled_from(
    [
        "cat",
        "dog",
        "a",
        "train",
        "Testing",
        "dev",
        COMPOSED,
        DECOMPOSED,
        ".git",
        "__MACOSX",
        "x.jpg",
    ]
)
FILES = st.sampled_from(["1.png", "2.JPG", "notes.txt", "none", ".hidden.png"])
LINKS = st.sampled_from(["up", "top", "gone", "gone.png", "cat", "dog", "outside"])
TREES = st.recursive(
    st.fixed_dictionaries({"files": st.sets(FILES), "links": st.sets(LINKS)}),
    lambda below: st.fixed_dictionaries(
        {
            "files": st.sets(FILES),
            "links": st.sets(LINKS, max_size=1),
            "folders": st.dictionaries(NAMES, below, max_size=4),
        }
    ),
    max_leaves=10,
)


def grow(folder: Path, tree: dict, top: Path) -> None:
    """Make a tree of files, folders and links; a link may lead to a folder made later."""
    folder.mkdir()
    for name in tree["files"]:
        (folder / name).touch()
    for name, below in tree.get("folders", {}).items():
        grow(folder / name, below, top)
    for name in tree["links"]:
        if not os.path.lexists(folder / f"link-{name}"):
            targets = {"up": folder.parent, "top": top, "outside": top.parent / "outside"}
            target = targets.get(name, top / name)
            (folder / f"link-{name}").symlink_to(target.absolute())


def leads_to_files(path: Path) -> bool:
    """Whether a path is a link to a folder in which there is anything."""
    return path.is_symlink() and any(names for _, _, names in os.walk(path))


@settings(deadline=None, max_examples=20)
@given(TREES, st.booleans())
def test_every_file_ends_in_one_place(tree, nested):
    """An image, a reason why it is none, or a folder that is named: whatever the tree is."""
    check_that_nothing_is_lost(tree, nested=nested)


@pytest.mark.ci
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, st.booleans())
def test_every_file_of_many_trees_ends_in_one_place(tree, nested):
    check_that_nothing_is_lost(tree, nested=nested)


def check_that_nothing_is_lost(tree: dict, *, nested: bool) -> None:
    place = Path(f"trees{next(counter)}")
    place.mkdir()
    make(str(place), "outside/inner/1.png", "outside/2.png")
    (place / "outside/inner/back").symlink_to("..")
    root = place / "root"
    grow(root, tree, root)
    listed = [
        (Path(folder) / name).as_posix()
        for folder, folders, names in os.walk(root)
        for name in [*names, *(each for each in folders if leads_to_files(Path(folder) / each))]
    ]
    classes = [each for each in root.iterdir() if each.is_dir() and not each.is_symlink()]
    empty = [each.name for each in classes if not walk(each).images and each.suffix != ".jpg"]
    images = walk(root).images
    try:
        found = find_files(root, nested=nested)
    except DataError:
        assert not (nested and images)
        return
    finally:
        shutil.rmtree(place)
    kept = Counter(item.path for item in found.items)
    rejected = Counter(each.path for each in found.rejected)
    ignored = Counter(path.rstrip("/") for path in found.ignored)
    passed_over = [path for path in found.ignored if path.endswith("/")]
    together = kept + rejected + ignored
    assert not [path for path, count in together.items() if count > 1]
    for path in listed:
        below = any(path.startswith(folder) for folder in passed_over)
        inside = any(path.startswith(f"{each}/") for each in kept + rejected)  # in x.jpg
        followed = any(other.startswith(f"{path}/") for other in together)
        assert (path in together) or below or inside or followed, path
    for name in empty:
        told = [path for path in ignored if Path(path) == root / name or f"/{name}/" in path]
        assert told or not (kept or rejected), name
    for item in found.items:
        parts = {normal_name(part) for part in Path(item.path).parts}
        assert item.label is None or item.label in parts
    labelled = {item.label is None for item in found.items}
    assert len(labelled) < 2


@settings(deadline=None, max_examples=30)
@given(
    st.sets(st.sampled_from(["cat", "dog", "7", COMPOSED, "New York"]), min_size=2),
    st.lists(st.sampled_from(list(WORDS)), min_size=2, max_size=4, unique=True),
    st.sampled_from(
        ["{split}/{label}", "{label}/{split}", "in/{split}/{label}", "a/b/{split}/{label}"]
    ),
)
def test_every_class_and_split_is_read(labels, words, layout):
    """Whatever the words are, and whether classes or splits are above."""
    place = Path(f"words{next(counter)}")
    paths = [
        f"{layout.format(split=word, label=label)}/{number}.png"
        for word in words
        for label in labels
        for number in range(2)
    ]
    found = counted(make(str(place), *paths))
    expected: Counter = Counter()
    for word in words:
        for label in labels:
            expected[normal_name(label), WORDS[word]] += 2
    assert found == expected
    shutil.rmtree(place)


def test_links_to_folders_are_followed(little, make_images, bottleneck):
    """Classes of links and links in classes; loops, and what is gone, are named."""
    make_images("store", cat=4, dog=4, bird=4, more=3)
    Path("data/dog/deep").mkdir(parents=True)
    Path("data/cat").symlink_to("../store/cat")
    Path("data/dog/all").symlink_to("../../store/dog")
    Path("data/dog/deep/more").symlink_to("../../../store/more")
    images = ImageSet.from_folder("data")
    assert Counter(item.label for item in images.items) == {"cat": 4, "dog": 7}
    assert not images.rejected
    Path("data/dog/up").symlink_to("..")
    Path("data/dog/deep/loop").symlink_to("../../dog")
    Path("data/dog/again").symlink_to("../../store/dog")
    Path("data/bird").symlink_to("../nowhere")
    images = ImageSet.from_folder("data")
    assert Counter(item.label for item in images.items) == {"cat": 4, "dog": 11}
    assert summarize(images).copies == 4
    assert {bad.path: bad.reason for bad in images.rejected} == {
        "data/dog/up": "a link to a folder that it is in",
        "data/dog/deep/loop": "a link to a folder that it is in",
        "data/bird": "a link to nothing",
    }
    done = bottleneck("extract", "--model", little, "--weights", "random")
    assert done.code == 1
    assert "data/bird: a link to nothing" in done.err


def test_few_links_do_not_lead_to_the_same_images_millions_of_times():
    for level in range(16):
        make("data", f"cat/{level}/1.png", "dog/1.png")
        for name in ("left", "right"):
            Path(f"data/cat/{level}/{name}").symlink_to(f"../{level + 1}")
    found = find_files(Path("data"))
    assert len(found.items) < 100 * 17


def test_a_folder_that_may_not_be_read_is_named(monkeypatch):
    make("data", "cat/1.png", "dog/1.png", "dog/inner/2.png")
    listing = Path.iterdir

    def refusing(path):
        if path.name == "inner":
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    found = find_files(Path("data"))
    assert [(each.path, each.reason) for each in found.rejected] == [
        ("data/dog/inner", "Permission denied")
    ]


def test_a_folder_with_the_ending_of_an_image_is_no_class_but_named():
    found = find_files(make("data", "cat/1.png", "dog/1.png", "bird.jpg/1.png"))
    assert [(each.path, each.reason) for each in found.rejected] == [
        ("data/bird.jpg", "a folder with the ending of an image")
    ]


def test_deep_folders_are_walked():
    deep = Path("data/cat", *["d"] * 700)
    make(str(deep), "1.png")
    make("data", "dog/1.png")
    assert len(find_files(Path("data")).items) == 2


def test_a_path_in_another_unicode_form_is_found(make_images):
    make_images(f"{DECOMPOSED}/data", cat=4, dog=4)
    images = ImageSet.open(f"{COMPOSED}/data")
    assert len(images.items) == 8
    assert existing(Path(COMPOSED, "data", "cat")) == Path(DECOMPOSED, "data", "cat")
    assert existing(Path(COMPOSED, "none")) == Path(DECOMPOSED, "none")
    assert ImageSet.from_paths([f"{COMPOSED}/data/cat/000.png"]).items


def test_class_names_of_both_unicode_forms_are_one_class(make_images):
    make_images("data/train", **{COMPOSED: 2}, dog=2)
    make_images("data/test", **{DECOMPOSED: 2}, dog=2, seed=1)
    images = ImageSet.from_folder("data")
    assert images.classes == (COMPOSED, "dog")
    assert not summarize(images).not_trained


def test_exact_paths_are_images_as_they_are(make_images):
    """Other names of a file, and tables, are only for people who type them."""
    make_images(DECOMPOSED, cat=1)
    table = Path("list.csv")
    table.write_text("path\n")
    images = ImageSet.from_paths([f"{DECOMPOSED}/cat/000.png", table], exact=True)
    assert [item.path for item in images.items] == [f"{DECOMPOSED}/cat/000.png", "list.csv"]
    with pytest.raises(PathMissingError):
        ImageSet.from_paths([f"{COMPOSED}/cat/000.png"], exact=True)
