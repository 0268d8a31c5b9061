"""Images in Parquet and Arrow files: the same as in folders. About 6 s in the first tier."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from bottleneck import ImageSet
from bottleneck.errors import BadImageError, DataError, MissingExtraError, UsageError
from bottleneck.images import read_file
from bottleneck.images.layout import find_files
from bottleneck.sources import container_at, open_source, opening

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def files(make_images) -> list[Path]:
    return sorted(make_images("data", cat=12, dog=13).rglob("*.png"))


def features(**kinds) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": kinds}}).encode()}


def table_of(files: list[Path], form: str) -> pa.Table:
    labels = [file.parent.name for file in files]
    if form == "paths":
        return pa.table({"path": list(map(str, files)), "class": labels})
    if form == "bytes":
        return pa.table(
            {"n": range(len(files)), "image": [f.read_bytes() for f in files], "label": labels}
        )
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    if form == "nested paths":
        rows = [{"bytes": None, "path": str(file)} for file in files]
    numbers = [["cat", "dog"].index(label) for label in labels]
    kinds = {
        "picture": {"_type": "Image"},
        "kind": {"_type": "ClassLabel", "names": ["cat", "dog"]},
    }
    table = pa.table({"text": labels, "picture": rows, "kind": numbers})
    return table.replace_schema_metadata(features(**kinds))


def save(table: pa.Table, file: str, rows: int = 7) -> None:
    if file.endswith(".parquet"):
        parquet.write_table(table, file, row_group_size=rows)
    else:
        how = ipc.new_file if file.startswith("file") else ipc.new_stream
        with how(file, table.schema) as writer:
            writer.write_table(table, rows)


@pytest.mark.parametrize("file", ["x.parquet", "file.arrow", "stream.arrow"])
@pytest.mark.parametrize("form", ["bytes", "struct", "paths", "nested paths"])
@pytest.mark.parametrize("rows", [7, 100])
def test_a_table_of_images_is_read_as_their_folder_is(file, form, rows, files):
    save(table_of(files, form), file, rows)
    there, here = ImageSet.open("data"), ImageSet.open(file)
    assert here.digest_of() == there.digest_of()
    assert [item.path for item in here.items] == [f"{file}/{n:06d}" for n in range(25)]
    order = np.random.default_rng(0).permutation(25)
    for number in order:
        assert read_file(here.items[number]) == files[number].read_bytes()
    with open_source(f"{file}/000003.png") as opened:
        assert opened.read() == files[3].read_bytes()
    assert len(ImageSet.from_paths([file, f"{file}/000003"]).items) == 26


def test_splits_are_told_by_a_column_or_by_names_of_files(files):
    table = table_of(files, "struct")
    Path("parts").mkdir()
    for name, start in {
        "train-00000-of-00002": 0,
        "train-00001-of-00002": 8,
        "validation-00000-of-00001": 16,
    }.items():
        save(table.slice(start, 8), f"parts/{name}.parquet")
    found = find_files(Path("parts"))
    assert [item.split for item in found.items] == ["train"] * 16 + ["val"] * 8
    assert found.notes == ["3 archives or tables in 'parts' read as one"]
    splits = ["train"] * 20 + ["Test"] * 5
    save(table.append_column("split", [splits]), "x.parquet")
    assert [item.split for item in find_files(Path("x.parquet")).items] == (
        ["train"] * 20 + ["test"] * 5
    )


def test_several_classes_and_rows_without_labels_or_images():
    images = [PNG + b"%d" % n for n in range(4)] + [None]
    kinds = {"labels": {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["a", "b"]}}}
    labels = [[0], [0, 1], [1], [], [0]]
    table = pa.table({"image": images, "labels": labels}).replace_schema_metadata(features(**kinds))
    save(table, "x.parquet")
    found = find_files(Path("x.parquet"))
    assert [item.label for item in found.items] == ["a", "a;b", "b", "a"]
    assert [(each.path, each.reason) for each in found.rejected] == [
        ("x.parquet/000003", "the row has no label")
    ]
    with pytest.raises(BadImageError, match="the row has no image"):
        open_source("x.parquet/000004")
    with pytest.raises(FileNotFoundError):
        open_source("x.parquet/000005")


def test_rows_that_name_what_is_in_tables_and_archives_are_bad_images(files):
    """Also the table itself."""
    good = [str(file) for file in files]
    table = {
        "path": ["x.parquet/000000", "y.zip/a.png", *good],
        "label": ["cat"] * 2 + ["dog"] * 25,
    }
    save(pa.table(table), "x.parquet")
    found = ImageSet.open("x.parquet", complete=False)
    assert len(found.items) == 25
    assert [each.reason for each in found.rejected] == [
        f"the row names {path!r}, which is in an archive or a table itself"
        for path in table["path"][:2]
    ]
    with pytest.raises(BadImageError, match="names '/etc/x', but its table is not on this machine"):
        opening._beside(Path("s3://bucket"), "/etc/x")


def test_labels_of_other_types_are_texts_and_whole_numbers():
    """Also where pandas makes floats of numbers, as some are missing; else the reason is true."""
    images = [PNG + b"%d" % n for n in range(5)]
    for labels, expected in (
        ([True, False, None, True, False], ["True", "False", None, "True", "False"]),
        ([0.0, 1.0, None, float("nan"), 10.0], ["0", "1", None, None, "10"]),
    ):
        save(pa.table({"image": images, "label": labels}), "x.parquet")
        found = find_files(Path("x.parquet"))
        assert [item.label for item in found.items] == [each for each in expected if each]
        missing = [f"x.parquet/{n:06d}" for n, each in enumerate(expected) if not each]
        assert [each.path for each in found.rejected] == missing
        assert {each.reason for each in found.rejected} == {"the row has no label"}
    save(pa.table({"image": images, "label": [0.5, 1.0, 2.0, 3.0, 4.0]}), "x.parquet")
    (bad,) = find_files(Path("x.parquet")).rejected
    assert bad.reason == "its label is 0.5, expected a text, a whole number, or a list of these"
    save(pa.table({"image": images, "label": [0.5] * 5}), "x.parquet")
    with pytest.raises(DataError, match=r"can be read, but x.parquet/000000 \(its label is"):
        find_files(Path("x.parquet"))


@pytest.mark.parametrize("file", ["x.parquet", "x.arrow"])
def test_splits_are_in_every_row_or_in_none(file):
    images = [PNG + b"%d" % n for n in range(4)]
    table = pa.table({"image": images, "label": ["a", "b"] * 2})
    for splits, told in (
        (["train", None, "test", "test"], f"'{file}/000001' has no split, expected train, val or"),
        (["train", "test", " ", "test"], f"'{file}/000002' has no split, expected train, val or"),
        (["train", "test", "None", "x"], f"'{file}/000002' has the split 'None', expected train"),
    ):
        save(table.append_column("split", [splits]), file)
        with pytest.raises(UsageError, match=told):
            ImageSet.open(file)
        assert len(ImageSet.from_paths([file]).items) == 4
    for empty in ([None] * 4, [""] * 4, pa.nulls(4, pa.string())):
        save(table.append_column("split", [empty]), file)
        assert [item.split for item in find_files(Path(file)).items] == [None] * 4
    shutil.move(file, f"train-{file}")
    assert {item.split for item in find_files(Path(f"train-{file}")).items} == {"train"}


IMAGE_TYPES = {
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.binary()),
    "string_view": pa.string_view(),
    "dictionary of paths": pa.dictionary(pa.int32(), pa.string()),
}


@pytest.mark.parametrize("file", ["x.parquet", "file.arrow", "stream.arrow"])
@pytest.mark.parametrize("kind", IMAGE_TYPES)
def test_images_are_of_any_type_of_bytes_or_paths(kind, file, files):
    paths = "string" in kind or "paths" in kind
    cells = [str(each) if paths else each.read_bytes() for each in files]
    labels = pa.array([each.parent.name for each in files]).dictionary_encode()
    table = pa.table({"image": pa.array(cells).cast(IMAGE_TYPES[kind]), "label": labels})
    save(table.combine_chunks(), file)
    images = ImageSet.open(file)
    assert images.digest_of() == ImageSet.open("data").digest_of()
    for number in np.random.default_rng(0).permutation(25):
        assert read_file(images.items[number]) == files[number].read_bytes()


def test_groups_are_those_of_a_column_as_in_csv_tables():
    images = [PNG + b"%d" % n for n in range(4)]
    columns = {"image": images, "label": ["a", "b"] * 2, "patient": [1.0, 2.0, None, 1.0]}
    save(pa.table(columns), "plain.parquet")
    save(pa.table({**columns, "group": ["x", None, " y  z", ""]}), "x.parquet")
    for file, group_by, expected in (
        ("plain.parquet", None, [None] * 4),
        ("plain.parquet", "patient", ["1", "2", None, "1"]),
        ("x.parquet", None, ["x", None, "y z", None]),
        ("x.parquet", "group", ["x", None, "y z", None]),
        ("x.parquet", "patient", ["1", "2", None, "1"]),
        ("plain.parquet", "[0-9]$", ["0", "1", "2", "3"]),
    ):
        images = ImageSet.from_folder(file, group_by=group_by, complete=False)
        assert [item.group for item in images.items] == expected
    with pytest.raises(UsageError, match="the table has a column group already; leave `group_by`"):
        ImageSet.open("x.parquet", group_by="[0-9]$")
    with pytest.raises(UsageError, match="'camera' finds no group in 4 of 4 paths"):
        ImageSet.open("plain.parquet", group_by="camera")


def test_a_table_without_labels_has_images_without_classes():
    save(pa.table({"jpg": [PNG, PNG + b"1"]}), "x.parquet")
    assert [item.label for item in find_files(Path("x.parquet")).items] == [None, None]


def test_what_is_no_table_of_images_is_one_sentence():
    save(pa.table({"a": [1], "b": ["x"]}), "x.parquet")
    with pytest.raises(
        DataError,
        match="'x.parquet' cannot be read: it has no column of images; "
        "expected a column image, of bytes or of paths, but it has a, b",
    ):
        ImageSet.open("x.parquet")
    for name in ("no.parquet", "no.arrow"):
        Path(name).write_bytes(b"hello" * 100)
        with pytest.raises(DataError, match=f"'{name}' cannot be read: it is damaged or no such"):
            ImageSet.open(name)


def test_damaged_row_groups_are_bad_images(files):
    save(table_of(files, "bytes"), "x.parquet")
    content = bytearray(Path("x.parquet").read_bytes())
    place = content.index(files[9].read_bytes()[:60])
    content[place - 40 : place + 10] = bytes(50)
    Path("x.parquet").write_bytes(content)
    images = ImageSet.open("x.parquet")
    assert len(images.items) + len(images.rejected) == 25
    assert images.rejected


def test_without_pyarrow_it_is_named(files, monkeypatch):
    save(table_of(files, "bytes"), "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"reading \*.parquet needs pyarrow, which is"):
        ImageSet.open("x.parquet")


def test_damaged_notes_of_hugging_face_have_no_effect(files):
    table = table_of(files, "bytes")
    for content in (b"no", b"[]", b'{"info": 1}', b"[" * 100_000, b'{"info": {"features": [1]}}'):
        save(table.replace_schema_metadata({b"huggingface": content}), "x.parquet")
        assert len(find_files(Path("x.parquet")).items) == 25
        assert container_at(Path("x.parquet")).has("000024")


@pytest.mark.ci
def test_datasets_of_hugging_face_are_read(files, monkeypatch):
    """As objects, as Parquet, and saved to disk, alone and in splits; class names are kept."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    there = ImageSet.open("data")
    kind = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": list(map(str, files)), "label": [file.parent.name for file in files]}
    dataset = datasets.Dataset.from_dict(rows, kind)
    dataset.to_parquet("hf.parquet")
    dataset.save_to_disk("saved")
    for source in (dataset, "hf.parquet", "saved"):
        images = ImageSet.open(source)
        assert images.digest_of() == there.digest_of()
        assert not images.ignored
    both = datasets.DatasetDict(train=dataset, validation=dataset)
    both.save_to_disk("both")
    for source in (both, "both"):
        assert [item.split for item in ImageSet.open(source).items] == ["train"] * 25 + ["val"] * 25
    shutil.rmtree("saved")


@pytest.mark.ci
def test_columns_of_other_names_are_found_by_their_features(files):
    """Of a dataset in memory, as of the same one as Parquet: of an image, one class or several."""
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["cat", "dog"])
    there = ImageSet.open("data")
    for kind, of in ((names, str), (datasets.List(names), lambda label: [label])):
        features = datasets.Features({"picture": datasets.Image(), "fine_label": kind})
        labels = [of(file.parent.name) for file in files]
        rows = {"picture": list(map(str, files)), "fine_label": labels}
        dataset = datasets.Dataset.from_dict(rows, features)
        dataset.to_parquet("named.parquet")
        for source in (dataset, "named.parquet"):
            found = ImageSet.open(source)
            assert [each.label for each in found.items] == [each.label for each in there.items]
            assert [each.digest for each in found.items] == [each.digest for each in there.items]


MEMORY = """
import sys
from pathlib import Path
from bottleneck import ImageSet
from bottleneck.images import read_file
images = ImageSet.from_paths([sys.argv[1]])
for item in images.items:
    read_file(item)
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(len(images.items), status["VmHWM"].split()[0])
"""


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="which tells the most memory of a process")
@pytest.mark.parametrize(
    ("kind", "few", "many"), [("parquet", 10_000, 30_000), ("tar", 1_000, 20_000)]
)
def test_memory_is_that_of_few_images_however_many_there_are(kind, few, many):
    """20 kB each, in one row group: less than 60 MB more for 400 MB, once buffers are full."""
    import tarfile  # noqa: PLC0415 - as below
    from io import BytesIO  # noqa: PLC0415

    used = {}
    for count in (few, many):
        generator = np.random.default_rng(0)
        images = (PNG + generator.bytes(20_000) for _ in range(count))
        if kind == "tar":
            with tarfile.open("x.tar", "w") as archive:
                for number, image in enumerate(images):
                    member = tarfile.TarInfo(f"{number}.png")
                    member.size = len(image)
                    archive.addfile(member, BytesIO(image))
        else:
            schema = pa.schema({"image": pa.binary()})
            with parquet.ParquetWriter("x.parquet", schema) as writer:
                batch = pa.record_batch([list(images)], schema)
                writer.write_batch(batch, row_group_size=count)
                del batch
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, f"x.{kind}"], capture_output=True, text=True, check=True
        )
        found, used[count] = map(int, done.stdout.split())
        assert found == count
        Path(f"x.{kind}").unlink()
    assert used[many] - used[few] < 60_000
