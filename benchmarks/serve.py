"""Serving: throughput, latency and memory of a server and of `Predictor`: ``benchmarks/serve.py``.

ResNet-50 with random weights, a softmax head, and photographs of 500 x 375 pixels as JPEG. Clients
are threads of this process, each with a connection that is kept; they send the bytes of one image
after another. Server and `Predictor` get the same bytes, `Predictor` before and after the server,
in batches as it makes them. The bare forward is torchvision's network on one image that is
preprocessed already, channels-last and in the same precision, with all threads, beside `Predictor`
on the bytes of an image, in turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torchvision.models import get_model

from bottleneck import (
    Cache,
    FrozenBase,
    ImageSet,
    Predictor,
    extract_features,
    fit_head,
    load_features,
)
from bottleneck.extract import preprocess
from common import Tables, medians, run, write_photographs

PHOTOGRAPHS = 40


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        images = prepare(given.model)
        predictor = Predictor("heads/head")
        before = throughput(predictor, images, given.seconds / 2)
        server = serving(images, given.clients, given.seconds)
        after = throughput(predictor, images, given.seconds / 2)
        alone = (before + after) / 2
        yield "Predictor", {"images/s before": before, "images/s after": after}
        yield "server", {**server, "by Predictor": server["images/s"] / alone}
        yield "one image", latency(predictor, images, given.model, given.rounds)
        os.chdir(here)


def prepare(model: str) -> list[bytes]:
    """Make photographs and a head in the current folder; return the photographs."""
    write_photographs(Path("data"), PHOTOGRAPHS)
    images = ImageSet.from_folder("data")
    extract_features(images, FrozenBase(model, weights="random:0"), Cache("cache"))
    fit_head(load_features("cache"), "softmax").save("heads/head")
    return [Path(item.path).read_bytes() for item in images.items]


def throughput(predictor: Predictor, images: Sequence[bytes], seconds: float) -> float:
    """Return images per second, without the first few."""
    end = time.perf_counter() + seconds

    def given() -> Iterator[bytes]:
        while time.perf_counter() < end:
            yield from images

    found = predictor.predictions(given())
    started = time.perf_counter()
    warm = sum(1 for _ in islice(found, len(images)))
    between = time.perf_counter()
    if count := sum(1 for _ in found):
        return count / (time.perf_counter() - between)
    return warm / (between - started)


def serving(images: Sequence[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Return the figures of a server and its clients."""
    command = [sys.executable, "-m", "bottleneck", "serve", "head", "--port", "0", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        lines = iter(server.stdout.readline, "")
        text = ""
        while "}" not in text:
            text += next(lines)
        address = json.loads(text)["address"].removeprefix("http://")
        load(address, images, clients, seconds / 6)  # until memory and threads are there
        first = memory(address)
        spent = time.process_time()
        times, errors, wall = load(address, images, clients, seconds)
        spent = time.process_time() - spent
        last = memory(address)
    finally:
        server.terminate()
        server.wait()
    centiles = statistics.quantiles(times, n=100)
    return {
        "clients": clients,
        "images/s": len(times) / wall,
        "p50, s": centiles[49],
        "p99, s": centiles[98],
        "errors": errors,
        "processor time of the clients, share of a core": spent / wall,
        "MB at the start": first / 1e6,
        "MB at the end": last / 1e6,
    }


def load(
    address: str, images: Sequence[bytes], clients: int, seconds: float
) -> tuple[list[float], int, float]:
    """Return the seconds of each answer, the number of errors, and the wall time."""
    end = time.perf_counter() + seconds

    def client(number: int) -> tuple[list[float], int]:
        connection, times, errors = HTTPConnection(address, timeout=120), [], 0
        while not times or time.perf_counter() < end:
            data = images[(number + len(times)) % len(images)]
            started = time.perf_counter()
            try:
                connection.request("POST", "/predict", data)
                answer = connection.getresponse()
                right = answer.status == 200 and len(json.loads(answer.read())["predictions"]) == 1
                errors += not right
            except (OSError, HTTPException):
                errors += 1
                connection.close()
            times.append(time.perf_counter() - started)
        connection.close()
        return times, errors

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(client, range(clients)))
    wall = time.perf_counter() - started
    return [each for times, _ in found for each in times], sum(each for _, each in found), wall


def memory(address: str) -> float:
    """Return the bytes of memory that the server has."""
    connection = HTTPConnection(address)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next(float(each.split()[1]) for each in lines if each.startswith("process_resident"))


def latency(
    predictor: Predictor, images: Sequence[bytes], model: str, rounds: int
) -> dict[str, Any]:
    """Compare one image through `Predictor` with the network alone, in turn."""
    (base,) = predictor._engine.bases
    dtype = torch.bfloat16 if base.precision == "bf16" else torch.float32
    how = {"dtype": dtype, "memory_format": torch.channels_last}
    network = get_model(model).eval().to(**how)
    batch = base.transform.normalise(preprocess(base.transform, images[0]))[None].to(**how)

    def timed(work: Any) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            work()
        return time.perf_counter() - started

    found = medians(
        rounds,
        {
            "Predictor, s": lambda: timed(lambda: predictor.predict_proba(images[0])),
            "bare forward, s": lambda: timed(lambda: network(batch)),
            "decoding and resizing, s": lambda: timed(
                lambda: preprocess(base.transform, images[0])
            ),
        },
    )
    ratio = found["Predictor, s"] / found["bare forward, s"]
    return {"precision": base.precision, **found, "ratio": ratio}


def tables(found: dict[str, Any]) -> Tables:
    rows = [[f"{name}, {key}", value] for name, own in found.items() for key, value in own.items()]
    return {"serving": [["ResNet-50", ""], *rows]}


if __name__ == "__main__":
    run(
        measure,
        tables,
        model=("resnet50", "mobilenet_v2"),
        clients=(32, 2),
        seconds=(60.0, 1.0),
        rounds=(21, 3),
    )
