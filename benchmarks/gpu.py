"""Everything that a GPU has to show: ``benchmarks/gpu.py --minutes 6 --json gpu.json``.

First what must be right: features on the GPU against the processor (float32 within 1e-4 of the
largest value, bf16 with a cosine of at least 0.999), an extraction that was interrupted, the
canary, batches that do not fit into memory, ``mlp``, fine-tuning. Then images per second of VGG16,
ResNet-50 and ViT-B/16: the forward pass, decoding, and from files to stored features, beside
torchvision's bare model (channels-last, autocast, the same batch) in the same run. Weights are
random unless ``--weights default`` is given. ``--parts`` chooses some; each runs in a process of
its own, so that none is stopped by the failure of another, and the figures are written after each.
The exit code is 1 if one failed. ``--device cpu`` runs all of it on the processor.

It runs with the torch that is found. A bare machine with torch, torchvision, timm, scikit-learn,
scikit-image, h5py, joblib, typer, rich, safetensors, threadpoolctl, xxhash and PyYAML
usually lacks pydantic (with annotated-types, pydantic-core, typing-extensions, typing-inspection),
annotated-doc, lightning-fabric and simplejpeg: wheels of 3.5 MB. Where there is a network::

    there="--only-binary :all: --python-version 3.12 --platform manylinux2014_x86_64 -d wheels"
    pip download $there pydantic annotated-doc
    pip download $there --no-deps lightning-fabric simplejpeg

And on the machine, in the root of the repository::

    python -m pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=site:. python benchmarks/gpu.py --json gpu.json
"""

import io
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import heads
import mixed
from bottleneck import (
    Cache,
    FinetuneSettings,
    FrozenBase,
    ImageSet,
    extract_features,
    load_features,
    select_features,
)
from bottleneck.errors import CacheError, is_out_of_memory
from bottleneck.extract import feature_batches, preprocess, recheck_banks
from bottleneck.extract.lanes import Lane
from bottleneck.finetune import finetune_head
from bottleneck.heads import fit_rows
from common import (
    NO_BF16,
    Tables,
    computes_bf16,
    environment,
    medians,
    options,
    rate,
    show,
    write,
    write_photographs,
)
from extraction import on_all_cores
from finetune import fitted, photographs

FP32, BF16, STORED = 1e-4, 0.999, 2e-3
"""Largest difference by the largest value; smallest cosine; the first for rows kept in float16."""
MODELS = {"vgg16": "VGG16", "resnet50": "ResNet-50", "vit_b_16": "ViT-B/16"}
Figures = Iterator[tuple[str, Any]]


def card(given: Namespace) -> Figures:
    """Name the device."""
    yield "device", given.device
    if given.device != "cpu":
        found = torch.cuda.get_device_properties(given.device)
        yield "name", found.name
        yield "memory, GB", found.total_memory / 1e9
        yield "multiprocessors", found.multi_processor_count
        yield "CUDA", torch.version.cuda


def features(given: Namespace) -> Figures:
    """Compare features of all models with those of the processor in float32."""
    items = photos(given, given.few).items

    def computed(model: str, device: str, precision: str) -> np.ndarray:
        base = made(given, model, device, precision)
        batches = feature_batches(base, items, batch_size=given.batch)
        return np.concatenate([next(iter(batch.features.values())) for batch in batches])

    for model in given.models:
        exact = computed(model, "cpu", "fp32")
        gap = largest_gap(computed(model, given.device, "fp32"), exact)
        yield f"{model}, fp32, largest difference", gap
        assert gap <= FP32, f"{model} differs by {gap:.2g} in fp32"
        if given.device == "cpu" and not computes_bf16():
            yield f"{model}, bf16", NO_BF16
            continue
        rounded = computed(model, given.device, "bf16")
        norms = np.linalg.norm(rounded, axis=1) * np.linalg.norm(exact, axis=1)
        cosine = float(((rounded * exact).sum(axis=1) / norms).min())
        yield f"{model}, bf16, smallest cosine", cosine
        assert cosine >= BF16, f"{model} has a cosine of {cosine:.5f} in bf16"


def resume(given: Namespace) -> Figures:
    """Interrupt an extraction half-way and run it again."""
    images, base = photos(given), made(given, given.small, given.device)
    half = len(images.items) // 2

    def interrupt(_: str, done: int, total: int, **_counts: int) -> None:
        if half <= done < total:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder:
        caches = [Cache(Path(folder) / name) for name in ("interrupted", "whole")]
        batch = min(given.batch, max(2, half // 4))
        try:
            extract_features(images, base, caches[0], batch_size=batch, progress=interrupt)
        except KeyboardInterrupt:
            yield "interrupted", True
        again, whole = (extract_features(images, base, each, batch_size=batch) for each in caches)
        yield "found", again.cached
        yield "computed", again.computed
        assert half <= again.cached < whole.images, f"{again.cached} were found"
        rows, expected = (load_features(each, select_features(each)).X for each in caches)
        yield "equal to the last bit", bool((rows == expected).all())
        yield "largest difference", (gap := largest_gap(rows, expected))
        assert gap <= STORED, f"rows differ by {gap:.2g}"


def canary(given: Namespace) -> Figures:
    """Fill a bank on the processor, and use it on the device."""
    images = photos(given, given.few)
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(folder)
        first = extract_features(images, made(given, given.small, "cpu"), cache)
        base = made(given, given.small, given.device)
        yield "found", (found := extract_features(images, base, cache).cached)
        assert found == first.images, f"{found} of {first.images} were found"
        (check,) = recheck_banks(cache, cache.banks())
        yield "largest difference of rows computed again", check.difference
        assert not check.skipped, check.skipped
        assert not check.wrong, f"rows of {check.wrong} are wrong"
        right = base.canary()
        base.canary = lambda *_: {
            layer: (np.array(values) * 1.1).tolist() for layer, values in right.items()
        }
        try:
            extract_features(images, base, cache)
        except CacheError as error:
            yield "refused", str(error)
        else:
            raise AssertionError("a base that computes other values was accepted")


def memory(given: Namespace) -> Figures:
    """Compute a batch that does not fit into memory, which is split until it does."""
    base = made(given, given.heavy, given.device)
    torch.set_num_threads(1)  # as in an extraction
    size = (8 * given.batch, 3, *base.transform.crop)
    pixels = list(torch.randint(0, 256, size, dtype=torch.uint8))
    lane, sizes = Lane(base, base.devices[0], 2), []
    compute = lane._compute

    def counted(some: Any) -> dict[str, np.ndarray]:
        sizes.append(len(some))
        return compute(some)

    (exact,) = lane.compute(pixels).values()
    count = len(pixels)
    while (count := count // 2) >= lane.least:  # kernels are made here, whose memory stays taken
        compute(pixels[:count])
    lane._compute = counted
    with little_memory(given, partial(compute, pixels)):
        (rows,) = lane.compute(pixels).values()
    yield "batches tried", sizes
    assert len(sizes) > 1, "the batch fitted"
    yield "largest difference", (gap := largest_gap(rows, exact))
    assert gap <= FP32, f"rows differ by {gap:.2g}"


@contextmanager
def little_memory(given: Namespace, work: Callable[[], object]) -> Iterator[None]:
    """Leave less memory than some work takes."""
    if given.device == "cpu":
        usual = resource.getrlimit(resource.RLIMIT_AS)
        try:
            size, taken = memory_taken(work, usual[1])
            resource.setrlimit(resource.RLIMIT_AS, (size + taken // 4, usual[1]))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, usual)
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    taken = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + taken / 2
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.mem_get_info()[1])
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def memory_taken(work: Callable[[], object], hard: int) -> tuple[int, int]:
    """Return the bytes that are addressed now, and those that some work takes: with half, it fails.

    They are found by trying, as nothing tells how much was addressed at most.
    """
    status = Path("/proc/self/status").read_text()
    size, taken = int(status.partition("VmSize:")[2].split()[0]) * 1024, 2**22
    while True:
        taken *= 2
        resource.setrlimit(resource.RLIMIT_AS, (size + taken, hard))
        try:
            work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return size, taken


def mlp(given: Namespace) -> Figures:
    """Train a network on features, on the device and on the processor."""
    X, y = heads.features(given.rows, given.columns, 3)
    fits = {}
    for device in dict.fromkeys(("cpu", given.device)):
        started = time.perf_counter()
        fits[device] = fit_rows(X, y.astype(str), "mlp", device=device)
        yield f"seconds on {device}", time.perf_counter() - started
    exact, found = (fits[device].decision_function(X) for device in ("cpu", given.device))
    gap = float(np.abs(found - exact).max() / np.abs(exact).max())
    yield "largest difference of scores", gap
    assert gap <= 1e-2, f"scores differ by {gap:.2g}"


def finetune(given: Namespace) -> Figures:
    """Fine-tune from images and from the cache, on the device and on the processor."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, cache = photographs(folder / "data", given.few), Cache(folder / "cache")
        head = fitted(images, cache, Namespace(model=given.small, layer="penultimate"))
        losses: dict[tuple[str, bool], np.ndarray] = {}
        for device in dict.fromkeys(("cpu", given.device)):
            for cached in (False, True):
                settings = FinetuneSettings("layer4", epochs=2, from_cache=cached)
                place = folder / f"{device}-{cached}".replace(":", "")
                done = finetune_head(head, images, cache, place, settings, device=device)
                history = done.head.scores["history"]
                losses[device, cached] = np.array([epoch["loss"] for epoch in history])
                way = "the cache" if cached else "images"
                yield (
                    f"images per second from {way} on {device}",
                    (done.train / history[-1]["seconds"]),
                )
        exact = losses["cpu", False]
        for (device, cached), found in losses.items():
            gap = float(np.abs(found - exact).max() / exact.max())
            yield f"largest difference of losses, {device}, {cached=}", gap
            assert gap <= 1e-2, f"losses on {device} differ by {gap:.2g}"


def mixed_precision(given: Namespace) -> Figures:
    """Fine-tune in bf16 beside the bare step, as ``benchmarks/mixed.py`` does."""
    sizes = {"layer": "penultimate", "images": given.images // 2, "batch": given.batch}
    own = Namespace(model=given.small, epochs=2, rounds=1, device=given.device, **sizes)
    yield from mixed.measure(own)


def rates(given: Namespace, model: str) -> Figures:
    """Measure ours and torchvision's bare model in turn."""
    base, images = made(given, model, given.device, "auto"), photos(given)
    bare = Bare(given, model, base.precision)
    yield "precision", base.precision
    batch = torch.randn(given.batch, 3, 224, 224, device=given.device)
    batch = batch.contiguous(memory_format=torch.channels_last)

    def forward(work: Callable[[torch.Tensor], object], repeats: int = given.repeats) -> float:
        def run() -> None:
            for _ in range(repeats):
                work(batch)
            if given.device != "cpu":
                torch.cuda.synchronize()

        return rate(run, repeats * given.batch)

    content = [path.read_bytes() for path in sorted(given.folder.rglob("*.jpg"))[: given.few]]

    def decode(work: Callable[[bytes], object]) -> float:
        return rate(on_all_cores(work, content), len(content))

    def extraction(batch_size: Any) -> float:
        with tempfile.TemporaryDirectory() as folder:
            work = partial(extract_features, images, base, folder, batch_size=batch_size)
            return rate(work, len(images.items))

    for work in (base, bare.forward):
        forward(work, 1)  # kernels are chosen at the first call
    ways = {
        "forward": partial(forward, base),
        "bare forward": partial(forward, bare.forward),
        "decoding": partial(decode, partial(preprocess, base.transform)),
        "bare decoding": partial(decode, bare.decode),
        "end to end": partial(extraction, given.batch),
        "end to end, batch chosen": partial(extraction, "auto"),
        "bare end to end": partial(rate, bare.extract, len(images.items)),
    }
    found = medians(given.rounds, ways)
    yield from found.items()
    for name in ("forward", "decoding", "end to end"):
        yield f"{name} by bare", found[name] / found[f"bare {name}"]


class Bare:
    """torchvision's model as a script would use it."""

    def __init__(self, given: Namespace, model: str, precision: str) -> None:
        network = getattr(torchvision.models, model)(weights=None).eval()
        self.network = network.to(given.device, memory_format=torch.channels_last)
        self.preset = torchvision.models.get_model_weights(model).DEFAULT.transforms()
        self.given, self.half = given, precision == "bf16"

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        kind = torch.device(self.given.device).type
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=self.half):
            return self.network(batch)

    def decode(self, data: bytes) -> torch.Tensor:
        return self.preset(Image.open(io.BytesIO(data)).convert("RGB"))

    def extract(self) -> None:
        device = self.given.device
        loader = DataLoader(
            ImageFolder(str(self.given.folder), transform=self.preset),
            batch_size=self.given.batch,
            num_workers=min(self.given.workers, os.cpu_count() or 1),
            pin_memory=device != "cpu",
        )
        rows = [
            self.forward(batch.to(device, non_blocking=True, memory_format=torch.channels_last))
            for batch, _ in loader
        ]
        with tempfile.TemporaryFile() as file:
            np.save(file, torch.cat(rows).float().cpu().numpy())


PARTS: dict[str, Callable[[Namespace], Figures]] = {
    "card": card,
    "features": features,
    "resume": resume,
    "canary": canary,
    "memory": memory,
    "mlp": mlp,
    "finetune": finetune,
    "mixed": mixed_precision,
    **{model: partial(rates, model=model) for model in MODELS},
}


def made(given: Namespace, model: str, device: str, precision: str = "fp32") -> FrozenBase:
    settings = {"weights": given.weights, "device": device, "precision": precision}
    return FrozenBase(model, ["penultimate"], **settings)


def photos(given: Namespace, count: int | None = None) -> ImageSet:
    """Return all photographs, or some of both classes."""
    images = ImageSet.open(given.folder)
    every = len(images.items) // (count or len(images.items))
    return replace(images, items=images.items[::every], split_seed=None)


def largest_gap(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest difference of a row, by the row's largest value."""
    gaps = np.abs(found.astype(np.float32) - exact.astype(np.float32)).max(axis=1)
    return float((gaps / np.abs(exact).max(axis=1)).max())


def write_many(folder: Path, count: int, different: int = 256) -> None:
    """Write photographs, of which later ones are copies with bytes added behind their end."""
    write_photographs(folder, min(count, different))
    for number in range(different, count):
        source = folder / str(number % 2) / f"{number % different:05d}.jpg"
        target = shutil.copy(source, source.with_name(f"{number:05d}.jpg"))
        with Path(target).open("ab") as file:
            file.write(number.to_bytes(4))


def work(part: Callable[[Namespace], Figures], given: Namespace, file: Path) -> None:
    """Run a part in this process, and write its figures after each."""
    figures: dict[str, Any] = {}
    try:
        for name, value in part(given):
            figures[name] = value
            file.write_text(json.dumps(figures))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the others go on
        traceback.print_exc()
        figures["failed"] = f"{type(error).__name__}: {error}"
        file.write_text(json.dumps(figures))
        sys.exit(1)


def run_part(
    name: str, given: Namespace, folder: Path, seconds: float, method: str
) -> dict[str, Any]:
    """Run a part in a process of its own; return its figures, and why it failed if it did."""
    if seconds <= 0:
        return {"failed": f"no time is left of {given.minutes} minutes"}
    file, started = folder / f"{name}.json", time.monotonic()
    process = multiprocessing.get_context(method).Process(
        target=work, args=(PARTS[name], given, file)
    )
    process.start()
    process.join(seconds)
    late = process.is_alive()
    process.kill()
    process.join()
    figures = json.loads(file.read_text()) if file.exists() else {}
    if late:
        figures["failed"] = f"ended after {seconds:.0f} s, when the time was over"
    elif process.exitcode:
        figures.setdefault("failed", f"ended with {process.exitcode}")
    return {**figures, "seconds": time.monotonic() - started}


def tables(found: dict[str, Any]) -> Tables:
    device = found.get("card", {})
    name = device.get("name", device.get("device", ""))
    kinds = ("forward", "decoding", "end to end")
    rows: list = [(f"{name}, images/s", *(f"{kind}: ours, bare, ratio" for kind in kinds))]
    for model, title in MODELS.items():
        own = found.get(model, {})
        if "end to end by bare" in own:
            cells = [[own[kind], own[f"bare {kind}"], own[f"{kind} by bare"]] for kind in kinds]
            rows.append((f"{title}, {own['precision']}", *cells))
    return {"gpu": rows}


def main() -> None:
    given = options(
        parts=(tuple(PARTS), tuple(PARTS)),
        minutes=(6.0, 30.0),
        device=("cuda:0", "cpu"),
        weights=("random", "random"),
        models=(tuple(MODELS), ("resnet18",)),
        small=("resnet50", "resnet18"),
        heavy=("vgg16", "squeezenet1_0"),
        images=(2048, 8),
        few=(64, 4),
        batch=(64, 4),
        workers=(16, 0),
        rows=(4000, 200),
        columns=(2048, 32),
        repeats=(20, 1),
        rounds=(3, 1),
    )
    given.device = {"cuda": "cuda:0"}.get(given.device, given.device)
    deadline = time.monotonic() + 60 * given.minutes
    results: dict[str, Any] = {"environment": environment(), "figures": {}}
    show("", results["environment"])
    with tempfile.TemporaryDirectory() as name:
        given.folder = Path(name) / "photographs"
        write_many(given.folder, given.images)
        method = "fork"  # which is faster, but fails where a library has begun to use the GPU
        for part in dict.fromkeys(("card", *given.parts)):
            found = run_part(part, given, Path(name), deadline - time.monotonic(), method)
            if part == "card" and "failed" in found:
                again = run_part(part, given, Path(name), deadline - time.monotonic(), "spawn")
                if "failed" not in again:
                    method, found = "spawn", again
            results["figures"][part] = found
            results["tables"] = tables(results["figures"])
            show(part, found)
            write(given.json, results)
    sys.exit(any("failed" in each for each in results["figures"].values()))


if __name__ == "__main__":
    main()
