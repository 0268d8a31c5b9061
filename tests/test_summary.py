"""The summary that an extraction begins with, and what it tells about long tails.

About 10 s.
"""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from bottleneck import Cache, evaluate_head, features_of, fit_head, load_features
from bottleneck.errors import DataError
from bottleneck.finetune.images import images_to_train
from bottleneck.images import (
    ClassSize,
    ImageItem,
    ImageSet,
    RejectedImage,
    replacement_of,
    summarize,
)
from bottleneck.images.dividing import images_needed, split_items
from bottleneck.images.splits import trained
from bottleneck.settings import FinetuneSettings

TINY = (
    "--model",
    "squeezenet1_1",
    "--weights",
    "random",
    "--layer",
    "features.12",
    "--pool",
    "avg",
)


def test_what_a_summary_tells(make_images):
    """Copies, leaks and conflicts with paths; what was left out; names that look alike."""
    make_images("data/train", cat=3, dog=3, Cat=1)
    make_images("data/test", cat=2, bird=1, seed=1)
    shutil.copy("data/train/cat/000.png", "data/train/cat/copy.png")
    shutil.copy("data/train/cat/001.png", "data/train/dog/other.png")
    shutil.copy("data/train/dog/002.png", "data/test/cat/leak.png")
    Path("data/train/loose.png").touch()
    Path("data/train/cat/notes.txt").touch()
    Path("data/train/cat/.hidden.png").touch()
    Path("data/.git").mkdir()
    Path("data/val/dog").mkdir(parents=True)
    found = summarize(ImageSet.from_folder("data"))
    assert (found.images, found.different, found.copies) == (13, 10, 3)
    assert found.splits == {"train": 9, "test": 4}
    assert found.classes == [
        ClassSize("Cat", 1, {"train": 1, "test": 0}),
        ClassSize("bird", 1, {"train": 0, "test": 1}),
        ClassSize("cat", 7, {"train": 4, "test": 3}),
        ClassSize("dog", 4, {"train": 4, "test": 0}),
    ]
    assert [each.paths for each in found.duplicates if len(set(each.labels)) == 1] == [
        ["data/train/cat/000.png", "data/train/cat/copy.png"]
    ]
    (leak,) = found.leaks
    assert leak.paths == ["data/test/cat/leak.png", "data/train/dog/002.png"]
    assert leak.splits == ["test", "train"]
    assert [each.labels for each in found.conflicts] == [["cat", "dog"], ["cat", "dog"]]
    assert {each.reason: each.first for each in found.left_out} == {
        ".txt": "data/train/cat/notes.txt",
        "hidden": "data/train/cat/.hidden.png",
        "images outside of class folders": "data/train/loose.png",
    }
    assert found.passed_over == ["data/.git/"]
    assert found.empty == ["data/val/dog/"]
    assert found.not_trained == {"test": ["bird"]}
    assert found.not_held_out == {"test": ["Cat", "dog"]}
    assert found.similar_classes == [["Cat", "cat"]]
    assert found.rare_classes == ["Cat"]
    assert json.loads(json.dumps(found.as_dict()))["leaking"] == 1


def test_an_extraction_begins_with_the_summary(make_images, bottleneck):
    """Its table on 80 columns, and in JSON; before anything is computed, also if nothing is odd."""
    make_images(**{f"class {number}": 4 for number in range(1, 22)}, **{"x" * 60: 2})
    shutil.copy("data/class 1/000.png", "data/class 1/same.png")
    shutil.copy("data/class 1/000.png", f"data/class 2/{'long' * 20}.png")
    done = bottleneck("extract", *TINY)
    assert done.code == 0, done.err
    assert done.err.startswith("88 images of 'data', 2 of them copies: 22 classes\n")
    assert done.err.index("all images") < done.err.index("extract: ")
    assert "(12 more)" in done.err
    assert len(done.err.splitlines()) < 30
    long = [line for line in done.err.splitlines() if len(line) > 80]
    assert all("longlong" in line or line.startswith("note: ") for line in long), long
    told = json.loads(bottleneck("extract", *TINY, "--json").out)["summary"]
    assert len(told["classes"]) == 22
    assert told["duplicates"][0]["paths"] == [
        "data/class 1/000.png",
        "data/class 1/same.png",
        f"data/class 2/{'long' * 20}.png",
    ]
    trial = json.loads(bottleneck("extract", *TINY, "--dry-run", "--json").out)
    assert trial["summary"] == told


def test_the_summary_is_printed_before_an_error(make_images, bottleneck):
    """Of the classes, of the base or of its weights; only a folder without images has none."""
    make_images(cat=3, dog=1)
    shutil.copy("data/dog/000.png", "data/dog/copy.png")
    refused = bottleneck("extract", *TINY)
    assert refused.code == 1
    *told, error = refused.err.splitlines()
    assert told[0] == "5 images of 'data', 1 of them a copy: 2 classes"
    assert [line.split() for line in told[1:5]] == [
        ["class", "images"],
        ["cat", "3"],
        ["dog", "2"],
        ["all", "images", "5"],
    ]
    assert "  data/dog/000.png = data/dog/copy.png" in told
    assert error.startswith("error: class 'dog' ")
    make_images(dog=4, seed=7)
    for words in (("vgg61",), ("vgg16", "--layer", "nose"), ("vgg16", "--weights", "gone.pth")):
        refused = bottleneck("extract", "--model", *words)
        assert refused.code == 2
        assert refused.err.startswith("8 images of 'data': 2 classes\n")
        assert refused.err.splitlines()[-1].startswith("error: ")


def test_every_file_and_folder_left_out_is_counted(make_images):
    """Also of more than a thousand; numbered endings are one reason."""
    make_images(cat=2, dog=2)
    for number in range(1100):
        Path(f"data/cat/scan.{number:04d}").write_text("x")
        Path(f"data/.hidden{number}").mkdir()
        Path(f"data/empty{number}").mkdir()
        Path(f"data/dog/bad{number}.jpg").write_text("no image")
    found = summarize(ImageSet.from_folder("data"))
    (left_out,) = found.left_out
    assert (left_out.reason, left_out.count) == ("a number as ending", 1100)
    assert [len(each) for each in (found.passed_over, found.empty, found.rejected)] == [1100] * 3


def test_where_no_image_can_be_used_nothing_else_is_claimed(make_images, bottleneck):
    make_images(cat=2, dog=2)
    bottleneck("extract", *TINY)
    for path in Path("data").rglob("*.png"):
        path.write_bytes(b"")
    for options in ((), ("--dry-run",)):
        done = bottleneck("extract", *TINY, *options)
        assert done.code == 1
        assert done.err.startswith("0 images of 'data': none can be used\n")
        assert "4 images" in done.err
        assert "class folders" not in done.err
        assert "replaces" not in done.err


def test_a_folder_without_classes_is_reported(make_images, bottleneck):
    make_images(cat=3)
    done = bottleneck("extract", *TINY, "--data", "data/cat")
    assert "3 images of 'cat': without classes, as no folder or table names any" in done.err


def test_a_class_that_is_left_with_no_image_is_named(make_images, bottleneck):
    make_images("data/train", cat=3, dog=3)
    make_images("data/test", cat=2, dog=2, seed=1)
    for name in ("bad", "gone"):
        Path(f"data/train/{name}").mkdir()
    for number in range(2):  # different, so that the class is no small one
        Path(f"data/train/bad/{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n no more %d" % number)
    Path("data/train/gone/0.png").symlink_to("nowhere.png")
    done = bottleneck("extract", *TINY)
    assert done.code == 1
    err = " ".join(done.err.split())
    assert "1 class has no image that can be used: gone" in err
    assert "1 class has no image that can be used: bad" in err
    done = bottleneck("extract", *TINY, "--json")
    assert json.loads(done.out)["summary"]["lost_classes"] == ["gone", "bad"]


def test_a_class_of_files_that_are_no_images_does_not_stop_a_run(make_images):
    """It is named; it is not counted as a class with one image, which could not be split."""
    make_images(cat=3, dog=3)
    Path("data/bird").mkdir()
    Path("data/bird/0.jpg").write_text("<html>not found</html>")
    images = ImageSet.from_folder("data")
    assert images.lost == ("bird",)
    (bad,) = images.rejected
    assert (bad.path, bad.reason.partition(",")[0]) == ("data/bird/0.jpg", "a web page")


def test_a_class_of_the_same_damaged_bytes_does_not_stop_a_run(make_images, bottleneck):
    """It is no class with one usable image, whatever the number of its copies."""
    make_images(cat=3, dog=3)
    whole = Path("data/cat/000.png").read_bytes()
    Path("data/bird").mkdir()
    for number in range(3):
        Path(f"data/bird/{number}.png").write_bytes(whole[: len(whole) // 2])
    images = ImageSet.from_folder("data", min_images=2)
    assert (images.classes, images.lost, images.small) == (("cat", "dog"), ("bird",), ())
    assert len(images.rejected) == 3
    for each in (["--dry-run"], []):
        done = bottleneck("extract", *TINY, *each)
        assert done.code == 1
        assert "1 class has no image that can be used: bird" in done.err
        assert "data/bird/2.png: image file is truncated" in done.err
    Path("data/bird/0.png").write_bytes(whole)  # whose label is another than that of its copy
    Path("data/bird/1.png").write_bytes(whole)
    Path("data/bird/2.png").unlink()
    with pytest.raises(DataError, match="class 'bird' has 1 usable image"):
        ImageSet.from_folder("data")


def test_small_classes_with_names_alike_are_told_so(make_images):
    make_images(cat=3, dog=3, Dog=1)
    with pytest.raises(
        DataError, match="'Dog' has 1 .* use one name for 'Dog' and 'dog', or leave"
    ):
        ImageSet.from_folder("data")


def test_small_classes_are_listed_at_once(make_images):
    make_images(cat=4, **{str(number): 1 for number in range(1, 13)})
    with pytest.raises(DataError, match=r"12 classes \('1', '2', .*'12'\) have 1 usable image; .*"):
        ImageSet.from_folder("data")


def test_min_images_leaves_out_small_classes(make_images, bottleneck):
    """With a list; images that are the same count once; nothing else changes."""
    make_images(cat=6, dog=6, bird=2, fish=1)
    for number in range(5):
        shutil.copy("data/fish/000.png", f"data/fish/copy{number}.png")
    images = ImageSet.from_folder("data", min_images=3)
    assert images.classes == ("cat", "dog")
    assert dict(images.small) == {"bird": 2, "fish": 1}
    assert hash(images) == hash(ImageSet.from_folder("data", min_images=3))
    assert Counter(item.label for item in images.left_out) == {"bird": 2, "fish": 6}
    for label in ("bird", "fish"):
        shutil.rmtree(f"data/{label}")
    assert ImageSet.from_folder("data").digest_of() == images.digest_of()
    with pytest.raises(DataError, match="no class has 7 images; the largest has 6: give"):
        ImageSet.from_folder("data", min_images=7)
    make_images(lone=9)
    with pytest.raises(DataError, match="only one class with at least 7 images, 'lone'"):
        ImageSet.from_folder("data", min_images=7)
    make_images(bird=1)
    done = bottleneck("extract", *TINY, "--min-images", "2")
    assert done.code == 0
    assert "note: 1 class was left out for having too few images: bird (1)\n" in done.err


def test_min_images_counts_training_images_where_splits_are_given(make_images):
    make_images("data/train", cat=4, dog=4, bird=1)
    make_images("data/test", cat=2, dog=2, bird=5, fish=3, seed=1)
    images = ImageSet.from_folder("data", min_images=2)
    assert dict(images.small) == {"bird": 1, "fish": 0}
    assert images.classes == ("cat", "dog")


def test_min_images_takes_small_classes_out_of_labels(make_images):
    make_images(cat=6)
    labels = ["a;b", "a;b", "a", "b;rare", "rare", "a;b"]
    rows = [f"data/cat/00{number}.png,{label},train" for number, label in enumerate(labels)]
    Path("list.csv").write_text("\n".join(["path,label,split", *rows]))
    images = ImageSet.open("list.csv", min_images=3)
    assert [item.label for item in images.items] == ["a;b", "a;b", "a", "b", "a;b"]
    assert [item.label for item in images.left_out] == ["rare"]
    assert images.small == (("rare", 2),)


def test_a_class_can_become_small_by_bad_images(make_images):
    images = ImageSet.from_folder(make_images(cat=5, dog=5, bird=3), min_images=3)
    bad = [item for item in images.items if item.label == "bird"][:1]
    smaller = images.without([type("Bad", (), {"path": item.path})() for item in bad])
    assert smaller.classes == ("cat", "dog")
    assert smaller.small == (("bird", 2),)
    assert {item.split for item in smaller.items} == {"train", "test"}


@pytest.mark.parametrize("training", range(1, 60))
def test_the_number_of_images_that_an_error_names_is_enough(training):
    count = images_needed(training)
    assert (
        count - max(1, round(0.2 * count))
        >= training
        > (count - 1) - max(1, round(0.2 * (count - 1)))
    )


@pytest.mark.ci
def test_commands_treat_small_classes_alike(make_images, bottleneck):
    """One error names all of them, and the command that it names helps; else folds are fewer."""
    make_images(cat=20, dog=20, bird=2, fish=2)
    done = bottleneck("extract", *TINY)
    assert "note: 2 classes have 1 different training image, but" in done.err
    for command in (("fit-head",), ("sweep", "--clf", "svm", "--jobs", 1), ("advise", "--jobs", 1)):
        refused = bottleneck(*command)
        assert refused.code == 1
        least, images = (3, 4) if command[0] == "advise" else (2, 3)
        assert "2 classes have too few different training images ('bird': 1, 'fish': 1)" in (
            refused.err
        )
        assert f"but {least} folds need {least}; add images, or leave such classes out: " in (
            refused.err
        )
        assert f"extract with --min-images {images}" in refused.err
    assert bottleneck("extract", *TINY, "--min-images", 4).code == 0
    assert bottleneck("fit-head").code == 0
    make_images(bird=4, seed=5)
    assert bottleneck("extract", *TINY, "--min-images", 4).code == 0
    assert "chosen on 3 folds" in bottleneck("fit-head").out
    (swept, *_) = json.loads(bottleneck("sweep", "--clf", "svm", "--jobs", 1, "--json").out)
    assert swept["settings"]["cv"] == 3


def test_classes_without_training_images_do_not_keep_others_from_being_scored(
    make_images, bottleneck
):
    make_images("data/train", cat=6, dog=6)
    make_images("data/val", cat=3, dog=3, fish=2, seed=2)
    make_images("data/test", cat=3, dog=3, bird=4, seed=1)
    done = bottleneck("extract", *TINY)
    assert done.code == 0
    err = " ".join(done.err.split())
    assert "1 class has val images but none to train on: no head knows such a class" in err
    assert "1 class has test images but none to train on" in err
    cache = Cache("cache")
    head = fit_head(load_features(cache))
    assert head.classes == ("cat", "dog")
    found = evaluate_head(head, features_of(head.source, cache))
    assert found.images == 6
    assert [(each.label, each.images) for each in found.unknown_classes] == [("bird", 4)]
    assert bottleneck("fit-head", "--clf", "svm", "--name", "h").code == 0
    done = bottleneck("evaluate", "--head", "h")
    assert done.code == 0
    assert "on 6 test images" in done.out
    assert "head does not know were left out: bird (4)" in done.err
    assert "none to train on" not in done.err


def test_numbered_classes_are_in_natural_order(make_images):
    images = ImageSet.from_folder(make_images(**{"10": 3, "2": 3, "1": 3}))
    assert images.classes == ("1", "2", "10")
    again = split_items(images.items[::-1])
    assert ImageSet("again", again).digest_of() == images.digest_of()


def test_images_without_a_label_contradict_none(make_images):
    make_images(cat=2)
    shutil.copy("data/cat/000.png", "copy.png")
    Path("table.csv").write_text("path,label\ndata/cat/000.png,cat\ndata/cat/001.png,cat\n")
    images = ImageSet.from_paths(["table.csv", "copy.png"])
    found = summarize(images)
    assert (found.copies, found.conflicting, images.conflicts) == (1, 0, ())


def test_images_that_were_left_out_are_not_gone(make_images):
    make_images(cat=5, dog=5, cow=2)
    ImageSet.from_folder("data").write_csv("data.csv")
    fewer = ImageSet.from_folder("data", min_images=3)
    assert replacement_of(Path("data.csv"), fewer).gone == 0


def test_fine_tuning_validates_on_classes_that_are_trained():
    """And names what could not be read."""
    rows = [("a", "train"), ("b", "train"), ("a", "val"), ("x", "val"), ("x;b", "val")]
    items = [
        ImageItem(f"{number}.png", f"{number:064x}", label, split)
        for number, (label, split) in enumerate(rows)
    ]
    assert [item.label for item in trained(items, "val")] == ["a", "b"]
    bad = (RejectedImage("up", "a link to a folder that it is in"),)
    head = SimpleNamespace(classes=("a", "b"), multilabel=True)
    chosen = images_to_train(
        ImageSet("data", tuple(items), bad), head, FinetuneSettings(unfreeze="all")
    )
    assert [item.path for item in chosen.items] == ["0.png", "1.png", "2.png", "4.png"]
    assert chosen.rejected == bad
