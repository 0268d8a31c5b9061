"""Extraction on Ray: real clusters on loopback, whose nodes and workers are killed.

27 s in the first tier, measured on two cores that had other work, too: 20 s for its one cluster.
"""

import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest
from conftest import crops
from test_shards import rows

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.cache import Leases, verify_cache
from bottleneck.errors import CacheError, ClusterError, UsageError
from bottleneck.extract import clusters, on_ray, pools, workers
from bottleneck.extract.outcomes import Part
from bottleneck.extract.plan import plan_extraction
from bottleneck.extract.pools import Pool, pool_of
from bottleneck.extract.slices import (
    add_outcomes,
    check_unread,
    error_of,
    readable,
    slice_content,
    sliced,
)
from bottleneck.extract.store import targets_of_all
from bottleneck.extract.workers import Job, Worker
from bottleneck.images import ImageItem
from bottleneck.locks import Holder
from bottleneck.records import Extraction
from bottleneck.settings import StoreSettings

# Ray does not wait for the processes that it ends.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
RANDOM = ("--weights", "random")
IMAGES = 150


@pytest.fixture
def folder() -> Path:
    """Small different photographs in two class folders, and a damaged one; in ``data``."""
    for number, image in enumerate(crops(IMAGES, size=40)):
        path = Path("data", "ab"[number % 2], f"{number:03d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    bad = Path("data/a/000.png")
    bad.write_bytes(bad.read_bytes()[:200])
    return Path("data")


def of_ray() -> list[psutil.Process]:
    """Processes that this test has started, whoever is their parent now: by their folder."""
    here = str(Path.cwd())
    return [
        each
        for each in psutil.process_iter(["cwd", "cmdline"])
        if each.info["cwd"] == here and each.pid != os.getpid()
    ]


@pytest.fixture(scope="module", autouse=True)
def processes_are_forgotten():
    """Those that Ray has not waited for, here rather than in a test of another file."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def nothing_of_ray_is_left(monkeypatch):
    """No process of Ray stays, and no file in the folder for temporary ones."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    temporary = Path(tempfile.gettempdir())
    before = set(temporary.iterdir())
    yield
    deadline = time.monotonic() + 30
    while of_ray() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not of_ray()
    left = [each for each in set(temporary.iterdir()) - before if each.name.startswith("ray")]
    assert not [path for each in left for path in (each, *each.rglob("*"))]


@pytest.fixture
def little(little, site, monkeypatch) -> str:
    """The base, whose package the processes of Ray have, too."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *sys.path]))
    return little


def test_a_cluster_of_its_own_computes_what_one_process_does(
    folder, little, bottleneck, monkeypatch
):
    """The same rows, image set and bad image; on loopback only, with nothing printed by Ray.

    With one worker: each is a process that has to load everything.
    """
    seen = []
    shutdown = clusters.import_ray().shutdown

    def watched():
        for each in of_ray():
            listening = [c for c in each.net_connections("inet") if c.status == "LISTEN"]
            seen.extend(c.laddr.ip for c in listening)
        shutdown()

    monkeypatch.setattr("ray.shutdown", watched)
    found = bottleneck(
        *("extract", "--data", folder, "--model", little, *RANDOM),
        *("--engine", "ray", "--workers", "1"),
    )
    assert found.code == 1, found.err  # as an image could not be used
    assert f"{IMAGES - 1} computed, 0 found in the cache" in found.out
    assert "000.png" in found.err
    assert "ray" not in found.err.lower()
    assert f"extract: {IMAGES} of {IMAGES} images" in found.err
    assert {each.removeprefix("::ffff:") for each in seen} == {"127.0.0.1"}
    base = FrozenBase(little, weights="random")
    extract_features(ImageSet.open(folder), base, "alone")
    assert rows("cache") == rows("alone")
    assert Path("cache/sets/data.csv").read_bytes() == Path("alone/sets/data.csv").read_bytes()
    assert not verify_cache(Cache("cache")).strangers
    assert not Path("cache/leases").exists()


NODES = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0}, {"CPU": 6.0, "GPU": 2.0, "memory": 1e9}, {}]


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "expected"),
    [
        (NODES, None, True, Pool(6, 3, 1)),
        (NODES, 2, True, Pool(2, 3, 1)),
        (NODES, None, False, Pool(3, 8, 0)),
        (NODES, 30, False, Pool(30, 1, 0)),
        (NODES, 4, False, Pool(4, 6, 0)),
        ([{"CPU": 2.0}], None, True, Pool(1, 2, 0)),
        ([{"CPU": 0.0, "GPU": 4.0}, {"CPU": 2.0, "GPU": 4.0}], None, True, Pool(2, 1, 1)),
        ([{"CPU": 0.0}, {"CPU": 1.0}, {"CPU": 1.0}], None, True, Pool(2, 1, 0)),
    ],
)
def test_workers_share_what_the_nodes_have(nodes, workers, gpus, expected):
    assert pool_of(nodes, workers, gpus=gpus) == expected


def test_more_workers_than_there_is_room_for_are_refused():
    with pytest.raises(UsageError, match=r"`workers` is 7, but the Ray cluster has 6 GPUs; give"):
        pool_of(NODES, 7, gpus=True)
    with pytest.raises(UsageError, match=r"`workers` is 31, but the Ray cluster has 30 cores; g"):
        pool_of(NODES, 31, gpus=False)
    with pytest.raises(ClusterError, match="has no cores for workers; add nodes"):
        pool_of([{"CPU": 0.0}], None, gpus=False)


@pytest.mark.parametrize(("count", "workers"), [(0, 3), (1, 1), (1000, 2), (100_000, 8)])
def test_slices_become_smaller_and_have_every_image_once(count, workers):
    items = [ImageItem(str(number)) for number in range(count)]
    found = sliced(items, workers)
    assert [item for each in found for item in each] == items
    sizes = [len(each) for each in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(size <= max(64, count // workers) for size in sizes)


def test_options_of_ray_need_the_engine_and_an_address(folder, little, bottleneck, monkeypatch):
    base = FrozenBase(little, weights="random")
    command = ("extract", "--data", folder, "--model", little, *RANDOM)
    for name, value in (("workers", 2), ("ray_address", "127.0.0.1:6379")):
        with pytest.raises(UsageError, match=f"`{name}` has no effect without `engine=ray`; give"):
            extract_features(folder, base, "cache", **{name: value})
        option = f"--{name.replace('_', '-')}"
        found = bottleneck(*command, option, value)
        assert found.code == 2
        assert f"{option} has no effect without --engine ray; give --engine ray" in found.err
    with pytest.raises(UsageError, match="`ray_address` must be HOST:PORT, such as 10.0.0.1:6379"):
        StoreSettings(engine="ray", ray_address="ray://10.0.0.1:10001")
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.1:10001")
    found = bottleneck(*command, "--engine", "ray")
    assert found.code == 2
    assert "RAY_ADDRESS must be HOST:PORT, such as 10.0.0.1:6379, or auto, got 'ray://" in found.err
    assert "; correct the variable, or unset it" in found.err


def test_images_of_this_process_are_refused(little):
    images = ImageSet.open([(image, "ab"[n % 2]) for n, image in enumerate(crops(20))])
    base = FrozenBase(little, weights="random")
    with pytest.raises(UsageError, match="are objects of this process, which workers of `engine="):
        extract_features(images, base, "cache", engine="ray")


def test_without_ray_the_extra_is_named(folder, little, bottleneck, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    command = ("extract", "--data", folder, "--model", little, *RANDOM, "--engine", "ray")
    found = bottleneck(*command)
    assert found.code == 1
    assert "--engine ray needs ray, which is not installed; run 'pip install ray'" in found.err
    assert "pip install -e '.[ray]'" in found.err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "--engine ray needs ray[data], which is not installed" in bottleneck(*command).err
    assert not Path("cache").exists()


def test_an_address_that_does_not_answer(folder, little, monkeypatch):
    """Where nothing listens, where no request is answered in time, and where it is none of Ray."""
    base = FrozenBase(little, weights="random")
    monkeypatch.setattr(clusters, "_SECONDS", 0.5)

    def refused(address: str, reason: str) -> None:
        match = rf"no Ray cluster answers at `ray_address` '{address}' \({reason}.*'ray start --h"
        with pytest.raises(ClusterError, match=match):
            extract_features(folder, base, "cache", engine="ray", ray_address=address)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        clusters.import_ray()  # which may take seconds
        refused(f"127.0.0.1:{port}", "timed out")
        answers = [b"\0\0\0\4\0\0\0\0\0", b"HTTP/1.1 400 Bad Request\r\n\r\n"]
        thread = threading.Thread(target=_answer, args=(silent, answers))
        thread.start()
        refused(f"127.0.0.1:{port}", "timed out")
        refused(f"127.0.0.1:{port}", "it is no server of Ray")
        thread.join()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(ClusterError, match=r"at RAY_ADDRESS '127\..* or leave RAY_ADDRESS out"):
        extract_features(folder, base, "cache", engine="ray")
    assert not Path("cache").exists()


def _answer(server: socket.socket, answers: list[bytes]) -> None:
    """Say one thing to each who connects, and nothing more until that one leaves."""
    server.accept()[0].close()  # the connection of the attempt before
    for answer in answers:
        connection, _ = server.accept()
        with connection:
            connection.sendall(answer)
            while connection.recv(2**12):
                pass


@pytest.fixture
def job(folder, little) -> Iterator[tuple[Job, dict, list[Part]]]:
    """A job as a worker gets it, with a lease in the cache, and the content of its only slice."""
    images, cache = ImageSet.open(folder), Cache("cache")
    base = FrozenBase(little, weights="random")
    (targets,) = targets_of_all(base, cache, StoreSettings())
    (plan,) = plan_extraction(images, targets)
    parts = [Part(plan.tasks[0], targets[0])]
    banks = {bank.name for bank in targets[0].banks.values()}
    with Leases(cache.root) as leases:
        leases.take(banks, lambda _: [item.digest for item in plan.items])
        made = Job.of(parts, cache, device="cpu", threads=1)
        yield made, slice_content(0, plan.items, parts), parts


def test_a_worker_tells_what_keeps_it_from_computing(job, monkeypatch):
    """In one sentence: another cache, another version, other weights."""
    monkeypatch.setattr(workers, "_SEEN_SECONDS", 0.1)
    given, content, _ = job
    elsewhere = Path("elsewhere").absolute()
    elsewhere.mkdir()
    cases = [
        ({"cache": "/nowhere"}, "does not see the cache '/nowhere'; give a folder that"),
        ({"cache": str(elsewhere)}, "it does not see the cache"),
        ({"holder": Holder("a", "b", 1, "2")}, "it does not see the cache"),
        ({"version": "1.0"}, "of this package, expected 1.0; install the same version"),
        ({"banks": (("little-0123456789ab",),)}, "expected little-0123456789ab; install"),
    ]
    for changed, expected in cases:
        (answer,) = Worker(replace(given, **changed)).answers(content)
        error = error_of(json.loads(json.dumps(answer)))
        assert isinstance(error, ClusterError)
        subject = "little" if "banks" in changed else "it"
        begun = f"the worker on {socket.gethostname()!r} cannot compute: {subject} "
        assert str(error).startswith(begun)
        assert expected in str(error)
    assert not list(Path("cache").glob("*/parts"))
    *_, last = Worker(given).answers(content)
    assert last["outcomes"][0]["rows"] == IMAGES - 1
    assert len(last["outcomes"][0]["bad"]) == 1


def test_images_that_only_the_worker_cannot_read_are_not_bad(job, monkeypatch):
    """It has another folder, or does not get what a URL leads to."""
    given, content, parts = job
    here, place = Path.cwd(), Path("another").absolute()
    place.mkdir()
    urls = [(f"memory://{path}", digest) for path, digest in content["items"]]
    cases = [
        (
            replace(given, folder=str(place)),
            content["items"],
            r"'data/a/000.png' \(No such file or",
        ),
        (given, urls, r"can be read here; give all nodes the credentials and the packages that"),
    ]
    memory = fsspec.filesystem("memory")
    for own, sent, expected in cases:
        unread, *_, last = Worker(own).answers(content | {"items": sent})
        monkeypatch.chdir(here)
        for path, _ in content["items"]:
            memory.pipe(f"/{path}", Path(path).read_bytes())
        items = [ImageItem(*each) for each in sent]
        with pytest.raises(ClusterError, match=f"the worker on .* cannot read .*{expected}"):
            check_unread(items, unread)
        add_outcomes(parts, last, readable(items))
        assert not parts[0].outcome.bad
        memory.rm("/data", recursive=True)


def test_images_that_were_deleted_meanwhile_are_bad(job):
    """In the words of an extraction without workers, also if it is all that a worker looks at."""
    given, content, parts = job
    content["items"] = content["items"][:8]
    items = [ImageItem(*each) for each in content["items"]]
    for item in items[:6:2]:
        Path(item.path).unlink()
    answers = list(Worker(given).answers(content))
    assert ["unread" in each for each in answers] == [False]
    Path(items[6].path).unlink()
    unread, *_, last = Worker(given).answers(content)
    check_unread(items, unread)
    add_outcomes(parts, last, readable(items))
    gone = {item.digest: "No such file or directory" for item in items[::2]}
    assert {digest: parts[0].outcome.bad.get(digest) for digest in gone} == gone
    assert last["outcomes"][0]["rows"] == 4


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """A cluster on loopback: a node without cores for this process, and others with one each."""
    quiet = clusters._QUIET | clusters._HERE
    clusters.import_ray()
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - takes long, and is for few tests

    with clusters._folder() as place, clusters._on_loopback(), ExitStack() as stack:
        stack.enter_context(clusters._environment(quiet | {"RAY_TMPDIR": place}))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            for _ in range(nodes):
                made.add_node(num_cpus=1)
            yield made
        finally:
            made.shutdown()


@pytest.fixture
def lite() -> FrozenBase:
    return FrozenBase("efficientnet_lite0")


@pytest.mark.ci
def test_two_nodes_compute_each_image_once(folder, lite):
    """With all views, bit by bit as one process does; and nothing once all is there.

    Images that were deleted meanwhile are left out as there; and where other programs use all
    cores, that is told.
    """
    options = {"views": 1, "augment": "flip", "batch_size": 4}
    folder = ImageSet.open(folder)
    for item in folder.items[1:6]:
        Path(item.path).unlink()
    whole = extract_features(folder, lite, "alone", **options)
    with cluster(2) as made:
        _refused_while_busy(made, folder, lite)
        remote = {"engine": "ray", "ray_address": made.address}
        shown = []
        progress = lambda _, done, __, **___: shown.append(done)  # noqa: E731
        found = extract_features(folder, lite, "cache", progress=progress, **options, **remote)
        again = extract_features(folder, lite, "cache", **options, **remote)
    assert (found.computed, found.views_computed) == (whole.computed, whole.views_computed)
    assert found.rejected == whole.rejected
    assert len(found.rejected) == 6
    assert again.computed == 0
    assert rows("cache") == rows("alone")
    assert shown.count(0) == 2  # once for each stage
    assert IMAGES in shown
    folders = {path.parent for path in Path("cache").rglob("*.h5") if path.parent.name == "parts"}
    assert len(folders) == 2


def _refused_while_busy(made: Any, images: ImageSet, base: FrozenBase) -> None:
    """Another program uses both cores."""
    ray = clusters.import_ray()

    class Busy:
        def ping(self) -> None:
            """Return once it has found room."""

    with clusters.connected(made.address, None), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "_ROOM_SECONDS", 1.0)
        busy = ray.remote(num_cpus=1)(Busy)
        others = [busy.remote() for _ in range(2)]
        ray.get([each.ping.remote() for each in others])
        match = r"no worker on Ray found room within 1 s: each needs 1 core of one node, and other"
        with pytest.raises(ClusterError, match=match):
            extract_features(images, base, "refused", engine="ray")


@pytest.mark.ci
def test_workers_that_die_while_they_load_the_base(folder, little, monkeypatch):
    """Each is started again, but not for ever."""
    base = FrozenBase(little, weights="random")
    Path("deadly").mkdir()
    Path("deadly/little.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    path = os.pathsep.join([str(Path("deadly").absolute()), os.environ["PYTHONPATH"]])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(on_ray, "_ATTEMPTS", 1)
    with pytest.raises(ClusterError, match="lost 1 times in a row before they had stored anything"):
        extract_features(folder, base, "cache", engine="ray", workers=1)


@pytest.mark.ci
@pytest.mark.timeout(1800)
def test_killed_nodes_and_workers(folder, lite, full):
    """One of them at a random moment of the work: the others compute every row once, bit by bit.

    The moments are after the start of a worker, which loads the base, or after the first part. If
    the work had ended by then, another one is drawn.
    """
    extract_features(folder, lite, "alone", batch_size=4)
    expected, generator, longest = rows("alone"), random.Random(0), [6.0, 1.0]
    with cluster(2) as made:
        for number in range(10 if full else 2):
            hit, stored = False, number // 2 % 2
            while not hit:
                cache = tempfile.mkdtemp(prefix="cache", dir=".")
                work, shown, found = _begun(folder, lite, cache, made.address)
                while not (_stored(cache) if stored else _map_workers()) and work.is_alive():
                    time.sleep(0.05)
                moment = generator.uniform(0, longest[stored])
                work.join(moment)
                victims = _map_workers()
                hit = bool(victims) and IMAGES not in shown
                if not hit:
                    longest[stored] = moment
                elif number % 2:
                    node = generator.choice(sorted(made.worker_nodes, key=lambda one: one.node_id))
                    made.remove_node(node, allow_graceful=False)
                else:
                    generator.choice(victims).kill()
                work.join(300)
                if hit and number % 2:
                    made.add_node(num_cpus=1)
                assert found[0].computed == IMAGES - 1
                assert len(found[0].rejected) == 1
                assert rows(cache) == expected
                assert not Path(cache, "leases").exists()


def _begun(
    folder: Path, base: FrozenBase, cache: str, address: str
) -> tuple[threading.Thread, list[int], list[Extraction]]:
    """A thread that extracts on a cluster, the numbers of images done, and what it returns."""
    shown, found = [], []

    def work() -> None:
        progress = lambda _, done, __, **___: shown.append(done)  # noqa: E731
        options = {"engine": "ray", "ray_address": address, "batch_size": 4, "progress": progress}
        found.append(extract_features(folder, base, cache, **options))

    thread = threading.Thread(target=work)
    thread.start()
    return thread, shown, found


def _stored(cache: str) -> list[Path]:
    return list(Path(cache).glob("*/parts/*.h5"))


def _map_workers() -> list[psutil.Process]:
    """The processes of Ray's that compute."""
    return [each for each in of_ray() if "MapWorker" in " ".join(each.info["cmdline"] or ())]


@pytest.mark.ci
def test_the_only_node_is_lost(folder, lite, monkeypatch):
    """Ray waits for another one; that ends with a sentence, and the next run goes on."""
    monkeypatch.setattr(pools, "_ROOM_SECONDS", 20.0)  # a lost node is noticed late
    monkeypatch.setattr(pools, "_LOOK_SECONDS", 0.5)
    with cluster(1) as made:

        def lose(_: str, done: int, *__: object, **___: object) -> None:
            for node in list(made.worker_nodes) if done else ():
                made.remove_node(node, allow_graceful=False)

        with pytest.raises(ClusterError, match=r"were lost, and none has joined for 20 s; add nod"):
            extract_features(
                folder,
                lite,
                "cache",
                batch_size=4,
                progress=lose,
                engine="ray",
                ray_address=made.address,
            )
    extract_features(folder, lite, "cache")
    extract_features(folder, lite, "alone")
    assert rows("cache") == rows("alone")


@pytest.mark.ci
def test_an_interrupted_command_leaves_no_process_and_can_go_on(folder):
    """By a signal to it, and to all processes of the terminal."""
    command = [sys.executable, "-m", "bottleneck", "extract", "--data", folder, "--engine", "ray"]
    command += ["--model", "efficientnet_lite0", "--workers", "2"]
    for send in (os.kill, os.killpg):
        begun = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        parts = len(list(Path("cache").glob("*/parts/*.h5")))
        while len(list(Path("cache").glob("*/parts/*.h5"))) == parts and begun.poll() is None:
            time.sleep(0.05)
        send(begun.pid, signal.SIGINT)
        told = begun.communicate(timeout=120)[1]
        assert begun.returncode == 130
        assert "run the same command again to continue" in told
        assert "Traceback" not in told
    for cache in ("cache", "alone"):
        extract_features(folder, FrozenBase("efficientnet_lite0"), cache)
    assert rows("cache") == rows("alone")


@pytest.mark.ci
def test_a_full_disk_is_told_in_one_sentence(folder, lite):
    """A small tmpfs: what was committed stays."""
    Path("cache").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", "cache"], check=False
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with pytest.raises(CacheError, match=r"or written \(No space left on device"):
            extract_features(folder, lite, "cache", engine="ray", workers=2)
        assert rows("cache")
    finally:
        subprocess.run(["umount", "--lazy", "cache"], check=True)
