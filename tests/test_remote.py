"""Images behind URLs: S3 through moto's server, and HTTP, both on loopback. About 10 s.

That of the first tier is one small test of each, and of each error.
"""

import gzip
import io
import json
import os
import shutil
import socket
import sys
import tarfile
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from buckets import BUCKET, s3_server
from pyarrow import ipc, parquet
from test_shards import rows

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.errors import (
    BadImageError,
    DataError,
    MissingExtraError,
    PathMissingError,
    UsageError,
)
from bottleneck.images import digests_remembered, read_file, read_size
from bottleneck.sources import Remembered, columns, opening, ranges, remote
from bottleneck.sources.members import Members


@pytest.fixture
def files(make_images) -> list[Path]:
    return sorted(make_images("data", cat=8, dog=8).rglob("*.png"))


@pytest.fixture
def base(little) -> FrozenBase:
    return FrozenBase(little, "flat", weights="random")


def packed(files: list[Path]) -> list[str]:
    """Pack the images in every other way; return the names of the files."""
    with tarfile.open("x.tar", "w") as archive:
        archive.add("data", ".")
    with zipfile.ZipFile("x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.relative_to("data"))
    for part in range(2):
        with tarfile.open(f"s-{part}.tar", "w") as archive:
            for number, file in enumerate(files[part::2]):
                archive.add(file, f"{number}.png")
                label = file.parent.name.encode()
                member = tarfile.TarInfo(f"{number}.cls")
                member.size = len(label)
                archive.addfile(member, io.BytesIO(label))
    labels = [file.parent.name for file in files]
    table = pa.table({"image": [file.read_bytes() for file in files], "label": labels})
    parquet.write_table(table, "x.parquet", row_group_size=5)
    with ipc.new_stream("x.arrow", table.schema) as writer:
        writer.write_table(table, 5)
    Path("list.csv").write_text(
        "path,label\n" + "".join(f"{file},{file.parent.name}\n" for file in files)
    )
    return ["x.tar", "x.zip", "s-0.tar", "s-1.tar", "x.parquet", "x.arrow", "list.csv"]


@pytest.fixture
def served(files):
    """An S3 server with the images, as files and packed in every way."""
    with s3_server() as (server, client):
        for file in [*files, *packed(files)]:
            client.upload_file(str(file), BUCKET, str(file))
        yield server, client


def test_a_folder_on_s3_has_the_digests_of_that_on_the_disk(base, served, files):
    """Nothing is computed again, and what did not change is not read again."""
    server, client = served
    there = ImageSet.open("data")
    cache = Cache("cache")
    assert extract_features(there, base, cache).computed == 16
    url = f"s3://{BUCKET}/data"
    with digests_remembered("cache"):
        here = ImageSet.open(url)
    assert here.name == "data"
    assert here.digest_of() == there.digest_of()
    assert [i.path for i in here.items] == [f"s3://{BUCKET}/{i.path}" for i in there.items]
    assert extract_features(here, base, cache).computed == 0
    assert read_size(here.items[0].path) == (48, 48)
    server.requests.clear()
    client.put_object(Bucket=BUCKET, Key="data/cat/new.png", Body=files[0].read_bytes() + b"x")
    with digests_remembered("cache"):
        again = ImageSet.open(url)
    assert server.gets() == [f"/{BUCKET}/data/cat/new.png"]
    assert len(again.items) == 17
    assert len(json.loads(Path("cache/remote.json").read_text())) == 17
    client.put_object(Bucket=BUCKET, Key="data/cat/000.png", Body=files[1].read_bytes())
    with pytest.raises(BadImageError, match="changed since its digest was taken"):
        read_file(here.items[0])


@pytest.mark.parametrize(
    "name", ["x.tar", "x.zip", "x.parquet", "x.arrow", "s-{0..1}.tar", "s-{0..1}.tar.gz"]
)
def test_an_archive_on_s3_that_did_not_change_is_not_read_again(name, served):
    """Neither its headers, nor the labels beside images; a changed one is read."""
    server, client = served
    for part in range(2):
        client.put_object(
            Bucket=BUCKET,
            Key=f"s-{part}.tar.gz",
            Body=gzip.compress(Path(f"s-{part}.tar").read_bytes()),
        )
    url = f"s3://{BUCKET}/{name}"
    with digests_remembered("cache"):
        first = ImageSet.open(url)
    opening._opened.clear()  # as in another process
    server.requests.clear()
    with digests_remembered("cache"):
        again = ImageSet.open(url)
    assert not server.gets()
    assert again == first
    assert {item.label for item in again.items} == {"cat", "dog"}
    assert read_file(again.items[0])
    opening._opened.clear()
    if "tar" not in name:
        return
    shard = name.replace("{0..1}", "0")
    data = Path(shard.removesuffix(".gz")).read_bytes() + bytes(tarfile.RECORDSIZE)
    body = gzip.compress(data) if shard.endswith(".gz") else data
    client.put_object(Bucket=BUCKET, Key=shard, Body=body)
    server.requests.clear()
    with digests_remembered("cache"):
        assert ImageSet.open(url).digest_of() == first.digest_of()
    assert {*server.gets()} == {f"/{BUCKET}/{shard}"}


@pytest.mark.parametrize(
    "facts", [[], [1], [{"a": 1}, []], [{"a": [0, "1"]}, []], [{"a": [0, 1]}, [["b"]]], [[], {}]]
)
def test_a_damaged_list_of_an_archive_is_made_again(facts):
    assert Members.recalled(tuple(facts), 2) is None


@pytest.mark.parametrize(
    "facts",
    [[], [["a"], None, [1]], [["a"], None, None, [2]], [["a"], None, None, ["1"]],
     [["a"], None, None, [True]], [1, None, None, [1]], [None, ["train"], None, [3, -2]],
     [None, [1], None, [1]], [None, None, [["a"]], [1]], [None, None, {"a": 1}, [1]]],
)  # fmt: skip
def test_damaged_labels_of_a_table_are_read_again(facts):
    assert columns._Told.recalled(tuple(facts)) is None


@pytest.mark.ci
def test_everything_on_s3_is_read_as_on_the_disk_and_failures_pass(base, served):
    """Every seventh request fails; a look at what did not change reads no image again."""
    server, _ = served
    there = ImageSet.open("data")
    extract_features(there, base, Cache("cache"))
    server.every = 7
    expected = rows("cache")
    for number, name in enumerate(
        ("data", "x.tar", "x.zip", "s-{0..1}.tar", "x.parquet", "list.csv")
    ):
        for _ in range(2):
            server.requests.clear()
            with digests_remembered("cache"):
                here = ImageSet.open(f"s3://{BUCKET}/{name}")
            assert here.digest_of() == there.digest_of(), name
            assert not here.rejected
        assert not [path for path in server.gets() if path.endswith(".png")]
        for item in here.items:
            assert read_file(item)
        assert extract_features(here, base, Cache("cache")).computed == 0
        extract_features(here, base, Cache(f"empty{number}"))
        assert rows(f"empty{number}") == expected
    server.requests.clear()
    extract_features(f"s3://{BUCKET}/data", base, Cache("cache"))
    assert not [path for path in server.gets() if path.endswith(".png")]
    found = ImageSet.from_paths([f"s3://{BUCKET}/data", f"s3://{BUCKET}/data/cat/000.png"])
    assert len(found.items) == 17


def test_digests_are_remembered_while_others_are_read(monkeypatch):
    """So that a process that is killed has not read all for nothing; by several at once."""
    monkeypatch.setattr("bottleneck.sources.memory._SAVE_SECONDS", 0.0)
    for name, other in [(each, Remembered(Path("remote.json"))) for each in "ab"]:
        other.add(f"s3://bucket/{name}", "1-v", "0" * 64, None)
    assert json.loads(Path("remote.json").read_text()).keys() == {"s3://bucket/a", "s3://bucket/b"}


@pytest.mark.parametrize("content", ["", "no", "[]", "[" * 100_000, '{"x": 1}', None, "old"])
def test_damaged_remembered_digests_have_no_effect(content, monkeypatch):
    """Also those that are of another version, or not digests."""
    Path("cache").mkdir()
    url, digest = "s3://bucket/data/1.png", "0" * 64
    if content is None:
        content = json.dumps({url: ["1-v", "0", None]})
    elif content == "old":
        content = json.dumps({url: ["1-u", digest, None]})
    Path("cache/remote.json").write_text(content)
    monkeypatch.setattr(opening, "stated", lambda _: remote.Stated(1, "1-v"))
    monkeypatch.setattr("bottleneck.sources.opening.read_remote", lambda _: b"\x89PNG\r\n\x1a\n")
    from bottleneck.images.items import ImageItem, digest_all  # noqa: PLC0415

    with digests_remembered("cache"):
        (item,), _ = digest_all([ImageItem(url)])
    assert item.digest != digest
    assert json.loads(Path("cache/remote.json").read_text())[url] == ["1-v", item.digest, None]


class Silent(SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []
    states = True
    """Whether it states when a file was changed."""
    failures = 0
    """How many of the next requests it cannot answer."""

    def send_head(self) -> Any:
        if Silent.failures:
            Silent.failures -= 1
            return self.send_error(503)
        return super().send_head()

    def send_header(self, keyword: str, value: str) -> None:
        if self.states or keyword != "Last-Modified":
            super().send_header(keyword, value)

    def log_message(self, *_):
        self.asked.append(self.requestline)


@pytest.fixture
def web():
    """The current folder over HTTP, by a server that knows no ranges of bytes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=os.fspath(Path.cwd())))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    Silent.asked.clear()
    Silent.failures = 0


def test_images_are_read_over_http(web, files):
    packed(files)
    there = ImageSet.open("data")
    for name in ("data", "x.tar", "list.csv"):
        here = ImageSet.open(f"{web}/{name}")
        assert here.digest_of() == there.digest_of(), name
        assert here.items[0].path.startswith(f"{web}/")
    with pytest.raises(PathMissingError, match=f"no file or folder '{web}/no.tar'; correct the"):
        ImageSet.open(f"{web}/no.tar")
    shutil.copy("x.tar", "y.tar")
    Path("table.csv").write_text(
        f"path,label\n{web}/data/cat/000.png,a\nx.tar/dog/000.png,b\n"
        f"x.tar/dog/001.png,b\ny.tar/cat/001.png,a\n"
    )
    assert len(ImageSet.open("table.csv").items) == 4


def test_web_addresses_may_have_a_query_as_signed_ones_do(web, files):
    packed(files)
    there = ImageSet.open("data")
    for name in ("x.tar", "x.zip", "x.parquet", "list.csv"):
        here = ImageSet.open(f"{web}/{name}?key=a.b%2Fc")
        assert here.digest_of() == there.digest_of(), name
        assert here.name == Path(name).stem
        assert read_file(here.items[3]) == files[3].read_bytes()
    shards = ImageSet.open(f"{web}/s-{{0..1}}.tar?key=x")
    assert {(i.digest, i.label) for i in shards.items} == {(i.digest, i.label) for i in there.items}
    Path("table.csv").write_text(f"path,label\n{web}/data/cat/000.png?size=1.jpg,a\n")
    (image,) = ImageSet.from_manifest("table.csv", complete=False).items
    assert image.digest == there.items[0].digest


def test_an_archive_of_which_nothing_is_stated_is_asked_for_once(web, files, monkeypatch):
    """Not for each of its images; and read anew, as it may have changed."""
    monkeypatch.setattr(Silent, "states", False)
    packed(files)
    for changed in (False, True):
        if changed:
            shutil.copy("s-0.tar", "x.tar")
        Silent.asked.clear()
        with digests_remembered("cache"):
            images = ImageSet.open(f"{web}/x.tar", complete=False)
        assert len(images.items) == (8 if changed else 16)
        assert len([each for each in Silent.asked if each.startswith("HEAD")]) <= 2
    assert not Path("cache/remote.json").exists()


def test_what_changes_on_a_server_is_seen(web, files):
    """In the same process: an image in a table of URLs, in a folder, and one that a row names."""
    rows = [f"{web}/{file},{file.parent.name}" for file in files]
    Path("urls.csv").write_text("\n".join(["path,label", *rows]))
    labels = [file.parent.name for file in files]
    parquet.write_table(pa.table({"path": [*map(str, files)], "label": labels}), "paths.parquet")
    sources = ("urls.csv", f"{web}/data", f"{web}/paths.parquet")
    for changed in (False, True):
        if changed:
            files[0].write_bytes(files[1].read_bytes() + b"x")
            os.utime(files[0], (2e9, 2e9))
        there = ImageSet.open("data")
        for source in sources:
            with digests_remembered("cache"):
                here = ImageSet.open(source)
            assert here.digest_of() == there.digest_of(), (source, changed)


def test_an_outage_is_waited_for_once(web, files, monkeypatch):
    """Seven failures in a row drop no image; an outage that lasts is not awaited twice."""
    packed(files)
    monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.2)
    Silent.failures = 7
    assert len(ImageSet.open(f"{web}/x.zip").items) == 16
    monkeypatch.setattr(remote, "_PATIENCE", 0.5)
    opening._opened.clear()
    remote.forget_stated()
    Silent.failures = 1_000
    asked = []
    for _ in range(2):
        Silent.asked.clear()
        with pytest.raises(DataError, match="cannot be read"):
            ImageSet.open(f"{web}/x.zip")
        asked.append(len(Silent.asked))
    assert asked[0] > asked[1]
    Silent.failures = 0
    assert len(ImageSet.open(f"{web}/x.zip").items) == 16
    assert not remote._given_up


def test_a_server_of_whole_files_sends_one_once(web):
    Path("x.bin").write_bytes(os.urandom(5 * 2**20))
    file = ranges.RemoteFile(f"{web}/x.bin")
    found = b"".join(file.read_at(start, 2**19) for start in range(0, file.size, 2**19))
    assert found == Path("x.bin").read_bytes()
    assert len([each for each in Silent.asked if each.startswith("GET")]) == 1


def test_blocks_of_many_files_take_no_more_memory_than_those_of_one(monkeypatch):
    monkeypatch.setattr(ranges, "_BLOCK", 1_000)
    monkeypatch.setattr(ranges, "_KEPT", 6)
    content, asked = os.urandom(20_000), []

    def part(url, start, end):
        asked.append((url, start))
        return content[start:end]

    monkeypatch.setattr(ranges, "read_remote", part)
    monkeypatch.setattr(ranges, "stated", lambda _: remote.Stated(len(content), "v"))
    for number in range(5):
        file = ranges.RemoteFile(f"https://host/{number}")
        for _ in range(2):
            found = b"".join(file.read_at(start, 700) for start in range(0, len(content), 700))
            assert found == content
        assert len(ranges._blocks._found) <= 6
    first = [start for url, start in asked if url.endswith("/0")]
    assert len(first) == 40  # each block once in each of two rounds


@pytest.mark.usefixtures("files")
def test_names_in_a_folder_of_the_web_are_those_of_the_disk(web):
    for name, source in (("my cat \u00fc", "cat"), ("a#b%20", "dog")):
        Path("data", source).rename(Path("data", name))
    there, here = ImageSet.open("data"), ImageSet.open(f"{web}/data")
    assert here.classes == there.classes == ("a#b%20", "my cat \u00fc")
    assert here.digest_of() == there.digest_of()
    assert read_file(here.items[0])


def test_a_package_that_lacks_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r"reading s3:// URLs needs s3fs, .*\[s3\]"):
        ImageSet.open("s3://bucket/data")
    with pytest.raises(MissingExtraError, match=r"reading gs:// URLs needs gcsfs, .*\[gcs\]"):
        ImageSet.open("gs://bucket/x.tar")
    with pytest.raises(MissingExtraError, match="reading sftp:// URLs needs a package: .*paramiko"):
        ImageSet.open("sftp://host/data")
    with pytest.raises(DataError, match="'nothing://x/y' cannot be read .*Protocol not known"):
        ImageSet.open("NOTHING://x/y")
    with pytest.raises(UsageError, match="'simplecache::https://x/y.zip' has several file systems"):
        ImageSet.open("simplecache::https://x/y.zip")


def test_missing_credentials_are_one_sentence(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"cannot be read without valid credentials .*S3_ANON=true"):
        ImageSet.open("s3://bucket/data")


@pytest.mark.ci
@pytest.mark.parametrize("answers", [True, False])
def test_a_server_that_does_not_answer_is_given_up(answers, monkeypatch):
    """One that takes connections and is silent, and one that does not take any."""
    monkeypatch.setattr(remote, "_READ", 1)
    monkeypatch.setattr(remote, "_PATIENCE", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if not answers:
            silent.close()
        own = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "y",
        }
        for name, value in own.items():
            monkeypatch.setenv(name, value)
        started = time.monotonic()
        for url in (f"s3://other{answers}/data".lower(), f"http://127.0.0.1:{port}/x.tar"):
            with pytest.raises(DataError, match=r"cannot be read \(.*\); check the URL and the"):
                ImageSet.open(url)
        assert time.monotonic() - started < 30


def test_keys_with_an_empty_part_are_read(files):
    with s3_server() as (_, client):
        for file in files:
            client.upload_file(str(file), BUCKET, str(file).replace("/", "//", 1))
        assert ImageSet.open(f"s3://{BUCKET}/data").digest_of() == ImageSet.open("data").digest_of()


def test_an_empty_folder_is_one_sentence():
    with s3_server(), pytest.raises(PathMissingError, match=f"no files at 's3://{BUCKET}/no'"):
        ImageSet.open(f"s3://{BUCKET}/no")
