"""What is the user's stays the user's: foreign files and folders, links, and imported features.

About 3 s in the first tier.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import crops, layer_record, read_only, run_record

from bottleneck import Cache
from bottleneck.cache import Bank, compact_bank, drop_layer, find_prunable, prune, verify_cache
from bottleneck.errors import CacheError, UsageError
from bottleneck.files import write_json
from bottleneck.records import BankRecord

FINGERPRINT = "ab" * 32
NAME = "m-abababababab"
OLD = timedelta(0)


def make_bank(root: Path, model: str = "m", *, imported: bool = False, layer: str = "a") -> Bank:
    """A bank of six rows in two parts."""
    bank = Cache(root).bank(model, FINGERPRINT)
    record = BankRecord.imported(FINGERPRINT, model, {layer: (3,)})
    bank.describe(record if imported else replace(record, weights_name="w"))
    for start in (0, 3):
        with bank.writer("float16") as made:
            names = [f"{start + number:064x}" for number in range(3)]
            made.append(names, {layer: np.ones((3, 3), np.float32)})
    bank.rebuild_view_file()
    return bank


def content_of(folder: Path) -> dict[str, bytes | str]:
    """All files and links below a folder, links not followed."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                found[str(path)] = f"to {path.readlink()}"
            elif path.is_file():
                found[str(path)] = path.read_bytes()
    return found


def foreign_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["values"] = np.arange(3)


def foreign_bank(cache: Path) -> None:
    (cache / "savings").mkdir()
    (cache / "savings/bank.json").write_text('{"iban": 1}')


def foreign_bank_with_our_name(cache: Path) -> None:
    (cache / "wandb-0123456789ab/parts").mkdir(parents=True)
    (cache / "wandb-0123456789ab/bank.json").write_text('{"fingerprint": "mine", "iban": 1}')
    foreign_hdf5(cache / "wandb-0123456789ab/parts/000001-01234567.h5")


def foreign_parts(cache: Path) -> None:
    (cache / "robot/parts").mkdir(parents=True)
    foreign_hdf5(cache / "robot/parts/000001-01234567.h5")
    foreign_hdf5(cache / "robot/features.h5")


def foreign_runs(cache: Path) -> None:
    (cache / "runs/events").mkdir(parents=True, exist_ok=True)
    (cache / "runs/events/loss.json").write_text("[1, 2]")
    (cache / "runs/experiment.json").write_text('{"schema": 4, "loss": 0.1}')
    (cache / "runs/20260101T000000000000-abcd.json").write_text('{"loss": 0.1}')


def foreign_files_in_a_bank(cache: Path) -> None:
    (cache / NAME / "notes.txt").write_text("mine")
    (cache / NAME / "reductions").mkdir()
    (cache / NAME / "reductions/x.npy").write_text("mine")
    (cache / NAME / ".film.mp4.partial").write_text("mine")
    (cache / NAME / "parts/.film.mp4.12345678.partial").write_text("mine")
    (cache / NAME / "parts/copy of 000001.h5").write_text("mine")
    foreign_hdf5(cache / NAME / "parts/000009-01234567.h5")
    (cache / NAME / "parts/000008-01234567.h5").mkdir()


def hidden_folders(cache: Path) -> None:
    for name in (".pruned-plums", f".pruned-{NAME}-01234567", ".bottleneck-forecast-mine"):
        (cache / name / "parts").mkdir(parents=True)
        (cache / name / "parts/letter.txt").write_text("mine")


FOREIGN = [
    foreign_bank,
    foreign_bank_with_our_name,
    foreign_parts,
    foreign_runs,
    foreign_files_in_a_bank,
    hidden_folders,
]


def age(folder: Path) -> None:
    """Make everything older than what counts as a leftover."""
    for path in folder.rglob("*"):
        os.utime(path, (0, 0), follow_symlinks=False)


def work_on(cache: Cache) -> None:
    """Everything that removes or moves files."""
    verify_cache(cache)
    for bank in cache.banks():
        with suppress(CacheError):  # a file with the name of a part is in the way
            compact_bank(bank)
    prune(cache, find_prunable(cache, older_than=OLD))
    verify_cache(cache)


@pytest.mark.parametrize("write", FOREIGN)
def test_foreign_files_are_left_alone(tmp_path, write: Callable[[Path], None]):
    """The bank beside or around them is verified, compacted and pruned to the last file."""
    cache = Cache(tmp_path / "cache")
    bank = make_bank(cache.root)
    cache.record_run(run_record(layers=[layer_record(bank.name)]))
    ours = set(content_of(cache.root))
    write(cache.root)
    age(cache.root)
    before = content_of(cache.root)
    foreign = {path: before[path] for path in before.keys() - ours}
    assert foreign
    work_on(cache)
    after = content_of(cache.root)
    assert after == foreign | {str(path): path.read_bytes() for path in cache.run_files()}
    assert not cache.banks()


def test_foreign_files_are_named(bottleneck):
    make_bank(Path("cache"))
    for write in FOREIGN:
        write(Path("cache"))
    verified = bottleneck("cache", "verify", "--json")
    assert verified.code == 1  # a file with the name of a part is in the way
    assert "has the name of a part, but the cache did not write it" in verified.err
    named = json.loads(verified.out)["strangers"]
    folders = {
        "robot",
        "savings",
        "wandb-0123456789ab",
        ".pruned-plums",
        f".pruned-{NAME}-01234567",
        ".bottleneck-forecast-mine",
    }
    runs = {"events", "experiment.json", "20260101T000000000000-abcd.json"}
    expected = folders | {f"runs/{name}" for name in runs}
    assert {Path(path).relative_to("cache").as_posix() for path in named} == expected
    pruned = bottleneck("cache", "prune", "--older-than", "0h")
    assert pruned.code == 0
    assert "left alone, as 'bottleneck' did not write it" in pruned.err
    assert "notes.txt" in pruned.err


def test_links_are_removed_and_never_followed(tmp_path):
    """Of a bank, of its parts, of one part, of runs and of the quarantine."""
    elsewhere = make_bank(tmp_path / "disk")
    whole = content_of(tmp_path / "disk")
    cache = Cache(tmp_path / "cache")
    for name in ("m", "n"):
        link = cache.bank(name, FINGERPRINT).path
        link.parent.mkdir(exist_ok=True)
        if name == "m":
            link.symlink_to(elsewhere.path)
        else:
            link.mkdir()
            shutil.copy(elsewhere.info_file, link)
            (link / "parts").symlink_to(elsewhere.path / "parts")
    third = make_bank(cache.root, "o")
    (third.path / "parts" / elsewhere.part_files()[0].name).unlink()
    (third.path / "parts" / elsewhere.part_files()[0].name).symlink_to(elsewhere.part_files()[0])
    assert [len(bank.known("a")) for bank in cache.banks()] == [6, 6, 6]
    for bank in cache.banks()[:2]:
        for work in (compact_bank, lambda bank: drop_layer(bank, "a")):
            with pytest.raises(CacheError, match="nothing is removed behind a link"):
                work(bank)
    compact_bank(cache.banks()[2])
    assert not find_prunable(cache, keep_bytes=third.size)
    prune(cache, find_prunable(cache, older_than=OLD))
    assert not list(cache.root.iterdir())
    assert content_of(tmp_path / "disk") == whole


def test_what_is_told_of_pruned_links_is_what_was_done(tmp_path, bottleneck):
    """Of a linked bank, and of a bank with one linked part, which frees less than it shows."""
    elsewhere = make_bank(tmp_path / "disk")
    own = make_bank(Path("cache"))
    size = own.size // 2
    linked = own.part_files()[0]
    linked.rename(tmp_path / "part.h5")
    linked.symlink_to(tmp_path / "part.h5")
    Path("cache/n-abababababab").symlink_to(elsewhere.path)
    for options, done in ((["--dry-run"], "would be"), ([], "were")):
        pruned = bottleneck("cache", "prune", "--older-than", "0h", "--json", *options)
        assert {each["bank"]: each["bytes"] for each in json.loads(pruned.out)} == {
            own.name: size,
            "n-abababababab": 0,
        }
        assert f"{size / 1e6:.1f} MB {done} removed" in pruned.err
        assert f"files of {own.name}, n-abababababab are elsewhere" in pruned.err
        assert f"only links to them {done} removed" in pruned.err
    assert not Cache("cache").bank_folders()
    assert (tmp_path / "part.h5").exists()
    assert len(elsewhere.known("a")) == 6


def test_damage_behind_a_link_is_reported_and_stays(tmp_path):
    elsewhere = make_bank(tmp_path / "disk")
    elsewhere.part_files()[0].write_bytes(elsewhere.part_files()[0].read_bytes() + b"?")
    cache = Cache(tmp_path / "cache")
    cache.record_run(run_record())
    (cache.root / NAME).symlink_to(elsewhere.path)
    (cache.root / "runs").rename(tmp_path / "disk/runs")
    (cache.root / "runs").symlink_to(tmp_path / "disk/runs")
    cache.run_files()[0].write_text(cache.run_files()[0].read_text().replace("data", "date"))
    before = content_of(tmp_path / "disk")
    found = verify_cache(cache).damage
    assert [each.moved_to for each in found] == [None, None]
    assert all("behind a link" in each.reason for each in found)
    assert content_of(tmp_path / "disk") == before
    (cache.root / NAME).unlink()
    whole = make_bank(cache.root)
    whole.part_files()[0].write_bytes(b"")
    (tmp_path / "attic").mkdir()
    (cache.root / "quarantine").symlink_to(tmp_path / "attic")
    assert verify_cache(cache).damage[0].moved_to is None
    assert not list((tmp_path / "attic").iterdir())


def test_a_cache_folder_may_itself_be_a_link(tmp_path):
    bank = make_bank(tmp_path / "disk")
    (tmp_path / "cache").symlink_to("disk")
    cache = Cache(tmp_path / "cache")
    bank.part_files()[0].write_bytes(b"")
    assert verify_cache(cache).damage[0].moved_to
    assert compact_bank(cache.banks()[0]).parts_after == 1
    prune(cache, find_prunable(cache, model="m"))
    assert not cache.banks()


@pytest.mark.parametrize("model", [".hidden", "./heads/mine", ".pruned-m", "..", ".", ".a-1"])
def test_names_that_begin_with_a_dot(tmp_path, model):
    """They are listed, verified and read, and go only where they are meant."""
    cache = Cache(tmp_path)
    bank = make_bank(cache.root, model)
    age(cache.root)
    assert [each.name for each in cache.bank_folders()] == [bank.name]
    assert [each.rows for each in verify_cache(cache).banks] == [6]
    prune(cache, [])
    assert len(bank.known("a")) == 6
    prune(cache, find_prunable(cache, model=model))
    assert not bank.path.exists()


def test_imported_features_are_pruned_only_on_request(bottleneck):
    """Whatever the rule, and also where only the records of extractions know of the import."""
    cache = Cache("cache")
    make_bank(cache.root, "mine", imported=True)
    lost = make_bank(cache.root, "lost", imported=True)
    cache.record_run(replace(run_record(layers=[layer_record(lost.name)]), weights="imported"))
    lost.info_file.unlink()
    make_bank(cache.root, "net")
    rules = ({"older_than": OLD}, {"keep_bytes": 0}, {"model": "net"}, {"layer": "a"})
    for rule in rules:
        assert [each.model for each in find_prunable(cache, **rule)] == ["net"]
    for rule in ({"model": "mine"}, {"model": "lost"}, {"model": "mine", "layer": "a"}):
        with pytest.raises(UsageError, match="cannot be computed again; give `imported`"):
            find_prunable(cache, **rule)
    assert len(find_prunable(cache, older_than=OLD, imported=True)) == 3
    kept = bottleneck("cache", "prune", "--older-than", "0h")
    assert f"lost-{FINGERPRINT[:12]}, mine-{FINGERPRINT[:12]} were kept" in kept.err
    assert "--imported removes them" in kept.err
    assert len(cache.bank_folders()) == 2
    assert bottleneck("cache", "prune", "--model", "mine").code == 2
    assert bottleneck("cache", "prune", "--model", "mine", "--imported").code == 0
    assert [bank.name for bank in cache.bank_folders()] == [lost.name]


def test_the_oldest_extractions_are_pruned_whatever_the_clock_says(tmp_path):
    """The clock is set back between two extractions."""
    cache = Cache(tmp_path)
    for model, time in (
        ("first", "2026-06-01T00:00:00+00:00"),
        ("then", "2025-01-01T00:00:00+00:00"),
    ):
        bank = make_bank(cache.root, model)
        age(bank.path)
        cache.record_run(replace(run_record(layers=[layer_record(bank.name)]), time=time))
    assert [each.model for each in find_prunable(cache, keep_bytes=bank.size)] == ["first"]
    first = datetime.fromisoformat("2026-06-01T00:00:00+00:00")
    later = datetime.now(UTC) - first - timedelta(minutes=1)
    assert find_prunable(cache, older_than=later + timedelta(minutes=2)) == []
    assert len(find_prunable(cache, older_than=later)) == 2


def test_a_bank_with_a_damaged_record_is_still_ours(tmp_path):
    cache = Cache(tmp_path)
    for text in ("", "{", '{"fingerprint": "', "\0" * 50):
        bank = make_bank(cache.root)
        bank.info_file.write_text(text)
        assert [each.path for each in verify_cache(cache).damage] == [str(bank.info_file)]
        assert not bank.info_file.exists()


def test_a_record_in_our_name_with_other_content_is_not_read(tmp_path):
    cache = Cache(tmp_path)
    cache.record_run(run_record())
    write_json(tmp_path / "runs/20260101T000000000000-abcd.json", {"loss": 1})
    assert len(cache.runs()) == 1


EXTRACT = ("extract", "--model", "little", "--weights", "random")
READING = {
    "ls": ("cache", "ls"),
    "info": ("cache", "info", "little"),
    "verify": ("cache", "verify"),
    "deep": ("cache", "verify", "--deep"),
    "dry-run": ("cache", "prune", "--older-than", "0h", "--dry-run"),
    "export": ("cache", "export", "../out.npz"),
    "evaluate": ("evaluate", "--head", "one"),
    "evaluate fine-tuned": ("evaluate", "--head", "fine"),
    "predict": ("predict", "data", "--head", "one"),
    "predict fine-tuned": ("predict", "data", "--head", "fine"),
    "advise": ("advise", "--repeats", "1", "--jobs", "1"),
    "leaderboard": ("leaderboard",),
    "known sweep": ("sweep", "--clf", "lda", "--cv", "2", "--jobs", "1"),
    "sweep": ("sweep", "--clf", "centroid", "--cv", "2", "--jobs", "1", "--log", "../new.sqlite"),
    "fit": ("fit-head", "--C", "1", "--heads", "../heads"),
    "finetune": ("finetune", "--head", "heads/one", "--heads", "../heads", "--name", "new",
                 "--unfreeze", "second", "--epochs", "1", "--batch-size", "8"),
}  # fmt: skip
WRITING = {
    "extract": (EXTRACT, "cannot write to the cache folder"),
    "other layer": ((*EXTRACT, "--layer", "first"), "cannot write to the cache folder"),
    "compact": (("cache", "compact"), "cannot be changed (Read-only file system)"),
    "prune": (("cache", "prune", "--older-than", "0h"), "cannot be changed (Read-only file"),
    "fit": (("fit-head", "--C", "1"), "cannot be saved as 'heads/"),
    "import": (("cache", "import", "../out.npz"), "cannot write to the cache folder"),
    "new sweep": (("sweep", "--clf", "knn", "--cv", "2", "--jobs", "1"), "cannot be used"),
    "finetune": ((*READING["finetune"][:3], *READING["finetune"][5:]), "cannot be"),
}


@pytest.mark.ci
@pytest.mark.usefixtures("little")
def test_what_only_reads_works_where_nothing_can_be_written(
    tmp_path, bottleneck, monkeypatch, calls
):
    """And what writes is refused before anything is computed. (40 s)"""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    images = iter(crops(52))
    for split, count in (("train", 20), ("val", 3), ("test", 3)):
        for label in ("dark", "light"):
            Path("data", split, label).mkdir(parents=True)
            for number in range(count):
                next(images).save(Path("data", split, label, f"{number}.png"))
    for command in (
        EXTRACT,
        ("fit-head", "--C", "1", "--name", "one"),
        READING["known sweep"],
        (*READING["finetune"][:3], "--name", "fine", *READING["finetune"][7:]),
        ("evaluate", "--head", "fine"),
    ):
        assert bottleneck(*command).code == 0, command
    for path in place.glob("heads/*/evaluation-*"):
        path.unlink()
    before = content_of(place)
    with read_only(place):
        monkeypatch.chdir(place)  # what is mounted there now
        for name, command in READING.items():
            finished = bottleneck(*command)
            assert finished.code == 0, (name, finished.err)
            assert finished.out, name
            unsaved = "could not be saved (Read-only file system)" in finished.err
            assert unsaved is name.startswith("evaluate"), (name, finished.err)
        for name, (command, message) in WRITING.items():
            calls.clear()
            finished = bottleneck(*command)
            assert finished.code == 1, (name, finished.err)
            assert message in finished.err, (name, finished.err)
            assert finished.err.count("error:") == 1, name
            assert sum(calls) <= 3 or name == "finetune", name  # the canary at most
    monkeypatch.chdir(tmp_path)
    assert content_of(place) == before
