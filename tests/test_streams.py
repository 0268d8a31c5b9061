"""Standard output and error: other encodings, closed streams, readers that stop, terminals.

Every command is run under each condition in the second tier; the first has those that need no
network. Together some 12 s there.
"""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import TINY

from bottleneck.cli import main
from bottleneck.cli.command import COMMANDS
from bottleneck.cli.output import progress_shown
from bottleneck.cli.streams import escaped_on_terminals, harmless, note, note_list

ODD = "b\x1b[2J\x9d0:x\x07é"
"""A class whose name clears a terminal and sets its title."""
QUICK = {
    "models": (),
    "config": (),
    "leaderboard": (),
    "leaderboard --csv": (),
    "cache ls": (),
    "cache info": ("squeezenet",),
    "cache verify": (),
    "cache compact": (),
    "cache prune": ("--older-than", "99w", "--dry-run"),
    "cache export": ("out.npz",),
    "cache import": ("out.h5", "--cache", "other"),
    "fit-head": ("--C", "1"),
    "evaluate": ("--head", "h"),
    "report": ("--head", "h"),
}
SLOW = {
    "extract": TINY,
    "layers": ("squeezenet1_1",),
    "augment-preview": ("--augment", "flip", "--images", "2", "--views", "1"),
    "sweep": ("--clf", "centroid", "--repeats", "1", "--jobs", "1"),
    "auto": ("data", "--model", "efficientnet_lite0", "--clf", "centroid", "--jobs", "1"),
    "advise": ("--repeats", "1", "--clf", "centroid", "--jobs", "1"),
    "finetune": ("--head", "h", "--unfreeze", "features.12", "--epochs", "1", "--val-share", "0.3"),
    "suspects": ("--clf", "centroid", "--top", "3"),
    "suggest": ("new", "data", "--head", "h"),
    "predict": ("data", "--head", "h"),
    "predict --json": ("data", "--head", "h"),
    "export": ("h", "h.zip"),
    "similar": ("data", "--top", "2"),
    "demo": ("--data", "photographs", "--picture", "demo.png"),
}


def words_of(name: str) -> list[str]:
    return [*name.split(), *(QUICK | SLOW)[name]]


@pytest.fixture
def _odd(bottleneck, make_images):
    """An extraction, a head, experiments and an export, with names that a terminal would obey."""
    make_images(**{"é": 20, ODD: 20})
    make_images("new", seed=1, **{ODD: 3})
    for words in (
        ("extract", *TINY),
        ("fit-head", "--C", "1", "--name", "h"),
        ("sweep", "--clf", "centroid", "--repeats", "1", "--jobs", "1"),
        ("cache", "export", "out.h5"),
    ):
        finished = bottleneck(*words)
        assert finished.code == 0, finished.err


def end_of(words: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    return stopped.value.code or 0


def stream_of(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding)


def without_reader() -> io.TextIOWrapper:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


def all_ways(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Run a command under each condition; each exit code is as it should be."""
    words = words_of(name)
    plain, notes = stream_of("utf-8"), stream_of("utf-8")
    monkeypatch.setattr(sys, "stdout", plain)
    monkeypatch.setattr(sys, "stderr", notes)
    expected = end_of(words)
    assert expected == 0, notes.buffer.getvalue().decode()
    said = bool(plain.buffer.getvalue())
    for out, err in (
        ("ascii", "ascii"),
        ("latin-1", "cp1252"),
        (None, "ascii"),
        ("utf-8", None),
        (None, None),
    ):
        streams = [each and stream_of(each) for each in (out, err)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        assert end_of(words) == expected, (name, out, err)
        for each in filter(None, streams):
            assert b"Traceback" not in each.buffer.getvalue()
        if out == "ascii" and said:
            assert streams[0].buffer.getvalue().isascii()
    notes = stream_of("utf-8")
    with without_reader() as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(sys, "stderr", notes)
        assert end_of(words) == (141 if said else expected), name
    assert b"Traceback" not in notes.buffer.getvalue()
    assert b"Broken pipe" not in notes.buffer.getvalue()


def test_every_command_is_tried():
    endless = {"serve"}
    assert {name.partition(" --")[0] for name in QUICK | SLOW} == set(COMMANDS) - endless


@pytest.mark.ci
@pytest.mark.usefixtures("_odd")
def test_streams_of_commands_that_need_no_network(monkeypatch):
    for name in QUICK:
        all_ways(monkeypatch, name)


@pytest.mark.ci
@pytest.mark.usefixtures("_odd")
@pytest.mark.parametrize("name", SLOW)
def test_streams_of_other_commands(monkeypatch, name):
    all_ways(monkeypatch, name)


@pytest.mark.ci
@pytest.mark.usefixtures("_odd")
@pytest.mark.parametrize(
    "command", ["config", "cache ls", "predict data --head h", "evaluate --head no"]
)
def test_commands_end_well_with_any_streams_of_a_shell(command):
    """As a shell closes and connects them; `--help`, too."""
    code = 2 if "no" in command.split() else 0
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for redirection, expected in (
        ("", code),
        (">&-", code),
        ("2>&-", code),
        (">&- 2>&-", code),
        (">/dev/full", code or 1),
        ("| true; exit ${PIPESTATUS[0]}", code or 141),
    ):
        finished = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m bottleneck {command} {redirection}"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == expected, (redirection, finished)
        assert "Traceback" not in finished.stderr
        assert "Exception ignored" not in finished.stderr
        assert finished.stderr.count("error: ") <= 1
    assert not Path("0").exists()


class Terminal(io.StringIO):
    """A terminal that remembers what it was sent."""

    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("_odd")
def test_a_terminal_is_not_told_what_to_do_by_names(monkeypatch):
    """Their control characters are written out there, and nowhere else."""
    for name in ("evaluate", "leaderboard --csv", "cache ls", "fit-head"):
        out, err = Terminal(), Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert end_of(words_of(name)) == 0
        for sent in (out.getvalue(), err.getvalue()):
            assert "\x1b[2J" not in sent
            assert "\x9d" not in sent
            assert "\x07" not in sent
        if name == "evaluate":
            assert r"b\x1b[2J\x9d0:x\x07é" in out.getvalue()
            assert "\x1b[1m" in out.getvalue()  # our own styles are sent
    monkeypatch.undo()


def test_results_beside_a_progress_bar_go_to_standard_output(monkeypatch):
    """As in `bottleneck predict data > out.csv`, typed in a terminal."""
    out, err = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with escaped_on_terminals(), progress_shown() as progress:
        progress("predict", 0, 2)
        print("a,b")  # noqa: T201 - what a command does
        note("a\x1b[2Jnote")
        progress("predict", 2, 2)
    assert out.getvalue() == "a,b\n"
    assert "note" in err.getvalue()
    assert "\x1b[2J" not in err.getvalue()
    assert "2/2" in err.getvalue()


def test_notes_and_errors_are_broken_between_words_on_terminals_only(monkeypatch):
    """By one function: a pipe gets each as one line, so that it can be searched."""
    monkeypatch.setenv("COLUMNS", "40")
    for terminal in (True, False):
        err = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr(sys, "stderr", err)
        note_list("note: " + "word " * 12, ["a/path " + "x" * 50, "b"], 4, most=1)
        assert end_of(["extract", "--model", "vgg16", "--data", "no-such/folder"]) == 2
        *notes, error = err.getvalue().splitlines()[:5]
        if terminal:
            assert notes[0] == "note: word word word word word word word"
            assert notes[1:] == ["  word word word word word", "  a/path", f"    {'x' * 50}"]
            assert error == "  and 3 more"
        else:
            assert notes[1:] == [f"  a/path {'x' * 50}", "  and 3 more"]
            assert error.startswith("error: no folder 'no-such/folder'; give ")
    monkeypatch.undo()


@pytest.mark.usefixtures("_odd")
def test_values_are_never_escaped_outside_a_terminal(bottleneck):
    assert "b\x1b[2J\x9d0:x" in bottleneck("evaluate", "--head", "h").out
    assert (
        json.loads(bottleneck("evaluate", "--head", "h", "--json").out)["classes"][0]["label"]
        == ODD
    )
    rows = list(
        csv.reader(io.StringIO(bottleneck("predict", "data", "--head", "h").out, newline=""))
    )
    assert rows[0][2] == f"p({ODD})"
    assert f"data/{ODD}/000.png" in {row[0] for row in rows}


@pytest.mark.parametrize(
    ("cell", "safe"),
    [
        *((f"{sign}1+1", f"'{sign}1+1") for sign in "=+-@\t\r"),
        ("1=1", "1=1"),
        ("", ""),
        (-1.5, -1.5),
        (None, None),
    ],
)
def test_cells_that_spreadsheets_take_for_formulas(cell, safe):
    assert harmless(cell) == safe


def test_csv_is_made_harmless_on_request(bottleneck, make_images):
    """The default leaves it as it is."""
    make_images("=data", **{"@a": 6, "-b": 6})
    assert bottleneck("extract", *TINY, "--image-size", "64", "--data", "=data").code == 0
    assert bottleneck("fit-head", "--C", "1", "--name", "h").code == 0
    given = ("predict", "=data/@a", "--head", "h")
    plain, safe = (
        list(csv.reader(io.StringIO(bottleneck(*given, *more).out, newline="")))
        for more in ((), ("--spreadsheet-safe",))
    )
    assert {row[0][0] for row in plain[1:]} == {"="}
    assert {row[1] for row in plain[1:]} <= {"@a", "-b"}
    assert [[harmless(cell) for cell in row[:2]] for row in plain] == [row[:2] for row in safe]
    assert {row[0][0] for row in safe[1:]} == {"'"}
    assert bottleneck("sweep", "--clf", "centroid", "--repeats", "1", "--jobs", "1").code == 0
    plain, safe = (
        next(csv.DictReader(io.StringIO(bottleneck("leaderboard", "--csv", *more).out)))
        for more in ((), ("--spreadsheet-safe",))
    )
    assert plain["image_set"] == "=data"
    assert safe["image_set"] == "'=data"
    assert plain["log_loss"] == safe["log_loss"]
