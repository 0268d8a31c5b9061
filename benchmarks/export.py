"""Exported files against our own forward: ``benchmarks/export.py``.

EfficientNet-Lite0, ResNet-50 and VGG16 with random weights, each with a head of ten classes.
Preprocessed pixels become probabilities: by our own forward, as prediction computes it, with
``--precision fp32`` and ``auto``, and by ONNX Runtime from exported files in ``fp32``, ``fp16`` and
``int8``. Images per second in batches of 16, medians of rounds that alternate in one process.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from bottleneck import FrozenBase, Head
from bottleneck.export.checking import onnx_runtime
from bottleneck.export.networks import Parts
from bottleneck.export.onnx_files import made_onnx, merged, quantised
from bottleneck.export.samples import Sample
from bottleneck.heads.models import Affine
from bottleneck.images import ImageItem
from bottleneck.records import FeatureSource
from bottleneck.settings import ExportSettings
from common import Tables, medians, rate, run

NETWORKS = {
    "EfficientNet-Lite0": ("efficientnet_lite0", "last_conv"),
    "ResNet-50": ("resnet50", "layer4"),
    "VGG16": ("vgg16", "block5_pool"),
}
WAYS = {
    "ours, fp32": "ours fp32",
    "ours, auto": "ours auto",
    "ONNX Runtime, fp32": "onnx fp32",
    "fp16": "onnx fp16",
    "int8": "onnx int8",
}
CLASSES = 10


def measure(given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    generator = torch.Generator().manual_seed(0)
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
            file = onnx_runtime(written(parts, precision, pixels))
            works[f"onnx {precision}"] = partial(file, pixels.numpy())
        for work in works.values():
            work()
        found = medians(
            given.rounds, {way: partial(rate, work, given.batch) for way, work in works.items()}
        )
        yield title, {**found, "ratio": found["onnx fp32"] / found["ours fp32"]}


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
    rows = [("images/s", *WAYS, "ONNX Runtime by ours, fp32")]
    rows += [
        (title, *(own[way] for way in WAYS.values()), own["ratio"]) for title, own in found.items()
    ]
    return {"export": rows}


if __name__ == "__main__":
    run(
        measure,
        tables,
        models=(tuple(model for model, _ in NETWORKS.values()), ("efficientnet_lite0",)),
        batch=(16, 2),
        rounds=(5, 1),
    )
