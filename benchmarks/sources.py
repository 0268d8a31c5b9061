"""Images from everywhere against a folder: ``benchmarks/sources.py``.

Every source has the same images, and its rows must be those of the folder, bit for bit. Memory is
that of a process that digests and reads 1,000 and 20,000 images of 20 kB. The web is Python's own
server on loopback. S3 is moto's server on loopback, in a process of its own: each request takes 20
ms more, and one in a hundred fails. It computes on the same cores, so its processor time, divided
by their number, is subtracted. The bars: all rows identical, memory constant, and S3 at 0.9 of the
speed of local files.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
import numpy as np
import psutil
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageColumn
from pyarrow import ipc, parquet
from torchvision.datasets import ImageFolder

from bottleneck import Cache, FrozenBase, ImageSet, extract_features, load_features
from common import Tables, run, run_process, write_photographs

BUCKETS = Path(__file__).parents[1] / "tests" / "buckets.py"
MEMORY = """
import sys
from pathlib import Path
from bottleneck import ImageSet
from bottleneck.images import read_file
for item in ImageSet.from_paths([sys.argv[1]]).items:
    read_file(item)
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(status["VmHWM"].split()[0])
"""
SOURCES: dict[str, Callable[[str], Any]] = {
    "folder": lambda _: "data",
    "table": lambda _: "table.csv",
    "tar": lambda _: "x.tar",
    "compressed tar": lambda _: "x.tar.gz",
    "zip": lambda _: "x.zip",
    "3 shards of WebDataset": lambda _: "s-{0..2}.tar",
    "Parquet": lambda _: "x.parquet",
    "Arrow": lambda _: "x.arrow",
    "metadata.csv": lambda _: "plain",
    "Hugging Face's dataset, saved": lambda _: "saved",
    "sequence in Python": lambda _: pairs(sorted(Path("data").rglob("*.jpg"))),
    "ImageFolder of torchvision": lambda _: ImageFolder("data"),
    "folder of the web": lambda web: f"{web}/data",
    "zip of the web": lambda web: f"{web}/x.zip",
}
"""Name to what is opened, given the address of the web."""
ON_S3 = {"S3": "data", "tar on S3": "x.tar", "Parquet on S3": "x.parquet"}


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        write_photographs(Path("data"), given.images)
        pack(sorted(Path("data").rglob("*.jpg")))
        base = FrozenBase(given.model, "penultimate", weights="random", precision="fp32")
        extract_features("data", base, "warm")
        wanted = None
        with served() as web:
            for name, source in SOURCES.items():
                seconds, rows = extracted(source(web), base, f"cache {name}")
                wanted = rows if wanted is None else wanted
                identical = int(same(rows, wanted))
                yield name, {"identical": identical, "images/s": given.images / seconds}
        with bucket(0.02, 100) as server:
            for name, place in ON_S3.items():
                yield name, remote(place, base, given, wanted, server)
        for kind in ("tar", "parquet"):
            yield f"memory, {kind}", memory(kind, given.few, given.many)


def pack(files: list[Path]) -> None:
    """Write the images in every form."""
    for name, mode in {"x.tar": "w", "x.tar.gz": "w:gz"}.items():
        with tarfile.open(name, mode) as archive:
            archive.add("data", ".")
    with zipfile.ZipFile("x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.relative_to("data"))
    for part in range(3):
        with tarfile.open(f"s-{part}.tar", "w") as archive:
            for number, file in enumerate(files[part::3]):
                add(archive, f"{number:05d}.jpg", file.read_bytes())
                add(archive, f"{number:05d}.cls", file.parent.name.encode())
    labels = [file.parent.name for file in files]
    table = pa.table({"image": [file.read_bytes() for file in files], "label": labels})
    parquet.write_table(table, "x.parquet", row_group_size=100)
    with ipc.new_stream("x.arrow", table.schema) as writer:
        writer.write_table(table, 100)
    dataset = Dataset.from_dict(
        {"image": list(map(str, files)), "label": labels},
        Features({"image": ImageColumn(), "label": ClassLabel(names=sorted({*labels}))}),
    )
    dataset.save_to_disk("saved")
    lines = [f"{file},{file.parent.name}" for file in files]
    Path("table.csv").write_text("\n".join(["path,label", *lines]))
    Path("plain").mkdir()
    rows = ["file_name,label"]
    for file in files:
        Path("plain", f"{file.parent.name}-{file.name}").write_bytes(file.read_bytes())
        rows.append(f"{file.parent.name}-{file.name},{file.parent.name}")
    Path("plain/metadata.csv").write_text("\n".join(rows))


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, BytesIO(content))


def pairs(files: list[Path]) -> list[tuple[bytes, str]]:
    return [(file.read_bytes(), file.parent.name) for file in files]


def extracted(source: Any, base: FrozenBase, cache: str) -> tuple[float, dict[str, np.ndarray]]:
    """Return the seconds from the source to stored rows, and the rows by digest."""
    started = time.perf_counter()
    extract_features(ImageSet.open(source, image_set="images"), base, cache)
    seconds = time.perf_counter() - started
    features = load_features(Cache(cache))
    digests = [str(digest) for digest in features.digests]
    return seconds, dict(zip(digests, np.asarray(features.X), strict=True))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[each], other[each]) for each in one
    )


@contextmanager
def served() -> Iterator[str]:
    """Serve this folder by Python's own server of the web; yield its address."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    here = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")
    with (
        patch.dict(os.environ, here),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process,
    ):
        try:
            assert process.stdout
            port = process.stdout.readline().split(" port ")[1].split()[0]
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextmanager
def bucket(delay: float, every: int) -> Iterator[psutil.Process]:
    """Serve a bucket with the images; yield the server's process."""
    command = [sys.executable, str(BUCKETS), str(delay), str(every)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        own = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test")
        own |= {"AWS_ENDPOINT_URL": process.stdout.readline().strip()}
        own |= {"AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        with patch.dict(os.environ, own):
            client = boto3.client("s3")
            archives = [Path(place) for place in ON_S3.values() if "." in place]
            for file in [*sorted(Path("data").rglob("*.jpg")), *archives]:
                client.upload_file(str(file), "bucket", str(file))
            yield psutil.Process(process.pid)
        assert process.stdin
        process.stdin.close()


def remote(
    place: str, base: FrozenBase, given: argparse.Namespace, wanted: Any, server: psutil.Process
) -> dict[str, float]:
    """Return the speed of S3 and of local files, in turn, without what the server computed."""
    found: dict[str, list[float]] = {"local": [], "S3": [], "without the server": []}
    cores, identical = os.cpu_count() or 1, True
    for number in range(given.rounds):
        seconds, _ = extracted(place, base, f"local {place} {number}")
        found["local"].append(given.images / seconds)
        before = sum(server.cpu_times()[:2])
        seconds, rows = extracted(f"s3://bucket/{place}", base, f"s3 {place} {number}")
        busy = sum(server.cpu_times()[:2]) - before
        found["S3"].append(given.images / seconds)
        found["without the server"].append(given.images / (seconds - busy / cores))
        identical &= same(rows, wanted)
    medians = {f"{name}, images/s": float(np.median(each)) for name, each in found.items()}
    ratio = [s / own for s, own in zip(found["without the server"], found["local"], strict=True)]
    return {"identical": int(identical), **medians, "S3 by local": float(np.median(ratio))}


def memory(kind: str, few: int, many: int) -> dict[str, float]:
    """Return the megabytes that reading few and many images takes at most."""
    used = {}
    for name, count in {"few": few, "many": many}.items():
        generator = np.random.default_rng(0)
        start = b"\x89PNG\r\n\x1a\n"
        images = (start + generator.bytes(20_000) for _ in range(count))
        if kind == "tar":
            with tarfile.open("m.tar", "w") as archive:
                for number, image in enumerate(images):
                    add(archive, f"{number}.png", image)
        else:
            schema = pa.schema({"image": pa.binary()})
            with parquet.ParquetWriter("m.parquet", schema) as writer:
                writer.write_batch(pa.record_batch([list(images)], schema), row_group_size=count)
        printed, _, _ = run_process([sys.executable, "-c", MEMORY, f"m.{kind}"])
        used[f"{name}, MB"] = int(printed) * 1024 / 1e6
        Path(f"m.{kind}").unlink()
    return {**used, "ratio": used["many, MB"] / used["few, MB"]}


def tables(found: dict[str, Any]) -> Tables:
    told = {1: "yes", 0: "no"}
    folder = found["folder"]["images/s"]
    rows = [
        (name, told[found[name]["identical"]], found[name]["images/s"] / folder) for name in SOURCES
    ]
    rows += [
        (f"{name}, 20 ms more each, 1% failing", told[s3["identical"]], s3["S3 by local"])
        for name in ON_S3
        for s3 in [found[name]]
    ]
    kept = [(kind, *found[f"memory, {kind}"].values()) for kind in ("tar", "parquet")]
    return {
        "sources": [("source", "rows identical", "images/s by folder"), *rows],
        "memory of sources": [("source", "1,000 images, MB", "20,000 images, MB", "ratio"), *kept],
    }


if __name__ == "__main__":
    run(
        measure,
        tables,
        images=(300, 6),
        model=("resnet50", "resnet18"),
        rounds=(3, 1),
        few=(1000, 10),
        many=(20_000, 20),
    )
