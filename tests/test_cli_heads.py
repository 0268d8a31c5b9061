"""The leaderboard: its output, and one sentence for each mistake. About 10 s in the first tier."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bottleneck.experiments import ExperimentLog, compare, environment

METRICS = {"accuracy": 0.0, "log_loss": 1.0}


def append(
    accuracies, *, log="experiments.sqlite", metrics=("accuracy", "log_loss"), **changes
) -> None:
    """An experiment whose log loss is 1 less its accuracy."""
    settings = {"image_set": "data", "split_digests": {"train": "ab"}, "model": "vgg16"}
    settings |= {"layer": "block5_pool", "pool": "avg", "clf": "svm", "C": 0.01}
    settings |= {"cv": len(accuracies), "repeats": 1, "seed": 0}
    folds = [
        {"repeat": 0, "fold": fold, "images": 40}
        | {metric: abs(METRICS.get(metric, 0.0) - accuracy) for metric in metrics}
        for fold, accuracy in enumerate(accuracies)
    ]
    ExperimentLog(log).append(settings | changes, folds, 1.5, environment())


@pytest.fixture
def _log():
    """Four experiments: 2 and 3 are good, 4 is like 2 with a little noise."""
    append((0.5, 0.5, 0.6, 0.5, 0.5))
    append((0.9, 0.8, 0.9, 0.8, 0.9), clf="softmax")
    append((0.9, 0.9, 0.9, 0.9, 0.9), C=1.0)
    append((0.8, 0.9, 0.8, 0.9, 0.9), clf="lda", C=None)


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.mark.usefixtures("_log")
def test_the_table_begins_with_the_best(bottleneck):
    """Best first; the model and the image set only where they differ."""
    finished = bottleneck("leaderboard")
    assert finished.code == 0
    head, *rows = lines(finished.out)
    assert head == [
        "number",
        "layer",
        "pool",
        "clf",
        "C",
        "accuracy",
        "std",
        "log_loss",
        "folds",
    ]
    assert rows[0] == ["3", "block5_pool", "avg", "svm", "1", "0.9", "0", "0.1", "5"]
    assert "--wide also shows seconds" in finished.err
    assert lines(bottleneck("leaderboard", "--wide").out)[0][-1] == "seconds"
    assert [row[0] for row in rows] == ["3", "2", "4", "1"]
    assert rows[2][4] == "-"
    assert "mean and standard deviation of accuracy over the folds" in finished.err
    append((0.7,) * 5, model="resnet18")
    assert lines(bottleneck("leaderboard").out)[0][:2] == ["number", "model"]
    append((0.7,) * 5, image_set="other")
    wide = bottleneck("leaderboard", "--wide").out
    assert lines(wide)[0][:3] == ["number", "image_set", "model"]


@pytest.mark.usefixtures("_log")
@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (("--top", "2"), [3, 2]),
        (("--sort", "log_loss", "--top", "1"), [3]),
        (("--where", "clf=svm"), [3, 1]),
        (("--where", "clf=svm", "--where", "C=1e-2"), [1]),
        (("--where", "split_digests={'train': 'ab'}", "--top", "1"), [3]),
        (("--where", "clf=none"), []),
    ],
)
def test_rows_are_chosen(bottleneck, arguments, numbers):
    """The same ones as text, as JSON and as CSV."""
    found = json.loads(bottleneck("leaderboard", *arguments, "--json").out)
    assert [each["number"] for each in found] == numbers
    rows = list(csv.DictReader(io.StringIO(bottleneck("leaderboard", *arguments, "--csv").out)))
    assert [int(row["number"]) for row in rows] == numbers
    text = bottleneck("leaderboard", *arguments).out
    if numbers:
        assert [int(row[0]) for row in lines(text)[1:]] == numbers
    else:
        assert text == "no experiments in experiments.sqlite where clf=none\n"


@pytest.mark.usefixtures("_log")
def test_json_has_all_that_reproduces_an_experiment(bottleneck):
    best = json.loads(bottleneck("leaderboard", "--json").out)[0]
    there = ExperimentLog("experiments.sqlite").experiment(3)
    assert best["settings"] == there.settings
    assert best["folds"] == there.folds
    assert best["environment"] == environment()
    assert (best["key"], best["created"]) == (there.key, there.created)
    assert best["scores"]["accuracy"] == {"mean": 0.9, "std": 0.0, "interval": [0.9, 0.9]}


def test_csv_survives_odd_names(bottleneck):
    """In full precision, always with the same columns."""
    append((1 / 3, 2 / 3), layer='a,"b"\nc')
    out = bottleneck("leaderboard", "--csv").out
    (row,) = csv.DictReader(io.StringIO(out, newline=""))
    assert row["layer"] == 'a,"b"\nc'
    assert (row["model"], row["image_set"]) == ("vgg16", "data")
    assert float(row["accuracy"]) == 0.5
    assert float(row["std"]) == pytest.approx(18**-0.5, rel=1e-14)


@pytest.mark.usefixtures("_log")
def test_two_experiments_are_compared(bottleneck):
    finished = bottleneck("leaderboard", "--compare", "1", "3")
    assert finished.code == 0
    assert [row[0] for row in lines(finished.out)[:3]] == ["number", "3", "1"]
    assert "accuracy of 1 minus that of 3: -0.3800 (95% interval -0.4" in finished.out
    assert "paired over 5 folds" in finished.out
    assert "the interval excludes 0: 3 is better" in finished.out
    by_loss = bottleneck("leaderboard", "--compare", "1", "3", "--sort", "log_loss").out
    assert "log_loss of 1 minus that of 3: +0.3800" in by_loss
    assert "the interval excludes 0: 3 is better" in by_loss
    doubtful = bottleneck("leaderboard", "--compare", "4", "2").out
    assert "the interval includes 0: these folds do not show which is better" in doubtful


@pytest.mark.usefixtures("_log")
def test_a_comparison_as_json_and_csv(bottleneck):
    log = ExperimentLog("experiments.sqlite")
    expected = compare(log.experiment(1), log.experiment(3))
    found = json.loads(bottleneck("leaderboard", "--compare", "1", "3", "--json").out)
    assert found["interval"] == list(expected.interval)
    assert found["means"] == list(expected.means)
    assert (found["first"], found["second"], found["better"]) == (1, 3, 3)
    out = bottleneck("leaderboard", "--compare", "1", "3", "--csv").out
    (row,) = csv.DictReader(io.StringIO(out))
    assert (float(row["low"]), float(row["high"])) == expected.interval
    assert float(row["difference"]) == expected.difference
    assert row["better"] == "3"


def test_experiments_with_several_labels_have_their_own_metric(bottleneck):
    """They are sorted by their own metric, and a note says if they are left out."""
    for number in (1, 2):
        append((0.1 * number,) * 5, metrics=["average_precision"], C=float(number))
    head, first, _ = lines(bottleneck("leaderboard").out)
    assert head[5:7] == ["average_precision", "std"]
    assert first[0] == "2"
    assert "log_loss" in head
    append((0.9,) * 5)
    finished = bottleneck("leaderboard")
    assert [row[0] for row in lines(finished.out)[1:]] == ["3"]
    assert "left out: 2 experiments in experiments.sqlite without accuracy" in finished.err
    again = bottleneck("leaderboard", "--sort", "average_precision")
    assert [row[0] for row in lines(again.out)[1:]] == ["2", "1"]


def test_an_empty_log_has_no_experiments(bottleneck):
    Path("experiments.sqlite").touch()
    finished = bottleneck("leaderboard")
    assert (finished.code, finished.out) == (0, "no experiments in experiments.sqlite\n")
    assert bottleneck("leaderboard", "--json").out == "[]\n"
    assert bottleneck("leaderboard", "--csv").out == ""


@pytest.mark.usefixtures("_log")
@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--log", "other"), 1, "no experiment log 'other'; 'bottleneck sweep' creates one"),
        (("--log", "text"), 2, "'text' already exists and is not an experiment log"),
        (("--log", "."), 1, "'.' cannot be used"),
        (("--sort", "acuracy"), 2, "no metric 'acuracy' in these experiments; expected one of acc"),
        (("--sort", "acuracy"), 2, "log_loss; did you mean 'accuracy'?"),
        (("--where", "layr=x"), 2, "no setting 'layr' in these experiments; expected one of C"),
        (("--where", "layr=x"), 2, "split_digests; did you mean 'layer'?"),
        (("--where", "layer"), 2, "--where must be KEY=VALUE, such as clf=svm, got 'layer'"),
        (("--where", "C=1", "--where", "C=2"), 2, "--where C= is given twice"),
        (
            ("--compare", "1", "9"),
            2,
            "no experiment 9 in 'experiments.sqlite'; 'bottle",
        ),
        (("--compare", "1", "2", "--top", "1"), 2, "--top and --compare exclude each other"),
        (("--compare", "1", "2", "--where", "a=b"), 2, "--where and --compare exclude"),
        (("--compare", "1", "2", "--sort", "x"), 2, "no metric 'x' in experiment 1; expected"),
        (("--json", "--csv"), 2, "--json and --csv exclude each other"),
    ],
)
def test_a_mistake_is_one_sentence(bottleneck, arguments, code, sentence):
    Path("text").write_text("a text\n" * 100)
    before = sorted(Path().rglob("*"))
    finished = bottleneck("leaderboard", *arguments)
    assert finished.code == code
    assert not finished.out
    (line,) = finished.err.splitlines()
    assert line.startswith('{"error": ' if "--json" in arguments else "error: ")
    assert sentence in line
    assert sorted(Path().rglob("*")) == before


def test_other_folds_are_not_compared(bottleneck):
    append((0.9,) * 5)
    append((0.9,) * 4)
    finished = bottleneck("leaderboard", "--compare", "1", "2")
    assert finished.code == 1
    assert "experiments 1 and 2 cannot be paired, as they differ in their cv" in finished.err


@pytest.mark.usefixtures("_log")
def test_the_leaderboard_loads_neither_torch_nor_scikit_learn(tmp_path):
    """Neither torch nor scikit-learn for the table, nor NumPy for --help."""
    code = """
import sys
from bottleneck.cli import main
try:
    main(sys.argv[2:])
except SystemExit as stopped:
    assert not stopped.code
assert not set(sys.argv[1].split(",")) & set(sys.modules)
"""
    for unwanted, *arguments in (
        ("torch,sklearn,h5py,mlflow", "leaderboard"),
        ("torch,sklearn,numpy,scipy,sqlite3", "leaderboard", "--help"),
    ):
        subprocess.run([sys.executable, "-c", code, unwanted, *arguments], check=True, cwd=tmp_path)
