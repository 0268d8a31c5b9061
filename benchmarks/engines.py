"""Extractions that share the work against one process: ``benchmarks/engines.py``.

The same images are extracted by one process, by shards one after the other, and by processes that
are started together and divide the images by leases. For each: the rows that were computed, by the
number of different images; and the processor's time after start-up, by that of the one process. For
processes started together also the time until the last has ended, by that of one process with the
same number of threads in all; each has its share of the threads. For Ray, a cluster on loopback has
one worker on each node; its start-up, from the call to the first images that a worker has computed,
is told apart, and its time is that from there on, for as many images.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import Tables, run, write_photographs

CODE = """
import json, os, sys, time
import torch
from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.records import ExtractedShard
model, data, cache, threads, shard, gate, count = sys.argv[1:]
torch.set_num_threads(int(threads))
base = FrozenBase(model, weights="random")
images = ImageSet.open(data)
open(os.path.join(gate, str(os.getpid())), "w").close()
while len(os.listdir(gate)) < int(count):
    time.sleep(0.01)
started, used = time.monotonic(), time.process_time()
done = extract_features(images, base, Cache(cache), shard=shard or None)
figures = {"seconds": time.monotonic() - started, "processor": time.process_time() - used}
counts = {"computed": done.computed, "images": done.computed + done.cached}
print(json.dumps({**figures, **counts}))
"""

ON_RAY = """
import json, sys, time
from contextlib import ExitStack
from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.extract import clusters
model, data, cache, threads, nodes = sys.argv[1:]
base = FrozenBase(model, weights="random")
images = ImageSet.open(data)
clusters.import_ray()
from ray.cluster_utils import Cluster
told = []
progress = lambda _, done, total, **__: told.append((time.monotonic(), done, total))
with ExitStack() as stack:
    folder = {"RAY_TMPDIR": stack.enter_context(clusters._folder())}
    stack.enter_context(clusters._environment(clusters._QUIET | clusters._HERE | folder))
    stack.enter_context(clusters._on_loopback())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    stack.callback(cluster.shutdown)
    for _ in range(int(nodes)):
        cluster.add_node(num_cpus=int(threads))
    started = time.monotonic()
    done = extract_features(
        images, base, Cache(cache), engine="ray", ray_address=cluster.address, progress=progress
    )
first, before, total = next(each for each in told if each[1])
seconds = (told[-1][0] - first) * total / max(1, total - before)
figures = {"seconds": seconds, "start": first - started}
counts = {"computed": done.computed, "images": done.computed + done.cached}
print(json.dumps({**figures, **counts}))
"""


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder / "data", given.images)
        threads = max(1, os.cpu_count() or 1)
        one = extract(given, folder / "one", [""], threads)
        yield "one process", figures(one, one)
        for count in given.shards:
            found = [
                each
                for number in range(1, count + 1)
                for each in extract(
                    given, folder / f"{count}-shards", [f"{number}/{count}"], threads
                )
            ]
            yield f"{count} shards", figures(found, one)
        for count in given.together:
            share = max(1, threads // count)
            found = extract(given, folder / f"{count}-together", [""] * count, share)
            yield (
                f"{count} together",
                {
                    **figures(found, one),
                    "time by that of one": max(each["seconds"] for each in found)
                    / one[0]["seconds"],
                },
            )
        for count in given.nodes:
            share = max(1, threads // count)
            arguments = [given.model, str(folder / "data"), str(folder / f"{count}-nodes")]
            (ray,) = finished([[sys.executable, "-c", ON_RAY, *arguments, str(share), str(count)]])
            yield (
                f"Ray, {count} nodes",
                {
                    "rows by images": ray["computed"] / one[0]["images"],
                    "time by that of one": ray["seconds"] / one[0]["seconds"],
                    "seconds of start-up": ray["start"],
                },
            )


def figures(found: Sequence[dict[str, float]], one: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return what the processes computed and needed, against one process."""
    used = sum(each["processor"] for each in found)
    return {
        "rows by images": sum(each["computed"] for each in found) / one[0]["images"],
        "processor's time by that of one": used / one[0]["processor"],
    }


def extract(
    given: argparse.Namespace, cache: Path, shards: Sequence[str], threads: int
) -> list[dict[str, float]]:
    """Extract in processes that begin together once all have started; return their figures."""
    gate = tempfile.mkdtemp(dir=cache.parent)
    places = [given.model, str(cache.parent / "data"), str(cache), str(threads)]
    count = str(len(shards))
    return finished([[sys.executable, "-c", CODE, *places, shard, gate, count] for shard in shards])


def finished(commands: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """Run commands at the same time; return the figures that they print."""
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands
    ]
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("an extraction has failed")
    return [json.loads(each) for each in printed]


def tables(found: dict[str, Any]) -> Tables:
    columns = (
        "rows by images",
        "processor's time by that of one",
        "time by that of one",
        "seconds of start-up",
    )
    rows = [(name, *(own.get(each, "") for each in columns)) for name, own in found.items()]
    return {"engines": [("", *columns), *rows]}


if __name__ == "__main__":
    run(
        measure,
        tables,
        images=(6000, 24),
        model=("resnet50", "resnet18"),
        shards=((2, 4), (2,)),
        together=((2,), (2,)),
        nodes=((2,), (2,)),
    )
