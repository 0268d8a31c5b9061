"""SIGKILL before every operation on files that a command does: nothing is lost, nothing is half.

The first tier kills fitting, compaction and pruning at some operations, the second all commands at
all of them. (25 s, 10 min)
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import crops

from bottleneck import Cache, ExperimentLog, Head
from bottleneck.bases import find_model
from bottleneck.bases.finetuned import read_finetuned
from bottleneck.cache import verify_cache
from bottleneck.cache import writer as writers
from bottleneck.errors import DataError
from bottleneck.heads import head_names

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "sqlite3.connect"}
SOME = 3


class Kills:
    """Counts the operations of this process on files in a folder, and ends it before one."""

    def __init__(self, folder: Path, last: int) -> None:
        self.folder, self.left = f"{folder}/", last

    def __call__(self, event: str, arguments: tuple) -> None:
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if not opened and event not in CHANGES:
            return
        if not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100 - resolves no links
        if path.startswith(self.folder):
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, command: list[str], last: int, counted, *, swaps: bool) -> None:
    """Run a command in a process of its own, which is killed before an operation."""
    import torch  # noqa: PLC0415 - of that process

    from bottleneck import folders  # noqa: PLC0415
    from bottleneck.cli import main  # noqa: PLC0415

    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1"}
    os.chdir(folder)
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        sys.stdout = sys.stderr = nothing
        if not swaps:
            folders._swapped = lambda *_: False
        writers.PART_BYTES = 3000
        kills = Kills(folder, last)
        sys.addaudithook(kills)
        with suppress(SystemExit):
            main(command)
    counted.put(last - kills.left)


Killed = Callable[..., Iterator[bool]]


@pytest.fixture
def killed(processes, tmp_path, full) -> Killed:
    """Run a command, each time killed at another operation, and then to its end."""
    kept = tmp_path.with_name(f"{tmp_path.name}-kept")

    def start(command: list[str], last: int, *, swaps: bool) -> int | None:
        counted = processes.SimpleQueue()
        arguments = (tmp_path, command, last, counted)
        worker = processes.Process(target=run, args=arguments, kwargs={"swaps": swaps})
        worker.start()
        worker.join()
        assert worker.exitcode in {0, -signal.SIGKILL}
        return counted.get() if not worker.exitcode else None

    def restore() -> None:
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)

    def every(
        command_of: Callable[[int], list[str]], *, swaps: bool = True, afresh: bool = False
    ) -> Iterator[bool]:
        """Yield whether the command has just ended; with `afresh`, files are restored each time."""
        shutil.copytree(tmp_path, kept)
        count = start(command_of(0), 10**6, swaps=swaps)
        assert count
        places = range(count) if full else sorted({*np.linspace(0, count - 1, SOME).astype(int)})
        for place in places:
            if afresh or place == places[0]:
                restore()
            assert start(command_of(place + 1), int(place), swaps=swaps) is None
            yield False
            if afresh or place == places[-1]:
                assert start(command_of(count + 1), 10**6, swaps=swaps) is not None
                yield True
        shutil.rmtree(kept)
        print(f"{command_of(0)[:2]}: killed before {len(places)} of {count} operations")

    return every


def write_rows(count: int = 24) -> None:
    """An array of features and its table, with 8 images to test on."""
    rows = np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)
    np.save("rows.npy", rows + 2 * (np.arange(count) % 2)[:, None])
    lines = [
        f"{number}.jpg,{'ab'[number % 2]},{'test' if number < 8 else 'train'}"
        for number in range(count)
    ]
    Path("rows.csv").write_text("\n".join(["path,label,split", *lines]))


IMPORT = ["cache", "import", "rows.npy", "--table", "rows.csv", "--by-row", "--model", "mine"]


@pytest.fixture
def imported(bottleneck) -> Cache:
    """A cache of imported rows."""
    write_rows()
    assert bottleneck(*IMPORT).code == 0
    return Cache("cache")


def rows_of(cache: Cache) -> np.ndarray:
    (bank,) = cache.banks()
    return bank.read("features", sorted(digest for digest, _ in bank.known("features")))


SWAPS = [True, pytest.param(False, marks=pytest.mark.ci)]


@pytest.mark.parametrize("swaps", SWAPS)
@pytest.mark.usefixtures("imported")
def test_a_killed_fit_head_leaves_the_old_head_or_the_new_one(killed, bottleneck, swaps):
    """The old head or the new one, whole, with the user's own files; no other head."""

    def command(number: int) -> list[str]:
        return ["fit-head", "--name", "one", "--C", str(number + 2)]

    assert bottleneck(*command(-1)).code == 0
    assert bottleneck("evaluate").code == 0
    Path("heads/one/thesis.txt").write_text("mine")
    Path("heads/one/thesis").mkdir()
    Path("heads/one/thesis/page.txt").write_text("mine")
    before = 1.0
    for finished in killed(command, swaps=swaps):
        assert head_names("heads") == ["one"]
        found = Head.load("heads/one").hyperparameters["C"]
        assert found >= before
        before = found
        assert Path("heads/one/thesis.txt").read_text() == "mine"
        assert Path("heads/one/thesis/page.txt").read_text() == "mine"
        replaced = found > 1
        assert Path("heads/one/evaluation-test.json").exists() is not replaced
        if finished:
            assert [path.name for path in Path("heads").iterdir()] == ["one"]
    assert before > 1


@pytest.mark.ci
@pytest.mark.usefixtures("imported")
def test_the_first_head_of_a_name(killed):
    """No head, or a whole one."""
    for finished in killed(lambda _: ["fit-head", "--name", "one", "--C", "1"]):
        if head_names("heads"):
            assert Head.load("heads/one").hyperparameters["C"] == 1
        if finished:
            assert [path.name for path in Path("heads").iterdir()] == ["one"]


@pytest.mark.ci
@pytest.mark.parametrize("swaps", SWAPS)
def test_a_killed_finetune_leaves_the_old_model_or_the_new_one(killed, bottleneck, little, swaps):
    """The old model with its head or the new ones; a killed run is resumed or started over."""
    images = iter(crops(20))
    for split, count in (("train", 6), ("val", 4)):
        for label in ("dark", "light"):
            Path("data", split, label).mkdir(parents=True)
            for number in range(count // 2):
                next(images).save(Path("data", split, label, f"{number}.png"))
    assert bottleneck("extract", "--model", little, "--weights", "random").code == 0
    assert bottleneck("fit-head", "--C", "1", "--name", "start").code == 0

    def command(number: int) -> list[str]:
        rate = str(1e-4 * (number + 2))
        start = ["finetune", "--head", "start", "--name", "new", "--unfreeze", "second"]
        return [*start, "--epochs", "1", "--batch-size", "4", "--learning-rate", rate]

    assert bottleneck(*command(0)).code == 0
    for finished in killed(command, swaps=swaps):
        assert set(head_names("heads")) == {"start", "new"}
        head, record = Head.load("heads/new"), read_finetuned("heads/new")
        assert head.hyperparameters["learning_rate"] == record.settings["learning_rate"]
        (weights,) = find_model("heads/new").weights.values()
        assert weights.load()
        shutil.rmtree("heads/new/checkpoint", ignore_errors=True)
        if finished:
            assert {path.name for path in Path("heads").iterdir()} == {"start", "new"}


@pytest.mark.ci
@pytest.mark.usefixtures("imported")
def test_a_killed_sweep_leaves_whole_experiments(killed):
    """The log has whole experiments, each once, and the next sweep adds the rest."""
    command = ["sweep", "--clf", "softmax", "--C", "1", "--C", "2", "--cv", "2", "--jobs", "1"]
    for finished in killed(lambda _: command, afresh=True):
        log = ExperimentLog("experiments.sqlite")
        try:
            found = log.experiments()
        except DataError:
            found = []
        assert all(len(each.folds) == 2 for each in found)
        assert len({each.key for each in found}) == len(found)
        assert len(found) == 2 or not finished


@pytest.mark.ci
def test_a_killed_import_is_completed_by_the_next(killed):
    """The next import completes it; what is there is whole."""
    write_rows(300)
    for finished in killed(lambda _: IMPORT, afresh=True):
        cache = Cache("cache")
        assert not verify_cache(cache).damage
        if finished:
            assert rows_of(cache).shape == (300, 6)
            (run,) = cache.runs()
            assert cache.set_file(run.image_set).exists()


def test_a_killed_compaction_keeps_every_row(killed, imported):
    """Every row is there whatever is killed, and in the end once."""
    (bank,) = imported.banks()
    digests = sorted(digest for digest, _ in bank.known("features"))
    rows = rows_of(imported)
    for start in range(0, 24, 4):
        with bank.writer("float32") as made:
            made.append(digests[start : start + 4], {"features": rows[start : start + 4]})
    for finished in killed(lambda _: ["cache", "compact"], afresh=True):
        assert np.array_equal(rows_of(imported), rows)
        assert not verify_cache(imported).damage
        if finished:
            assert sum(part.rows for part in imported.banks()[0].parts()) == 24


def test_a_killed_prune_removes_nothing_else(killed, imported, bottleneck):
    """The other bank and the user's files stay, and the next run removes the rest."""
    (other,) = imported.banks()
    assert bottleneck(*IMPORT[:-1], "away", "--set", "away").code == 0
    (away,) = (bank for bank in imported.banks() if bank.name != other.name)
    (away.path / "notes.txt").write_text("mine")
    command = ["cache", "prune", "--older-than", "0h", "--imported"]
    for finished in killed(lambda _: command, afresh=True):
        assert (away.path / "notes.txt").read_text() == "mine"
        assert not verify_cache(imported).damage
        if finished:
            assert not imported.bank_folders()
            assert [path.name for path in away.path.iterdir()] == ["notes.txt"]
