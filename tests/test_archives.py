"""Images in tar and zip archives: the same as in folders, whatever the archives hold.

About 4 s in the first tier.
"""

import io
import stat
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from bottleneck import ImageSet
from bottleneck.errors import BadImageError, DataError, PathMissingError
from bottleneck.images import digests_of_file, read_file, read_size
from bottleneck.sources import container_at, open_source

KINDS = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def tar_of(file: str, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(file, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return Path(file)


def zip_of(file: str, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return Path(file)


@pytest.fixture
def files(make_images) -> dict[str, bytes]:
    """Images in two classes, by their paths in the folder ``data``."""
    make_images("data", cat=6, dog=6)
    return {
        path.relative_to("data").as_posix(): path.read_bytes()
        for path in sorted(Path("data").rglob("*.png"))
    }


def reasons(images: ImageSet) -> dict[str, str]:
    return {each.path: each.reason for each in images.rejected}


@pytest.mark.parametrize("kind", [*KINDS, "zip", "stored.zip", "lzma.zip"])
def test_an_archive_is_read_as_its_folder_is(kind, files):
    """Digests, classes and splits, the images' bytes and sizes; from a member as well."""
    methods = {"stored": zipfile.ZIP_STORED, "lzma": zipfile.ZIP_LZMA}
    file = f"archive.{kind}"
    if kind.endswith("zip"):
        zip_of(file, files, methods.get(kind.partition(".")[0], zipfile.ZIP_DEFLATED))
    else:
        tar_of(file, {f"./{name}": content for name, content in files.items()}, KINDS[kind])
    there, here = ImageSet.open("data"), ImageSet.open(file)
    assert here.digest_of() == there.digest_of()
    assert sorted(item.path for item in here.items) == [f"{file}/{name}" for name in files]
    assert not here.rejected
    assert not here.ignored
    for item in reversed(here.items):  # which a compressed archive begins again for
        assert read_file(item) == files[item.path.removeprefix(f"{file}/")]
        assert read_size(item.path) == read_size(item.path.replace(file, "data"))
    (alone,) = ImageSet.from_paths([here.items[0].path]).items
    assert alone.digest == here.items[0].digest
    assert len(ImageSet.from_paths([file, "data"]).items) == 2 * len(files)


def test_splits_and_other_files_are_told_as_in_a_folder(files):
    content = {f"train/{name}": each for name, each in files.items()}
    content |= {f"test/{name}": each[:-20] + bytes(20) for name, each in files.items()}
    content |= {"notes.md": b"x", "__MACOSX/train/._1.png": b"x", "train/cat/.hidden": b"x"}
    images = ImageSet.open(tar_of("x.tar", content))
    assert {item.split for item in images.items} == {"train", "test"}
    assert len(images.items) == 2 * len(files)
    assert set(images.ignored) == {"x.tar/notes.md", "x.tar/__MACOSX/", "x.tar/train/cat/.hidden"}


def test_what_is_no_plain_file_in_a_tar_is_told(files, tmp_path):
    """Nothing is written outside, or anywhere."""
    tar_of("x.tar", files | {"../../out.png": PNG, "/abs.png": PNG, "a/../../b.png": PNG})
    with tarfile.open("x.tar", "a") as archive:
        for name, kind in {
            "link.png": tarfile.SYMTYPE,
            "hard.png": tarfile.LNKTYPE,
            "device.png": tarfile.CHRTYPE,
            "pipe.png": tarfile.FIFOTYPE,
        }.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    before = {*tmp_path.rglob("*")}
    found = reasons(ImageSet.open("x.tar"))
    outside = "its name leads out of the archive"
    assert found["x.tar/../../out.png"] == found["x.tar//abs.png"] == outside
    assert found["x.tar/a/../../b.png"] == outside
    assert found["x.tar/link.png"] == found["x.tar/hard.png"]
    assert found["x.tar/hard.png"] == "a link, which is not followed in archives"
    assert found["x.tar/device.png"] == found["x.tar/pipe.png"] == "not a regular file"
    assert {*tmp_path.rglob("*")} == before


def test_what_is_no_plain_file_in_a_zip_is_told(files):
    zip_of("x.zip", files)
    with zipfile.ZipFile("x.zip", "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../out.png", PNG)
        archive.writestr("bzip2.png", PNG, zipfile.ZIP_BZIP2)
    content = bytearray(Path("x.zip").read_bytes())
    place = content.index(b"PK\1\2")  # the first entry of the directory
    content[place + 8] |= 1
    Path("x.zip").write_bytes(content)
    found = reasons(ImageSet.open("x.zip"))
    assert found["x.zip/link.png"] == "a link, which is not followed in archives"
    assert found["x.zip/../out.png"] == "its name leads out of the archive"
    assert found["x.zip/bzip2.png"].startswith("it is compressed by a method that cannot be read")
    assert found[f"x.zip/{next(iter(files))}"].startswith("it is encrypted; unpack the archive")


def test_backslashes_of_windows_divide_folders(files):
    with zipfile.ZipFile("x.zip", "w") as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name.replace("/", "\\"))
            member.create_system = 0
            archive.writestr(member, content)
    assert ImageSet.open("x.zip").digest_of() == ImageSet.open("data").digest_of()


def test_a_later_file_of_the_same_name_counts(files):
    first, *others = files.values()
    with tarfile.open(tar_of("x.tar", files), "a") as archive:
        member = tarfile.TarInfo(next(iter(files)))
        member.size = len(others[-1])
        archive.addfile(member, io.BytesIO(others[-1]))
    images = ImageSet.open("x.tar")
    assert list(reasons(images).values()) == ["the archive has a later file of the same name"]
    (own,) = [item for item in images.items if item.path == f"x.tar/{next(iter(files))}"]
    assert read_file(own) == others[-1] != first


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_bomb_is_refused_before_it_is_unpacked(method, files):
    bomb = next(iter(files.values()))
    zip_of("x.zip", files | {"cat/bomb.png": bomb + bytes(20_000_000)}, method)
    found = reasons(ImageSet.open("x.zip", max_bytes=1_000_000))
    assert found["x.zip/cat/bomb.png"].startswith("the file has 20,")
    assert "more than the limit of 1,000,000" in found["x.zip/cat/bomb.png"]


@pytest.mark.parametrize("said", [10, 2**31])
def test_a_size_that_is_not_true_is_never_exceeded(said, files):
    """Of a member that says to be smaller, or larger, than what it holds."""
    name = next(iter(files))
    zip_of("x.zip", files)
    content = bytearray(Path("x.zip").read_bytes())
    for mark, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<L", content, content.index(mark) + offset, said)
    Path("x.zip").write_bytes(content)
    with pytest.raises(BadImageError, match="Bad CRC-32|more than the limit of 1,000,000,000"):
        digests_of_file(f"x.zip/{name}")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_bomb_with_a_small_size_is_not_inflated(method, files):
    """Of 100 MB that say to be 9 bytes, with their checksum, some are."""
    zip_of("x.zip", files | {"cat/bomb.png": bytes(100_000_000)}, method)
    content = bytearray(Path("x.zip").read_bytes())
    for mark, offset in ((b"PK\3\4", 14), (b"PK\1\2", 16)):
        struct.pack_into("<L", content, content.rindex(mark) + offset, zlib.crc32(bytes(9)))
        struct.pack_into("<L", content, content.rindex(mark) + offset + 8, 9)
    Path("x.zip").write_bytes(content)
    tracemalloc.start()
    try:
        with open_source("x.zip/cat/bomb.png") as file:
            assert file.read() == bytes(9)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


def test_a_long_name_in_a_tar_is_not_read(files):
    """A header of 100 MB, in an archive of 100 kB."""
    with tarfile.open("x.tgz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        bomb = tarfile.TarInfo("bomb")
        bomb.type, bomb.size = tarfile.GNUTYPE_LONGNAME, 100_000_000
        archive.addfile(bomb, io.BytesIO(bytes(100_000_000)))
    tracemalloc.start()
    try:
        images = ImageSet.open("x.tgz")
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()
    assert len(images.items) == len(files)
    reason = "the archive is damaged (a header says that it has 100,000,000 bytes); copy or"
    assert reasons(images)["x.tgz"].startswith(reason)


def test_a_header_in_another_place_makes_a_bad_image(files):
    zip_of("x.zip", files)
    content = bytearray(Path("x.zip").read_bytes())
    struct.pack_into("<L", content, content.index(b"PK\1\2") + 42, 7)
    Path("x.zip").write_bytes(content)
    (reason,) = reasons(ImageSet.open("x.zip")).values()
    assert reason == "it is not where its archive says; copy or download it again"


def test_of_a_tar_that_was_cut_the_whole_files_are_used(files):
    content = tar_of("x.tar", files).read_bytes()
    with tarfile.open("x.tar") as archive:
        last = archive.getmembers()[-1]
    Path("x.tar").write_bytes(content[: last.offset_data + last.size // 2])
    images = ImageSet.open("x.tar")
    assert len(images.items) == len(files) - 1
    found = reasons(images)
    assert found[f"x.tar/{last.name}"].startswith("the archive ends before it does")
    assert found["x.tar"].startswith("the archive is damaged (unexpected end of data)")


def test_of_a_tar_with_a_damaged_header_the_files_before_are_used(files):
    content = bytearray(tar_of("x.tar", files).read_bytes())
    with tarfile.open("x.tar") as archive:
        last = archive.getmembers()[-1]
    content[last.offset + 150] ^= 255
    Path("x.tar").write_bytes(content)
    images = ImageSet.open("x.tar")
    assert len(images.items) == len(files) - 1
    assert reasons(images)["x.tar"].startswith("the archive is damaged (what follows the last")


DAMAGED = {
    "no.tar": b"hello" * 1000,
    "no.zip": b"hello" * 1000,
    "no.tgz": b"hello" * 1000,
    "no.tar.xz": b"hello" * 1000,
    "nothing.zip": b"",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_is_no_archive_is_one_sentence(name):
    Path(name).write_bytes(DAMAGED[name])
    with pytest.raises(
        DataError, match=rf"^'{name}' cannot be read: it is damaged or no such arch"
    ):
        ImageSet.open(name)


def test_an_archive_without_images_is_one_sentence():
    tar_of("x.tar", {"notes.md": b"x"})
    with pytest.raises(DataError, match="no images in 'x.tar'; expected 'x.tar/CLASS/IMAGE'"):
        ImageSet.open("x.tar")
    with pytest.raises(PathMissingError, match="no file 'no.tar'; correct the path"):
        ImageSet.open("no.tar")


def test_an_archive_that_was_replaced_is_listed_again(files):
    tar_of("x.tar", files)
    before = container_at(Path("x.tar"))
    assert container_at(Path("x.tar")) is before
    images = ImageSet.open("x.tar")
    tar_of("new.tar", dict(reversed(files.items()))).replace("x.tar")
    assert container_at(Path("x.tar")) is not before
    for item in images.items:
        assert read_file(item) == files[item.path.removeprefix("x.tar/")]
    tar_of("x.tar", {"cat/other.png": PNG})
    with pytest.raises(BadImageError, match="No such file"):
        read_file(images.items[0])


def test_a_folder_with_the_name_of_an_archive_is_a_folder(files):
    Path("data").rename("data.zip")
    images = ImageSet.open("data.zip")
    assert len(images.items) == len(files)
    assert images.name == "data.zip"
    with open_source(images.items[0].path) as file:
        assert file.read() == files[images.items[0].path.removeprefix("data.zip/")]


def test_members_are_read_from_several_threads(files):
    """Out of order, from an archive that can only be read forward, too."""
    many = {f"c{n % 2}/{n}.png": PNG + np.random.default_rng(n).bytes(70_000) for n in range(90)}
    tar_of("x.tgz", many, "w:gz")
    images = ImageSet.from_paths(["x.tgz"])
    assert len({item.digest for item in images.items}) == len(many) > len(files)
