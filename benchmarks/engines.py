"""Extractions that share the work against one process: ``benchmarks/engines.py``.

The same images are extracted by one process, by shards one after the other, and by processes that
are started together and divide the images by leases. For each: the rows that were computed, by the
number of different images; and the processor's time after start-up, by that of the one process. For
processes started together also the time until the last has ended, by that of one process with the
same number of threads in all; each has its share of the threads.
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
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, *places, shard, gate, str(len(shards))],
            stdout=subprocess.PIPE,
            text=True,
        )
        for shard in shards
    ]
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("an extraction has failed")
    return [json.loads(each) for each in printed]


def tables(found: dict[str, Any]) -> Tables:
    columns = ("rows by images", "processor's time by that of one", "time by that of one")
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
    )
