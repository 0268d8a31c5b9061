"""Banks and parts: order, durability, integrity. About 7 s in the first tier."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash
from conftest import run_record
from hypothesis import given, settings
from hypothesis import strategies as st

from bottleneck import files
from bottleneck.cache import Bank, Cache, banks, layout, store, writer
from bottleneck.cache.parts import errors_of, keys_of
from bottleneck.errors import (
    CacheError,
    DamagedError,
    FeatureOverflowError,
    UnknownNameError,
    UsageError,
)
from bottleneck.records import BankRecord
from bottleneck.records.banks import FINETUNED

FINGERPRINT = "ab" * 32


def digest(number: int) -> str:
    return f"{number:064x}"


def row(number: int, width: int = 6) -> np.ndarray:
    return np.arange(width, dtype=np.float32) + number


@pytest.fixture
def bank(tmp_path) -> Bank:
    made = Cache(tmp_path / "cache").bank("vgg16", FINGERPRINT)
    made.describe(BankRecord.imported(FINGERPRINT, "vgg16", {"features.30": [6]}))
    return made


def fill(bank: Bank, numbers, *, layer: str = "features.30", width: int = 6) -> None:
    with bank.writer("float16") as writer:
        rows = np.stack([row(number, width) for number in numbers])
        writer.append([digest(number) for number in numbers], {layer: rows})


def test_rows_come_back_in_the_order_asked_for(bank):
    """From several parts, with repeats."""
    fill(bank, range(10))
    fill(bank, range(10, 15))
    asked = [12, 3, 3, 0, 14, 9]
    found = bank.read("features.30", [digest(number) for number in asked])
    assert found.dtype == np.float16
    assert np.array_equal(found, np.stack([row(number) for number in asked]))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_random_appends_and_reads_agree_with_a_dict(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("bank")
    bank = Cache(root).bank("m", FINGERPRINT)
    bank.describe(BankRecord.imported(FINGERPRINT, "m", {"a": [6]}))
    expected: dict[int, np.ndarray] = {}
    for numbers in data.draw(st.lists(st.lists(st.integers(0, 40), unique=True, min_size=1))):
        new = [number for number in numbers if number not in expected]
        if new:
            fill(bank, new, layer="a", width=3)
            expected |= {number: row(number, 3) for number in new}
    assert bank.known("a") == {(digest(number), 0) for number in expected}
    if expected:
        asked = data.draw(st.lists(st.sampled_from(sorted(expected)), min_size=1))
        found = bank.read("a", [digest(number) for number in asked])
        assert np.array_equal(found, np.stack([expected[number] for number in asked]))


@pytest.mark.parametrize("count", [1, 2, 3, 500])
@pytest.mark.parametrize("alike", [0, 6, 8, 31])
def test_a_digest_is_found_however_many_begin_as_it_does(bank, count, alike):
    """Real digests are spread evenly; those that are not, also at both ends, are found as well."""
    rows = np.random.default_rng(alike).integers(0, 255, (2 * count, 32), np.uint8)
    rows[:, :alike] = 255
    rows = np.unique(rows, axis=0)
    stored, others = rows[::2], np.concatenate([rows[1::2], [[0] * 32, [255] * 32]]).astype("u1")
    with bank.writer("float16") as made:
        values = np.arange(len(stored), dtype=np.float32)[:, None]
        made.append([each.tobytes().hex() for each in stored], {"x": values})
    index = bank.index("x")
    order = np.random.default_rng(1).permutation(len(stored))
    assert np.array_equal(index.find(keys_of(stored[order], 0)), order)
    assert (index.find(keys_of(others, 0)) == -1).all()
    assert (index.find(keys_of(stored, 1)) == -1).all()


def test_a_part_closes_at_its_size_or_age(bank, monkeypatch):
    monkeypatch.setattr(writer, "PART_BYTES", 100)
    with bank.writer("float16") as made:
        for number in range(30):
            made.append([digest(number)], {"features.30": row(number)[None]})
    assert len(bank.parts()) == 15
    monkeypatch.setattr(writer, "PART_SECONDS", 0.0)
    with bank.writer("float16") as made:
        for number in range(30, 33):
            made.append([digest(number)], {"features.30": row(number)[None]})
    assert len(bank.parts()) == 18
    assert len(bank.known("features.30")) == 33


def test_parts_hold_what_the_format_says(bank):
    fill(bank, range(5))
    (file,) = (bank.path / "parts").iterdir()
    assert file.name.startswith("000001-")
    assert file.suffix == ".h5"
    with h5py.File(file) as part:
        assert part.attrs["schema"] == 3
        assert part.attrs["fingerprint"].decode() == FINGERPRINT
        assert len(part.attrs["seal"]) == 64
        assert part["digest"].shape == (5, 32)
        assert part["digest"].dtype == np.uint8
        assert part["view"].dtype == np.uint16
        data = part["features/features.30"]
        assert data.dtype == np.float16
        assert data.attrs["layer"].decode() == "features.30"
        assert list(data.attrs["shape"]) == [6]
        assert data.chunks is None
        sums = part["checksums/features.30"]
        assert sums.attrs["rows_per_block"] == 85
        assert sums[:].tolist() == [xxhash.xxh3_64_intdigest(data[:].tobytes())]
    assert xxhash.xxh3_64_hexdigest(file.read_bytes()).startswith(file.stem[-8:])


def test_features_h5_shows_all_parts_also_after_a_move(bank, tmp_path):
    fill(bank, range(4))
    fill(bank, range(4, 6))
    bank.rebuild_view_file()
    shutil.move(tmp_path / "cache", tmp_path / "elsewhere")
    (file,) = (tmp_path / "elsewhere").glob("*/features.h5")
    with h5py.File(file) as view:
        assert np.array_equal(view["features/features.30"][:, 0], np.arange(6))
        assert [bytes(each).hex() for each in view["digest/features.30"]] == [
            digest(number) for number in range(6)
        ]
        assert view["view/features.30"][:].tolist() == [0] * 6
    assert not list(file.parent.rglob("*.partial"))


@pytest.mark.skipif(not shutil.which("h5dump"), reason="h5dump comes with hdf5-tools")
def test_features_h5_reads_with_h5dump_also_after_a_move(bank, tmp_path):
    fill(bank, range(4))
    fill(bank, range(2, 6))
    bank.rebuild_view_file()
    shutil.move(tmp_path / "cache", tmp_path / "elsewhere")
    (folder,) = (tmp_path / "elsewhere").iterdir()
    dump = subprocess.run(
        ["h5dump", "-y", "-w", "0", "-d", "/features/features.30", str(folder / "features.h5")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    lines = [line.strip(" ,") for line in dump.stdout.partition("DATA {")[2].splitlines()]
    rows = [list(map(float, line.split(","))) for line in lines if line[:1].isdigit()]
    assert np.array_equal(np.concatenate(rows).reshape(-1, 6), [row(n) for n in range(6)])


def test_a_part_that_is_gone_shows_as_nan_in_features_h5(bank):
    """Not as zero, which could be a feature."""
    fill(bank, range(4))
    bank.rebuild_view_file()
    (part,) = (bank.path / "parts").iterdir()
    part.unlink()
    with h5py.File(bank.view_file) as view:
        assert np.isnan(view["features/features.30"][:]).all()


def test_features_h5_is_old_once_parts_come_or_go(bank):
    fill(bank, range(4))
    assert bank.view_file_is_old
    bank.rebuild_view_file()
    assert not bank.view_file_is_old
    fill(bank, range(4, 6))
    assert bank.view_file_is_old


def test_features_h5_is_written_again_where_parts_came_meanwhile(bank, monkeypatch):
    """Another writer commits between the plan and the writing."""
    fill(bank, range(4))
    write = banks.atomic_write

    def slow(path, content):
        monkeypatch.setattr(banks, "atomic_write", write)
        fill(Bank(bank.path), range(4, 9))
        write(path, content)

    monkeypatch.setattr(banks, "atomic_write", slow)
    bank.rebuild_view_file()
    with h5py.File(bank.view_file) as view:
        assert view["digest/features.30"].shape == (9, 32)


@pytest.mark.parametrize("compress", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 5), (600,), (70_000,), (300_000,)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_of_every_width(bank, shape, dtype, compress):
    """Many rows per checksum, one row per checksum, and rows larger than a read."""
    rows = np.random.default_rng(0).random((13, *shape), np.float32).astype(dtype)
    with bank.writer(dtype, compress=compress) as made:
        made.append([digest(n) for n in range(7)], {"x": rows[:7]})
        made.append([digest(n) for n in range(7, 13)], {"x": rows[7:]})
    for asked in (range(13), [12, 0, 5, 5], [3], range(12, -1, -1)):
        assert np.array_equal(bank.read("x", [digest(n) for n in asked]), rows[list(asked)])


def test_a_stream_keeps_to_its_order_and_memory(bank):
    fill(bank, range(3000), width=512)
    asked = [digest(n) for n in np.random.default_rng(0).permutation(3000)]
    memory = 6 * 2**20
    blocks = list(bank.stream("features.30", asked, memory=memory))
    assert len(blocks) > 2
    assert max(block.nbytes for block in blocks) <= memory / 2
    assert np.array_equal(np.concatenate(blocks), bank.read("features.30", asked))
    with pytest.raises(CacheError, match="1 of"):
        list(bank.stream("features.30", [*asked, digest(3001)]))


def test_a_stream_is_not_row_by_row_where_the_index_takes_its_memory(bank):
    """So it was with a million images and the memory of a usual computer."""
    fill(bank, range(3000))
    memory = 3000 * 100
    assert bank.index("features.30").nbytes > memory / 3
    blocks = list(bank.stream("features.30", [digest(n) for n in range(3000)], memory=memory))
    assert len(blocks) < 10
    assert max(block.nbytes for block in blocks) <= memory / 8


def test_another_schema_is_not_reported_as_damage(bank, monkeypatch):
    monkeypatch.setattr(writer, "SCHEMA", 2)
    fill(bank, range(3))
    with pytest.raises(CacheError, match="has schema 2, expected 3: another version of"):
        bank.known("features.30")


def test_a_flipped_bit_is_found_on_read_and_never_returned(bank):
    """Anywhere in the values or the digests: an error that names the part."""
    fill(bank, range(50))
    (file,) = (bank.path / "parts").iterdir()
    whole = file.read_bytes()
    expected = np.stack([row(number) for number in range(50)])
    values = whole.index(expected.astype(np.float16).tobytes())
    digests = whole.index(bytes.fromhex(digest(1)))
    for place in (values, values + 333, digests + 31):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        file.write_bytes(damaged)
        with pytest.raises(DamagedError, match="checksum|keys do not match") as caught:
            Bank(bank.path).read("features.30", [digest(number) for number in range(50)])
        assert file.name in str(caught.value)


def test_a_file_that_is_not_a_part_is_named(bank):
    fill(bank, range(3))
    (file,) = (bank.path / "parts").iterdir()
    file.write_bytes(b"hello")
    with pytest.raises(CacheError, match=file.name):
        bank.known("features.30")


def test_a_missing_row_is_an_error(bank):
    fill(bank, range(3))
    with pytest.raises(
        CacheError, match=r"1 of 2 different images have no features of layer 'features.30'"
    ):
        bank.read("features.30", [digest(0), digest(7)])


@pytest.mark.parametrize("memory", [0, 2**23, 2**28])
@pytest.mark.parametrize("views", [1, 2])
def test_all_missing_images_are_counted(bank, memory, views):
    """Not those of the first block alone, and each once, however many copies or views it has."""
    fill(bank, range(22))
    digests = [digest(number) for number in [*range(60), *range(30)]]
    wanted = np.repeat(np.arange(views), len(digests))
    message = r"38 of 60 different images have no features of layer 'features.30' in bank"
    for ask in (bank.read, lambda *given, **how: list(bank.stream(*given, memory=memory, **how))):
        with pytest.raises(CacheError, match=message):
            ask("features.30", digests[::-1], view=0)
        with pytest.raises(CacheError, match=message if views == 1 else r"60 of 60"):
            ask("features.30", digests * views, view=wanted)


def test_float16_stores_neither_inf_nor_nan(bank):
    huge = np.array([[1.0, 7e4]], np.float32)
    with pytest.raises(
        FeatureOverflowError, match=r"'block5_pool' reaches 7e\+04.*`dtype=float32`"
    ):
        store(huge, "float16", "block5_pool")
    assert store(huge, "float32", "block5_pool").dtype == np.float32
    for bad in (np.nan, np.inf):
        with pytest.raises(FeatureOverflowError, match="gives nan or inf"):
            store(np.array([bad], np.float32), "float32", "block5_pool")
    with pytest.raises(FeatureOverflowError), bank.writer("float16") as writer:
        writer.append([digest(0)], {"features.30": row(0)[None]})
        writer.append([digest(1)], {"features.30": huge})
    assert bank.known("features.30") == {(digest(0), 0)}


def test_rows_before_an_interruption_are_kept(bank):
    with pytest.raises(KeyboardInterrupt), bank.writer("float16") as writer:
        writer.append([digest(0)], {"features.30": row(0)[None]})
        raise KeyboardInterrupt
    assert bank.known("features.30") == {(digest(0), 0)}
    assert not list(bank.path.rglob("*.partial"))


@pytest.mark.ci
def test_an_interruption_as_a_part_begins_stores_nothing_that_is_not(bank, monkeypatch):
    """Wherever the interruption occurs, only appended rows are committed."""
    monkeypatch.setattr(writer, "PART_BYTES", 100)
    rows = {"features.30": np.stack([row(0), row(1)])}
    lines = stop = 0

    def interrupt(frame, event, _argument):
        nonlocal lines
        if frame.f_code.co_filename == writer.__file__ and event == "line":
            lines += 1
            if lines == stop:
                raise KeyboardInterrupt
        return interrupt

    for stop in range(1, 250):  # noqa: B007 - the trace looks at it
        with suppress(KeyboardInterrupt), bank.writer("float16") as made:
            made.append([digest(10), digest(11)], rows)
            lines = 0
            sys.settrace(interrupt)
            try:
                made.append([digest(12), digest(13)], rows)
            finally:
                sys.settrace(None)
        stored = {bytes(key).hex() for part in bank.parts() for key in part.digests}
        assert {digest(10), digest(11)} <= stored <= {digest(n) for n in (10, 11, 12, 13)}
        for part in bank.parts():
            part.path.unlink()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_part_is_committed(bank, number, monkeypatch):
    """It arrives while the file is written, and its handler runs afterwards."""
    came = []
    monkeypatch.setattr(writer, "atomic_write", signalling(number))

    def stop(number, _frame):
        came.append(number)
        raise SystemExit(128 + number)

    before = signal.signal(number, stop)
    try:
        with pytest.raises(SystemExit), bank.writer("float16") as made:
            made.append([digest(0)], {"features.30": row(0)[None]})
    finally:
        signal.signal(number, before)
    assert came == [number]  # the second one met the end of the work
    assert bank.known("features.30") == {(digest(0), 0)}


def test_a_part_is_written_while_the_next_is_filled(bank, monkeypatch):
    """But no third part is started."""
    written, appended = threading.Event(), threading.Event()

    def slowly(*arguments):
        assert written.wait(60)
        files.atomic_write(*arguments)

    monkeypatch.setattr(writer, "atomic_write", slowly)
    monkeypatch.setattr(writer, "PART_BYTES", 100)  # two rows
    with bank.writer("float16") as made, ThreadPoolExecutor(1) as other:
        for number in range(3):
            made.append([digest(number)], {"features.30": row(number)[None]})

        def go_on():
            made.append([digest(3)], {"features.30": row(3)[None]})
            appended.set()

        future = other.submit(go_on)
        assert not appended.wait(0.3)
        assert not bank.parts()
        written.set()
        future.result(60)
    assert len(bank.parts()) == 2
    assert bank.known("features.30") == {(digest(number), 0) for number in range(4)}


def test_a_part_that_cannot_be_written_stops_the_next(bank, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "atomic_write", fail)
    monkeypatch.setattr(writer, "PART_BYTES", 100)
    with pytest.raises(CacheError, match="No space left"), bank.writer("float16") as made:
        for number in range(10):
            made.append([digest(number)], {"features.30": row(number)[None]})
    assert number < 5
    assert not bank.parts()


def signalling(number):
    def write(*arguments):
        signal.raise_signal(number)
        files.atomic_write(*arguments)
        signal.raise_signal(number)

    return write


def test_rows_must_match_their_digests(bank):
    made = bank.writer("float16")
    two = [digest(0), digest(1)]
    with pytest.raises(UsageError, match="has 1 row, expected one for each of 2 images"):
        made.append(two, {"features.30": row(0)[None]})
    rows = {"features.30": np.stack([row(0), row(1)])}
    with pytest.raises(UsageError, match="each digest must have 64 hexadecimal digits"):
        made.append(["ab" * 31, "cd" * 33], rows)
    for views in (-1, np.array([0, 2**16])):
        with pytest.raises(UsageError, match="each view must be a number from 0 to 65535"):
            made.append(two, rows, views=views)
    made.append(two, rows)
    for other in ({"features.30": rows["features.30"][:, :1]}, {"other": rows["features.30"]}):
        with pytest.raises(UsageError, match="do not match the earlier rows"):
            made.append(two, other)
    with pytest.raises(UsageError, match="no images were requested"):
        bank.read("features.30", [])


def test_a_part_of_another_bank_is_refused(bank, tmp_path):
    fill(bank, range(3))
    other = Cache(tmp_path / "cache").bank("vgg16", "cd" * 32)
    shutil.copytree(bank.path, other.path)
    with pytest.raises(CacheError, match="has the fingerprint of another bank"):
        other.known("features.30")


def test_other_files_among_the_parts_are_ignored(bank):
    fill(bank, range(3))
    for name in ("copy.h5", "1copy-of.h5", "000001-4e1f09c2 (copy).h5"):
        (bank.path / "parts" / name).write_bytes(b"")
    fill(bank, range(3, 5))
    assert len(bank.known("features.30")) == 5


WRITER = """
import sys
import numpy as np
from bottleneck import files
from bottleneck.cache import Bank, writer
from pathlib import Path
writer.PART_BYTES = 20_000
bank = Bank(Path(sys.argv[1]))
with bank.writer("float16") as made:
    for number in range(int(sys.argv[2]), 10**6):
        values = np.arange(6, dtype=np.float32) + number % 1000
        made.append([f"{number:064x}"], {"features.30": values[None]})
        print(number, flush=True)
"""


def test_a_killed_writer_loses_at_most_one_part(bank):
    """SIGKILL at any moment: the bank opens, and every part is complete."""
    start = 0
    for round_ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(bank.path), str(start)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(900 * (round_ + 1)):
            process.stdout.readline()
        time.sleep(0.003 * round_)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        keys = sorted(int(key, 16) for key, _ in bank.known("features.30"))
        assert keys == list(range(len(keys)))
        found = bank.read("features.30", [digest(number) for number in keys])
        assert np.array_equal(found[:, 0], np.array(keys) % 1000)
        start = len(keys)
    assert start > 2000


def test_old_leftovers_of_a_killed_writer_are_removed(bank):
    fill(bank, range(3))
    young, old = (
        bank.path / f"parts/.000002-{name}.h5.12345678.partial" for name in ("0000aaaa", "0000bbbb")
    )
    for path in (young, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    bank.writer("float16")
    assert young.exists()
    assert not old.exists()


def test_two_writers_lose_and_double_nothing(bank):
    """Both write overlapping rows; a reader sees each once."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(bank.path), str(first)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, 500)
    ]
    for process in processes:
        for _ in range(2500):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
    known = sorted(int(key, 16) for key, _ in bank.known("features.30"))
    assert {*range(2000)} <= set(known)
    found = bank.read("features.30", [digest(number) for number in known])
    assert np.array_equal(found[:, 0], np.array(known) % 1000)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_behind(tmp_path):
    """A limit on the file size simulates a full disk; committed rows stay readable."""
    code = """
import resource, signal, sys
import numpy as np
from bottleneck import files
from bottleneck.cache import Bank, writer
from bottleneck.errors import CacheError
from bottleneck.records import BankRecord
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
bank = Bank(Path(sys.argv[1]))
bank.describe(BankRecord.imported("ab" * 32, "m", {"a": [6]}))
with bank.writer("float16") as writer:
    writer.append([f"{0:064x}"], {"a": np.ones((1, 1000), np.float32)})
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
try:
    with bank.writer("float16") as writer:
        for number in range(1, 1500):
            writer.append([f"{number:064x}"], {"a": np.ones((1, 1000), np.float32)})
except CacheError as error:
    print("refused:", error)
assert bank.known("a") == {(f"{0:064x}", 0)}
assert bank.read("a", [f"{0:064x}"]).sum() == 1000
"""
    finished = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cache/m-abababababab")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "refused:" in finished.stdout
    assert not list(tmp_path.rglob("*.partial"))


def test_an_unwritable_cache_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="cannot write to the cache folder .*`cache"):
        Cache(tmp_path / "file").check_writable()
    with pytest.raises(CacheError, match="cannot write"):
        Cache("/proc/cache").check_writable()
    Cache(tmp_path / "new").check_writable()
    assert not list((tmp_path / "new").iterdir())


def test_the_bank_of_a_fine_tuned_model_is_found_where_its_folder_was_moved(tmp_path):
    """By its fingerprint; the bank of another model never is."""
    cache = Cache(tmp_path)
    for model, weights in (("heads/tuned", FINETUNED), ("vgg16", "imported")):
        fingerprint = hashlib.sha256(model.encode()).hexdigest()
        record = BankRecord.imported(fingerprint, model, {"a": [6]})
        bank = cache.bank(model, fingerprint)
        bank.describe(replace(record, weights_name=weights))
        found = cache.bank("elsewhere", fingerprint)
        assert (found.path == bank.path) == (weights == FINETUNED)
        assert cache.bank("elsewhere", f"{fingerprint[:12]:0<64}").path != bank.path
    moved = "elsewhere", hashlib.sha256(b"heads/tuned").hexdigest()
    cache.bank(*moved).info_file.write_text("{}")  # a damaged record is none
    assert cache.bank(*moved).name.startswith("elsewhere-")


def test_banks_are_found_by_how_their_names_begin(tmp_path):
    cache = Cache(tmp_path)
    for model in ("vgg16", "vgg19"):
        bank = cache.bank(model, FINGERPRINT)
        bank.describe(BankRecord.imported(FINGERPRINT, "m", {"a": [6]}))
    assert [bank.name for bank in cache.find_banks("vgg16")] == ["vgg16-abababababab"]
    assert len(cache.find_banks("vgg")) == 2
    with pytest.raises(UnknownNameError, match="no bank 'vgg16-b'.*vgg16-abababababab, vgg19"):
        cache.find_banks("vgg16-b")


def test_a_damaged_bank_json_is_named(bank):
    (bank.path / "bank.json").write_text("{")
    with pytest.raises(CacheError, match=r"bank.json' is damaged .*cache verify"):
        _ = bank.info


@pytest.mark.parametrize("step", [timedelta(hours=1), timedelta(0), timedelta(days=-400)])
def test_run_records_keep_their_order(tmp_path, step):
    """Also where the clock stands still or is set back, by a year or between time zones."""
    cache, now = Cache(tmp_path), datetime(2026, 3, 1, tzinfo=UTC)
    for number in range(5):
        run = replace(run_record(model=str(number)), time=(now + number * step).isoformat())
        cache.record_run(run)
    assert [run.model for run in cache.runs()] == ["0", "1", "2", "3", "4"]
    assert [datetime.fromisoformat(run.time) for run in cache.runs()] == [
        now + number * step for number in range(5)
    ]
    first = min((tmp_path / "runs").iterdir())
    assert json.loads(first.read_text())["model"] == "0"
    first.write_text(first.read_text().replace("data", "date"))
    with pytest.raises(CacheError, match="does not match its digest"):
        cache.runs()
    assert {path.suffix for path in Path(tmp_path / "runs").iterdir()} == {".json"}


def test_a_dataset_without_values_is_written(tmp_path):
    path = tmp_path / "empty.h5"
    arrays = {"empty": np.zeros((2, 0)), "full": np.arange(6.0).reshape(2, 3)}
    planned = {name: layout.Dataset.of(values) for name, values in arrays.items()}
    path.write_bytes(b"".join(layout.hdf5_pieces(planned, {})))
    with h5py.File(path) as file:
        for name, values in arrays.items():
            assert np.array_equal(file[name][:], values)


def test_a_missing_key_is_named_without_quotes_of_its_own(tmp_path):
    with pytest.raises(DamagedError, match=r"damaged \(no object 'a'\)"), errors_of(tmp_path):
        raise KeyError("no object 'a'")
