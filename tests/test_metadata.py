"""Tables of labels beside images, as Hugging Face's image folders have them. About 1 s."""

import json
from pathlib import Path

import pytest

from bottleneck import ImageSet
from bottleneck.errors import PathMissingError, UsageError
from bottleneck.images.layout import find_files

PNG = b"\x89PNG\r\n\x1a\n"
ROWS = [{"file_name": f"{n}.png", "label": "ab"[n % 2], "text": "x"} for n in range(6)]


def write(file: str, rows: list[dict]) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(rows[0])] + [",".join(map(str, row.values())) for row in rows]
    if file.endswith(".jsonl"):
        lines = [json.dumps(row) for row in rows]
    Path(file).write_text("\n".join(lines))


def images(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for row in ROWS:
        Path(folder, row["file_name"]).write_bytes(
            PNG + folder.encode() + row["file_name"].encode()
        )


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_labels_are_read_from_the_table_beside_images(name):
    images("data")
    write(f"data/{name}", ROWS[:5])
    found = find_files(Path("data"))
    assert {item.path: item.label for item in found.items} == {
        f"data/{row['file_name']}": row["label"] for row in ROWS[:5]
    }
    assert found.ignored == ["data/5.png"]
    assert found.notes == [f"labels were read from data/{name}"]
    assert len(ImageSet.open(f"data/{name}").items) == 5


def test_each_split_has_its_own_table():
    for split in ("train", "validation"):
        images(f"data/{split}")
        write(f"data/{split}/metadata.csv", ROWS)
    found = find_files(Path("data"))
    assert {item.split for item in found.items} == {"train", "val"}
    assert len(found.items) == 12


def test_other_columns_of_tables_are_read_and_labels_may_be_several():
    images("data")
    rows = [
        row | {"split": "train" if n < 4 else "test", "label": ["a", n % 2], "group": n // 2}
        for n, row in enumerate(ROWS)
    ]
    write("data/metadata.jsonl", rows)
    found = find_files(Path("data")).items
    assert [item.label for item in found] == ["a;0", "a;1"] * 3
    assert [item.split for item in found] == ["train"] * 4 + ["test"] * 2
    assert [item.group for item in found] == ["0", "0", "1", "1", "2", "2"]


def test_a_table_without_labels_leaves_them_to_the_folders():
    images("data/cat")
    images("data/dog")
    write("data/metadata.csv", [{"file_name": "cat/0.png", "text": "x"}])
    found = find_files(Path("data"))
    assert {item.label for item in found.items} == {"cat", "dog"}
    assert found.notes == [
        "data/metadata.csv has no column label, so that labels are not read from it"
    ]


def test_rows_without_images_are_listed_and_lines_without_json_refused():
    images("data")
    write("data/metadata.jsonl", [*ROWS, {"file_name": "x.png", "label": "a"}])
    found = ImageSet.open("data", complete=False)
    assert len(found.items) == 6
    assert [(each.path, each.reason) for each in found.rejected] == [
        ("data/x.png", "metadata.jsonl lists it, but it is not among the images there")
    ]
    write("data/metadata.jsonl", [{"file_name": "x.png", "label": "a"}])
    with pytest.raises(PathMissingError, match="lists 1 image, of which none exists, first 'data/"):
        ImageSet.open("data")
    for line in ("no", "[1]", "[" * 100_000):
        Path("data/metadata.jsonl").write_text(line)
        with pytest.raises(UsageError, match="in line 1: it is no JSON object; expected one a li"):
            ImageSet.open("data")
