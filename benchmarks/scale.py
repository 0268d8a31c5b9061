"""How far the cache goes: ``benchmarks/scale.py``.

First measures constants with the cache's own classes: listing folders of parts (empty files);
opening the parts of a bank with HDF5 and by ``parts.json``; the index of its rows, with the growth
of its process, and finding all rows in random order; taking a lease beside others, whose files are
copies of a real one with other images. Rows are narrow, as values are not read. Files are on a
local disk (``--folder`` puts them on another), in the page cache. Times are medians of rounds,
those of the index one each.

Then computes what follows for many images and workers. The tables ``scale`` and ``scale limits``
are plain sums of the constants and of what is given below. Only ``scale leases`` simulates: workers
without shards that start together, from lease to lease. As in `bottleneck.extract.division`, a
lease is for 30 s of work at the worker's speed so far, waiting included. One lock is given out in
the order of asking, and held for listing the parts, opening those that are new with HDF5, and
reading the leases of the others. Only that and computing take time: it shows what the lock costs.
"""

import argparse
import hashlib
import heapq
import json
import math
import secrets
import statistics
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64

from bottleneck.cache import PART_SECONDS, Cache, Leases, part_size
from bottleneck.cache.leases import lease_name
from bottleneck.cache.parts import part_files
from bottleneck.records import BankRecord
from common import Tables, rate, run, run_process

FINGERPRINT, LAYER, COLUMNS = "ab" * 32, "layer", 4
FEW = 16
"""Images of small leases, beside which those of `held` images tell what an image costs."""
IMAGE_MEMORY, IMAGE_BYTES, IMAGES_READ = 1000, 100_000, 1e9
"""Given: an image of a set in memory, see ``memory.py``; its file; bytes read in a second."""
ROW_BYTES, KEY_BYTES = 2 * 2048, 34
MEMORY, HOUR = 64e9, 3600.0
"""The limits: memory of a worker, and time."""
SPEEDS, PART_MIB = (100, 2000), (128, 256)
"""Images that a worker computes in a second, and sizes of parts, the first of them the usual."""
Costs = Mapping[str, float]

START = f"""
import json, resource, statistics, sys, time
import numpy as np
from bottleneck.cache import Cache
from bottleneck.cache.index_file import write_index
def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
open_bank = lambda: Cache(sys.argv[1]).bank("base", "{FINGERPRINT}")
middle = lambda: statistics.median(seconds(open_bank().parts) for _ in range(int(sys.argv[2])))
bank, before, found = open_bank(), peak(), {{}}
"""
OPEN = """
found["with HDF5, s"] = middle()
write_index(bank.path, bank.parts())
found["by `parts.json`, s"] = middle()
size = (bank.path / "parts.json").stat().st_size
found["`parts.json`, bytes for each part"] = size / len(bank.opened)
print(json.dumps(found))
"""
INDEX = f"""
bank.parts()
found["made once the parts are open, s"] = seconds(lambda: bank.index("{LAYER}"))
index = bank.index("{LAYER}")
found["its memory, with the keys of the parts, GB"] = index.nbytes / 1e9
found["growth of the process until then, at most, GB"] = peak() - before
wanted = np.random.default_rng(0).permutation(index.keys)
found["all digests found in random order, s"] = seconds(lambda: index.find(wanted))
print(json.dumps(found))
"""


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    held, most = given.held, max(given.others)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        listing = [list_parts(folder, count, given.rounds) for count in given.listed]
        names = [f"{count:,} parts, s" for count in given.listed]
        yield "a folder is listed", dict(zip(names, listing, strict=True))
        fill(folder / "cache", given.parts, given.rows)
        opening = process(OPEN, folder / "cache", given.rounds)
        yield f"{given.parts:,} parts are opened", opening
        index = process(INDEX, folder / "cache", given.rounds)
        yield f"index of {given.rows:,} rows in them", index
        leases = {
            (count, own): take(folder / f"{count}-{own}", count, own, given)
            for count, own in (*((count, held) for count in (0, *given.others)), (most, FEW))
        }
        lease = {
            f"beside {count:,} of {own:,} images, s" if count else "alone, s": value
            for (count, own), (value, _) in leases.items()
        }
        alone, size = leases[0, held]
        yield f"a lease of {held:,} images is taken", {**lease, "its bytes": size}
    few = leases[most, FEW][0]
    image = max(0.0, (leases[most, held][0] - few) / most / (held - FEW))
    _, memory, growth, _ = index.values()
    costs = {
        "list": listing[-1] / given.listed[-1],
        "open": opening["with HDF5, s"] / given.parts,
        "open by index": opening["by `parts.json`, s"] / given.parts,
        "row, bytes": memory * 1e9 / given.rows,
        "row, bytes at most": max(memory, growth) * 1e9 / given.rows,
        "take": alone,
        "other lease": max(0.0, (few - alone) / most - FEW * image),
        "image of it": image,
        "image of it, bytes": size / held,
    }
    yield "each", costs
    for speed in SPEEDS:
        for mebibytes in PART_MIB:
            yield f"{speed:,}/s, {mebibytes} MiB", planned(given, speed, mebibytes, costs)
    yield "limits", {f"10⁶ images at {each:,}/s": limits(given, each, costs) for each in SPEEDS}
    for workers in given.together:
        slow, fast = (simulate(given, workers, speed, costs) for speed in SPEEDS)
        yield f"{workers:,} together", slow | fast


def process(code: str, *arguments: object) -> Any:
    return json.loads(run_process([sys.executable, "-c", START + code, *map(str, arguments)])[0])


def list_parts(above: Path, count: int, rounds: int) -> float:
    folder = above / str(count)
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06d}-{secrets.token_hex(4)}.h5").touch()
    return statistics.median(1 / rate(lambda: part_files(folder), 1) for _ in range(rounds))


def fill(folder: Path, parts: int, rows: int) -> None:
    """Write parts of equally many narrow rows, as the cache does, but without syncing each."""
    bank = Cache(folder).bank("base", FINGERPRINT)
    bank.describe(BankRecord.imported(FINGERPRINT, "base", {LAYER: [COLUMNS]}))
    (bank.path / "parts").mkdir()
    generator = np.random.default_rng(0)
    columns = {
        f"features/{LAYER}": generator.random((rows // parts, COLUMNS)).astype(np.float16),
        "view": np.zeros(rows // parts, np.uint16),
    }
    with bank.writer("float16") as writer:
        for number in range(1, parts + 1):
            digests = generator.integers(0, 256, (rows // parts, 32), np.uint8)
            content = b"".join(writer._pieces({**columns, "digest": digests}))
            name = f"{number:06d}-{xxh3_64(content).hexdigest()[:8]}.h5"
            (bank.path / "parts" / name).write_bytes(content)


def take(root: Path, count: int, held: int, given: argparse.Namespace) -> tuple[float, int]:
    """Return the seconds of a lease beside some others of `held` images, and its bytes."""
    own = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(given.held)]

    def choose(others: Sequence[Collection[str]]) -> list[str]:
        taken = set[str]().union(*others)
        return [digest for digest in own if lease_name(digest) not in taken]

    with Leases(root) as leases:
        leases.take(["bank"], choose)
        content = json.loads(leases._own.read_text())
        for _ in range(count):
            other = leases._own.with_name(f"{leases.scope}.{secrets.token_hex(8)}.lease")
            other.write_text(json.dumps(content | {"images": secrets.token_hex(8 * held)}))
        seconds = [1 / rate(lambda: leases.take(["bank"], choose), 1) for _ in range(given.rounds)]
        return statistics.median(seconds), leases._own.stat().st_size


def part_rows(speed: int, mebibytes: int) -> int:
    """Return the rows of a part, which is ended by its size or its age."""
    return min(mebibytes * 2**20 // (ROW_BYTES + KEY_BYTES), int(speed * PART_SECONDS))


def planned(given: argparse.Namespace, speed: int, mebibytes: int, costs: Costs) -> dict[str, Any]:
    """Return what follows for many images and workers, each a shard: plain sums."""
    images, workers, rows = given.images, given.workers, part_rows(speed, mebibytes)
    own = -(-images // workers // rows)
    parts, name_bytes = own * workers, costs["image of it, bytes"] * speed * workers
    all_listings = costs["list"] * workers * own * (own - 1) / 2
    return {
        "computing, h": images / workers / speed / HOUR,
        "features, TB": images * part_size(rows, [ROW_BYTES]) / rows / 1e12,
        "rows of a part": rows,
        "seconds until it is written": rows / speed,
        "parts in the folder of the bank": parts,
        "list the folder at the end, s": costs["list"] * parts,
        "list it once for each part of a worker, min": all_listings / 60,
        "names listed by all workers at the end, 10⁶/s": parts * workers * speed / rows / 1e6,
        "open all parts with HDF5, min": costs["open"] * parts / 60,
        "open all parts by `parts.json`, min": costs["open by index"] * parts / 60,
        "index of the bank, GB": costs["row, bytes"] * images / 1e9,
        "making it, at most, GB": costs["row, bytes at most"] * images / 1e9,
        "list of images, in memory of each worker, GB": IMAGE_MEMORY * images / 1e9,
        "reading all images, each worker, h": IMAGE_BYTES * images / IMAGES_READ / HOUR,
        "leases written by all workers, MB/s": name_bytes / 1e6,
        "leases read by all workers, were there no shards, GB/s": name_bytes * (workers - 1) / 1e9,
    }


def limits(given: argparse.Namespace, speed: int, costs: Costs) -> dict[str, float]:
    """Return with how many images each limit is reached, with parts of the usual size."""
    rows = part_rows(speed, PART_MIB[0])
    own = math.sqrt(2 * HOUR / costs["list"] / given.workers)
    found = {
        "computing, 1 h": HOUR * speed * given.workers,
        "list of images, 64 GB": MEMORY / IMAGE_MEMORY,
        "reading all images, 1 h": HOUR * IMAGES_READ / IMAGE_BYTES,
        "making the index of the bank, 64 GB": MEMORY / costs["row, bytes at most"],
        "opening all parts with HDF5, 1 h": HOUR / costs["open"] * rows,
        "opening all parts by `parts.json`, 1 h": HOUR / costs["open by index"] * rows,
        "listing the folder for each part of a worker, 1 h": own * given.workers * rows,
    }
    return {name: found[name] / 1e6 for name in sorted(found, key=found.__getitem__)}


@dataclass
class Worker:
    """What is known of a worker since it last asked for a lease."""

    computed: int = 0
    held: int = 0
    fresh: int = 0  # images whose rows are in no part
    began: float = 0.0  # when the first of them were
    seen: int = 0  # parts


def simulate(given: argparse.Namespace, workers: int, speed: int, costs: Costs) -> dict[str, float]:
    """Let workers divide images by leases until they are done, for an hour at most."""
    from bottleneck.extract import division  # noqa: PLC0415 - torch is for no other figure

    capacity = part_rows(speed, PART_MIB[0])
    left = workers * (given.images // given.workers)
    asking = [(0.0, number) for number in range(workers)]
    everyone = [Worker() for _ in asking]
    parts = holders = held = takes = 0
    busy = done = end = free = 0.0
    while left and asking[0][0] < HOUR:
        asked, number = heapq.heappop(asking)
        worker = everyone[number]
        written, worker.fresh = divmod(worker.fresh, capacity)
        if worker.fresh and asked - worker.began >= PART_SECONDS:
            written, worker.fresh = written + 1, 0
        if written:
            parts, worker.began = parts + written, asked
        hold = costs["take"] + costs["list"] * parts + costs["open"] * (parts - worker.seen)
        hold += costs["other lease"] * (holders - bool(worker.held))
        hold += costs["image of it"] * (held - worker.held)
        free = max(asked, free) + hold
        fast = int(speed * division._LEASE_SECONDS)
        size = fast if worker.computed else division._FIRST
        fair = -(-left // (division._SHARES * workers))
        size = min(left, max(division._LEAST, min(size, fair)))
        holders += not worker.held
        held += worker.fresh + size - worker.held
        worker.held, worker.seen = worker.fresh + size, parts
        worker.fresh, worker.computed = worker.held, worker.computed + size
        left, takes, busy = left - size, takes + 1, busy + hold
        done += min(size, max(0.0, (HOUR - free) * speed))
        end = max(end, free + size / speed)
        heapq.heappush(asking, (free + size / speed, number))
    lasted = min(HOUR, end)
    mean = sum(each.computed for each in everyone) / takes
    return {
        f"computing at {speed:,}/s, %": 100 * done / (workers * speed * lasted),
        f"lock held at {speed:,}/s, %": 100 * min(1.0, busy / lasted),
        f"images of a lease at {speed:,}/s": mean,
    }


def tables(found: dict[str, Any]) -> Tables:
    groups = list(found)
    constants = [
        (f"{group}: {name}", value)
        for group in groups[: groups.index("each")]
        for name, value in found[group].items()
    ]
    together = {name.split()[0]: own for name, own in found.items() if "together" in name}
    return {
        "scale constants": [("what", "constant"), *constants],
        "scale": columns({name: own for name, own in found.items() if "MiB" in name}),
        "scale limits": columns(found["limits"]),
        "scale leases": [
            ("workers", *next(iter(together.values()))),
            *((workers, *own.values()) for workers, own in together.items()),
        ],
    }


def columns(found: Mapping[str, Mapping[str, Any]]) -> list[Sequence[object]]:
    """Return a table of columns, each a mapping with the names of the rows of the first one."""
    names = next(iter(found.values()))
    return [("", *found), *((name, *(own[name] for own in found.values())) for name in names)]


if __name__ == "__main__":
    run(
        measure,
        tables,
        listed=((5_000, 50_000), (50, 500)),
        parts=(5_000, 70),
        rows=(10_000_000, 7_000),
        others=((10, 100, 1_000), (2, 4)),
        held=(3_000, 300),
        together=((10, 30, 100, 300, 1_000), (2, 30)),
        images=(10**9, 10**9),
        workers=(1_000, 1_000),
        rounds=(5, 1),
        folder=(None, None),
    )
