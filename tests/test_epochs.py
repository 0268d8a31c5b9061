"""What commands print about the epochs of a training. Less than 1 s."""

import io
import sys

import pytest

from bottleneck.cli.epochs import EpochLines, print_reading
from bottleneck.cli.output import printed_as
from bottleneck.finetune.trial import EpochForecast
from bottleneck.pictures import best_epoch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def epochs(count: int) -> list[dict[str, float]]:
    return [
        {"epoch": number, "loss": 1 / number, "accuracy": 0.5,
         "val_loss": abs(number - 2) + 0.123456, "val_accuracy": 1.0}
        for number in range(1, count + 1)
    ]  # fmt: skip


def printed(monkeypatch, count: int, stream: io.StringIO) -> list[str]:
    monkeypatch.setattr(sys, "stderr", stream)
    lines = EpochLines(count)
    for each in epochs(count):
        lines.watch(each)
    return stream.getvalue().splitlines()


def test_a_terminal_gets_columns(monkeypatch):
    lines = printed(monkeypatch, 3, Terminal())
    assert lines == [
        "    epoch      loss  accuracy  val loss  val accuracy",
        "      1/3         1    0.5000     1.123        1.0000  lowest",
        "      2/3       0.5    0.5000    0.1235        1.0000  lowest",
        "      3/3    0.3333    0.5000     1.123        1.0000",
    ]


def test_a_pipe_gets_sentences(monkeypatch):
    lines = printed(monkeypatch, 2, io.StringIO())
    assert lines[1:] == [
        "epoch 2 of 2: loss 0.5, accuracy 0.5000; validation loss 0.1235, accuracy 1.0000"
    ]


def test_of_many_short_epochs_some_are_shown(monkeypatch):
    """The first, and then some 20 at equal distances."""
    lines = printed(monkeypatch, 100, io.StringIO())
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == [1, *range(5, 101, 5)]


def test_long_epochs_are_all_shown(monkeypatch):
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr("bottleneck.cli.epochs.time.monotonic", lambda: next(clock))
    assert len(printed(monkeypatch, 100, io.StringIO())) == 100


def test_json_has_no_lines_but_the_log(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logged = []
    with printed_as("json"):
        lines = EpochLines(2, logged.append)
        for each in epochs(2):
            lines.watch(each)
    assert sys.stderr.getvalue() == ""
    assert logged == epochs(2)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "at most 20 epochs, 12 s each, 0:04:00 in all, 1.3 GB of memory"),
        ({"epochs": 7}, "7 of 20 epochs planned, 12 s each, 0:01:24 in all, 1.3 GB of memory"),
        ({"done": 15}, "at most 20 epochs, 5 left, 12 s each, 0:01:00 in all, 1.3 GB of memory"),
        ({"on_gpu": True}, "at most 20 epochs, 12 s each, 0:04:00 in all, 1.3 GB of GPU memory"),
        ({"peak_memory": None, "epochs": 1}, "1 of 20 epochs planned, 12 s each, 12 s in all"),
    ],
)
def test_what_epochs_will_take_is_one_line(capsys, changes, told):
    facts = {
        "epochs": 20, "done": 0, "steps": 5, "seconds_per_step": 2.0, "seconds_per_validation": 1.5,
        "seconds_per_checkpoint": 0.5, "peak_memory": 1_300_000_000, "on_gpu": False,
    }  # fmt: skip
    EpochLines(20).announce(EpochForecast(**{**facts, **changes}))
    assert capsys.readouterr().err == f"finetune: {told}\n"


def test_a_head_without_epochs_has_no_reading(capsys):
    print_reading({"accuracy": 1.0})
    print_reading({"reading": "over-fitting"})
    assert capsys.readouterr().out == "curves: over-fitting\n"


def test_the_kept_epoch():
    """The recorded one, or the one with the lowest validation loss."""
    assert best_epoch({"history": epochs(4)}) == 2
    assert best_epoch({"history": epochs(4), "best_epoch": 0}) == 0
