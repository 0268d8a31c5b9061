"""Locks: one holder at a time, taken over from the dead, on file systems without locks.

About 4 s in the first tier.
"""

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bottleneck import Cache, locks
from bottleneck.cache import compact_bank
from bottleneck.locks import Holder, LockHeldError, locked

HOLD = """
import sys, time
from pathlib import Path
from bottleneck.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
COUNT = """
import sys
from pathlib import Path
from bottleneck.locks import locked
lock, counter, own = map(Path, sys.argv[1:])
done = 0
while True:
    with locked(lock):
        number = int(counter.read_text()) + 1
        next_ = counter.with_name("next")
        next_.write_text(str(number))
        next_.rename(counter)
    done += 1
    with own.open("a") as counted:
        counted.write(".")
    print(done, flush=True)
"""
ELSEWHERE = Holder("elsewhere", "another boot", 1, "5")


def start(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.fixture
def lock(tmp_path, monkeypatch) -> Path:
    """A lock whose holder is given up after a short time."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.3)
    return tmp_path / ".x.held"


def test_one_holder_at_a_time(lock):
    with locked(lock) as held:
        assert held()
        assert json.loads(lock.read_text())["process"] == os.getpid()
        with (
            pytest.raises(LockHeldError, match=f"process {os.getpid()} on"),
            locked(lock, wait=False),
        ):
            pass
    assert not lock.exists()
    with locked(lock, wait=False):
        pass
    assert not list(lock.parent.iterdir())


def test_a_thread_waits_for_another(lock):
    order = []

    def other() -> None:
        with locked(lock):
            order.append("other")

    thread = threading.Thread(target=other)
    with locked(lock):
        thread.start()
        time.sleep(0.6)  # longer than a lock that is not renewed
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


@pytest.mark.parametrize("waited_for", [True, False])
def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path, waited_for):
    """Also before anybody has waited for the process; and one that is stopped keeps its lock."""
    path = tmp_path / ".x.held"
    process = start(HOLD, path)
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(LockHeldError, match=f"process {process.pid} on"), locked(path, wait=False):
        pass
    process.send_signal(signal.SIGKILL)
    if waited_for:
        process.wait()
    started = time.monotonic()
    while time.monotonic() - started < 5:  # the signal takes its time
        try:
            with locked(path, wait=False):
                break
        except LockHeldError:
            time.sleep(0.01)
    else:
        pytest.fail("it was not taken over")
    kill(process)


def test_killed_holders_lose_no_turn(tmp_path, full):
    """Processes count together under a lock, and are killed at any moment."""
    path, counter = tmp_path / ".x.held", tmp_path / "counter"
    counter.write_text("0")
    least = 0
    for number in range(20 if full else 3):
        workers = [start(COUNT, path, counter, tmp_path / f"own{number}-{k}") for k in range(3)]
        for worker in workers:
            for _ in range(3):
                worker.stdout.readline()
            kill(worker)
        least += sum((tmp_path / f"own{number}-{k}").stat().st_size for k in range(3))
    with locked(path):
        assert least <= int(counter.read_text()) <= least + 2 * 3 * (number + 1)


def write(path: Path, holder: Holder | None, *, age: float = 0.0) -> None:
    path.write_text(json.dumps(asdict(holder)) if holder else "")
    now = time.time() - age
    os.utime(path, (now, now))


@pytest.mark.parametrize("holder", [ELSEWHERE, None])
def test_a_lock_of_another_computer_is_taken_over_when_it_is_stale(lock, holder):
    write(lock, holder)
    expected = "process 1 on elsewhere" if holder else "another process"
    with pytest.raises(LockHeldError, match=expected), locked(lock, wait=False):
        pass
    write(lock, holder, age=10)
    with locked(lock, wait=False) as held:
        assert held()


def test_a_clock_that_jumps_takes_no_lock_away(lock):
    """The lock looks old, but is still renewed."""
    write(lock, ELSEWHERE, age=10**6)
    stop = threading.Event()

    def beat() -> None:
        place = 0.0
        while not stop.wait(0.02):
            place += 1
            os.utime(lock, (place, place))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(LockHeldError, match="elsewhere"), locked(lock, wait=False):
            pass
    finally:
        stop.set()
        thread.join()


def test_a_number_that_is_used_again_is_not_the_same_process():
    own = Holder.current()
    assert not own.is_dead
    assert replace(own, started="1").is_dead
    assert not replace(own, host="elsewhere", started="1").is_dead
    assert not replace(own, place="another boot", started="1").is_dead


def test_a_holder_learns_that_its_lock_was_taken(lock, monkeypatch):
    """It stood still for long on another computer; it does not remove the next one's lock."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.2)
    with locked(lock) as held:
        write(lock, ELSEWHERE, age=10)  # as another computer sees it
        lock.unlink()
        write(lock, ELSEWHERE)
        assert not held()
    assert json.loads(lock.read_text())["host"] == "elsewhere"


def test_a_full_disk_leaves_no_file_behind(lock):
    """The file can be made, but nothing written to it."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, usual[1]))
    try:
        with pytest.raises(OSError, match="File too large"), locked(lock):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not list(lock.parent.iterdir())


def test_a_file_system_without_hard_links(lock, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    test_one_holder_at_a_time(lock)


def test_a_file_system_without_locks(monkeypatch, bottleneck, little, make_images):
    """Nothing needs the system's locks, but the log of experiments."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for name in ("flock", "lockf", "fcntl"):
        monkeypatch.setattr(fcntl, name, refuse)
    make_images(cat=8, dog=8)
    assert bottleneck("extract", "--model", little, "--weights", "random").code == 0
    for _ in range(2):
        assert bottleneck("fit-head", "--C", "1", "--name", "one").code == 0
    assert bottleneck("evaluate").code == 0
    assert bottleneck("cache", "compact").code == 0
    compact_bank(Cache("cache").banks()[0])
    assert bottleneck("cache", "verify").code == 0
    assert bottleneck("cache", "prune", "--older-than", "0h").code == 0
    assert [path.name for path in Path("heads").iterdir()] == ["one"]
