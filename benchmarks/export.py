"""Exported files against our own forward: ``benchmarks/export.py``.

EfficientNet-Lite0, MobileNetV2, ResNet-50 and VGG16 with random weights, each with a head of ten
classes. Preprocessed pixels become probabilities: by our own forward, with ``--precision fp32`` and
``auto``, and by ONNX Runtime from exported files in ``fp32``, ``fp16`` and ``int8``. All of them
share a batch of 16 among as many threads, ``--threads`` or as many as torch has; *a batch for each*
is our forward as extraction runs it, each of these threads with a batch of four of its own. Freed
memory is kept, as in extraction and by a server. Images per second, medians of rounds that
alternate in one process. Before each are a pause, as threads of ONNX Runtime stay busy for a while
when they wait for work, and a run that is not timed.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch

from bottleneck import FrozenBase, Head
from bottleneck.export.networks import Parts
from bottleneck.export.onnx_files import made_onnx, merged, quantised
from bottleneck.export.samples import Sample
from bottleneck.extract.lanes import freed_memory_kept
from bottleneck.heads.models import Affine
from bottleneck.images import ImageItem
from bottleneck.records import FeatureSource
from bottleneck.sessions import open_session
from bottleneck.settings import ExportSettings
from common import Tables, medians, rate, run

NETWORKS = {
    "EfficientNet-Lite0": ("efficientnet_lite0", "last_conv"),
    "MobileNetV2": ("mobilenet_v2", "last_conv"),
    "ResNet-50": ("resnet50", "layer4"),
    "VGG16": ("vgg16", "block5_pool"),
}
WAYS = {
    "ours, fp32": "ours fp32",
    "a batch for each": "ours fp32, a batch for each",
    "ours, auto": "ours auto",
    "ONNX Runtime, fp32": "onnx fp32",
    "fp16": "onnx fp16",
    "int8": "onnx int8",
}
CLASSES = 10
OWN = 4
"""Images of a batch, as extraction gives each core."""
PAUSE = 0.3
"""Seconds."""


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    torch.set_num_threads(given.threads or torch.get_num_threads())
    threads = torch.get_num_threads()
    yield "threads", threads
    generator = torch.Generator().manual_seed(0)
    apart = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    for title, (model, layer) in NETWORKS.items():
        if model not in given.models:
            continue
        options = {"pool": "avg", "weights": "random", "device": "cpu"}
        bases = {
            way: FrozenBase(model, [layer], precision=way, **options) for way in ("fp32", "auto")
        }
        parts = Parts(head_of(bases["fp32"]), bases["fp32"])
        pixels = torch.randn(given.batch, 3, *parts.base.transform.crop, generator=generator)
        works: dict[str, Callable[[], object]] = {
            f"ours {way}": partial(ours, parts, base, pixels) for way, base in bases.items()
        }
        for precision in ("fp32", "fp16", "int8"):
            file = open_session(written(parts, precision, pixels), threads=threads)
            works[f"onnx {precision}"] = partial(file.run, None, {"pixels": pixels.numpy()})
        rates = {way: partial(rested, work, given.batch) for way, work in works.items()}
        own = pixels[:OWN]
        each = partial(at_once, apart, threads, partial(ours, parts, bases["fp32"], own))
        rates["ours fp32, a batch for each"] = partial(rested, each, threads * len(own))
        with freed_memory_kept():
            found = medians(given.rounds, rates)
        yield (
            title,
            {
                **found,
                "ratio": found["onnx fp32"] / found["ours fp32"],
                "ratio to a batch for each": found["onnx fp32"]
                / found["ours fp32, a batch for each"],
            },
        )


def rested(work: Callable[[], object], count: int) -> float:
    time.sleep(PAUSE)
    work()
    return rate(work, count)


def at_once(apart: Executor, count: int, work: Callable[[], object]) -> None:
    for each in [apart.submit(work) for _ in range(count)]:
        each.result()


def head_of(base: FrozenBase) -> Head:
    """Return a head on the base's layer, with random weights."""
    (layer,), ((width,),) = base.layers, base.shapes.values()
    weight = np.random.default_rng(0).normal(size=(CLASSES, width)).astype(np.float32)
    source = FeatureSource(
        layer=layer,
        alias=None,
        bank=f"{base.model}-{'0' * 12}",
        fingerprint="0" * 64,
        image_set="random",
        model=base.model,
        weights="random:0",
        weights_random=True,
        adjustments={},
        precision="fp32",
        dtype="float16",
        axes="C",
        stored_pool="avg",
        pool="avg",
    )
    classes = tuple(map(str, range(CLASSES)))
    model = Affine(weight / width**0.5, np.zeros(CLASSES, np.float32))
    return Head(clf="softmax", classes=classes, model=model, source=source)


def ours(parts: Parts, base: FrozenBase, pixels: torch.Tensor) -> np.ndarray:
    (features,) = base(pixels).values()
    return parts.head.predict_proba(features.numpy())


def written(parts: Parts, precision: str, pixels: torch.Tensor) -> bytes:
    """Return an exported file without its record."""
    model, head = made_onnx(parts, ExportSettings(precision=precision))
    if precision == "int8":
        item = ImageItem("random")
        model = quantised(model, [Sample(item, np.empty(0), each) for each in pixels])
    return merged(model, head, "features").SerializeToString()


def tables(found: dict[str, Any]) -> Tables:
    threads = found["threads"]
    ratios = {"fp32 by ours": "ratio", "by a batch for each": "ratio to a batch for each"}
    columns = WAYS | ratios
    rows: list[tuple[Any, ...]] = [(f"images/s, {threads} threads", *columns)]
    rows += [
        (title, *(own[key] for key in columns.values()))
        for title, own in found.items()
        if title != "threads"
    ]
    return {"export": rows}


if __name__ == "__main__":
    run(
        measure,
        tables,
        models=(tuple(model for model, _ in NETWORKS.values()), ("efficientnet_lite0",)),
        batch=(16, 2),
        threads=(0, 0),
        rounds=(5, 1),
    )
