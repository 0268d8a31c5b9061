"""Archives as WebDataset writes them, patterns of names, and folders of archives. About 2 s."""

import json
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest

from bottleneck import ImageSet
from bottleneck.errors import DataError, PathMissingError
from bottleneck.images.layout import find_files
from bottleneck.images.listing import expanded

PNG = b"\x89PNG\r\n\x1a\n"


def shard(file: str, files: dict[str, bytes]) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))


def keyed(start: int, count: int, ending: str, label) -> dict[str, bytes]:
    found = {}
    for number in range(start, start + count):
        found[f"{number:04d}.png"] = PNG + b"%d" % number
        found[f"{number:04d}.{ending}"] = label(number)
    return found


LABELS = {
    "cls": lambda n: b"%d\n" % (n % 2),
    "txt": lambda n: f"  {'ab'[n % 2]} ".encode(),
    "json": lambda n: json.dumps({"caption": "x", "label": "ab"[n % 2]}).encode(),
    "JSON": lambda n: json.dumps({"class": n % 2}).encode(),
}


@pytest.mark.parametrize("ending", LABELS)
def test_labels_are_read_from_the_files_beside_images(ending):
    shard("x.tar", keyed(0, 4, ending, LABELS[ending]))
    found = find_files(Path("x.tar"))
    own = "ab" if ending in {"txt", "json"} else "01"
    assert [item.label for item in found.items] == [own[n % 2] for n in range(4)]
    assert found.notes == [f"labels were read from the files .{ending.lower()} beside the images"]
    assert not found.ignored


def test_the_class_counts_before_the_caption_and_several_classes_are_joined():
    files = keyed(0, 4, "cls", LABELS["cls"]) | keyed(0, 4, "txt", lambda n: b"caption %d" % n)
    files |= keyed(4, 1, "json", lambda _: json.dumps({"label": ["a", "b"]}).encode())
    files |= {"5.png": PNG, "5.left.cls": b"x", "6.left.png": PNG, "6.cls": b"left"}
    shard("x.tar", files)
    found = find_files(Path("x.tar"))
    assert [item.label for item in found.items] == ["0", "1", "0", "1", "a;b", "left"]
    (bad,) = found.rejected
    assert (bad.path, bad.reason) == ("x.tar/5.png", "no file beside it tells a label; add KEY.cls")
    assert found.ignored == ["x.tar/5.left.cls"]


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"{", b"\xff", b"{}", b'{"label": 1.5}', b"true", b'{"label": []}']
)
def test_json_without_a_label_tells_none(content):
    shard("x.tar", keyed(0, 2, "json", lambda _: content))
    found = find_files(Path("x.tar"))
    assert [item.label for item in found.items] == [None, None]
    assert sorted(found.ignored) == ["x.tar/0000.json", "x.tar/0001.json"]


def test_captions_of_several_lines_beside_images_in_class_folders_are_no_labels():
    files = {
        f"{label}/{n}.{end}": PNG + f"{label}{n}\nx".encode() * (end == "png")
        for label in ("cat", "dog")
        for n in range(2)
        for end in ("png",)
    }
    files |= {f"{label}/{n}.txt": b"two\nlines" for label in ("cat", "dog") for n in range(2)}
    shard("x.tar", files)
    counts = Counter(item.label for item in find_files(Path("x.tar")).items)
    assert counts == {"cat": 2, "dog": 2}


def test_shards_are_read_as_one():
    """With classes by folders, which are in several shards."""
    for part in range(3):
        shard(
            f"s/part-{part:03d}.tar",
            {f"{label}/{part}.png": PNG + f"{label}{part}".encode() for label in ("cat", "dog")},
        )
    images = ImageSet.open("s/part-{000..002}.tar")
    assert images.name == "part"
    assert Counter(item.label for item in images.items) == {"cat": 3, "dog": 3}
    assert {item.path for item in images.items} >= {"s/part-000.tar/cat/0.png"}
    folder = ImageSet.open("s")
    assert folder.digest_of() == images.digest_of()
    assert folder.notes == ("3 archives or tables in 's' read as one",)


@pytest.mark.parametrize("names", [("train-0.tar", "test-0.tar"), ("train/0.tar", "val/0.tar")])
def test_splits_are_told_by_names_of_shards_or_of_their_folders(names):
    for name in names:
        shard(
            f"s/{name}",
            {f"{c}/{n}.png": PNG + f"{name}{c}{n}".encode() for c in "ab" for n in range(3)},
        )
    found = find_files(Path("s"))
    assert {item.split for item in found.items} == {
        "train",
        names[1].partition("/")[0][:4].rstrip("-/"),
    }
    assert {item.label for item in found.items} == {"a", "b"}
    for number, name in enumerate(names):
        shard(f"w/{name}", keyed(number * 9, 4, "cls", LABELS["cls"]))
    keyed_items = find_files(Path("w")).items
    assert Counter(item.split for item in keyed_items).most_common(1)[0][1] == 4
    assert {item.label for item in keyed_items} == {"0", "1"}


def test_a_damaged_shard_is_told_and_the_others_are_used():
    for number in range(2):
        shard(f"{number}.tar", keyed(number * 9, 4, "cls", LABELS["cls"]))
    Path("2.tar").write_bytes(b"x" * 2000)
    found = find_files(Path("{0..2}.tar"))
    assert len(found.items) == 8
    (bad,) = found.rejected
    assert bad.path == "2.tar"
    assert bad.reason.startswith("it is damaged or no such archive (invalid header)")


def test_a_pattern_names_archives_that_exist():
    Path("a-08.tar").touch()
    with pytest.raises(PathMissingError, match=r"^3 of 4 archives that 'a-\{08..11\}.tar' names"):
        ImageSet.open("a-{08..11}.tar")
    with pytest.raises(PathMissingError, match="names 0 archives, expected 1 to 100,000"):
        ImageSet.open("a-{0..999999999}.tar")
    with pytest.raises(PathMissingError, match=r"1 of 1 archive that 'a-\{0\}.tar' names"):
        expanded(Path("a-{0}.tar"))
    with pytest.raises(DataError, match=r"no images in 'a-\{08..08\}.tar'"):
        Path("a-08.tar").write_bytes(bytes(1024))
        ImageSet.open("a-{08..08}.tar")
    Path("b-x.tar").touch()
    assert expanded(Path("{a-08,b-x}.tar")) == [Path("a-08.tar"), Path("b-x.tar")]
