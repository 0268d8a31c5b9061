"""Extractions side by side in one cache: each image once, whoever is killed, whatever they plan.

About 12 s in the first tier.
"""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
from conftest import crops

from bottleneck import Cache, FrozenBase, ImageSet, extract_features, locks
from bottleneck.cache import Bank, Leases, verify_cache, writer
from bottleneck.cache.leases import lease_name
from bottleneck.errors import CacheError
from bottleneck.extract import division
from bottleneck.extract.outcomes import Part
from bottleneck.extract.plan import plan_extraction
from bottleneck.extract.store import targets_of_all
from bottleneck.locks import Holder
from bottleneck.records import Extraction
from bottleneck.settings import StoreSettings

LAYERS = ("first", "second")
LONGEST = 2.0
"""Seconds after which an extraction is killed at the latest."""


def work(results, gate: str, count: int, cache: str, job: dict) -> None:
    """Extract a slice of the images slowly; in a process of its own."""
    import torch  # noqa: PLC0415 - of that process

    torch.set_num_threads(1)
    writer.PART_BYTES = job.pop("part_bytes", 2**22)
    forward, pause = FrozenBase.__call__, job.pop("pause", 0.01)
    model, layers = job.pop("model"), job.pop("layers", ["second"])

    def slowly(self, batch):
        time.sleep(pause)
        return forward(self, batch)

    FrozenBase.__call__ = slowly
    images = ImageSet.from_folder("data", name=job.pop("name", "data"))
    chosen = ImageSet(images.name, images.items[job.pop("some", slice(None))])
    base = FrozenBase(model, layers, weights="random")
    done = [0]
    Path(gate, str(os.getpid())).touch()
    while len(list(Path(gate).iterdir())) < count:
        time.sleep(0.001)
    progress = lambda _, number, __, **___: done.append(number)  # noqa: E731
    record = extract_features(chosen, base, cache, batch_size=4, progress=progress, **job)
    results.put((record.computed, record.cached, record.views_computed, done[-1]))


@pytest.fixture
def photographs() -> int:
    """Small different photographs in two class folders, in ``data``; their number."""
    for number, image in enumerate(crops(160, size=40)):
        path = Path("data", "ab"[number % 2], f"{number:03d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return 160


@pytest.fixture
def together(processes, little) -> Callable:
    """Start extractions at the same time; returns the processes and the queue of their results."""

    def begin(*jobs: dict, cache: str = "cache"):
        results, gate, workers = processes.SimpleQueue(), Path(f"{cache}-gate"), []
        gate.mkdir()
        for job in jobs:
            arguments = (results, str(gate), len(jobs), cache, {"model": little, **job})
            workers.append(processes.Process(target=work, args=arguments))
            workers[-1].start()
        return workers, results

    return begin


def finished(workers, results) -> list[tuple[int, int, int, int]]:
    """What each process reports at its end; few enough bytes for the pipe to hold."""
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    return [results.get() for _ in workers]


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def rows(root: str, *, doubles: int = 0) -> dict[tuple[str, str], dict[tuple[str, int], bytes]]:
    """All features of a cache; checks that none is stored twice, and that nothing else is there."""
    found, stored = {}, 0
    for bank in Cache(root).banks():
        stored += sum(part.rows * len(part.layers) for part in bank.parts())
        for layer in bank.info.layers:
            keys = sorted(bank.known(layer))
            views = np.array([view for _, view in keys])
            values = bank.read(layer, [digest for digest, _ in keys], view=views)
            found[bank.name, layer] = {
                key: each.tobytes() for key, each in zip(keys, values, strict=True)
            }
    assert stored - sum(map(len, found.values())) <= doubles
    verified = verify_cache(Cache(root))
    assert not verified.damage
    assert not verified.strangers
    return found


def alone(images: int, layers: list[str] | None = None, **options) -> dict:
    """The features that one process stores."""
    base = FrozenBase("little", layers or ["second"], weights="random")
    chosen = ImageSet.from_folder("data")
    extract_features(chosen, base, "alone", batch_size=4, **options)
    found = rows("alone")
    assert all(len({digest for digest, _ in own}) <= images for own in found.values())
    return found


def test_two_extractions_divide_the_images(photographs, together):
    """Each computes some, none is computed twice, and both end with everything."""
    found = finished(*together({}, {}))
    assert sum(computed for computed, *_ in found) == photographs
    for computed, cached, _, done in found:
        assert computed > photographs // 5
        assert computed + cached == done == photographs
    assert rows("cache") == alone(photographs)
    assert len(Cache("cache").runs()) == 2
    assert not Path("cache/leases").exists()
    assert len(list(Path("cache").glob("*/parts/*.h5"))) <= 4


@pytest.mark.usefixtures("little")
def test_one_extraction_makes_the_parts_that_it_made(photographs):
    """In the order of the image set, as many as fit; leases are gone at the end."""
    alone(photographs)
    (bank,) = Cache("alone").banks()
    (part,) = bank.parts()
    items = ImageSet.from_folder("data").items
    assert [bytes(each).hex() for each in part.digests] == [item.digest for item in items]
    assert sorted(path.name for path in Path("alone").iterdir()) == [bank.name, "runs", "sets"]


@pytest.mark.ci
def test_four_extractions_with_other_images_and_layers(photographs, together):
    """Overlapping image sets, and layers of the same base: every row once, bit by bit."""
    jobs = [
        {"some": slice(0, 120), "name": "one", "layers": ["first", "second"]},
        {"some": slice(40, 160), "name": "two", "layers": ["second"]},
        {"layers": ["first"]},
        {"layers": ["second", "first"], "some": slice(100, 160), "name": "four"},
    ]
    found = finished(*together(*jobs))
    assert [sum(each[:2]) for each in found].count(photographs) == 1
    expected = alone(photographs, ["first", "second"])
    assert rows("cache") == expected


@pytest.mark.ci
def test_views_are_divided(photographs, together):
    options = {"views": 3, "augment": "crop"}
    found = finished(*together({**options}, {**options}))
    expected = alone(photographs, **options)
    assert rows("cache") == expected
    train = sum(item.split == "train" for item in ImageSet.from_folder("data").items)
    assert sum(views for *_, views, _ in found) == 3 * train


def test_what_a_killed_extraction_leaves_is_computed_by_the_other(photographs, together):
    """SIGKILL while it holds a lease; the other one goes on at once, and leaves no lease."""
    workers, results = together(*({"part_bytes": 2**11, "pause": 0.1} for _ in range(2)))
    until(lambda: len(list(Path("cache").glob("leases/*.lease"))) == 2)
    workers[0].kill()
    workers[0].join()
    assert workers[0].exitcode == -signal.SIGKILL
    ((computed, cached, *_),) = finished(workers[1:], results)
    assert computed + cached == photographs
    assert rows("cache") == alone(photographs)
    assert not Path("cache/leases").exists()


@pytest.fixture
def killed(together) -> Callable[..., str]:
    """Kill the first of several extractions at a random moment of its work; returns the cache.

    The others have ended then.
    """
    generator, numbers, longest = random.Random(0), count(), LONGEST

    def begin(*jobs: dict) -> str:
        nonlocal longest
        while True:
            cache = f"cache{next(numbers)}"
            workers, results = together(*jobs, cache=cache)
            gate = Path(f"{cache}-gate")
            until(lambda gate=gate: len(list(gate.iterdir())) == len(jobs))
            moment = generator.uniform(0, longest)
            time.sleep(moment)
            workers[0].kill()
            workers[0].join()
            hit = workers[0].exitcode == -signal.SIGKILL
            finished(workers[hit:], results)
            if hit and results.empty():  # nor has it reported its end
                return cache
            longest = moment  # which was too late

    return begin


@pytest.mark.ci
def test_killed_at_random_moments(photographs, killed, full):
    """One of three processes at a time; every row is there once in the end, bit by bit."""
    expected = alone(photographs)
    for _ in range(10 if full else 2):
        cache = killed(*({"part_bytes": 2**13} for _ in range(3)))
        # What was computed and not yet in a part is lost; a part has all rows of its images.
        assert rows(cache) == expected
        assert not list(Path(cache).glob("leases/*.lease"))


@pytest.mark.ci
def test_a_shard_killed_at_random_moments_is_repeated(photographs, killed):
    """It and the other one complete the extraction; every row is there once, bit by bit."""
    expected, base = alone(photographs), FrozenBase("little", ["second"], weights="random")
    for _ in range(2):
        cache = killed({"part_bytes": 2**13, "shard": "1/2"})
        for shard in ("1/2", "2/2"):
            done = extract_features("data", base, cache, shard=shard)
        assert isinstance(done, Extraction)
        assert rows(cache) == expected
        assert not list(Path(cache).glob("leases/*.lease"))


def foreign(cache: str, bank: str, images: list[str], holder: Holder) -> Path:
    """A lease as a process of another computer writes it."""
    path = Path(cache, "leases", f"all.{0:016x}.lease")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"holder": asdict(holder), "banks": [bank]}
    content["images"] = "".join(map(lease_name, images))
    path.write_text(json.dumps(content))
    return path


ELSEWHERE = Holder("elsewhere", "another boot", 1, "5")


@pytest.fixture
def held(photographs, little) -> Callable[..., tuple[Bank, FrozenBase, ImageSet, Path]]:
    """The lease of another process on the first images."""

    def make(count: int, holder: Holder = ELSEWHERE):
        base, cache = FrozenBase(little, ["second"], weights="random"), Cache("cache")
        bank = cache.bank("little", base.fingerprint("second", "float16", None))
        images = ImageSet.from_folder("data")
        assert len(images.items) == photographs
        digests = [item.digest for item in images.items[:count]]
        return bank, base, images, foreign("cache", bank.name, digests, holder)

    return make


def test_the_lease_of_a_lost_computer_is_taken_over(held, monkeypatch):
    """Once it has not been renewed for long, by this computer's own clock."""
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)
    bank, base, images, lease = held(20)
    shown = []
    started = time.monotonic()
    done = extract_features(
        images, base, "cache", progress=lambda _, number, *__, **___: shown.append(number)
    )
    assert time.monotonic() - started > 1
    assert done.computed == shown[-1] == 160
    assert not lease.exists()
    assert len(rows("cache")[bank.name, "second"]) == 160


def test_a_lease_that_is_renewed_is_waited_for(held, monkeypatch):
    """Until its rows are there; they are counted as found."""
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)
    bank, base, images, lease = held(20)
    expected = alone(160)[bank.name, "second"]
    digests = [item.digest for item in images.items[:20]]
    stored = Cache("alone").banks()[0].read("second", digests)
    last = [0]

    def other() -> None:
        for _ in range(30):
            os.utime(lease)
            time.sleep(0.1)
        with bank.writer("float16") as made:
            made.append(digests, {"second": stored})
        lease.unlink()

    thread = threading.Thread(target=other)
    thread.start()
    done = extract_features(
        images, base, "cache", progress=lambda _, number, *__, **___: last.append(number)
    )
    thread.join()
    assert (done.computed, done.cached) == (140, 20)
    assert last[-1] == 160
    assert rows("cache")[bank.name, "second"] == expected


def test_the_lease_of_an_ended_process_counts_for_nothing(held, processes):
    ended = processes.Process(target=int)
    ended.start()
    number = ended.pid
    ended.join()
    own = Holder.current()
    _, base, images, lease = held(160, Holder(own.host, own.place, number, "5"))
    started = time.monotonic()
    assert extract_features(images, base, "cache").computed == 160
    assert time.monotonic() - started < 30
    assert not lease.exists()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"holder": 1, "banks": 2, "images": 3}'])
def test_a_damaged_lease_holds_nothing(held, content):
    _, base, images, lease = held(160)
    lease.write_text(content)
    assert extract_features(images, base, "cache").computed == 160
    assert lease.read_text() == content  # whose it is is not known


def test_a_lease_for_other_banks_is_none_for_these(held):
    bank, base, images, _ = held(160)
    foreign("cache", f"other-{bank.name[-12:]}", [item.digest for item in images.items], ELSEWHERE)
    assert extract_features(images, base, "cache").computed == 160


def test_leases_are_written_behind_no_link(held, tmp_path):
    _, base, images, lease = held(1)
    lease.unlink()
    lease.parent.rmdir()
    (tmp_path / "elsewhere").mkdir()
    lease.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheError, match=r"'cache/leases' is a link, .*; remove the link"):
        extract_features(images, base, "cache")
    assert not list((tmp_path / "elsewhere").iterdir())
    assert verify_cache(Cache("cache")).strangers == []


def test_a_lease_is_renewed_and_ends_with_the_block(monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    digests = [f"{number:064x}" for number in range(3)]
    with Leases(Path("cache")) as one, Leases(Path("cache")) as other:
        assert one.take({"bank"}, lambda others: digests if others == [] else []) == digests
        (path,) = Path("cache/leases").glob("*.lease")
        before = path.stat().st_mtime_ns
        while path.stat().st_mtime_ns == before:
            time.sleep(0.01)
        assert other.others({"bank", "more"}) == [{lease_name(each) for each in digests}]
        assert other.others({"another"}) == []
        one.take({"bank"}, lambda _: digests[:1])
        assert other.others({"bank"}) == [{lease_name(digests[0])}]
        one.take({"bank"}, lambda _: [])
        assert other.others({"bank"}) == []
    assert not Path("cache/leases").exists()


def test_waiting_for_the_lock_makes_no_lease_smaller(little, photographs, monkeypatch):
    """As who waits would ask more often, for others to wait longer."""
    monkeypatch.setattr(division, "_LEASE_SECONDS", 0.25)
    images, base, waited = ImageSet.from_folder("data"), FrozenBase(little, weights="random"), 2.0
    (targets,) = targets_of_all(base, Cache("cache"), StoreSettings())
    (plan,) = plan_extraction(images, targets)
    parts = [Part(plan.tasks[0], targets[0])]
    with Leases(Path("cache")) as leases, Leases(Path("cache")) as other:
        divided = division.Division(leases, parts, plan.items, lambda: None)
        assert divided.ready()
        divided.computed = first = len(divided._next)
        time.sleep(0.5)
        entered = threading.Event()

        def stay(_: object) -> list[str]:
            entered.set()
            time.sleep(waited)
            return []

        busy = threading.Thread(target=other.take, args=({"bank"}, stay))
        busy.start()
        entered.wait()
        started = time.monotonic()
        list(islice(divided.claimed(), first + 1))
        assert time.monotonic() - started > waited / 2
        busy.join()
        assert photographs // 4 > len(divided._next) > division._LEAST


def test_a_file_of_ones_own_among_the_leases_stays(held):
    _, base, images, lease = held(1)
    mine = lease.with_name("notes.txt")
    mine.write_text("mine")
    lease.unlink()
    extract_features(images, base, "cache")
    assert [path.name for path in lease.parent.iterdir()] == ["notes.txt"]
    assert verify_cache(Cache("cache")).strangers == ["cache/leases/notes.txt"]
    assert mine.read_text() == "mine"


def test_verify_removes_the_leases_of_ended_processes(processes):
    ended = processes.Process(target=int)
    ended.start()
    number = ended.pid
    ended.join()
    own = Holder.current()
    living = foreign("cache", "bank-0123456789ab", ["ab" * 32], ELSEWHERE)
    living = living.rename(living.with_name(f"2-of-3.{1:016x}.lease"))
    lease = foreign("cache", "m-0123456789ab", [], Holder(own.host, own.place, number, "5"))
    assert verify_cache(Cache("cache")).strangers == []
    assert not lease.exists()
    assert living.exists()
