"""Extraction against a tutorial's script and the machine's limits.

``python tests/benchmarks/extraction.py [--images N] [--rounds R] [--keras PYTHON] [--base MODEL]``
prints each figure as it comes, and writes ``extraction.json`` into the current folder. All ratios
are of runs that alternate in one process, medians of the rounds. Weights are random: they do not
change the time. ``--keras`` names the interpreter of an environment in which Keras and TensorFlow
are installed; without it that comparison is left out. ``--base`` measures one base alone.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models.feature_extraction import create_feature_extractor

sys.path.insert(0, str(Path(__file__).parent))
from common import write_photographs

from bottleneck import Cache, FrozenBase, ImageSet, extract_features
from bottleneck.extract import preprocess
from bottleneck.extract.lanes import find_lanes, freed_memory_kept

BASES = {
    "vgg16": ("block5_pool", "features.30", "none", 1.5, 3.0),
    "resnet50": ("layer4", "layer4", "avg", 1.6, 3.0),
    "mobilenet_v2": ("penultimate", "features.18", "avg", 2.0, 2.5),
}
"""Model to our layer, torchvision's node, pooling, and the bars for fp32 and auto."""
SHARE = {"vgg16": 1, "resnet50": 2, "mobilenet_v2": 4}
"""How many times the images that VGG16 gets: each measurement takes about as long."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keras")
    parser.add_argument("--base", action="append", help="some of the bases only; none: decoding")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_photographs(place / "small", arguments.images)
        write_large(place / "large", 12)
        results["decode"] = measure_decoding(place, arguments.rounds)
        results["products"] = measure_products(arguments.rounds)
        for model in BASES if arguments.base is None else set(arguments.base) & set(BASES):
            results[model] = measure_base(model, place, results["products"], arguments)
    Path("extraction.json").write_text(json.dumps(results, indent=2) + "\n")


def write_large(folder: Path, count: int) -> None:
    """Write 12-megapixel JPEGs: photographs enlarged, with the grain that a sensor gives."""
    write_photographs(folder, count)
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        pixels = np.asarray(Image.open(path).resize((4000, 3000), Image.Resampling.BICUBIC))
        grain = np.random.default_rng(number).normal(0, 4, (3000, 4000, 1))
        Image.fromarray(np.uint8((pixels + grain).clip(0, 255))).save(path, quality=90)


def medians(rounds: int, measures: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Run all measures in turn, some times over; return the median of each."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return {name: round(statistics.median(values), 4) for name, values in found.items()}


def rate(work: Callable[[], object], count: int) -> float:
    started = time.monotonic()
    work()
    return count / (time.monotonic() - started)


def on_all_cores(
    work: Callable[[object], object], tasks: list, *, kept: bool = True
) -> Callable[[], object]:
    """Return a run of all tasks, with freed memory kept as in an extraction, or as usual."""

    def run() -> None:
        threads = torch.get_num_threads()
        with (
            freed_memory_kept() if kept else nullcontext(),
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            list(pool.map(work, tasks))
        torch.set_num_threads(threads)

    return run


def measure_decoding(place: Path, rounds: int) -> dict:
    preset = torchvision.models.VGG16_Weights.DEFAULT.transforms()
    ways: dict[str, Callable[[bytes], torch.Tensor]] = {
        "pillow": lambda data: preset(Image.open(io.BytesIO(data)).convert("RGB")),
        "fp32": ours("fp32", reduced=False),
        "bf16": ours("bf16", reduced=False),
        "bf16, reduced decode": ours("bf16", reduced=True),
    }
    results = {}
    for name in ("small", "large"):
        files = sorted((place / name).rglob("*.jpg"))[:256]
        content = [path.read_bytes() for path in files]
        measures = {
            way: partial(rate, on_all_cores(work, content, kept=way != "pillow"), len(content))
            for way, work in ways.items()
        }
        results[name] = medians(rounds, measures)
        for way in list(ways)[1:]:
            ratio = results[name][way] / results[name]["pillow"]
            print(f"decode and resize, {name}, {way}: {ratio:.2f} of Pillow, bar 2", flush=True)
    return results


def ours(precision: str, *, reduced: bool) -> Callable[[bytes], torch.Tensor]:
    base = FrozenBase("vgg11", weights="random", precision=precision, reduced_decode=reduced)
    return lambda data: base.transform.normalise(preprocess(base.transform, data))


def measure_products(rounds: int) -> dict[str, float]:
    """Return GFLOP/s of large matrix products."""
    factors = {"fp32": torch.rand(4096, 4096), "bf16": torch.rand(4096, 4096).bfloat16()}
    operations = 2 * 4096**3 / 1e9
    measures = {
        name: partial(rate, partial(torch.matmul, factor, factor), operations)
        for name, factor in factors.items()
    }
    results = medians(3 * rounds, measures)
    print("matrix products, GFLOP/s:", results, flush=True)
    return results


def measure_base(
    model: str, place: Path, products: dict[str, float], arguments: argparse.Namespace
) -> dict:
    layer, node, pool, bar_fp32, bar_auto = BASES[model]
    images = ImageSet.open(place / "small")
    count = len({item.digest for item in images.items})
    bases = {
        precision: FrozenBase(model, [layer], weights="random", pool=pool, precision=precision)
        for precision in ("fp32", "auto", "bf16")
    }
    if bases["auto"].precision == "bf16":
        del bases["bf16"]

    def extraction(base: FrozenBase) -> float:
        with tempfile.TemporaryDirectory(dir=place) as cache:
            return rate(lambda: extract_features(images, base, Cache(cache)), count)

    workers = best_workers(model, node, pool, place)
    measures = {"reference": lambda: reference(model, node, pool, place, workers)}
    measures |= {name: lambda base=base: extraction(base) for name, base in bases.items()}
    measures |= {
        f"forward {name}": lambda base=base: forward(base, 16 * SHARE[model])
        for name, base in bases.items()
    }
    extractor, batch = plain(model, node), torch.rand(16, 3, 224, 224)

    def plain_forward() -> None:
        with torch.inference_mode():
            for _ in range(4 * SHARE[model]):
                extractor(batch)

    measures["reference forward"] = lambda: rate(plain_forward, 64 * SHARE[model])
    files = [item.path for item in images.items]
    measures |= {
        f"decode {name}": lambda base=base: rate(
            on_all_cores(lambda path: preprocess(base.transform, path.read_bytes()), files),
            len(files),
        )
        for name, base in bases.items()
    }
    if arguments.keras:
        measures["keras"] = keras(arguments.keras, model, 64 * SHARE[model])
        measures["keras"]()  # what it compiles at first does not count
    results = medians(arguments.rounds, measures)
    for name, bar in (("fp32", bar_fp32), ("auto", bar_auto)):
        ratio = results[name] / results["reference"]
        print(f"{model} {name}: {ratio:.2f} of the reference, bar {bar}")
    for name, base in bases.items():
        f, d = results[f"forward {name}"], results[f"decode {name}"]
        bound = f * d / (f + d)
        print(
            f"{model} {name} ({base.precision}): {results[name] / bound:.2f} of the bound, bar 0.9"
        )
        if arguments.keras:
            print(f"{model} forward {name}: {f / results['keras']:.2f} of Keras")
        print(f"{model} forward {name}: {f / results['reference forward']:.2f} of NCHW fp32")
        if base.precision == "bf16" and model == "vgg16":
            rate_of_convolutions = f * VGG16_GFLOP / products["bf16"]
            print(f"convolutions in bf16: {rate_of_convolutions:.2f} of matrix products, bar 0.85")
    print(results, flush=True)
    return {"reference workers": workers, "auto is": bases["auto"].precision, **results}


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


def reference(
    model: str, node: str, pool: str, place: Path, workers: int, *, limit: int | None = None
) -> float:
    """Return images per second of what a tutorial has its readers write."""
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


def best_workers(model: str, node: str, pool: str, place: Path) -> int:
    limit = 64 * SHARE[model]
    return max(
        range(3), key=lambda workers: reference(model, node, pool, place, workers, limit=limit)
    )


def keras(python: str, model: str, count: int) -> Callable[[], float]:
    """Return a measure that asks a process which has Keras for its images per second."""
    process = subprocess.Popen(
        [python, "-c", KERAS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def measure() -> float:
        process.stdin.write(f"{model} {count}\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("RATE"):
                return float(line.split()[1])
        sys.exit("Keras ended early")

    return measure


if __name__ == "__main__":
    main()
