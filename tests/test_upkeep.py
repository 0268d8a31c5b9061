"""Verification, quarantine, compaction and pruning.

About 10 s in the first tier, three minutes in the second.
"""

import errno
import json
import os
import shutil
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import layer_record, run_record
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.cache import (
    Bank,
    compact_bank,
    drop_layer,
    find_prunable,
    prune,
    verify_cache,
    writer,
)
from bottleneck.cache import verify as verifying
from bottleneck.cache.own import PARTS_LOCK
from bottleneck.errors import (
    CacheError,
    DamagedError,
    MissingExtraError,
    UnknownNameError,
    UsageError,
)
from bottleneck.extract import recheck, recheck_banks
from bottleneck.files import write_json
from bottleneck.locks import locked
from bottleneck.records import BankRecord

FINGERPRINT = "ab" * 32


def digest(number: int) -> str:
    return f"{number:064x}"


def rows_of(numbers) -> np.ndarray:
    return np.array([[number, number + 1, number + 2] for number in numbers], np.float32)


def make_bank(root: Path, model: str = "m", layers=("a",)) -> Bank:
    bank = Cache(root).bank(model, FINGERPRINT)
    record = BankRecord.imported(FINGERPRINT, model, dict.fromkeys(layers, (3,)))
    bank.describe(replace(record, weights_name="w"))
    return bank


def fill(bank: Bank, numbers, *, layers=("a",), compress: str = "none") -> None:
    numbers = list(numbers)
    with bank.writer("float16", compress=compress) as made:
        made.append([digest(number) for number in numbers], dict.fromkeys(layers, rows_of(numbers)))


def holds(bank: Bank, numbers, layer: str = "a") -> bool:
    numbers = list(numbers)
    same = bank.known(layer) == {(digest(number), 0) for number in numbers}
    found = bank.read(layer, [digest(number) for number in numbers])
    return same and np.array_equal(found, rows_of(numbers))


class CacheMachine(RuleBasedStateMachine):
    """Appends, reads, compactions, verifications and reopenings in any order, beside a dict."""

    root: Path
    count = 0

    def __init__(self):
        super().__init__()
        CacheMachine.count += 1
        self.bank = make_bank(self.root / str(CacheMachine.count), layers=("a", "b"))
        self.expected: dict[tuple[str, int, int], int] = {}

    @rule(
        numbers=st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True),
        view=st.integers(0, 2),
        layers=st.sampled_from([("a",), ("b",), ("a", "b")]),
        compress=st.sampled_from(["none", "none", "lz4", "zstd"]),
        part_bytes=st.sampled_from([100, 500, 2**20]),
    )
    def append(self, numbers, view, layers, compress, part_bytes):
        """Also rows that are there already, as a writer at work beside this one would."""
        before, writer.PART_BYTES = writer.PART_BYTES, part_bytes
        try:
            with self.bank.writer("float16", compress=compress) as made:
                rows = rows_of(number + 100 * view for number in numbers)
                names = [digest(number) for number in numbers]
                made.append(names, dict.fromkeys(layers, rows), views=view)
        finally:
            writer.PART_BYTES = before
        for layer in layers:
            self.expected |= {(layer, number, view): number + 100 * view for number in numbers}

    @rule(data=st.data(), view=st.integers(0, 2), layer=st.sampled_from(["a", "b"]))
    def read(self, data, view, layer):
        there = sorted(n for found, n, seen in self.expected if (found, seen) == (layer, view))
        if there:
            asked = data.draw(st.lists(st.sampled_from(there), min_size=1, max_size=30))
            digests = [digest(number) for number in asked]
            rows = rows_of(number + 100 * view for number in asked)
            assert np.array_equal(self.bank.read(layer, digests, view=view), rows)
            memory = data.draw(st.integers(1, 200))
            blocks = list(self.bank.stream(layer, digests, view=view, memory=memory))
            assert np.array_equal(np.concatenate(blocks), rows)
        with pytest.raises(CacheError, match=r"1 of \d+ different images? ha(s|ve) no"):
            self.bank.read(layer, [digest(number) for number in [*there, 99]], view=view)

    @rule(compress=st.sampled_from([None, "none", "lz4", "zstd"]))
    def compact(self, compress):
        compact_bank(self.bank, compress=compress)
        for layer in ("a", "b"):
            stored = sum(part.rows for part in self.bank.parts() if set(part.layers) == {layer})
            assert stored <= len(self.bank.known(layer))

    @rule()
    def verify(self):
        assert not verify_cache(Cache(self.bank.path.parent)).damage

    @rule()
    def reopen(self):
        self.bank = Bank(self.bank.path)

    @invariant()
    def knows_the_same(self):
        for layer in ("a", "b"):
            rows = {(digest(n), view) for found, n, view in self.expected if found == layer}
            assert self.bank.known(layer) == rows

    def teardown(self):
        shutil.rmtree(self.bank.path.parent)


@pytest.fixture
def unsynced(monkeypatch):
    """Let the system choose when files reach the disk, which only a power cut would show."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.usefixtures("unsynced")
def test_random_sequences_agree_with_a_dict(tmp_path, full):
    """Sequences of up to 20 operations, others in every run: hypothesis draws them anew."""
    CacheMachine.root = tmp_path
    examples = 150 if full else 12
    run_state_machine_as_test(
        CacheMachine,
        settings=settings(max_examples=examples, deadline=None, stateful_step_count=20),
    )
    assert CacheMachine.count >= examples


def test_damage_is_set_aside_with_its_reason_and_computed_again(little, make_images):
    """Damage to any piece of a part, to bank.json, and to a record."""
    folder = make_images(cat=8, dog=8)
    base = FrozenBase(little, ["second"], weights="random")
    cache = Cache("cache")
    extract_features(ImageSet.from_folder(folder), base, cache)
    (bank,) = cache.banks()
    (part,) = (bank.path / "parts").iterdir()
    expected = bank.read("second", sorted(d for d, _ in bank.known("second")))
    damages = {
        "cut off": lambda content: content[: len(content) // 2],
        "empty": lambda _: b"",
        "superblock": lambda content: b"?" * 8 + content[8:],
        "values": lambda content: content[:-9000] + b"?" + content[-8999:],
        "longer": lambda content: content + b"?",
    }
    for number, damage in enumerate(damages.values(), start=1):
        (part,) = (bank.path / "parts").iterdir()
        part.write_bytes(damage(part.read_bytes()))
        result = verify_cache(cache)
        assert [each.path for each in result.damage] == [str(part)]
        moved = Path(result.damage[0].moved_to)
        assert moved.is_relative_to("cache/quarantine")
        reason = json.loads(moved.with_name(f"{moved.name}.json").read_text())["reason"]
        assert reason
        assert len(list(Path("cache/quarantine").rglob("*.h5"))) == number
        with h5py.File(bank.view_file) as view:
            assert not list(view)
        done = extract_features(ImageSet.from_folder(folder), base, cache)
        assert (done.computed, done.cached) == (16, 0)
    found = bank.read("second", sorted(d for d, _ in bank.known("second")))
    assert np.array_equal(found, expected)
    bank.info_file.write_text(bank.info_file.read_text().replace("little", "small"))
    cache.run_files()[0].write_text("{}")
    assert [row.damaged for row in verify_cache(cache).banks] == [1]
    assert not bank.exists
    assert len(cache.runs()) == len(damages)
    assert extract_features(ImageSet.from_folder(folder), base, cache).computed == 0
    assert bank.info.model == little
    assert not verify_cache(cache).damage


def test_readers_report_damage(tmp_path):
    bank = make_bank(tmp_path)
    fill(bank, range(500))
    (part,) = (bank.path / "parts").iterdir()
    with part.open("r+b") as file:
        file.truncate(part.stat().st_size - 2000)
    with pytest.raises(DamagedError, match=rf"{part.name}' is damaged .*cache verify"):
        Bank(bank.path).read("a", [digest(499)])


def test_verification_mends_features_h5_and_removes_leftovers(tmp_path):
    bank = make_bank(tmp_path)
    fill(bank, range(5))
    bank.rebuild_view_file()
    bank.view_file.write_bytes(b"?" + bank.view_file.read_bytes()[1:])
    left = bank.path / "parts/.000002-00000000.h5.12345678.partial"
    left.touch()
    os.utime(left, (0, 0))
    assert not verify_cache(Cache(tmp_path)).damage
    with h5py.File(bank.view_file) as view:
        assert np.array_equal(view["features/a"][:], rows_of(range(5)))
    assert not left.exists()


def test_rows_are_computed_again_to_check_them(little, make_images):
    """A part with a wrong value and correct checksums is found and moved away."""
    folder = make_images(cat=8, dog=8)
    base = FrozenBase(little, ["second"], weights="random")
    cache = Cache("cache")
    extract_features(ImageSet.from_folder(folder), base, cache)
    (bank,) = cache.banks()
    layer = "second"
    (good,) = recheck_banks(cache, [bank], images=8)
    assert (good.rows, good.damage, good.skipped) == (8, [], None)
    assert good.difference < 1e-3
    digests = sorted(found for found, _ in bank.known(layer))
    rows = bank.read(layer, digests).astype(np.float32)
    rows[3, 5] += 0.1 * np.abs(rows[3]).max()
    (part,) = (bank.path / "parts").iterdir()
    part.unlink()
    with bank.writer("float16") as made:
        made.append(digests, {layer: rows})
    assert not verify_cache(cache).damage
    (bad,) = recheck_banks(cache, [bank])
    assert bad.difference > 0.05
    (damage,) = bad.damage
    assert "differ from those computed now" in damage.reason
    assert extract_features(ImageSet.from_folder(folder), base, cache).computed == 16
    assert not recheck_banks(cache, [bank])[0].damage
    shutil.move("data", "elsewhere")
    assert "none of the images is unchanged" in recheck_banks(cache, [bank])[0].skipped


def test_changed_images_and_small_activations_are_no_damage(little, make_images):
    """Changed images are not compared, and float16's smallest steps are ignored."""
    folder = make_images(cat=8, dog=8)
    base = FrozenBase(little, ["second"], weights="random", pool="avg")
    cache = Cache("cache")
    extract_features(ImageSet.from_folder(folder), base, cache)
    (bank,) = cache.banks()
    for path in sorted(folder.rglob("*.png"))[:10]:
        with path.open("ab") as file:
            file.write(b"changed")
    assert recheck_banks(cache, [bank])[0].rows == 6
    for path in folder.rglob("*.png"):
        path.write_bytes(b"changed")
    (nothing,) = recheck_banks(cache, [bank])
    assert (nothing.rows, nothing.difference) == (0, None)
    assert "unchanged" in nothing.skipped
    tiny = np.array([[3.1e-7, 1e-8, 0.0]], np.float32)
    assert recheck._gaps(tiny.astype(np.float16), tiny) == [0.0]
    assert (
        recheck._gaps(np.array([[1.1, 2]], np.float16), np.array([[1.0, 2]], np.float32))[0] > 0.04
    )


def test_every_extraction_of_a_bank_is_sampled(little, make_images):
    """Not only the last one."""
    base = FrozenBase(little, ["second"], weights="random")
    cache = Cache("cache")
    for name, seed in (("first", 0), ("second", 9)):
        extract_features(ImageSet.from_folder(make_images(name, seed=seed, a=5, b=5)), base, cache)
    (bank,) = cache.banks()
    assert recheck_banks(cache, [bank], images=100)[0].rows == 20


def test_a_base_is_loaded_once_for_all_its_banks(little, make_images, monkeypatch, calls):
    """Also for layers of two extractions; each image is computed once per extraction."""
    folder = make_images(cat=5, dog=5)
    cache = Cache("cache")
    for layers in (["first", "second"], ["last"]):
        base = FrozenBase(little, layers, weights="random")
        extract_features(ImageSet.from_folder(folder), base, cache)
    other = FrozenBase(little, ["first"], weights="random:1")
    extract_features(ImageSet.from_folder(folder), other, cache)
    banks = cache.banks()
    loaded = []
    load = FrozenBase.__init__

    def counting(self, *arguments, **options):
        loaded.append(options["weights"])
        load(self, *arguments, **options)

    monkeypatch.setattr(FrozenBase, "__init__", counting)
    calls.clear()
    found = recheck_banks(cache, banks, images=8)
    assert sorted(loaded) == ["random:0", "random:1"]
    assert sum(calls) == 2 * (3 + 8)  # the canary, and as many images
    assert [each.bank for each in found] == [bank.name for bank in banks]
    assert [(each.rows, each.damage, each.skipped) for each in found] == [(8, [], None)] * 4
    assert max(each.difference for each in found) < 1e-3


def test_a_layer_that_is_no_more_does_not_keep_others_from_a_check(little, make_images):
    folder = make_images(cat=3, dog=3)
    cache = Cache("cache")
    base = FrozenBase(little, ["first", "second"], weights="random")
    extract_features(ImageSet.from_folder(folder), base, cache)
    (file,) = cache.run_files()
    run = json.loads(file.read_text())
    del run["sha256"]
    bank, layer = cache.named(run["layers"][0]["bank"]), run["layers"][0]["layer"]
    run["layers"][0]["layer"] = "gone"
    write_json(file, run)
    digests = sorted(found for found, _ in bank.known(layer))
    with bank.writer("float16") as made:
        made.append(digests, {"gone": bank.read(layer, digests)})
    found = {each.bank: each for each in recheck_banks(cache, cache.banks())}
    gone, kept = (found[layer["bank"]] for layer in run["layers"])
    assert (gone.rows, kept.rows, kept.skipped) == (0, 6, None)
    assert "no layer 'gone'" in gone.skipped
    file.unlink()
    (unknown,) = recheck_banks(cache, [bank])
    assert (unknown.rows, unknown.difference) == (0, None)
    assert "no extraction of its features is recorded" in unknown.skipped


def test_an_image_set_that_was_changed_is_set_aside(little, make_images):
    """A changed label is damage, too; extraction writes the set again."""
    folder = make_images(cat=4, dog=4)
    base = FrozenBase(little, ["second"], weights="random")
    cache = Cache("cache")
    extract_features(ImageSet.from_folder(folder), base, cache)
    assert not verify_cache(cache).damage
    file = cache.set_file("data")
    content = file.read_text()
    file.write_text(content.replace('"cat"', '"dog"', 1))
    (damage,) = verify_cache(cache).damage
    assert "has changed since its last extraction" in damage.reason
    assert not file.exists()
    extract_features(ImageSet.from_folder(folder), base, cache)
    assert file.read_text() == content
    assert not verify_cache(cache).damage


def test_damage_is_reported_if_files_cannot_be_moved(tmp_path, monkeypatch):
    """On a read-only disk, say."""
    bank = make_bank(tmp_path)
    fill(bank, range(5))
    (part,) = (bank.path / "parts").iterdir()
    part.write_bytes(part.read_bytes() + b"?")

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(verifying, "move", refuse)
    (damage,) = verify_cache(Cache(tmp_path)).damage
    assert damage.moved_to is None
    assert damage.path == str(part)
    assert "do not match its name" in damage.reason


def test_rows_that_vanish_during_extraction_are_reported(little, make_images):
    folder = make_images(cat=8, dog=8)
    base = FrozenBase(little, ["second"], weights="random")
    cache = Cache("cache")

    def remove(_stage: str, done: int, _total: int, **_counts: int) -> None:
        if done == 16:
            for path in Path("cache").glob("*/parts/*.h5"):
                path.unlink()

    writer.PART_SECONDS, before = 0.0, writer.PART_SECONDS
    try:
        with pytest.raises(CacheError, match=r"\d+ of 16 images disappeared from the cache"):
            extract_features(
                ImageSet.from_folder(folder), base, cache, batch_size=4, progress=remove
            )
    finally:
        writer.PART_SECONDS = before


def test_compaction_puts_parts_together_and_drops_doubles(tmp_path):
    bank = make_bank(tmp_path)
    for start in range(0, 100, 10):
        fill(bank, range(start, start + 10))
        fill(bank, range(start, start + 5))
    assert len(bank.parts()) == 20
    done = compact_bank(bank)
    assert (done.parts_before, done.parts_after) == (20, 1)
    assert done.bytes_after < done.bytes_before
    assert holds(bank, range(100))
    assert sum(part.rows for part in bank.parts()) == 100
    with h5py.File(bank.view_file) as view:
        assert np.array_equal(view["features/a"][:], rows_of(range(100)))
    name = [part.path.name for part in bank.parts()]
    assert compact_bank(bank).parts_after == 1
    assert [part.path.name for part in bank.parts()] == name


def test_big_parts_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "PART_BYTES", 1000)
    bank = make_bank(tmp_path)
    fill(bank, range(100))
    before = {part.path for part in bank.parts()}
    assert len(before) > 2
    compact_bank(bank)
    assert {part.path for part in bank.parts()} == before


def test_compaction_changes_the_compression(tmp_path):
    bank = make_bank(tmp_path)
    fill(bank, range(10))
    fill(bank, range(10, 20), compress="lz4")
    compact_bank(bank)
    assert sorted(part.compress for part in bank.parts()) == ["lz4", "none"]
    compact_bank(bank, compress="zstd")
    assert [part.compress for part in bank.parts()] == ["zstd"]
    assert holds(bank, range(20))


def compact_for_ever(folder: Path, begun) -> None:
    """Compact a bank again and again; runs in a process of its own."""
    writer.PART_BYTES = 3000
    begun.set()
    while True:
        compact_bank(Bank(folder))


@pytest.mark.usefixtures("unsynced")  # the processes that are killed sync
def test_a_killed_compaction_loses_nothing(tmp_path, full, processes):
    """A kill at any moment; the next compaction completes it."""
    bank = make_bank(tmp_path)
    for number in range(10 if full else 3):
        for start in range(0, 200, 5):
            fill(bank, range(start, start + 7))
        begun = processes.Event()
        process = processes.Process(target=compact_for_ever, args=(bank.path, begun))
        process.start()
        begun.wait()
        time.sleep(0.002 * number)
        process.kill()
        process.join()
        assert holds(Bank(bank.path), range(202))
    assert not verify_cache(Cache(tmp_path)).damage
    compact_bank(bank)
    assert sum(part.rows for part in bank.parts()) == 202
    assert holds(bank, range(202))


@pytest.mark.ci
def test_readers_and_writers_go_on_while_it_compacts(tmp_path):
    bank = make_bank(tmp_path)
    fill(bank, range(50))
    stop = threading.Event()
    wrong = []

    def read() -> None:
        mine = Bank(bank.path)
        while not stop.is_set():
            found = mine.read("a", [digest(number) for number in range(50)])
            blocks = list(mine.stream("a", [digest(number) for number in range(50)], memory=100))
            if (
                not (found == np.concatenate(blocks)).all()
                or not (found == rows_of(range(50))).all()
            ):
                wrong.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(50, 110, 2):
        fill(Bank(bank.path), [number])
        fill(Bank(bank.path), [number + 1])
        compact_bank(bank)
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert holds(bank, range(110))


def test_two_compactions_do_not_meet(tmp_path):
    bank = make_bank(tmp_path)
    fill(bank, range(5))
    with (
        locked(bank.path / PARTS_LOCK),
        pytest.raises(CacheError, match=rf"being replaced by process {os.getpid()} on \S+; run"),
    ):
        compact_bank(bank)


def test_compaction_stops_at_damage(tmp_path):
    bank = make_bank(tmp_path)
    fill(bank, range(5))
    fill(bank, range(5, 9))
    path = bank.parts()[0].path
    content = bytearray(path.read_bytes())
    place = content.index(rows_of([0]).astype(np.float16).tobytes())
    content[place + 3] ^= 8
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=path.name):
        compact_bank(Bank(bank.path))
    assert path.exists()
    assert len(bank.parts()) >= 2


def test_a_double_is_dropped_only_beside_a_whole_row(tmp_path, monkeypatch):
    """If the part that keeps the row is damaged, compaction stops and both rows stay."""
    monkeypatch.setattr(writer, "PART_BYTES", 2000)
    bank = make_bank(tmp_path)
    fill(bank, range(45))
    first = bank.parts()[0].path
    fill(bank, [*range(5), 100])
    content = bytearray(first.read_bytes())
    content[content.index(rows_of([0]).astype(np.float16).tobytes()) + 3] ^= 8
    first.write_bytes(content)
    with pytest.raises(DamagedError, match=first.name):
        compact_bank(Bank(bank.path))
    verify_cache(Cache(tmp_path))
    assert {digest(number) for number in range(5)} <= {name for name, _ in bank.known("a")}


def test_a_compression_without_its_package_is_refused_before_work(tmp_path, monkeypatch):
    bank = make_bank(tmp_path)
    fill(bank, range(3))
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(MissingExtraError, match="hdf5plugin"):
        compact_bank(bank, compress="zstd")


def test_undamaged_files_are_left_in_place(tmp_path, monkeypatch):
    """Parts of another version, of a renamed bank, and compressed ones without hdf5plugin."""
    bank = make_bank(tmp_path)
    monkeypatch.setattr(writer, "SCHEMA", 2)
    fill(bank, range(3))
    monkeypatch.undo()
    other = make_bank(tmp_path, "other")
    fill(other, range(3), compress="lz4")
    renamed = make_bank(tmp_path, "renamed")
    fill(renamed, range(3))
    renamed.path.rename(tmp_path / "renamed-old")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    found = verify_cache(Cache(tmp_path)).damage
    assert [each.moved_to for each in found] == [None] * 3
    assert "schema 2" in found[0].reason
    assert "hdf5plugin" in found[1].reason
    assert f"give it its name {renamed.name!r} again" in found[2].reason
    assert len(list(tmp_path.rglob("*.h5"))) >= 3


@pytest.mark.ci
def test_a_verification_beside_compactions(tmp_path, processes):
    """Parts that vanish meanwhile are no damage."""
    bank = make_bank(tmp_path)
    process = processes.Process(target=compact_for_ever, args=(bank.path, processes.Event()))
    process.start()
    try:
        for start in range(0, 300, 3):
            fill(bank, range(start, start + 4))
            if start % 15 == 0:
                assert not verify_cache(Cache(tmp_path)).damage
    finally:
        process.kill()
        process.join()
    assert holds(bank, range(301))


def test_a_bank_that_cannot_be_read_can_still_be_pruned(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SCHEMA", 2)
    fill(make_bank(tmp_path, "old"), range(3))
    monkeypatch.undo()
    fill(make_bank(tmp_path, "lost"), range(3))
    (tmp_path / f"lost-{FINGERPRINT[:12]}/bank.json").unlink()
    fill(make_bank(tmp_path, "new"), range(3))
    cache = Cache(tmp_path)
    for name in ("old", "lost"):
        chosen = find_prunable(cache, model=name)
        assert [each.model for each in chosen] == [name]
        prune(cache, chosen)
    assert [bank.name for bank in cache.bank_folders()] == [f"new-{FINGERPRINT[:12]}"]


def test_pruning_a_layer_keeps_others_that_only_the_parts_know(tmp_path):
    """As when two processes described their layers at once, in earlier versions."""
    bank = make_bank(tmp_path, layers=("a", "b"))
    fill(bank, range(5), layers=("a", "b"))
    bank.forget_layer("a")
    prune(Cache(tmp_path), find_prunable(Cache(tmp_path), layer="b"))
    assert holds(bank, range(5))
    assert not bank.known("b")


def test_a_layer_is_dropped_from_the_parts_it_shares(tmp_path):
    bank = make_bank(tmp_path, layers=("a", "b"))
    fill(bank, range(10), layers=("a", "b"))
    fill(bank, range(10, 15), layers=("b",))
    drop_layer(bank, "b")
    assert holds(bank, range(10))
    assert not bank.known("b")
    assert list(bank.info.layers) == ["a"]
    with h5py.File(bank.view_file) as view:
        assert list(view["features"]) == ["a"]


def record(cache: Cache, bank: Bank, layer: str) -> None:
    cache.record_run(run_record("x", layers=[layer_record(bank.name, layer)]))


def test_pruning_by_model_layer_age_and_size(tmp_path):
    cache = Cache(tmp_path)
    old, new = make_bank(tmp_path, "old", ("a", "b")), make_bank(tmp_path, "new")
    for bank in (old, new):
        fill(bank, range(2000))
    fill(old, range(10), layers=("b",))
    record(cache, old, "a")
    record(cache, new, "a")

    def found(**conditions):
        return [(each.model, each.layer) for each in find_prunable(cache, **conditions)]

    assert found(model="old") == [("old", "a"), ("old", "b")]
    assert found(layer="a") == [("new", "a"), ("old", "a")]
    assert found(model="old", layer="b") == [("old", "b")]
    assert found(older_than=timedelta(days=1)) == []
    for path in tmp_path.glob("*/parts/*"):
        os.utime(path, (0, 0))
    assert found(older_than=timedelta(days=1)) == [("old", "b")]  # both a were extracted since
    assert len(found(older_than=timedelta(0))) == 3
    total = old.size + new.size
    assert found(keep_bytes=total) == []
    assert found(keep_bytes=total - 50_000) == [("old", "b"), ("old", "a")]
    assert len(found(keep_bytes=0)) == 3
    with pytest.raises(UsageError, match="no condition for what to remove"):
        find_prunable(cache)
    with pytest.raises(UnknownNameError, match="no bank of model 'ol'"):
        find_prunable(cache, model="ol")
    with pytest.raises(UsageError, match="none of 2 banks has a layer 'c'"):
        find_prunable(cache, layer="c")

    prune(cache, find_prunable(cache, model="old", layer="b"))
    assert (len(old.known("a")), len(old.known("b"))) == (2000, 0)
    prune(cache, find_prunable(cache, layer="a"))
    assert cache.banks() == ()
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
