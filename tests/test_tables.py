"""Tables of images, as people and programs write them.

About 4 s; the files are empty where only their names matter.
"""

import csv
import errno
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottleneck.errors import DataError, UsageError
from bottleneck.images import ImageSet
from bottleneck.images.tables import read_table

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
ROWS = [("cat/1.png", "cat", "train"), ("cat/2.png", "cat", "test"), ("dog/3.png", "dog", "val")]


@pytest.fixture
def files() -> None:
    for path, _, _ in ROWS:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).touch()


def read(text: str, encoding="utf-8", **how) -> list[tuple[str, str | None, str | None]]:
    Path("list.csv").write_text(text, encoding=encoding, newline="")
    return [
        (item.path, item.label, item.split) for item in read_table(Path("list.csv"), **how).items
    ]


PLAIN = "path,label,split\ncat/1.png,cat,train\ncat/2.png,cat,test\ndog/3.png,dog,val\n"
SPELLED = {
    "plain": PLAIN,
    "byte order mark": f"\ufeff{PLAIN}",
    "no newline at the end": PLAIN.strip(),
    "Windows newlines": PLAIN.replace("\n", "\r\n"),
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "Excel's first line": "sep=;\n" + PLAIN.replace(",", ";"),
    "blanks": PLAIN.replace(",", " , ").replace("\n", " \n "),
    "quotes": '"' + PLAIN.strip().replace(",", '","').replace("\n", '"\n"') + '"\n',
    "blanks and quotes": PLAIN.replace("cat/1.png,cat", ' "cat/1.png" , "cat"'),
    "header in capitals": PLAIN.replace("path,label,split", "PATH, Label ,Split"),
    "rows of separators": PLAIN.replace("\n", "\n,,\n ; \n".replace(";", ","), 2) + ",,\n\n  \n",
    "first rows empty": f"\n,,\n{PLAIN}",
    "columns at the end": PLAIN.replace("\n", ",,\n"),
    "other columns": PLAIN.replace("\n", ",7\n").replace("split,7", "split,size"),
    "other order": "split,label,path\n" + "".join(",".join(row[::-1]) + "\n" for row in ROWS),
    "Windows paths": PLAIN.replace("/", "\\"),
    "dots": PLAIN.replace("cat/1", "./cat/1").replace("dog/3", "cat/../dog/3"),
    "single quotes": PLAIN.replace("cat/1.png", "'cat/1.png'"),
    "split words": PLAIN.replace("train\n", "Training\n")
    .replace("val\n", "DEV\n")
    .replace("test\n", "holdout\n"),
    "labels with blanks": PLAIN.replace(",cat,", ",  cat ,"),
}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", SPELLED)
def test_the_same_table_spelled_otherwise(name):
    found = read(SPELLED[name], found=True)
    normal = [(Path(path).resolve().relative_to(Path.cwd()), *rest) for path, *rest in found]
    assert normal == [(Path(path), label, split) for path, label, split in ROWS]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]
)
def test_tables_with_a_byte_order_mark(encoding):
    """Such as those that Excel saves as Unicode text, with tabs."""
    marked = "" if encoding in {"utf-8-sig", "utf-16", "utf-32"} else "\ufeff"
    text = PLAIN.replace("dog,val", "Mäuse 鼠,val").replace(",", "\t").replace("\n", "\r\n")
    found = read(marked + text, encoding)
    assert [label for _, label, _ in found] == ["cat", "cat", "Mäuse 鼠"]


@pytest.mark.usefixtures("files")
def test_a_table_in_another_encoding_is_refused():
    for encoding in ("utf-16-le", "cp1252"):  # without a mark
        with pytest.raises(UsageError, match="cannot be read as a table|has no column path"):
            read("path,label\ncat/1.png,Mäuse\n", encoding)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("column", "cells", "splits"),
    [
        ("is_valid", ("False", "True", ""), ["train", "val", "train"]),
        ("is_valid", ("0", "1", "0"), ["train", "val", "train"]),
        ("Is_Valid", ("no", "YES", "f"), ["train", "val", "train"]),
        ("is_test", ("false", "true", "0.0"), ["train", "test", "train"]),
        ("is_valid", ("", "", ""), [None, None, None]),
    ],
)
def test_columns_that_tell_what_is_held_out(column, cells, splits):
    lines = [f"{path},{label},{cell}" for (path, label, _), cell in zip(ROWS, cells, strict=True)]
    found = read("\n".join([f"path,label,{column}", *lines]))
    assert [split for _, _, split in found] == splits


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,label,is_valid\ncat/1.png,cat,maybe\n", "'split' is 'maybe', expected one of"),
        (
            "path,label,split,is_valid\ncat/1.png,cat,train,1\n",
            "has the columns split and is_valid, which both tell the split; keep one",
        ),
        ("path,label,Label\ncat/1.png,cat,dog\n", "has several columns label; keep one"),
        (
            "path,label\ncat/1.png,tiger, white\n",
            "in line 2: it has more cells than the header, the last being 'white'; put cells",
        ),
    ],
)
def test_tables_that_can_be_misread_are_refused(text, sentence):
    with pytest.raises(UsageError, match=sentence):
        read(text)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("filename,class,split", {"filename": "path", "class": "label"}),
        ("Image,label,split", {"image": "path"}),
        ("path;category;split", {"category": "label"}),
        ("path,label,split,class", {}),
        ("target,y,path", {"target": "label"}),
    ],
)
def test_columns_may_have_the_names_that_other_programs_give_them(header, told):
    rows = [dict(zip(("path", "label", "split"), row, strict=True)) for row in ROWS]
    separator = ";" if ";" in header else ","
    columns = header.lower().split(separator)
    lines = [
        separator.join(row.get(told.get(column, column), "other") for column in columns)
        for row in rows
    ]
    Path("list.csv").write_text("\n".join([header, *lines]))
    found = read_table(Path("list.csv"), found=True)
    assert [(item.path, item.label) for item in found.items] == [row[:2] for row in ROWS]
    assert found.notes == [f"the column {old} was read as {new}" for old, new in told.items()]


@pytest.mark.usefixtures("files")
def test_images_that_do_not_exist_are_listed(make_images):
    make_images("data", cat=5, dog=5)
    lines = [f"data/{each}/00{n}.png,{each}" for each in ("cat", "dog") for n in range(6)]
    Path("list.csv").write_text("\n".join(["path,label", *lines, "none.png,bird"]))
    images = ImageSet.open("list.csv")
    assert len(images.items) == 10
    assert images.lost == ("bird",)
    assert [(each.path, each.reason) for each in images.rejected] == [
        (path, "No such file or directory")
        for path in ("data/cat/005.png", "data/dog/005.png", "none.png")
    ]


@pytest.mark.usefixtures("files")
def test_words_for_splits_and_columns_of_them_are_reported():
    Path("list.csv").write_text(PLAIN.replace("train\n", "Training\n"))
    assert read_table(Path("list.csv")).notes == ["the column split was read as: Training is train"]
    Path("list.csv").write_text(PLAIN.replace("split\n", "subset\n"))
    (told,) = read_table(Path("list.csv")).notes
    assert told.startswith("the column subset looks like splits, but only a column split is read")


def test_a_table_that_the_system_does_not_let_read_is_refused(monkeypatch):
    Path("list.csv").write_text("path,label\n")

    def refused(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("bottleneck.images.tables.read_source", refused)
    with pytest.raises(UsageError, match=r"'list.csv' cannot be read .*Input/output error"):
        ImageSet.open("list.csv")


def test_nested_is_for_folders():
    Path("list.csv").write_text(PLAIN)
    with pytest.raises(UsageError, match="`nested` applies to folders only"):
        ImageSet.open("list.csv", nested=True)


def test_home_folders_and_unicode_forms(monkeypatch):
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    for path in (f"home/{DECOMPOSED}/{COMPOSED}.png", "home/x.png", "~y.png"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    home = Path("home").absolute().as_posix()
    text = (
        f"path,label\n~/x.png,{DECOMPOSED}\n~y.png,{COMPOSED}\nhome/{COMPOSED}/{DECOMPOSED}.png,b\n"
    )
    assert read(text, found=True) == [
        (f"{home}/x.png", COMPOSED, None),
        ("~y.png", COMPOSED, None),
        (f"home/{DECOMPOSED}/{COMPOSED}.png", "b", None),
    ]


CELLS = st.text("abAB \u00e9'.-_", min_size=1, max_size=6).map(str.strip).filter(bool)


WORDS = {"train": "train", "Val": "val", "TESTING": "test"}


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_rows_are_read_as_written(data):
    """With any separator, quoting, order of columns, case of headers, blanks and empty rows."""
    rows = data.draw(st.lists(st.tuples(CELLS, st.sampled_from(list(WORDS))), min_size=1))
    blank = data.draw(st.sampled_from(["", " ", "  "]))
    case = data.draw(st.sampled_from([str.lower, str.upper, str.title]))
    columns: dict[str, list[str]] = {"path": [], "label": [], "split": []}
    for number, (label, split) in enumerate(rows):
        for name, cell in zip(columns, (f"{number}.png", label, split), strict=True):
            columns[name].append(f"{blank}{cell}{blank}")
    order = data.draw(st.permutations(list(columns)))
    lines = [tuple(map(case, order)), *zip(*(columns[name] for name in order), strict=True)]
    for gap in data.draw(st.lists(st.integers(0, 5), max_size=3)):
        lines.insert(gap, (blank, "", ""))
    text = io.StringIO()
    csv.writer(
        text,
        delimiter=data.draw(st.sampled_from(",;\t")),
        lineterminator=data.draw(st.sampled_from(["\n", "\r\n"])),
        quoting=data.draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])),
    ).writerows(lines)
    assert read(text.getvalue()) == [
        (f"{number}.png", " ".join(label.split()), WORDS[split])
        for number, (label, split) in enumerate(rows)
    ]


def test_predict_takes_tables(little, make_images, bottleneck):
    """With or without labels; a missing column is one sentence, a missing image a bad one."""
    make_images(cat=5, dog=5)
    assert bottleneck("extract", "--model", little, "--weights", "random").code == 0
    assert bottleneck("fit-head", "--clf", "centroid").code == 0
    Path("some.csv").write_text("Path;Label\ndata\\cat\\000.png;cat\ndata/dog/001.png;\n;\n")
    done = bottleneck("predict", "some.csv", "data/cat/002.png")
    assert done.code == 0, done.err
    assert [line.split('"')[1] for line in done.out.splitlines()] == [
        "path",
        "data/cat/000.png",
        "data/dog/001.png",
        "data/cat/002.png",
    ]
    Path("some.csv").write_text("thing,label\ndata/cat/000.png,cat\n")
    refused = bottleneck("predict", "some.csv")
    assert refused.code == 2
    assert "table 'some.csv' has no column path" in refused.err
    Path("some.csv").write_text("path\nnone.png\ndata/cat/000.png\n")
    done = bottleneck("predict", "some.csv")
    assert (done.code, len(done.out.splitlines())) == (1, 2)
    assert "1 image could not be used:\n  none.png: " in done.err
    lines = bottleneck("predict", "some.csv", "--json").out.splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["none.png", "data/cat/000.png"]
    with pytest.raises(DataError, match="lists no images"):
        Path("some.csv").write_text("path\n,\n")
        ImageSet.from_paths(["some.csv"])
