"""Extraction against a tutorial's script and the machine's limits: ``benchmarks/extraction.py``.

All ratios are of runs that alternate in one process, medians of the rounds. Weights are random:
they do not change the time. ``--keras`` names the interpreter of an environment in which Keras and
TensorFlow are installed; without it that comparison is left out. ``--base`` measures some bases
only. Bars: 1.5, 1.6 and 2 times the reference in fp32 for VGG16, ResNet-50 and MobileNetV2, and 3,
3 and 2.5 times with ``auto``; 0.9 of the bound f d / (f + d) of the forward pass alone and decoding
alone; decoding twice as fast as Pillow and torchvision.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models.feature_extraction import create_feature_extractor

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.extract import preprocess
from bottleneck.extract.lanes import find_lanes, freed_memory_kept
from common import NO_BF16, Tables, computes_bf16, medians, rate, run, write_photographs

BASES = {
    "vgg16": ("block5_pool", "features.30", "none", 1),
    "resnet50": ("layer4", "layer4", "avg", 2),
    "mobilenet_v2": ("penultimate", "features.18", "avg", 4),
}
"""Model to our layer, torchvision's node, pooling, and the share of forward passes it gets."""
NAMES = {"vgg16": "VGG16", "resnet50": "ResNet-50, pooled", "mobilenet_v2": "MobileNetV2, pooled"}
VGG16_GFLOP = 2 * 15.347
"""Of one image in its convolutions, which `bottleneck layers vgg16` counts."""
KERAS = """
import json, sys, time
import numpy as np, keras
builders = {"vgg16": keras.applications.VGG16, "resnet50": keras.applications.ResNet50,
            "mobilenet_v2": keras.applications.MobileNetV2}
for line in sys.stdin:
    name, count = line.split()
    if name not in globals():
        globals()[name] = builders[name](weights=None, include_top=False)
        globals()[name].predict(np.zeros((16, 224, 224, 3), "float32"), batch_size=16, verbose=0)
    images = np.random.default_rng(0).random((int(count), 224, 224, 3), dtype="float32")
    started = time.monotonic()
    globals()[name].predict(images, batch_size=16, verbose=0)
    print("RATE", int(count) / (time.monotonic() - started), flush=True)
"""


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_photographs(place / "small", given.images)
        write_large(place / "large", given.large)
        for name in ("small", "large"):
            yield f"decode {name}", decoding(place / name, given.rounds)
        yield "products", (products := matrix_products(given))
        for model in given.base:
            yield model, base_figures(model, place, given, products)


def write_large(folder: Path, count: int) -> None:
    """Write 12-megapixel JPEGs: photographs enlarged, with the grain that a sensor gives."""
    write_photographs(folder, count)
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        pixels = np.asarray(Image.open(path).resize((4000, 3000), Image.Resampling.BICUBIC))
        grain = np.random.default_rng(number).normal(0, 4, (3000, 4000, 1))
        Image.fromarray(np.uint8((pixels + grain).clip(0, 255))).save(path, quality=90)


def on_all_cores(
    work: Callable[[Any], object], tasks: list, *, kept: bool = True
) -> Callable[[], object]:
    """Return a run of all tasks, with freed memory kept as in an extraction, or as usual."""

    def run_all() -> None:
        threads = torch.get_num_threads()
        with (
            freed_memory_kept() if kept else nullcontext(),
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            list(pool.map(work, tasks))
        torch.set_num_threads(threads)

    return run_all


def decoding(folder: Path, rounds: int) -> dict[str, float]:
    """Return images per second, decoded and resized, and ratios to Pillow and torchvision."""
    preset = torchvision.models.VGG16_Weights.DEFAULT.transforms()
    ways: dict[str, Callable[[bytes], torch.Tensor]] = {
        "pillow": lambda data: preset(Image.open(io.BytesIO(data)).convert("RGB")),
        "fp32": ours(exact_resize=True),
        "auto": ours(exact_resize=False),
        "reduced decode": ours(exact_resize=False, reduced_decode=True),
    }
    content = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:256]]
    runs = {
        way: partial(rate, on_all_cores(work, content, kept=way != "pillow"), len(content))
        for way, work in ways.items()
    }
    found = medians(rounds, runs)
    return found | {f"{way} by pillow": found[way] / found["pillow"] for way in list(ways)[1:]}


def ours(**options: bool) -> Callable[[bytes], torch.Tensor]:
    base = FrozenBase("squeezenet1_1", weights="random", precision="fp32", **options)
    return lambda data: base.transform.normalise(preprocess(base.transform, data))


def matrix_products(given: argparse.Namespace) -> dict[str, Any]:
    """Return GFLOP/s of large matrix products."""
    factors = {"fp32": torch.rand(given.side, given.side)}
    if computes_bf16():
        factors["bf16"] = factors["fp32"].bfloat16()
    operations = 2 * given.side**3 / 1e9
    measures = {
        name: partial(rate, partial(torch.matmul, factor, factor), operations)
        for name, factor in factors.items()
    }
    return {"bf16": NO_BF16, **medians(3 * given.rounds, measures)}


def base_figures(
    model: str, place: Path, given: argparse.Namespace, products: dict[str, Any]
) -> dict[str, Any]:
    layer, node, pool, share = BASES[model]
    images = ImageSet.open(place / "small")
    count = len({item.digest for item in images.items})
    bases = {
        precision: FrozenBase(model, [layer], weights="random", pool=pool, precision=precision)
        for precision in ("fp32", "auto", *["bf16"] * computes_bf16())
    }
    if bases["auto"].precision == "bf16":
        del bases["bf16"]

    def extraction(base: FrozenBase) -> float:
        with tempfile.TemporaryDirectory(dir=place) as cache:
            return rate(lambda: extract_features(images, base, Cache(cache)), count)

    def decode(base: FrozenBase) -> float:
        files = [Path(item.path) for item in images.items]
        work = on_all_cores(lambda path: preprocess(base.transform, path.read_bytes()), files)
        return rate(work, len(files))

    extractor, batch = plain(model, node), torch.rand(16, 3, 224, 224)
    batches = max(1, given.batches * share // 4)

    def plain_forward() -> None:
        with torch.inference_mode():
            for _ in range(batches):
                extractor(batch)

    limit = min(len(images.items), 64 * share)
    workers = max(range(3), key=lambda each: reference(model, place, each, limit))
    measures = {"reference": lambda: reference(model, place, workers)}
    for name, base in bases.items():
        measures[name] = partial(extraction, base)
        measures[f"forward {name}"] = partial(forward, base, given.batches * share)
        measures[f"decode {name}"] = partial(decode, base)
    measures["reference forward"] = lambda: rate(plain_forward, 16 * batches)
    if given.keras:
        measures["keras"] = keras(str(given.keras), model, 64 * share)
        measures["keras"]()  # what it compiles at first does not count
    found: dict[str, Any] = dict(medians(given.rounds, measures))
    if model == "vgg16" and bases["auto"].precision == "bf16":
        found["convolutions by matrix products, bf16"] = (
            found["forward auto"] * VGG16_GFLOP / products["bf16"]
        )
    facts = {"reference workers": workers, "auto is": bases["auto"].precision}
    return {**facts, **found, **ratios(found, bases)}


def ratios(found: dict[str, float], precisions: Iterable[str]) -> dict[str, float]:
    """Return the shares of the reference, of the bound and of Keras."""
    shares = {}
    for name in precisions:
        f, d = found[f"forward {name}"], found[f"decode {name}"]
        shares[f"{name} by reference"] = found[name] / found["reference"]
        shares[f"{name} by bound"] = found[name] * (f + d) / (f * d)
        shares[f"forward {name} by reference"] = f / found["reference forward"]
        if "keras" in found:
            shares[f"forward {name} by keras"] = f / found["keras"]
    return shares


def forward(base: FrozenBase, batches: int) -> float:
    """Return images per second of all lanes on images in memory."""
    lanes = find_lanes(base, batches)
    pixels = list(torch.randint(0, 256, (lanes.batch_size, 3, 224, 224), dtype=torch.uint8))
    each = max(1, batches // len(lanes.all))
    work = on_all_cores(lambda lane: [lane.compute(pixels) for _ in range(each)], lanes.all)
    return rate(work, each * len(lanes.all) * lanes.batch_size)


def plain(model: str, node: str) -> torch.nn.Module:
    torch.manual_seed(0)
    network = getattr(torchvision.models, model)(weights=None).eval()
    return create_feature_extractor(network, [node])


def reference(model: str, place: Path, workers: int, limit: int | None = None) -> float:
    """Return images per second of what a tutorial has its readers write."""
    _, node, pool, _ = BASES[model]
    extractor = plain(model, node)
    preset = torchvision.models.get_model_weights(model).DEFAULT.transforms()
    started = time.monotonic()
    folder = ImageFolder(str(place / "small"), transform=preset)
    folder.samples = folder.samples[:limit]
    loader = DataLoader(folder, batch_size=16, num_workers=workers)
    features = []
    with torch.inference_mode():
        for batch, _ in loader:
            maps = extractor(batch)[node]
            features.append((maps.mean((2, 3)) if pool == "avg" else maps).numpy())
    np.save(place / "reference.npy", np.concatenate(features))
    return len(folder) / (time.monotonic() - started)


def keras(python: str, model: str, count: int) -> Callable[[], float]:
    """Return a measure that asks a process which has Keras for its images per second."""
    process = subprocess.Popen(
        [python, "-c", KERAS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def ask() -> float:
        process.stdin.write(f"{model} {count}\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("RATE"):
                return float(line.split()[1])
        sys.exit("Keras ended early")

    return ask


def tables(found: dict[str, Any]) -> Tables:
    models = [model for model in BASES if model in found]
    whole: list = [("", "reference", "`fp32`", "ratio", "`auto`", "ratio")]
    head = ("forward alone: `fp32`, `auto`", "decoding alone", "share of the bound")
    parts: list = [("", *head, "forward against Keras' `predict`")]
    for model in models:
        own = found[model]
        values = [own["reference"]]
        for name in ("fp32", "auto"):
            values += [own[name], own[f"{name} by reference"]]
        whole.append((NAMES[model], *values))
        pairs = ("forward {}", "decode {}", "{} by bound", "forward {} by keras")
        cells = [
            [own.get(text.format(name), float("nan")) for name in ("fp32", "auto")]
            for text in pairs
        ]
        parts.append((NAMES[model], *cells))
    return {"end to end": whole, "parts of the work": parts}


if __name__ == "__main__":
    run(
        measure,
        tables,
        images=(512, 4),
        large=(12, 1),
        rounds=(3, 1),
        batches=(16, 1),
        side=(4096, 256),
        base=(tuple(BASES), ("mobilenet_v2",)),
        keras=(None, None),
    )
