"""Files that commands write: what cannot be written is refused before anything else. About 2 s."""

from pathlib import Path

import pytest
from conftest import read_only

from bottleneck.cli.command import COMMANDS
from bottleneck.files import check_writable

CASES = [
    ("augment-preview", "--augment", "standard", "--data", "data", "--output", "a.png"),
    ("evaluate", "--errors", "a.csv"),
    ("evaluate", "--picture", "a.png"),
    ("advise", "--picture", "a.png"),
    ("fit-head", "--picture", "a.png"),
    ("finetune", "--picture", "a.png"),
    ("leaderboard", "--by", "model", "--pareto", "a.png"),
    ("suspects", "--output", "a.csv"),
    ("suspects", "--gallery", "a.html"),
    ("similar", "data", "--output", "a.csv"),
    ("similar", "data", "--gallery", "a.png"),
    ("suggest", "data", "--output", "a.csv"),
    ("suggest", "data", "--gallery", "a.png"),
    ("predict", "data", "--output", "a.jsonl"),
    ("demo", "--picture", "a.png"),
    ("cache export", "a.h5"),
    ("export", "head", "a.onnx"),
]


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_a_file_that_cannot_be_written_is_refused_first(bottleneck, words):
    """In a folder without a cache, heads or images, which would be told otherwise."""
    *others, name = words
    finished = bottleneck(*others[0].split(), *others[1:], f"/dev/null/{name}")
    assert finished.code == 1, finished.err
    told = f"error: '/dev/null/{name}' cannot be used (Not a directory); check the path"
    assert finished.err.startswith(told)
    assert not any(Path().iterdir())


def test_these_are_all_files_that_commands_write():
    tried = {(words[0], words[-2] if words[-2].startswith("--") else "") for words in CASES}
    declared = {
        (name, "" if value.option.argument else value.flag)
        for name, command in COMMANDS.items()
        for value in command.values.values()
        if value.option.writes
    }
    assert declared == tried


def test_what_can_be_written_is_left_as_it_is():
    Path("there.csv").write_text("mine")
    Path("link.csv").symlink_to("there.csv")
    for name in ("there.csv", "link.csv", "new/folder/a.csv", "/dev/full", "a.csv"):
        check_writable(Path(name))
    assert sorted(each.name for each in Path().iterdir()) == ["link.csv", "there.csv"]
    assert Path("there.csv").read_text() == "mine"


def test_a_folder_that_can_only_be_read_is_refused():
    Path("folder").mkdir()
    with read_only(Path("folder")), pytest.raises(OSError, match="'folder/new/a.csv'"):
        check_writable(Path("folder/new/a.csv"))
