"""Attempts to break the cache: killed and concurrent writers, flipped bits, full disks, bad files.

They run at a reduced count by default, and at the full count in the second tier (``-m ci``).
About 12 s in the first tier.
"""

import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
from conftest import crops
from PIL import Image

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.cache import Bank, compact_bank, verify_cache, writer
from bottleneck.cli import main
from bottleneck.errors import CacheError
from bottleneck.records import BankRecord

LAYER = "second"
FINGERPRINT = "ab" * 32
NOBODY = 65534


def extract(folder: str, cache: str, part_bytes: int, some: slice = slice(None)) -> None:
    """Extract a slice of a folder's images; runs in a process of its own."""
    import torch  # noqa: PLC0415 - of that process

    torch.set_num_threads(1)
    writer.PART_BYTES = part_bytes
    base = FrozenBase("little", [LAYER], weights="random")
    images = ImageSet.from_folder(folder, name=f"set{some.start or 0}")
    chosen = ImageSet(images.name, images.items[some])
    extract_features(chosen, base, Cache(cache), batch_size=8)


def photographs(folder: Path, count: int) -> Path:
    """Small different JPEGs in two class folders."""
    for number, image in enumerate(crops(count, size=72)):
        target = folder / ("cat", "dog")[number % 2]
        target.mkdir(parents=True, exist_ok=True)
        image.save(target / f"{number:05d}.jpg", quality=80, comment=str(number))
    return folder


def only_bank(cache: str | Path) -> Bank:
    (bank,) = Cache(cache).bank_folders()
    return bank


def features(bank: Bank) -> dict[str, bytes]:
    digests = sorted(digest for digest, _ in bank.known(LAYER))
    rows = bank.read(LAYER, digests)
    return {digest: row.tobytes() for digest, row in zip(digests, rows, strict=True)}


@pytest.mark.usefixtures("little")
def test_an_extraction_killed_at_any_moment_loses_no_committed_row(tmp_path, full, processes):
    """SIGKILL, then open, verify and continue: no committed row is lost, the result is the same."""
    kills = 30 if full else 4
    folder = photographs(tmp_path / "data", 120)
    part_bytes = 35_000
    for name in ("first", "whole"):  # the first one finds nothing warm
        started = time.monotonic()
        undisturbed = processes.Process(
            target=extract, args=(str(folder), str(tmp_path / name), part_bytes)
        )
        undisturbed.start()
        undisturbed.join()
        duration = time.monotonic() - started
    expected = features(only_bank(tmp_path / "whole"))
    assert len(expected) == 120
    generator = random.Random(0)
    done = finished = 0
    while done < kills or not finished:
        cache = tmp_path / f"cache{finished}"
        committed: set[tuple[str, int]] = set()
        while True:
            worker = processes.Process(target=extract, args=(str(folder), str(cache), part_bytes))
            worker.start()
            worker.join(generator.uniform(0, duration) if done < kills else None)
            killed = worker.exitcode is None
            worker.kill()
            worker.join()
            assert killed or worker.exitcode == 0
            banks = Cache(cache).bank_folders()
            known = banks[0].known(LAYER) if banks else set()
            assert committed <= known
            committed = known
            found = features(banks[0]) if known else {}
            assert all(expected[digest] == row for digest, row in found.items())
            if cache.exists():
                assert not verify_cache(Cache(cache)).damage
            if not killed:
                break
            done += 1
        assert features(only_bank(cache)) == expected
        finished += 1
    print(f"{done} kills in {finished} extractions")


@pytest.mark.usefixtures("little")
def test_four_writers_at_once_store_every_row_once(tmp_path, full, processes):
    """On overlapping halves, one killed: every row once, all equal to a single writer's."""
    count = 2000 if full else 240
    folder = photographs(tmp_path / "data", count)
    single, shared = str(tmp_path / "single"), str(tmp_path / "shared")
    part_bytes = 2**18 if full else 2**15
    alone = processes.Process(target=extract, args=(str(folder), single, part_bytes))
    alone.start()
    alone.join()
    assert alone.exitcode == 0
    expected = features(only_bank(single))
    assert len(expected) == count
    starts = [0, count // 6, count // 3, count // 2]
    workers = [
        processes.Process(
            target=extract, args=(str(folder), shared, part_bytes, slice(start, start + count // 2))
        )
        for start in starts
    ]
    for worker in workers:
        worker.start()
    while len(list(Path(shared).glob("*/parts/*.h5"))) < 3:
        time.sleep(0.005)
    assert workers[1].is_alive()
    workers[1].kill()
    bank = only_bank(shared)
    while any(worker.is_alive() for worker in workers):  # readers read all the while
        assert set(features(bank).items()) <= set(expected.items())
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, -signal.SIGKILL, 0, 0]
    assert features(bank) == expected
    bank.rebuild_view_file()
    with h5py.File(bank.view_file) as view:
        shown = [bytes(digest).hex() for digest in view[f"digest/{LAYER}"]]
        assert sorted(shown) == sorted(expected)
        rows = {
            digest: row.tobytes()
            for digest, row in zip(shown, view[f"features/{LAYER}"][:], strict=True)
        }
    assert rows == expected
    doubled = sum(part.rows for part in bank.parts()) - count
    compact_bank(bank)
    assert sum(part.rows for part in bank.parts()) == count
    assert features(bank) == expected
    print(f"{doubled} rows computed twice")


def filled(root: Path, *, compress: str = "none") -> tuple[Bank, dict[str, np.ndarray]]:
    """A bank of parts of different shapes and sizes, and what it holds."""
    generator = np.random.default_rng(0)
    bank = Cache(root).bank("m", FINGERPRINT)
    bank.describe(BankRecord.imported(FINGERPRINT, "m", {"map": [6]}))
    expected = {}
    for _ in range(5):
        digests = [generator.bytes(32).hex() for _ in range(40)]
        rows = generator.random((40, 6, 5, 5), np.float32).astype(np.float16)
        rows[rows < 0.7] = 0
        with bank.writer("float16", compress=compress) as made:
            made.append(digests, {"map": rows, "vector": rows[:, :, 0, 0]})
        expected |= dict(zip(digests, rows, strict=True))
    return bank, expected


@pytest.mark.parametrize(
    "compress", ["none", *(pytest.param(each, marks=pytest.mark.ci) for each in ("lz4", "zstd"))]
)
def test_a_flipped_bit_is_found_and_never_read_as_features(tmp_path, full, compress):
    """A single one, anywhere in any part: found by reading or verifying, never read as features."""
    flips = 120 if full else 20
    bank, expected = filled(tmp_path / "cache", compress=compress)
    digests = list(expected)
    values = np.stack(list(expected.values()))
    generator = random.Random(1)
    refused: set[int] = set()
    named = True
    for number in range(flips):
        path = generator.choice(sorted((bank.path / "parts").iterdir()))
        whole = path.read_bytes()
        place = generator.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        for layer, rows in (("map", values), ("vector", values[:, :, 0, 0])):
            try:
                read = Bank(bank.path).read(layer, digests)
            except CacheError as error:
                refused.add(number)
                named &= path.name in str(error)
            else:
                assert np.array_equal(read, rows)
        (damage,) = verify_cache(Cache(tmp_path / "cache")).damage
        assert damage.path == str(path)
        assert len(Bank(bank.path).known("map")) == len(expected) - 40
        Path(damage.moved_to).unlink()
        path.write_bytes(whole)
    assert named
    print(f"{compress}: {len(refused)} of {flips} found by reading, all by verifying")


def fill_disk(command: list[str], said: Path) -> None:
    """Run a command that writes small parts; runs in a process of its own."""
    writer.PART_BYTES = 2**14
    with said.open("w") as sys.stderr, redirect_stdout(sys.stderr):
        main(command)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting takes root")
def test_a_full_disk_is_reported_and_loses_nothing_that_was_committed(tmp_path, little, processes):
    """A small tmpfs: a clear error, what was committed is readable, nothing is half-written."""
    folder = photographs(tmp_path / "data", 80)
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(small)], check=False
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        command = ["extract", "--model", little, "--layer", LAYER, "--weights", "random"]
        command += ["--data", str(folder), "--cache", str(small / "cache")]
        said = tmp_path / "said"
        worker = processes.Process(target=fill_disk, args=(command, said))
        worker.start()
        worker.join()
        assert worker.exitcode == 1, said.read_text()
        assert "No space left on device" in said.read_text()
        assert "Traceback" not in said.read_text()
        assert not list(small.rglob("*.partial"))
        bank = only_bank(small / "cache")
        known = features(bank)
        assert 0 < len(known) < 80
        assert not verify_cache(Cache(small / "cache")).damage
    finally:
        subprocess.run(["umount", str(small)], check=True)


def truncated(path: Path, generator: random.Random) -> None:
    generator.choice(crops(4, size=120)).save(path, quality=90)
    content = path.read_bytes()
    path.write_bytes(content[: generator.randrange(1, len(content) - 2)])


def wrong_magic(path: Path, generator: random.Random) -> None:
    path.write_bytes(b"\x00\x01\x02\x03" + generator.randbytes(500))


def empty(path: Path, _: random.Random) -> None:
    path.touch()


def huge_jpeg(path: Path, generator: random.Random) -> None:
    """Declare 40,000 x 40,000 pixels."""
    frame = b"\x00\x11\x08" + (40_000).to_bytes(2) * 2 + b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    path.write_bytes(b"\xff\xd8\xff\xc0" + frame + b"\xff\xda" + generator.randbytes(50))


def huge_png(path: Path, _: random.Random) -> None:
    """Declare 40,000 x 40,000 pixels."""
    Image.new("RGB", (8, 8)).save(path, "png")
    content = bytearray(path.read_bytes())
    content[16:24] = (40_000).to_bytes(4) * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    path.write_bytes(content)


def directory(path: Path, _: random.Random) -> None:
    path.mkdir()


def loop(path: Path, _: random.Random) -> None:
    path.symlink_to(path.name)


def dangling(path: Path, _: random.Random) -> None:
    path.symlink_to("nowhere.jpg")


def unreadable(path: Path, _: random.Random) -> None:
    crops(1, size=60)[0].save(path)
    path.chmod(0)


BAD = (
    truncated,
    truncated,
    wrong_magic,
    empty,
    huge_jpeg,
    huge_png,
    directory,
    loop,
    dangling,
    unreadable,
)


def bad_images(folder: Path, count: int) -> set[str]:
    """Write files that are not images, and return their paths."""
    generator = random.Random(2)
    paths = set()
    for number in range(count):
        make = BAD[number % len(BAD)]
        path = folder / ("cat", "dog")[number % 3 % 2] / f"{make.__name__}-{number:03d}.jpg"
        make(path, generator)
        paths.add(path.as_posix())
    return paths


def odd_images(folder: Path) -> set[str]:
    """Write images that are unusual, but good; return their paths."""
    first, second, *_ = crops(4, size=60, seed=9)
    good = folder / "cat"
    Image.new("RGB", (1, 1), "red").save(good / "pixel.png")
    first.save(good / "moving.gif", save_all=True, append_images=[second])
    first.convert("CMYK").save(good / "print.jpg")
    return {
        path.as_posix() for path in map(good.joinpath, ("pixel.png", "moving.gif", "print.jpg"))
    }


@contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """Have a folder's owner, who is not root, look at it: root may read everything."""
    if os.geteuid():
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, -1, follow_symlinks=False)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others than its owner may enter, unlike pytest's."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.usefixtures("little")
def test_bad_images_are_named_and_good_ones_extracted(place, full):
    """Every good one is extracted, every bad one named with its reason; no hang, no crash."""
    count = 300 if full else 60
    folder = photographs(place / "data", 40)
    good = {path.as_posix() for path in folder.rglob("*.jpg")} | odd_images(folder)
    bad = bad_images(folder, count)
    base = FrozenBase("little", [LAYER], weights="random")
    with unprivileged(place):  # who need not be able to read the installed packages
        images = ImageSet.from_folder(folder)
    started = time.monotonic()
    done = extract_features(images, base, Cache(place / "cache"))
    seconds = time.monotonic() - started
    assert {image.path for image in done.rejected} == bad
    assert all(image.reason for image in done.rejected)
    csv = ImageSet.read_csv(place / "cache/sets/data.csv")
    assert {item.path for item in csv.items} == good
    assert len(only_bank(place / "cache").known(LAYER)) == len(good)
    print(f"{len(bad)} bad images among {len(good)} good ones, {seconds:.1f} s")
