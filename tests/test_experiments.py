"""The experiment log under kills and concurrent writes; comparisons against SciPy; MLflow.

About 8 s in the first tier.
"""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t, ttest_rel

import bottleneck
from bottleneck.errors import (
    CacheError,
    DataError,
    MissingExtraError,
    UnknownNameError,
    UsageError,
)
from bottleneck.experiments import (
    Experiment,
    ExperimentLog,
    compare,
    default_metric,
    environment,
    log_to_mlflow,
    rank,
    scores,
)

SETTINGS = {
    "image_set": "data",
    "split_digests": {"train": "ab", "test": "cd"},
    "layer": "block5_pool",
    "clf": "svm",
    "C": 0.01,
    "balanced": False,
    "cv": 5,
    "repeats": 1,
    "seed": 0,
}


def folds_of(accuracies, *, images=40, cv=5, metric="accuracy") -> list[dict]:
    return [
        {"repeat": number // cv, "fold": number % cv, "images": images, metric: value}
        for number, value in enumerate(accuracies)
    ]


def experiment(number=1, accuracies=(0.9, 0.8, 0.7, 0.8, 0.9), **changes) -> Experiment:
    settings = SETTINGS | changes
    folds = folds_of(accuracies, cv=settings["cv"])
    return Experiment(number, "2026-11-23T10:00:00.000+00:00", settings, folds, 1.5, {"numpy": "2"})


@pytest.fixture
def log(tmp_path) -> ExperimentLog:
    return ExperimentLog(tmp_path / "new" / "folder" / "log.sqlite")


def append(log: ExperimentLog, C: float = 0.01, accuracies=(0.9, 0.8, 0.7, 0.8, 0.9)) -> Experiment:
    return log.append(SETTINGS | {"C": C}, folds_of(accuracies), 1.5, environment())


def test_appended_experiments_are_read_back(log):
    before = datetime.now(UTC)
    appended = append(log)
    assert appended.number == 1
    assert appended.settings == SETTINGS
    assert appended.folds == folds_of((0.9, 0.8, 0.7, 0.8, 0.9))
    assert appended.seconds == 1.5
    assert appended.environment == environment()
    created = datetime.fromisoformat(appended.created)
    assert created.utcoffset().total_seconds() == 0
    assert abs((created - before).total_seconds()) < 60
    second = append(log, C=1.0)
    again = ExperimentLog(str(log.file))
    assert again.experiments() == [appended, second]
    assert again.experiment(2) == second
    assert again.find(dict(reversed(SETTINGS.items()))) == appended
    assert again.find(SETTINGS | {"C": 2.0}) is None
    with pytest.raises(UnknownNameError, match="no experiment 3 in .*; 'bottleneck leader"):
        again.experiment(3)


def test_an_experiment_is_appended_once_and_never_changed(log):
    first = append(log)
    assert append(log, accuracies=(0.1,)) == first
    assert log.experiments() == [first]


def test_the_key_is_that_of_the_settings_alone(log):
    appended = append(log)
    assert appended.key == replace(appended, number=9, folds=[], seconds=0.0, environment={}).key
    assert appended.key != experiment(C=0.02).key
    with closing(sqlite3.connect(log.file)) as database:
        assert database.execute("SELECT key FROM experiments").fetchall() == [(appended.key,)]


def test_a_missing_log_is_an_error(log):
    """Nothing is found, and reading does not create it."""
    assert log.find(SETTINGS) is None
    with pytest.raises(DataError, match="no experiment log .*; 'bottleneck sweep' creates one"):
        log.experiments()
    assert not log.file.parent.exists()


@pytest.mark.parametrize(
    ("settings", "folds", "seconds"),
    [
        ({"C": math.nan}, folds_of([0.5]), 1.0),
        ({"C": 1.0}, folds_of([math.nan]), 1.0),
        ({"C": 1.0}, folds_of([math.inf]), 1.0),
        ({"C": 1.0}, folds_of([0.5]), math.nan),
        ({"C": np.float32(1)}, folds_of([0.5]), 1.0),
        ({"C": 1.0}, [], 1.0),
    ],
)
def test_values_that_json_lacks_are_refused(log, settings, folds, seconds):
    """Before a file is made."""
    with pytest.raises(UsageError, match="; give "):
        log.append(settings, folds, seconds, {})
    assert not log.file.parent.exists()


def text(file: Path) -> None:
    file.write_text("number,accuracy\n" * 50)


def short(file: Path) -> None:
    file.write_bytes(b"SQLite format 3\0")


def of_another_application(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE experiments (number)")


def later(file: Path) -> None:
    append(ExperimentLog(file))
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (text, "already exists and is not an experiment log; name another"),
        (short, "already exists and is not an experiment log; name another"),
        (of_another_application, "already exists and is not an experiment log; name another"),
        (later, "has format 2, but this version reads 1; update this package"),
    ],
)
def test_other_files_are_refused_and_not_touched(tmp_path, make, sentence):
    file = tmp_path / "file"
    make(file)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    log = ExperimentLog(file)
    for use in (log.experiments, lambda: log.find(SETTINGS), lambda: append(log)):
        with pytest.raises(UsageError, match=sentence):
            use()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_damaged_log_is_one_sentence(log):
    append(log)
    content = bytearray(log.file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    log.file.write_bytes(content)
    with pytest.raises(CacheError, match="cannot be used .*malformed"):
        log.experiments()
    with pytest.raises(CacheError, match="cannot be used .*malformed"):
        append(log, C=1.0)


def test_an_empty_file_becomes_a_log(tmp_path):
    """A process that was killed before it wrote anything leaves one."""
    log = ExperimentLog(tmp_path / "log.sqlite")
    log.file.touch()
    assert log.experiments() == []
    assert log.find(SETTINGS) is None
    assert append(log).number == 1


def start(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


APPENDS = """
import sys
from bottleneck.experiments import ExperimentLog
log = ExperimentLog(sys.argv[1])
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    log.append({"C": float(number)}, [{"accuracy": 0.5}] * 1000, 1.0, {})
    print(number, flush=True)
"""


def test_processes_append_at_once(log):
    """None is lost, and experiments that several processes append are stored once."""
    crowd = [start(APPENDS, log.file, first, first + 30) for first in (0, 15, 30, 0)]
    for process in crowd:
        process.communicate(timeout=60)
        assert process.returncode == 0
    found = log.experiments()
    assert [each.number for each in found] == list(range(1, 61))
    assert sorted(each.settings["C"] for each in found) == list(range(60))


DIES_IN_THE_TRANSACTION = """
import os, signal, sqlite3, sys
from functools import partial

class Dying(sqlite3.Connection):
    def execute(self, statement, *values):
        found = super().execute(statement, *values)
        if statement.startswith("INSERT"):
            os.kill(os.getpid(), signal.SIGKILL)
        return found

sqlite3.connect = partial(sqlite3.connect, factory=Dying)
from bottleneck.experiments import ExperimentLog
ExperimentLog(sys.argv[1]).append({"C": 1.0}, [{"accuracy": 0.5}] * 200_000, 1.0, {})
"""


@pytest.mark.parametrize("kept", [0, 3])
def test_a_writer_that_is_killed_leaves_whole_experiments(log, kept):
    """A partly written experiment is rolled back."""
    for number in range(kept):
        append(log, C=float(number + 2))
    process = start(DIES_IN_THE_TRANSACTION, log.file)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert Path(f"{log.file}-journal").exists()
    assert log.file.stat().st_size > 10**6
    assert len(log.experiments()) == kept
    assert log.find({"C": 1.0}) is None
    assert append(log).number == kept + 1
    assert [path.name for path in log.file.parent.iterdir()] == [log.file.name]
    assert log.file.stat().st_size < 10**6


def test_killed_at_random_moments(log, full):
    """All appended experiments are complete and in order, and the next process continues."""
    done = -1
    for kill in range(20 if full else 5):
        process = start(APPENDS, log.file, done + 1, 10**9)
        for _ in range(1 + kill % 7):
            done = int(process.stdout.readline())
        process.kill()
        rest = process.stdout.read()  # also what readline has buffered
        process.communicate(timeout=60)
        done = max([done, *map(int, rest.split())])
        found = [each.settings["C"] for each in log.experiments()]
        assert found[: done + 1] == list(range(done + 1))
        assert len(found) <= done + 2
    with closing(sqlite3.connect(log.file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_environment_is_read_without_imports():
    found = environment()
    assert found["bottleneck-features"] == bottleneck.__version__
    assert found["torch"].partition("+")[0] == str(torch.__version__).partition("+")[0]
    assert (found["h5py"], found["numpy"]) == (h5py.__version__, np.__version__)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["processors"] == os.cpu_count()
    code = """
import sys
from bottleneck.experiments import environment
assert environment()["scikit-learn"]
assert not {"torch", "sklearn", "h5py", "mlflow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_best_comes_first():
    good, bad = experiment(1, (0.9, 0.8, 1.0, 0.9, 0.9)), experiment(2, (0.5,) * 5)
    best, last = rank([bad, good])
    assert (best.experiment, last.experiment) == (good, bad)
    assert best.mean == pytest.approx(0.9)
    assert best.std == pytest.approx(np.std([0.9, 0.8, 1.0, 0.9, 0.9], ddof=1))
    assert last.std == 0
    for metric in ("log_loss", "calibration_error"):
        renamed = [
            replace(each, folds=folds_of([fold["accuracy"] for fold in each.folds], metric=metric))
            for each in (good, bad)
        ]
        assert [each.experiment.number for each in rank(renamed, metric)] == [2, 1]


def test_one_fold_has_no_deviation():
    assert rank([experiment(accuracies=(0.5,))])[0].std is None


def test_other_metrics_are_left_out():
    """A multi-label image set next to others."""
    several = replace(experiment(2), folds=folds_of([0.4] * 5, metric="average_precision"))
    assert [each.experiment.number for each in rank([several, experiment(1)])] == [1]
    assert default_metric([several, experiment(1)]) == default_metric([]) == "accuracy"
    assert default_metric([several]) == "average_precision"
    assert set(scores(several)) == {"average_precision"}
    with pytest.raises(UnknownNameError, match="no metric 'acuracy' .*; did you mean 'accuracy'?"):
        rank([several, experiment(1)], "acuracy")
    with pytest.raises(UnknownNameError, match="no metric 'accuracy' in experiment 2; expected"):
        compare(experiment(1), several)


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ({}, [1, 2, 3]),
        ({"clf": "svm"}, [1, 3]),
        ({"clf": "svm", "C": "0.01"}, [1]),
        ({"C": "1e-2"}, [1, 2]),
        ({"C": "1"}, [3]),
        ({"C": "1.0"}, [3]),
        ({"balanced": "False"}, [1, 2, 3]),
        ({"balanced": "true"}, []),
        ({"pool": "None"}, [2]),
        ({"pool": "null"}, [2]),
        ({"pool": "avg"}, []),
    ],
)
def test_experiments_are_filtered_by_settings(where, numbers):
    """Values as Python or JSON prints them; experiments without the setting do not match."""
    three = [experiment(1), experiment(2, clf="softmax", pool=None), experiment(3, C=1.0)]
    assert [each.experiment.number for each in rank(three, where=where)] == numbers


def test_an_unknown_setting_is_refused():
    with pytest.raises(UnknownNameError, match="no setting 'layr' .*; did you mean 'layer'?"):
        rank([experiment()], where={"layr": "x"})


def random_pair(cv: int, repeats: int) -> tuple[Experiment, Experiment]:
    generator = np.random.default_rng(cv)
    common = generator.uniform(0.6, 0.8, size=cv * repeats)
    return tuple(
        experiment(
            number, (common + generator.normal(0.01 * number, 0.02, len(common))).tolist(),
            cv=cv, repeats=repeats,
        )
        for number in (1, 2)
    )  # fmt: skip


@pytest.mark.parametrize(("cv", "repeats"), [(2, 1), (5, 1), (10, 10), (5, 2)])
def test_the_interval_is_that_of_the_corrected_resampled_t_test(cv, repeats):
    """SciPy's paired one, whose variance has 1 / folds, widened to 1 / folds + 1 / (cv - 1)."""
    first, second = random_pair(cv, repeats)
    found = compare(first, second)
    ours, theirs = ([fold["accuracy"] for fold in each.folds] for each in (first, second))
    plain = ttest_rel(ours, theirs).confidence_interval(0.95)
    folds = cv * repeats
    wider = math.sqrt(1 + folds / (cv - 1))
    assert found.folds == folds
    assert found.means == pytest.approx((np.mean(ours), np.mean(theirs)))
    assert found.difference == pytest.approx(np.mean(ours) - np.mean(theirs))
    half = wider * (plain.high - plain.low) / 2
    expected = (found.difference - half, found.difference + half)
    assert found.interval == pytest.approx(expected)


def test_the_interval_of_folds_of_unequal_sizes_is_as_computed_by_hand():
    """Computed by hand, from the mean ratio of held-out to training images."""
    sizes = [40, 40, 30]
    one, other = experiment(1, (0.9, 0.8, 0.7), cv=3), experiment(2, (0.8, 0.9, 0.4), cv=3)
    for each in (one, other):
        for fold, images in zip(each.folds, sizes, strict=True):
            fold["images"] = images
    deviation = np.std([0.1, -0.1, 0.3], ddof=1)
    half = t.ppf(0.975, 2) * deviation * math.sqrt(1 / 3 + 110 / (70 + 70 + 80))
    found = compare(one, other)
    assert found.interval == pytest.approx((0.1 - half, 0.1 + half))


def test_folds_are_paired_by_their_numbers():
    first, second = random_pair(5, 2)
    turned = replace(second, folds=second.folds[::-1])
    assert compare(first, turned) == compare(first, second)


shares = st.lists(st.floats(0, 1), min_size=5, max_size=5)


@given(shares, shares)
def test_swapping_changes_the_sign(ours, theirs):
    first, second = experiment(1, ours), experiment(2, theirs)
    found, swapped = compare(first, second), compare(second, first)
    assert swapped.difference == -found.difference
    assert swapped.interval == (-found.interval[1], -found.interval[0])
    assert swapped.means == found.means[::-1]
    assert swapped.better == found.better
    assert found.interval[0] <= found.difference <= found.interval[1]


@given(shares)
def test_equal_differences_leave_no_doubt(ours):
    found = compare(experiment(1, ours), experiment(2, ours))
    assert found.interval == (0, 0)
    assert found.better is None
    halves = [0.5 * round(value) for value in ours]
    found = compare(experiment(1, [0.25 + value for value in halves]), experiment(2, halves))
    assert found.interval == (0.25, 0.25)
    assert found.better == 1


def test_the_better_has_the_lower_loss():
    first, second = (
        replace(each, folds=folds_of([fold["accuracy"] for fold in each.folds], metric="log_loss"))
        for each in (experiment(1, (0.9,) * 5), experiment(2, (0.1,) * 5))
    )
    assert compare(first, second, "log_loss").better == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"image_set": "other"},
        {"split_digests": {"train": "ef"}},
        {"repeats": 2},
        {"seed": 1},
        {"cv": 5.5},
    ],
)
def test_other_folds_cannot_be_paired(changes):
    (name,) = changes
    with pytest.raises(DataError, match=f"1 and 2 cannot be paired, .* differ in their {name};"):
        compare(experiment(1), experiment(2, **changes))


def test_folds_of_other_sizes_cannot_be_paired():
    """Whatever their settings."""
    other = replace(experiment(2), folds=folds_of([0.5] * 5, images=41))
    with pytest.raises(DataError, match="differ in their folds;"):
        compare(experiment(1), other)


@pytest.mark.parametrize("repeats", [1, 3])
def test_one_fold_has_no_interval(repeats):
    pair = [experiment(number, (0.5,) * repeats, cv=1, repeats=repeats) for number in (1, 2)]
    with pytest.raises(UsageError, match="experiment 1 has only one fold"):
        compare(*pair)


# Of SQLAlchemy to MLflow, which will have to do something about it.
without_warning = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def store(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.mark.ci
@without_warning
def test_mlflow_has_what_the_log_has(store):
    """Read back by MLflow's own client."""
    from mlflow import MlflowClient  # noqa: PLC0415 - takes a second

    several = [experiment(1, note="x" * 9000), experiment(2, (0.5,), layers=["a", "b"])]
    assert log_to_mlflow(several, store, "faces") == 2
    client = MlflowClient(store)
    found = client.get_experiment_by_name("faces")
    second, first = client.search_runs([found.experiment_id], order_by=["metrics.accuracy ASC"])
    assert first.data.params == {
        "image_set": "data",
        "split_digests.train": "ab",
        "split_digests.test": "cd",
        "layer": "block5_pool",
        "clf": "svm",
        "C": "0.01",
        "balanced": "false",
        "cv": "5",
        "repeats": "1",
        "seed": "0",
        "note": "x" * 6000,
    }
    assert json.loads(second.data.params["layers"]) == ["a", "b"]
    metrics = first.data.metrics
    assert metrics["accuracy"] == pytest.approx(0.82)
    assert metrics["accuracy_std"] == pytest.approx(np.std([0.9, 0.8, 0.7, 0.8, 0.9], ddof=1))
    assert metrics["seconds"] == 1.5
    assert "accuracy_std" not in second.data.metrics
    history = client.get_metric_history(first.info.run_id, "accuracy_per_fold")
    values = {point.step: point.value for point in history}
    assert values == {0: 0.9, 1: 0.8, 2: 0.7, 3: 0.8, 4: 0.9}
    tags = first.data.tags
    assert tags["bottleneck.number"] == "1"
    assert tags["bottleneck.key"] == several[0].key
    assert tags["environment.numpy"] == "2"
    created = datetime(2026, 11, 23, 10, tzinfo=UTC).timestamp() * 1000
    assert (first.info.start_time, first.info.end_time) == (created - 1500, created)
    assert first.info.status == "FINISHED"


@pytest.mark.ci
@without_warning
def test_mlflow_gets_an_experiment_once(store):
    """It is logged again only if the process was killed, or for another experiment name."""
    from mlflow import MlflowClient  # noqa: PLC0415 - takes a second

    client = MlflowClient(store)
    identity = client.create_experiment("bottleneck")
    client.create_run(identity, tags={"bottleneck.key": experiment(1).key})
    assert log_to_mlflow([experiment(1)], store) == 1
    assert log_to_mlflow([experiment(1), experiment(2, C=1.0)], store) == 1
    assert log_to_mlflow([experiment(1), experiment(2, C=1.0)], store) == 0
    finished = client.search_runs([identity], "attributes.status = 'FINISHED'")
    assert len(finished) == 2
    assert log_to_mlflow([experiment(1)], store, "other") == 1


@pytest.mark.ci
@without_warning
def test_many_folds_are_more_than_mlflow_takes_at_once(store):
    from mlflow import MlflowClient  # noqa: PLC0415 - takes a second

    values = np.random.default_rng(0).uniform(size=1200).tolist()
    log_to_mlflow([experiment(1, values, cv=10, repeats=120)], store)
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("bottleneck").experiment_id])
    history = client.get_metric_history(run.info.run_id, "accuracy_per_fold")
    assert [point.value for point in sorted(history, key=lambda each: each.step)] == values


SILENT = """
import sys
seen = []
def watch(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.connect":
        seen.append((event, arguments))
sys.addaudithook(watch)
import socket
try:
    socket.getaddrinfo("localhost", 1)
except OSError:
    pass
assert len(seen) == 1, "nothing is watched"
seen.clear()
from bottleneck.experiments import Experiment, log_to_mlflow
log_to_mlflow([Experiment(1, "2026-11-23T10:00:00+00:00", {}, [{"m": 1.0}], 1.0, {})], sys.argv[1])
import atexit
atexit._run_exitfuncs()
assert not seen, seen
"""


@pytest.mark.ci
def test_mlflow_telemetry_is_off(store, tmp_path):
    """There is no name lookup and no connection, even if nothing else turns telemetry off."""
    kept = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "HOME", "LANG", "SYSTEMROOT", "TMPDIR")
    plain = {name: os.environ[name] for name in kept if name in os.environ}
    finished = subprocess.run(
        [sys.executable, "-c", SILENT, store],
        env=plain, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr


@pytest.mark.usefixtures("store")
def test_a_missing_mlflow_is_named_with_its_installation(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"run 'pip install -e '\.\[mlflow\]''"):
        log_to_mlflow([experiment()], "sqlite:///mlflow.db")


@without_warning
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:///file"])
def test_a_store_that_mlflow_cannot_use(tmp_path, uri):
    (tmp_path / "file").write_text("a text\n" * 1000)
    with pytest.raises(UsageError, match=f"MLflow cannot log to '{uri}' .*; give a tracking URI"):
        log_to_mlflow([experiment()], uri)


def test_a_locked_log_says_what_may_be_the_matter(tmp_path, monkeypatch):
    """SQLite calls a file locked on file systems without locks, too."""
    monkeypatch.setattr("bottleneck.experiments.log._PATIENCE", 0.01)
    log = ExperimentLog(tmp_path / "log.sqlite")
    log.make()
    with closing(sqlite3.connect(log.file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CacheError, match="is locked.*; wait for processes that use it"):
            log.make()
